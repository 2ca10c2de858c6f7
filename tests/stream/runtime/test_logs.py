"""The log of the services."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from stream.runtime.settings import REFUSED_EXIT, Settings

SAYS = """
import logging
from learner.publishing.pins import log
from stream.runtime.logs import log_to_stderr
from stream.runtime.settings import Settings
log_to_stderr(Settings.load(with_stack=False), "learner")
log.info("a version is kept")
log.warning("the store had lost it", why="it was wiped", version=7)
"""
FIRST = ["time", "level", "room", "worker", "logger", "event"]


def run(code: str, settings: Mapping[str, str], to: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A process that runs this after it has logged two lines to `to`."""
    environment = {f"THALWEG_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-c", SAYS + code], stdout=subprocess.PIPE, stderr=to, text=True, env=os.environ | environment
    )


def logged(code: str) -> list[dict[str, object]]:
    """What it logs then, as JSON; every line is an object."""
    ran = run(code, {"log": "json", "worker": "7"})
    return [json.loads(line) for line in ran.stderr.splitlines()][2:]


@pytest.mark.parametrize(("level", "lines"), [("info", 2), ("warning", 1), ("error", 0)])
def test_every_room_logs_to_stderr_at_the_level_that_is_set(level: str, lines: int) -> None:
    """The learner, whose log has fields, like the others."""
    ran = run("", {"log_level": level})
    assert (ran.returncode, ran.stdout) == (0, "")
    assert len(ran.stderr.splitlines()) == lines
    assert not lines or ran.stderr.endswith("WARNING pins  the store had lost it version=7 why='it was wiped'\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_that_cant_be_written_ends_nobody(form: str) -> None:
    """On a full disk whoever logs goes on."""
    with Path("/dev/full").open("w") as full:
        ran = run("print('went on')", {"log": form}, full.fileno())
    assert ran.stdout == "went on\n"


def test_json_lines_have_the_same_fields_in_every_room() -> None:
    """Whether a library for structured logs writes them (the learner) or Python's (the others)."""
    (learner, stream) = logged(
        "log.error('no', reason='full', share=float('nan'), logger='x')\nlogging.getLogger('stream.a').info('at %d', 3)"
    )
    assert list(learner) == [*FIRST, "reason", "share"]
    assert learner | {"time": ""} == {
        "time": "", "level": "error", "room": "learner", "worker": "7", "logger": "pins", "event": "no",
        "reason": "full", "share": "nan",
    }  # fmt: skip
    assert list(stream) == FIRST
    assert (stream["logger"], stream["event"], stream["level"]) == ("stream.a", "at 3", "info")
    assert str(stream["time"]).endswith("+00:00")


@pytest.mark.parametrize(
    "code",
    ["logging.getLogger('a').exception('bad')", "log.exception('bad')"],
    ids=["logging", "structlog"],
)
def test_a_traceback_is_a_field(code: str) -> None:
    """Not lines of its own, which would be other messages to whoever collects them."""
    (line,) = logged(f"try:\n 1 / 0\nexcept ArithmeticError:\n {code}")
    assert list(line) == [*FIRST, "exception"]
    assert line["event"] == "bad"
    assert "ZeroDivisionError" in str(line["exception"])


@pytest.mark.parametrize(
    ("code", "events"),
    [
        ("1 / 0", ["an error that nobody handles ends the process"]),
        ("import threading\nthreading.Thread(target=lambda: 1 / 0, name='t').start()", ["thread t has ended"]),
        ("import warnings\nwarnings.warn('old')", None),
    ],
    ids=["process", "thread", "warning"],
)
def test_what_python_writes_is_json_too(code: str, events: list[str] | None) -> None:
    """What ends a process or a thread, and warnings."""
    found = logged(code)
    assert len(found) == 1
    assert list(found[0])[: len(FIRST)] == FIRST
    assert events is None or [one["event"] for one in found] == events


@pytest.mark.parametrize(
    ("setting", "why"), [({}, "missing.toml"), ({"THALWEG_MEMORY_MB": "much"}, "THALWEG_MEMORY_MB")]
)
def test_a_command_that_fails_says_so_in_json(setting: dict[str, str], why: str) -> None:
    """Also when its settings are what is wrong."""
    command = [sys.executable, "-m", "thalweg.cli.main", "run", "learner", "--spec", "missing.toml"]
    env = os.environ | {"THALWEG_LOG": "json", "THALWEG_WORKER": "7"} | setting
    ran = subprocess.run(command, capture_output=True, text=True, env=env)
    (line,) = [json.loads(line) for line in ran.stderr.splitlines()]
    assert list(line) == FIRST
    said = line["room"], line["worker"], line["logger"], line["level"]
    assert (ran.returncode, *said) == (REFUSED_EXIT, "learner", "7", "thalweg", "error")
    assert why in line["event"]


def test_what_a_room_warns_of_is_a_warning(tmp_path: Path) -> None:
    """What its imports warn of, too: the log is set up before them."""
    (tmp_path / "kafka.py").write_text("import warnings\nwarnings.warn('an old client')\nraise SystemExit(3)\n")
    command = [sys.executable, "-m", "thalweg.cli.main", "run", "ranker", "--spec", "specs/movielens.toml"]
    path = f"{tmp_path}{os.pathsep}{Path.cwd()}"
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"THALWEG_LOG": "json", "PYTHONPATH": path}
    )
    (line,) = [json.loads(line) for line in ran.stderr.splitlines()]
    assert (ran.returncode, line["level"], line["logger"]) == (3, "warning", "py.warnings")
    assert "an old client" in line["event"]


