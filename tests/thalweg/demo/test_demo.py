"""The whole demo on real parts: what it promises, and that nothing is left of it, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from kafka import KafkaAdminClient
from typer.testing import CliRunner

from stream.log.kafka_client import client_options
from stream.runtime.errors import SettingsError, StackError
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect
from thalweg.cli.main import app
from thalweg.demo.config import DemoConfig
from thalweg.demo.demo_state import DemoState, stop_all
from thalweg.demo.services import DemoServices, Interrupts
from thalweg.stack.broker import REPOSITORY
from thalweg.stack.server import Server, spawn
from thalweg.stack.stack import Stack

PATIENCE_S = 150.0
MOVIELENS = ("--world", "movielens")
pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

KEYS = {
    "pages", "examples_learned", "examples_emitted", "duplicates_dropped", "dead_letters", "auc_arrival", "log_loss",
    "base_rate", "freshness_p50_ms", "freshness_p99_ms", "freshness_deep_p50_ms", "freshness_deep_p99_ms",
    "servable_p50_ms", "rank_p50_ms", "rank_p99_ms", "rank_replies", "rank_errors", "rank_shed", "swaps",
    "replies_checked", "mixed_replies",
}  # fmt: skip


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Path]:
    """A `.local` of its own; what a failed test left there is ended."""
    yield tmp_path
    if state := DemoState.read(tmp_path):
        stop_all(state.services, 5.0)


def begin(local: Path, stack: Stack | None, *words: str) -> "subprocess.Popen[str]":
    """Start `thalweg demo` on the tests' stack, or on one of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("THALWEG_")}
    if stack:
        env |= {"THALWEG_KAFKA": stack.kafka, "THALWEG_REDIS": stack.redis}
    env |= {"THALWEG_LOCAL": str(local), "THALWEG_DATA": str(REPOSITORY / ".data")}
    command = [sys.executable, "-m", "thalweg.cli.main", "demo", *words]
    return subprocess.Popen(
        command, env=env, cwd=local, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def processes(local: Path) -> list[str]:
    """Processes whose command line names this folder."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(local) in line]


def left(local: Path, stack: Stack) -> list[str]:
    """Processes, topics and keys that are left of a demo."""
    settings = Settings(kafka=stack.kafka, redis=stack.redis)
    found = processes(local)
    with KafkaAdminClient(**client_options(settings)) as admin:
        found += [name for name in admin.list_topics() if name.startswith("demo-")]
    found += [key.decode() for key in connect(settings).scan_iter("*demo-*")]
    return found + [name for name in os.listdir(local) if name == "demo.json"]


def wait_started(process: "subprocess.Popen[str]", local: Path, count: int) -> DemoState:
    """Wait until so many of its processes were started."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        state = DemoState.read(local)
        if state and len(state.services) >= count:
            return state
        time.sleep(0.05)
    process.terminate()
    raise AssertionError(f"it didn't start: {process.communicate()[0]}")


def figures_of(local: Path, stack: Stack | None, *words: str) -> tuple[dict[str, Any], str]:
    """The figures of a demo that runs to its end, and what it prints; checks what is true in all worlds."""
    demo = begin(local, stack, *words, "--json", "demo.json.out")
    output, _ = demo.communicate(timeout=2 * PATIENCE_S)
    assert demo.returncode == 0, output
    figures = json.loads((local / "demo.json.out").read_text())
    assert set(figures) >= KEYS
    assert figures["transport"] == "http"
    assert "asking the ranker over HTTP" in output
    assert figures["examples_learned"] == figures["examples_emitted"]
    assert (figures["duplicates_dropped"], figures["dead_letters"]) == (0, 0)
    assert (figures["rank_errors"], figures["mixed_replies"]) == (figures["rank_shed"], 0)  # a busy machine sheds
    assert 0 < figures["replies_checked"] <= figures["rank_replies"]
    assert figures["swaps"] > 1
    assert figures["freshness_deep_p50_ms"] >= figures["freshness_p50_ms"] > 0
    assert "← installed" in output
    return figures, output


def try_console(output: str) -> None:
    """What a person does on the console of a demo that stays up, at the address that it printed."""
    found = re.search(r"watch it at (\S+); .*: (\S+)\n", output)
    assert found, output
    admin = {"authorization": f"Bearer {found[2]}"}
    with httpx.Client(base_url=found[1], timeout=PATIENCE_S) as client, client.stream("GET", "/api/stream") as stream:
        assert "Thalweg console" in client.get("/").text
        first = next(line for line in stream.iter_lines() if line.startswith("data: "))
        sections = json.loads(first.removeprefix("data: "))["sections"]
        assert [one[2] for one in sections["rooms"]] == ["up", "up", "up"]
        assert sections["versions"]["head"] in sections["live"]
        page = client.get("/api/users/259").json()
        item = page["items"][4]
        assert item["title"]
        learned = client.post("/api/install", json={"user": "259", "item": item["item"]}).json()
        assert learned["version"] > page["version"]
        after = client.get("/api/users/259").json()
        assert after["history"][0]["item"] == item["item"]
        assert item["item"] not in [one["item"] for one in after["items"]]
        assert client.post("/api/versions/pin", json={"version": 1}).status_code == 401
        for version in (learned["version"], 0):
            answer = client.post("/api/versions/pin", json={"version": version}, headers=admin)
            assert answer.json() == {"pinned": version}


def test_movielens_is_learned_once_and_stays_up_until_down(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures are there, every example is learned once, no reply mixes versions. With nothing named it starts Kafka
    and Redis; with --keep it ranks and installs without settings afterwards, on its console, too; `down` ends it."""
    figures, output = figures_of(local, None, *MOVIELENS, "--limit", "3000", "--keep")
    assert (figures["pages"], figures["examples_learned"]) == (3000, 3000)
    assert 0.6 < figures["auc_arrival"] < 0.9
    assert "acquisition" not in output
    try_console(output)
    state = DemoState.read(local)
    assert state
    assert (state.own_stack, state.alive, state.model) == (True, True, "movielens")
    for name in [name for name in os.environ if name.startswith("THALWEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("THALWEG_LOCAL", str(local))
    for words in ("status", "rank 259", "send-install 259 50", "down"):  # the model's name is in the demo's state
        ran = CliRunner().invoke(app, words.split())
        assert ran.exit_code == 0, (words, ran.output)
    assert not state.alive
    assert not (local / "demo.json").exists()
    assert processes(local) == []


def test_the_store_is_played_in_closed_loop_and_leaves_nothing(local: Path, stack: Stack) -> None:
    """Every page is a request, and is shown; arms' acquisition is among the figures, below that of the oracle."""
    figures, output = figures_of(local, stack, "--limit", "800")
    assert figures["pages"] == 800 <= figures["rank_replies"]
    assert figures["examples_learned"] >= 10 * 800 * 0.9
    for arm in ("popular", "wide_deep"):
        assert 0 < figures[f"acquisition_{arm}"] < figures["acquisition_oracle"]
        assert figures[f"installs_{arm}"] > 0
    gain = figures["acquisition_wide_deep"] / figures["acquisition_popular"] - 1
    assert figures["acquisition_gain"] == pytest.approx(gain)
    assert "wide_deep" in output
    assert left(local, stack) == []


@pytest.mark.parametrize(("named", "missing"), [("kafka", "THALWEG_REDIS"), ("redis", "THALWEG_KAFKA")])
def test_half_a_stack_is_rejected(tmp_path: Path, named: str, missing: str) -> None:
    """Where only one of the two is named, the error asks for the other: no stack is started instead."""
    with Interrupts() as interrupts:
        services = DemoServices(Settings(local=tmp_path).model_copy(update={named: "redis://r:1"}), interrupts, print)
        try:
            with pytest.raises(SettingsError, match=f"{missing} isn't set"):
                services.open()
        finally:
            services.stop()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("started", "words"), [(1, ()), (3, ()), (5, MOVIELENS)])
def test_ctrl_c_ends_all_of_it(local: Path, stack: Stack, started: int, words: tuple[str, ...]) -> None:
    """Interrupted while its services start, before the store begins, or in mid-replay: nothing is left."""
    demo = begin(local, stack, *words)
    wait_started(demo, local, started)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 130
    assert "Traceback" not in output
    assert left(local, stack) == []


def test_a_service_that_dies_is_named(local: Path, stack: Stack) -> None:
    """A learner that is killed ends the demo, which names it and its log."""
    demo = begin(local, stack, *MOVIELENS)
    state = wait_started(demo, local, 3)
    os.kill(next(one.pid for one in state.services if one.name == "learner"), signal.SIGKILL)
    output, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert "learner ended in the middle of the demo" in output
    assert "learner.log" in output
    assert left(local, stack) == []


def test_two_demos_in_one_folder_are_rejected(tmp_path: Path) -> None:
    """While a demo's services run, a second one says how to end them, and touches nothing."""
    sleeper = spawn("sleeper", ["sleep", "60"], 0, tmp_path / "log", tmp_path / "data")
    DemoState("k", "r", "", "", str(tmp_path / "demo"), False, [sleeper]).write(tmp_path)
    try:
        with Interrupts() as interrupts, pytest.raises(StackError, match="thalweg down"):
            DemoServices(Settings(local=tmp_path), interrupts, print).open()
        assert sleeper.alive
    finally:
        stop_all([sleeper], 5.0)
    assert not sleeper.alive


def test_a_demo_that_only_begins_owns_its_folder(tmp_path: Path) -> None:
    """From the start, before any service runs, a second demo is rejected and removes nothing; afterwards it may."""
    settings = Settings(local=tmp_path, kafka="k:1", redis="redis://r:1")
    with Interrupts() as interrupts:
        first, second = (DemoServices(settings, interrupts, print) for _ in range(2))
        first.open()
        (first.local / "mine").touch()
        with pytest.raises(StackError, match="a demo runs here already"):
            second.open()
        second.stop()
        assert (first.local / "mine").exists()
        assert DemoState.read(tmp_path)
        first.release()
        second.open()
        second.release()


@pytest.mark.parametrize("dies", ["Kafka", "Redis"])
def test_a_server_that_dies_is_named(tmp_path: Path, dies: str) -> None:
    """When the stack's Kafka or Redis ends, the error says so, with the end of its log."""
    servers = {}
    for name in ("Kafka", "Redis"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.log").write_text(f"the last words of {name}\n")
        servers[name] = spawn(name, ["sleep", "60"], 1, tmp_path / f"{name}.log", tmp_path / name / "data")
    try:
        stack = Stack("k:1", "redis://r:1", 1, servers["Kafka"], servers["Redis"])
        (tmp_path / "stack.json").write_bytes(msgspec.json.encode(stack))
        with Interrupts() as interrupts:
            services = DemoServices(Settings(local=tmp_path, kafka=stack.kafka, redis=stack.redis), interrupts, print)
            services.open()
            services.check_running()
            stop_all([servers[dies]], 5.0)
            with pytest.raises(StackError, match=rf"{dies} ended (?s:.*)the last words of {dies}"):
                services.check_running()
            services.release()
    finally:
        stop_all(list(servers.values()), 5.0)


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """A process that stays is ended by SIGKILL after the patience is over."""
    deaf: Server = spawn(
        "deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], 0, tmp_path / "l", tmp_path / "d"
    )
    time.sleep(0.2)
    stop_all([deaf], 0.3)
    assert not deaf.alive


def test_an_interrupt_waits_for_a_deferred_block() -> None:
    """Ctrl-C inside `deferred` is raised just after it; otherwise at once."""
    done: list[str] = []

    def interrupted(what: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        done.append(what)

    def deferred() -> None:
        with interrupts.deferred():
            interrupted("half")

    with Interrupts() as interrupts:
        for call in (deferred, lambda: interrupted("at once")):
            with pytest.raises(KeyboardInterrupt):
                call()
    assert done == ["half"]


def test_requests_a_second_are_movielens_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the store each page is a request: asked for another rate of requests it says so, and starts nothing."""
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["demo", "--rps", "10"])
    assert said.exit_code == 1
    assert "--world movielens" in said.output
    assert os.listdir(tmp_path) == []


def test_how_many_pages_are_played() -> None:
    """The store's are as many as are due in the time, or as named; MovieLens has an end of its own."""
    assert [DemoConfig(**one).pages for one in ({}, {"seconds": 5.0}, {"limit": 7}, {"rate": 10.0})] == [
        10_000,
        500,
        7,
        1_000,
    ]
    assert [DemoConfig(seconds=5.0, limit=limit).pages for limit in (7, 10_000)] == [7, 500], "whichever comes first"
    movielens = DemoConfig("movielens")
    assert (movielens.pages, movielens.sample_every) == (100_000, 5)
    assert DemoConfig("movielens", seconds=2.0).pages == 2_000
    assert DemoConfig("movielens", limit=10**6).pages == 100_000
    assert DemoConfig().sample_every == 10
