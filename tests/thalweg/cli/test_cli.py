"""Commands do what they say, and give one clear line when they can't."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stream.events.topics import EVENTS, FORMATS, REPLIES, TOPICS
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.health import Health
from stream.runtime.settings import REFUSED_EXIT, Settings
from tests.support.forked_services import Nest
from thalweg.__main__ import main
from thalweg.cli.main import app
from thalweg.cli.options import SPEC, SPECS, check_writable, model_name, read_source_spec
from thalweg.stack.doctor import requirements
from thalweg.stack.server import free_port
from thalweg.stack.stack import Stack


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No stack, no settings but those that a test sets."""
    for name in [name for name in os.environ if name.startswith("THALWEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("THALWEG_LOCAL", str(tmp_path / "local"))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["rank", "1"], "thalweg up"),
        (["send-install", "1", "2", "--spec", str(SPEC)], "thalweg up"),
        (["apply-topics"], "thalweg up"),
        (["snapshots", "ls", "--spec", str(SPEC)], "thalweg up"),
        (["run", "joiner", "--spec", str(SPEC)], "thalweg up"),
        (["run", "ranker", "--spec", str(SPEC)], "thalweg up"),
        (["retrain", "--spec", str(SPEC)], "thalweg up"),
        (["evolve", "--spec", str(SPEC)], "thalweg up"),
        (["evolve"], "the changed one with --spec FILE"),
        (["run", "learner", "--spec", "nowhere.toml"], "specs/movielens.toml"),
        (["replay", "nowhere.jsonl", "--spec", str(SPEC)], "nowhere.jsonl"),
    ],
)
def test_what_is_missing_is_one_line(nest: Nest, tmp_path: Path, words: list[str], remedy: str) -> None:
    """What isn't there ends a command with one line that says what to do, never with a traceback.

    The exit code is 1, but of a service, which a supervisor would start again, 78.
    """
    output = tmp_path / "output"
    code = nest.run("thalweg", words, {"local": tmp_path / "local"}, output).wait()
    assert code == (REFUSED_EXIT if words[0] == "run" else 1)
    (line,) = output.read_text().splitlines()
    assert line.startswith("thalweg: ")
    assert remedy in line


