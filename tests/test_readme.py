"""README and its pages can't lie: their commands, targets, settings, files and topics exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from stream.events.topics import TOPICS
from stream.runtime.settings import Settings
from thalweg.cli.main import app

ROOT = Path(__file__).parent.parent
DOCS = ("labels", "serving", "rules", "operations", "integrate", "observability", "console", "kubernetes", "sizing")
RUNBOOK = sorted((ROOT / "docs" / "runbook").glob("*.md"))
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in DOCS), *RUNBOOK]
README = "\n".join(page.read_text() for page in PAGES)
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S))
COMMANDS = sorted(
    {line.split("#")[0].strip(" &") for line in BASH.splitlines() if line.startswith("thalweg ")}
    | set(re.findall(r"`(thalweg [^`]+)`", README))
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command: str) -> None:
    """Each `thalweg …` names a command, and its options are that command's own."""
    words = shlex.split(command)[1:]
    group = get_command(app)
    path = []
    while words and hasattr(group, "commands") and words[0] in group.commands:
        path.append(words[0])
        group = group.commands[words.pop(0)]
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert path or words[0] in known, f"{command}: no such command"
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}, command
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0


def test_examples_name_their_spec() -> None:
    """A command of an example that needs a spec names one, unless it names a data set, which brings its own."""
    needing = re.findall(r"^(?:.*\| )?(thalweg (?:run|replay|check|backtest|snapshots) [^#&\n]*)", BASH, re.M)
    assert len(needing) > 8
    assert [line for line in needing if "--spec" not in line and not re.search("movielens|openbandit", line)] == []


def test_every_make_target_exists() -> None:
    """Each `make …` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^(?:\w+=\w+ )?make ([a-z]+)", BASH, re.M)) | set(re.findall(r"make ([a-z]+)`", README))
    assert named
    assert named <= targets


def test_every_setting_exists() -> None:
    """Each THALWEG_… is a setting."""
    named = {name.removeprefix("THALWEG_").lower() for name in re.findall(r"THALWEG_[A-Z_]+[A-Z]", README)}
    assert named
    assert named <= set(Settings.model_fields)


def test_every_topic_and_file_exists() -> None:
    """Each dead-letter topic is declared, each linked file is there."""
    topics = {topic.name for topic in TOPICS}
    assert set(re.findall(r"`([a-z.]+\.dlq)`", README)) <= topics
    for page in PAGES:
        links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not link.startswith("http")]
        assert links, page
        assert [link for link in links if not (page.parent / link.split("#")[0]).exists()] == [], page


def test_the_readme_is_short() -> None:
    """Whoever opens it sees what it is, two commands and where to read on."""
    assert len(PAGES[0].read_text().splitlines()) <= 200


def test_nothing_is_left_to_be_filled_in() -> None:
    """No placeholder of ours stands in it."""
    assert "@@" not in README
