"""`make setup`: what it does on a machine where it may install nothing; the pins."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from thalweg.stack.broker import REPOSITORY

PINS = (REPOSITORY / "constraints.txt").read_text().splitlines()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with a Unix and a Python, an unprivileged user, and none of what Thalweg needs."""
    for tool in ("sh", "sed", "head", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    fakes = {"id": "echo 1000", "uname": "echo Linux x86_64", "python3": f'exec {sys.executable} "$@"'}
    for name, line in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def system(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the step that looks after the system's packages."""
    script = str(REPOSITORY / "stack" / "system.sh")
    return subprocess.run([script, *arguments], env={**os.environ, "PATH": str(path)}, capture_output=True, text=True)


def program(path: Path, name: str, line: str) -> None:
    """Put a program on the PATH that prints one line."""
    (path / name).write_text(f"#!/bin/sh\necho '{line}' >&2\n")
    (path / name).chmod(0o755)


def test_says_exactly_what_to_install(bare: Path) -> None:
    """Who isn't root gets the apt and the brew line for what is missing, and a failure."""
    done = system(bare)
    assert done.returncode == 1
    assert "apt-get install -y openjdk-17-jre-headless maven redis-server\n" in done.stderr
    assert "brew install openjdk@17 maven redis" in done.stderr


def test_names_only_what_is_missing(bare: Path) -> None:
    """What is there isn't asked for; Java before 17 counts as missing, any later one does not."""
    program(bare, "mvn", "Apache Maven 3.9.9")
    program(bare, "redis-server", "Redis server v=7.0.15")
    program(bare, "java", 'openjdk version "11.0.2" 2019-01-15')
    assert "apt-get install -y openjdk-17-jre-headless\n" in system(bare).stderr
    program(bare, "java", 'openjdk version "21" 2023-09-19')
    done = system(bare)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_compiler_is_needed_where_faust_has_no_wheel(bare: Path) -> None:
    """On Linux's arm64, and there alone: without gcc and Python's headers Faust would be built without its Cython."""
    for name, line in (("mvn", ""), ("redis-server", ""), ("java", 'openjdk version "21" 2023-09-19')):
        program(bare, name, line)
    assert system(bare).returncode == 0
    (bare / "uname").write_text("#!/bin/sh\necho Linux aarch64\n")
    assert "apt-get install -y gcc libc6-dev\n" in system(bare).stderr
    program(bare, "gcc", "")
    assert system(bare).returncode == 0
    python = (bare / "python3").read_text()
    (bare / "python3").write_text(python.replace("exec", 'case "$*" in *Python.h*) exit 1 ;; esac\nexec'))
    assert "apt-get install -y python3-dev\n" in system(bare).stderr


def test_what_tests_alone_need_is_no_condition(bare: Path) -> None:
    """Before tests it is installed by root; others see what to install, and go on: those tests are skipped."""
    for name in ("mvn", "redis-server"):
        program(bare, name, "")
    program(bare, "java", 'openjdk version "21" 2023-09-19')
    done = system(bare, "python3", "tests")
    assert (done.returncode, done.stderr) == (0, "")
    assert "apt-get install -y prometheus chromium\n" in done.stdout
    for name in ("prometheus", "chromium"):
        program(bare, name, "")
    done = system(bare, "python3", "tests")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("old", "java"), [(0, "openjdk-17-jre-headless"), (1, "default-jre-headless")])
def test_root_installs_what_is_missing(bare: Path, old: int, java: str) -> None:
    """Root on a Debian-like system has just what is missing installed, with the Java that its release has."""
    program(bare, "mvn", "Apache Maven 3.9.9")
    (bare / "id").write_text("#!/bin/sh\necho 0\n")
    (bare / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {bare}/apt.log\n')
    (bare / "apt-cache").write_text(f"#!/bin/sh\nexit {old}\n")
    for name in ("apt-get", "apt-cache"):
        (bare / name).chmod(0o755)
    done = system(bare)
    assert (done.returncode, done.stderr) == (0, "")
    update, install = (bare / "apt.log").read_text().splitlines()
    assert update.split()[0] == "update"
    assert install.split()[0] == "install"
    assert [word for word in install.split()[1:] if not word.startswith("-")] == [java, "redis-server"]


def test_pins_name_no_host() -> None:
    """constraints.txt holds exact versions alone: no hosts, hashes, options or paths."""
    assert PINS
    for line in PINS:
        assert re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.!+_-]+", line), line


def test_everything_named_is_pinned() -> None:
    """Each package that pyproject.toml names, and uv itself, has a pin."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    lists += project["dependency-groups"].values()
    named = {re.split(r"[\[<>=!~; ]", line)[0].lower() for part in lists for line in part} - {"thalweg"} | {"uv"}
    assert named <= {line.split("==")[0] for line in PINS}