@pytest.mark.parametrize(
    "words",
    [
        ["run", "joiner"], ["run", "learner"], ["run", "ranker"], ["replay", "-"], ["check", "-"], ["backtest", "-"],
        ["send-install", "1", "2"], ["snapshots", "ls"], ["snapshots", "show", "1"], ["snapshots", "diff", "1", "2"],
        ["snapshots", "pin", "1"], ["snapshots", "unpin"], ["snapshots", "rollback"], ["snapshots", "verify"],
    ],
)  # fmt: skip
def test_without_a_spec_no_model_is_touched(words: list[str], stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a spec has no default: it ends before it does anything, and says what to pass."""
    monkeypatch.setenv("THALWEG_KAFKA", stack.kafka)
    monkeypatch.setenv("THALWEG_REDIS", stack.redis)
    said = CliRunner().invoke(app, words)
    assert (said.exit_code, said.stdout) == (REFUSED_EXIT if words[0] == "run" else 1, "")
    assert re.fullmatch(r"thalweg: no (spec|model) is named: pass --spec FILE.*\n", said.stderr)


@pytest.mark.parametrize("room", ["learner", "ranker"])
def test_a_room_without_memory_for_its_spec_is_refused(nest: Nest, tmp_path: Path, room: str) -> None:
    """It says what it takes, and which bounds to lower."""
    output, settings = tmp_path / "output", {"local": tmp_path / "local", "memory_mb": 2_000}
    assert nest.run("thalweg", ["run", room, "--spec", str(SPEC)], settings, output).wait() == REFUSED_EXIT
    assert re.search(rf"a {room} takes up to \d+ MB, and there are 2000 MB.*wide.max_keys = ", output.read_text())


@pytest.mark.parametrize(("set_to", "code"), [("0", 0), ("3", 3), ("", REFUSED_EXIT), ("many", REFUSED_EXIT)])
@pytest.mark.parametrize("words", [["run", "joiner"], ["run", "joiner", "--spce", "x"]])
def test_the_exit_code_of_a_refused_service_can_be_set(
    words: list[str], set_to: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a supervisor restarts after any failure, 0 keeps it from a loop; whatever else is wrong with settings."""
    monkeypatch.setenv("THALWEG_REFUSED_EXIT", set_to)
    monkeypatch.setenv("THALWEG_NONSENSE", "1")
    monkeypatch.setattr(sys, "argv", ["thalweg", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code


@pytest.mark.parametrize(("user", "why"), [("\udcff", "isn't UTF-8"), ("x" * 257, "257 bytes"), ("", "name a user")])
def test_who_can_not_be_a_user_is_not_erased(user: str, why: str) -> None:
    """A byte that isn't UTF-8, and an id that no event may have: said at once, in a line."""
    result = CliRunner().invoke(app, ["erase", user])
    assert (result.exit_code, why in result.output) == (1, True)


def test_a_wrong_option_of_another_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only services have the exit code of a refusal."""
    monkeypatch.setenv("THALWEG_REFUSED_EXIT", "0")
    monkeypatch.setattr(sys, "argv", ["thalweg", "doctor", "--spce", "x"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2


def test_the_spec_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """THALWEG_SPEC stands for --spec: a service that is told nothing else gets as far as its addresses."""
    monkeypatch.setenv("THALWEG_SPEC", str(SPEC))
    said = CliRunner().invoke(app, ["run", "joiner"])
    assert "no Kafka is known" in said.stderr


def test_a_model_is_named_by_its_setting_too(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that need no more of a spec than its name go by THALWEG_MODEL."""
    for name, value in {"REDIS": stack.redis, "KAFKA": stack.kafka, "MODEL": "mine"}.items():
        monkeypatch.setenv(f"THALWEG_{name}", value)
    said = CliRunner().invoke(app, ["snapshots", "ls"])
    assert said.exit_code == 0
    assert "no version of mine is kept here" in said.stdout


def test_a_spec_that_is_passed_wins_over_the_setting(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit --spec names the model, whatever THALWEG_MODEL says: the learner publishes under the spec's name."""
    for name, value in {"REDIS": stack.redis, "KAFKA": stack.kafka, "MODEL": "mine"}.items():
        monkeypatch.setenv(f"THALWEG_{name}", value)
    said = CliRunner().invoke(app, ["snapshots", "ls", "--spec", str(SPECS / "store.toml")])
    assert "no version of store is kept here" in said.stdout
    assert model_name(Settings(model="mine"), SPEC) == "movielens"


@pytest.mark.parametrize(
    ("source", "name"),
    [("movielens", "movielens"), ("openbandit", "openbandit"), ("openbandit/bts/men", "openbandit")],
)
def test_a_data_set_brings_its_spec(source: str, name: str) -> None:
    """Where a data set is named its own spec is meant, unless another is named."""
    assert read_source_spec(source, None).name == name
    assert read_source_spec(source, SPECS / "store.toml").name == "store"


def test_a_silent_broker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no broker answers, the address that was tried is said."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("THALWEG_KAFKA", address)
    ran = CliRunner().invoke(app, ["apply-topics"])
    assert ran.exit_code == 1
    assert address in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_schema_in_the_repository_is_the_types() -> None:
    """specs/spec.schema.json, which editors read, is what `thalweg schema` prints."""
    said = CliRunner().invoke(app, ["schema"])
    assert said.exit_code == 0
    assert (SPEC.parent / "spec.schema.json").read_text() == said.stdout


def test_status_lists_what_runs(tmp_path: Path) -> None:
    """A service is found by the file that it writes, in its own words; with nothing there, the exit code says so."""
    local = tmp_path / "local"
    assert CliRunner().invoke(app, ["status"]).exit_code == 1
    health = Health("127.0.0.1", 0, lambda: (True, "at work"), written_to=local / "run" / "ranker-0.json")
    try:
        said = CliRunner().invoke(app, ["status", "--json", str(tmp_path / "status.json")])
    finally:
        health.close()
    assert said.exit_code == 0
    assert "at work" in said.stdout
    assert json.loads((tmp_path / "status.json").read_text())["ranker 0"] == "up"


def test_apply_shows_then_does(
    stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--dry-run changes nothing; apply makes all topics; again, there's nothing to do."""
    monkeypatch.setenv("THALWEG_KAFKA", stack.kafka)
    monkeypatch.setenv("THALWEG_TOPIC_PREFIX", topic_prefix)
    report = tmp_path / "apply.json"
    made = []
    for words in (["--dry-run"], ["--dry-run"], [], []):
        assert CliRunner().invoke(app, ["apply-topics", *words, "--json", str(report)]).exit_code == 0
        made.append(json.loads(report.read_text()))
    assert made == [
        {"changes": len(TOPICS), "made": 0},
        {"changes": len(TOPICS), "made": 0},
        {"changes": len(TOPICS), "made": len(TOPICS)},
        {"changes": 0, "made": 0},
    ]


def test_apply_leaves_what_an_operator_raised(
    stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is shown, and counts neither as a change nor as made; --force lowers it."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    longer = replace(EVENTS, retention_ms=2 * EVENTS.retention_ms)
    apply_topics(settings, plan_topics(settings, (longer, *TOPICS[1:])))
    monkeypatch.setenv("THALWEG_KAFKA", stack.kafka)
    monkeypatch.setenv("THALWEG_TOPIC_PREFIX", topic_prefix)
    report = tmp_path / "apply.json"
    for words, count, said in (([], 0, "leave"), (["--force"], 1, "alter"), ([], 0, "as they should be")):
        ran = CliRunner().invoke(app, ["apply-topics", *words, "--json", str(report)])
        assert said in ran.stdout
        assert json.loads(report.read_text()) == {"changes": count, "made": count}


def test_apply_missing_leaves_topics_that_exist(
    stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--missing makes the other topics; a retention that somebody lowered or raised is shown, and stays."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    changed = (replace(EVENTS, retention_ms=60_000), replace(REPLIES, retention_ms=2 * REPLIES.retention_ms))
    apply_topics(settings, plan_topics(settings, (*changed, FORMATS)))
    before = plan_topics(settings, (EVENTS, REPLIES))
    monkeypatch.setenv("THALWEG_KAFKA", stack.kafka)
    monkeypatch.setenv("THALWEG_TOPIC_PREFIX", topic_prefix)
    report = tmp_path / "apply.json"
    ran = CliRunner().invoke(app, ["apply-topics", "--missing", "--json", str(report)])
    assert json.loads(report.read_text()) == {"changes": len(TOPICS) - 2, "made": len(TOPICS) - 3}
    assert f"alter   {topic_prefix}events: retention.ms: 60000 ->" in ran.stdout
    assert plan_topics(settings, (EVENTS, REPLIES)) == before == plan_topics(settings)
    shown = CliRunner().invoke(app, ["apply-topics", "--dry-run", "--spec", str(SPEC)])
    assert f"need    {topic_prefix}examples: a while (there are no examples yet)" in shown.stdout


def test_a_report_that_cant_be_written_is_said(tmp_path: Path) -> None:
    """A --json file in a folder that isn't there is an error of one line."""
    said = CliRunner().invoke(app, ["status", "--json", str(tmp_path / "no" / "f.json")])
    assert said.exit_code == 1
    assert "--json" in said.stderr


@pytest.mark.parametrize("words", [["demo"], ["replay", "movielens"], ["audit"], ["snapshots", "ls"]])
@pytest.mark.parametrize("place", [".", "no/f.json"])
def test_a_report_that_cant_be_written_is_said_first(tmp_path: Path, words: list[str], place: str) -> None:
    """Before anything else is done, and nothing is left of the try."""
    said = CliRunner().invoke(app, [*words, "--json", str(tmp_path / place)])
    assert said.exit_code == 1
    assert "name another file with --json" in said.stderr
    assert os.listdir(tmp_path) == []
    assert check_writable(tmp_path / "f.json") == tmp_path / "f.json"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [["status"], ["down"], ["rank", "1"], ["snapshots", "ls"], ["demo"], ["up"]])
def test_a_place_that_is_closed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """Where `.local` is another user's, or a file: one line that says so, no traceback."""

    def closed(name: str) -> Callable[..., Any]:
        before = getattr(Path, name)

        def refuses(path: Path, *args: Any, **more: Any) -> Any:
            if path.is_relative_to(tmp_path / "local"):
                raise PermissionError(13, "Permission denied", str(path))
            return before(path, *args, **more)

        return refuses

    monkeypatch.setattr("thalweg.demo.demo.fetch_movielens", lambda *_: None)
    for name in ("stat", "open", "mkdir"):
        monkeypatch.setattr(Path, name, closed(name))
    said = CliRunner().invoke(app, words)
    assert (said.exit_code, type(said.exception)) == (1, SystemExit)
    assert "Permission denied" in said.stderr
    assert "THALWEG_LOCAL" in said.stderr


@pytest.mark.parametrize("words", [["status"], ["rank", "1"], ["doctor"], ["up"]])
def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path, words: list[str]) -> None:
    """A `.local` that is a file ends a command with exit code 1 and no traceback."""
    (tmp_path / "local").touch()
    said = CliRunner().invoke(app, words)
    assert (said.exit_code, type(said.exception)) == (1, SystemExit)


WITHOUT = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
from thalweg.cli.main import app
app(sys.argv[2:])
"""


@pytest.mark.parametrize(("words", "module"), [(["run", "learner"], "torch"), (["run", "joiner"], "faust")])
def test_a_package_that_is_missing_is_named(words: list[str], module: str, stack: Stack) -> None:
    """A room whose packages aren't here ends with one line that names the package and the room's extra; before all
    else, though a learner that resumes doesn't import torch."""
    env = os.environ | {"THALWEG_KAFKA": stack.kafka, "THALWEG_REDIS": stack.redis}
    command = [sys.executable, "-c", WITHOUT, module, *words]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == REFUSED_EXIT
    assert ran.stderr.startswith(
        f"thalweg: this command needs {module}, which isn't installed: pip install 'thalweg[{words[1]}]'"
    )
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"kafka": "k:1"}', "\xff"])
def test_a_garbled_stack_file_is_reported_and_mended(tmp_path: Path, content: str) -> None:
    """status and doctor name it; down says that it knows no pids, keeps what was written, and clears the way."""
    file = tmp_path / "local" / "stack.json"
    file.parent.mkdir()
    file.write_text(content, encoding="latin-1")
    said = CliRunner().invoke(app, ["status"])
    assert said.exit_code == 1
    assert "can't be read" in said.stdout
    assert [one.found for one in requirements(Settings(local=file.parent)) if one.name == "local stack"] == [
        f"{file} can't be read"
    ]
    assert CliRunner().invoke(app, ["rank", "1"]).exit_code == 1
    said = CliRunner().invoke(app, ["down"])
    assert said.exit_code == 0
    assert "pids of Kafka and Redis aren't known" in said.stderr
    assert not file.exists()
    assert (file.parent / "stack.json.garbled").read_text(encoding="latin-1") == content
