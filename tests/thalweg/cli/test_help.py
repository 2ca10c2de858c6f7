"""What the command line says of itself: help, groups, version, completion, old names."""

import os
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from thalweg.cli.main import RENAMED, app
from thalweg.stack.broker import REPOSITORY

COMMANDS = [
    "up", "down", "status", "doctor", "apply-topics", "data movielens", "data openbandit", "replay", "init", "check",
    "backtest", "console", "run joiner", "run learner", "run ranker",
    "rank", "send-install", "schema", "demo", "snapshots ls", "snapshots show", "snapshots diff", "snapshots pin",
    "explain", "retrain", "evolve", "audit", "trace", "dlq ls", "dlq show", "dlq replay", "rebuild histories",
    "snapshots unpin", "snapshots rollback", "snapshots verify", "acls",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help as in a terminal of 80 columns without colours, whatever the tests run in."""
    for name, value in {"MAX_WIDTH": 80, "COLOR_SYSTEM": None, "FORCE_TERMINAL": None}.items():
        monkeypatch.setattr(f"typer.rich_utils.{name}", value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(command: str) -> None:
    """Each command of the design is there, and its help is more than its name."""
    said = CliRunner().invoke(app, [*command.split(), "--help"])
    assert said.exit_code == 0
    assert len(said.output.split()) > 12


@pytest.mark.parametrize("path", ["", "data", "run", "snapshots", "dlq", "rebuild", *COMMANDS])
def test_help_fits_into_80_columns(path: str) -> None:
    """Nothing is cut, and in tables of commands each has one line with the whole first sentence of its help."""
    lines = CliRunner().invoke(app, [*path.split(), "--help"]).output.splitlines()
    assert not [line for line in lines if "…" in line or len(line) > 80]
    command: Any = get_command(app)
    for word in path.split():
        command = command.commands[word]
    for name, one in getattr(command, "commands", {}).items():
        first = one.help.partition("\n\n")[0].replace("`", "")
        assert [line.strip("│ ") for line in lines if line.startswith(f"│ {name} ")] == (
            [] if one.hidden else [f"{name:{max(map(len, command.commands))}}  {first}"]
        )


def test_commands_stand_in_groups() -> None:
    """`thalweg --help` groups every command by what it is for."""
    said = CliRunner().invoke(app, ["--help"]).output
    assert re.findall("╭─ ([A-Z][a-z]+)", said) == ["Options", "Try", "Model", "Run", "Operate"]


def test_the_version_is_printed() -> None:
    """`--version` prints the version of pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"thalweg {project['version']}\n")


def test_a_shell_completes_commands() -> None:
    """A shell that asks for what begins with `snap` hears `snapshots`; `--install-completion` sets one up."""
    asked = {"_THALWEG_COMPLETE": "complete_bash", "COMP_WORDS": "thalweg snap", "COMP_CWORD": "1"}
    code = "from thalweg.cli.main import app; app(prog_name='thalweg')"
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert ran.stdout.split() == ["snapshots"]
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


def test_help_imports_no_room() -> None:
    """Saying what there is needs neither numpy nor a client of Kafka, so it is quick."""
    heavy = "numpy", "numba", "kafka", "redis", "torch"
    code = f"import sys, thalweg.cli.main; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_still_taken(old: str, new: str) -> None:
    """It stands in no help, does what the new one does, and names it in one line on stderr."""
    said, asked = (CliRunner().invoke(app, [name, "--help"]) for name in (new, old))
    assert (asked.exit_code, said.stderr) == (0, "")
    assert asked.stdout.splitlines()[2:] == said.stdout.splitlines()[2:]  # but for its usage
    assert asked.stderr == f"thalweg: `{old}` is now `{new}`; the old name goes with the next version\n"
    assert f"│ {old} " not in CliRunner().invoke(app, ["--help"]).stdout