def test_a_warning_of_a_command_is_one_in_json_too() -> None:
    """As before a room whose bounds may not fit."""
    (line,) = logged("from thalweg.cli.options import warn\nwarn('it may not fit')")
    assert (line["level"], line["event"]) == ("warning", "it may not fit")


def test_kernels_that_are_compiled_are_not_told_of() -> None:
    """At THALWEG_LOG_LEVEL=debug numba would log megabytes about each, and take minutes for it."""
    code = "import logging\nlogging.getLogger('numba.core.ssa').debug('on block')\nlog.debug('ours')"
    ran = run(code, {"log": "json", "log_level": "debug"})
    assert [json.loads(line)["event"] for line in ran.stderr.splitlines()][2:] == ["ours"]


@pytest.mark.parametrize(
    ("module", "arguments", "room", "logger"),
    [
        ("ranker.builder.builder_worker", ["99", "m"], "ranker", "ranker"),  # no such descriptor
        ("learner.retraining.retrain_process", ["m", "by hand"], "learner", "retrain"),  # no such broker
    ],
)
def test_processes_that_a_room_starts_log_as_the_room(
    module: str, arguments: list[str], room: str, logger: str, tmp_path: Path
) -> None:
    """They have its settings in their environment; what ends them is JSON."""
    settings = Settings(log="json", kafka="127.0.0.1:9", redis="redis://127.0.0.1:9/0", local=tmp_path)
    command = [sys.executable, "-m", module, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=settings.environment())
    (line,) = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.returncode == 1
    assert (line["room"], line["logger"]) == (room, logger)


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_masked(form: str) -> None:
    """In the message, in fields and in tracebacks."""
    code = (
        "secrets = 's3cr\"t', 'hunter2', 'p%40ss', 'p@ss'\nlog.info('sent %s', secrets[0], why=secrets)\n"
        "try:\n raise ValueError(*secrets)\nexcept ValueError:\n logging.getLogger('a').exception('%s', secrets[1])\n"
    )
    redis = "redis://user:p%40ss@localhost:1/0"
    ran = run(code, {"log": form, "kafka_password": 's3cr"t', "redis_password": "hunter2", "redis": redis})
    assert ran.returncode == 0
    assert "***" in ran.stderr
    for secret in "s3cr", "hunter2", "p%40ss", "p@ss":
        assert secret not in ran.stderr
