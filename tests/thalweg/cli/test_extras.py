"""An installed package without some extra says which one brings what a command needs."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

from thalweg.cli.extras import MODULES, PACKAGES, missing_package
from thalweg.stack.broker import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(extra: str) -> set[str]:
    """The packages that an extra lists itself, without the extras that it includes."""
    return {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in EXTRAS[extra]} - {"thalweg"}


def test_each_extra_is_known_by_its_modules() -> None:
    """Every package of every extra but `stream` has a module by which the extra is found."""
    assert set(MODULES) == set(EXTRAS) - {"stream"}
    packages_of = metadata.packages_distributions()
    for extra, modules in MODULES.items():
        assert {name.lower() for module in modules for name in packages_of[module]} == names(extra), extra


def test_an_extra_never_brings_what_another_is_for() -> None:
    """torch comes with the learner's extra alone, and a client has neither numba nor a command line."""
    assert [extra for extra in EXTRAS if "torch" in names(extra)] == ["learner"]
    base = {re.split(r"[<>=]", line)[0] for line in PROJECT["dependencies"]}
    assert base | names("client") == {"httpx", "msgspec", "xxhash"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_of_ours_that_is_missing_is_a_mistake(package: str) -> None:
    """No extra brings it, so the error passes."""
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError(name=f"{package}.none"))


def test_without_a_command_line() -> None:
    """`thalweg` beside `thalweg.client` alone is one line that names the extras with a command line."""
    code = "import sys; sys.modules['typer'] = None; from thalweg.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert re.fullmatch(r"thalweg: the command line isn't installed: pip install 'thalweg\[tools\]'.*\n", ran.stderr)
