"""When a store's world begins and ends in a demo, and what ends it early."""

import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from stream.snapshots.memory_store import MemoryStore
from thalweg.cli.options import SPEC
from thalweg.demo.acquisition import ArmTotals, PastSent, StoreProgress
from thalweg.demo.config import DemoConfig
from thalweg.demo.freshness import DemoFreshness
from thalweg.demo.monitor import DemoMonitor
from thalweg.demo.play import LAG_S_MAX, SETTLE_S, STALLED_S, StoreRun, play
from thalweg.demo.services import DemoServices, Interrupts


class Clock:
    """The seconds that `time.monotonic` returns."""

    def __init__(self) -> None:
        self.now_s = 1_000.0


class Run:
    """A store's run whose services' metrics a test sets. `started`: how often its world was begun."""

    def __init__(self, tmp_path: Path) -> None:
        with Interrupts() as interrupts:
            services = DemoServices(Settings(local=tmp_path), interrupts, print)
        self.monitor = DemoMonitor(services, DemoFreshness(MemoryStore("m")), 1, "")
        self.started = 0
        self._run = StoreRun(self.monitor, self._begin, tmp_path)

    def _begin(self) -> None:
        self.started += 1

    def looked(self, installs: int, lag_s: float, learned: int = 1) -> int:
        """Look once at these metrics; returns how often the world was begun."""
        monitor = self.monitor
        monitor.installs_joined, monitor.learner_lag_s, monitor.organic_learned = installs, lag_s, learned
        self._run.look()
        return self.started


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that only the test moves."""
    found = Clock()
    monkeypatch.setattr("thalweg.demo.play.time.monotonic", lambda: found.now_s)
    return found


def test_the_world_begins_when_its_past_is_learned(tmp_path: Path, clock: Clock) -> None:
    """Not before all of the past is sent and joined and the learner has caught up, however long that takes: a short
    world would be over before a slow learner's first version. Two looks in a row must say so, and it begins once."""
    run = Run(tmp_path)
    clock.now_s += 2 * STALLED_S
    assert run.looked(0, 0.0) == 0, "the past isn't sent yet"
    run.monitor.add([PastSent(100)])
    assert [run.looked(100, 0.0, learned=0) for _ in range(3)] == [0, 0, 0], "the learner hasn't begun"
    looks = (0, 0.0), (50, 3.0), (99, 0.0), (100, 7.0), (100, 0.0), (100, LAG_S_MAX + 1), (100, 0.0)
    for learned, (installs, lag_s) in enumerate(looks, 1):
        clock.now_s += STALLED_S / 2
        assert run.looked(installs, lag_s, learned) == 0
    assert [run.looked(100, LAG_S_MAX / 2), run.looked(100, 9.0), run.looked(120, 0.0)] == [1, 1, 1]


def test_a_past_that_nobody_learns_ends_the_demo(tmp_path: Path, clock: Clock) -> None:
    """When nothing moves any more before the world has begun, the error names the logs."""
    run = Run(tmp_path)
    run.monitor.add([PastSent(100)])
    run.looked(60, 5.0)
    clock.now_s += STALLED_S
    run.looked(60, 5.0 + STALLED_S)  # what waits grows older
    clock.now_s += 1.0
    with pytest.raises(StackError, match=f"see {tmp_path}"):
        run.looked(60, 6.0 + STALLED_S)


def test_what_was_emitted_by_the_end_is_wanted(tmp_path: Path, clock: Clock) -> None:
    """SETTLE_S after the store's last page, all that the joiner has emitted is to be learned; later installs aren't."""
    run = Run(tmp_path)
    run.monitor.add([PastSent(0)])
    assert [run.looked(0, 0.0), run.looked(0, 0.0)] == [0, 1]
    wanted = []
    looks = ((10, False, 9.0), (20, True, SETTLE_S / 2), (30, True, SETTLE_S), (40, True, 9.0), (50, True, 9.0))
    for emitted, ended, later_s in looks:
        run.monitor.examples_emitted = emitted
        run.monitor.add([StoreProgress({"popular": ArmTotals()}, ended=ended)])
        run.looked(0, 0.0)
        clock.now_s += later_s
        wanted.append(run.monitor.examples_wanted)
    assert wanted == [None, None, None, 40, 40]


class DyingServices(DemoServices):
    """Services of which one dies while the world is played; the client is `cat`, which ends when its stdin closes."""

    def __init__(self, local: Path, interrupts: Interrupts) -> None:
        super().__init__(Settings(local=local, kafka="k:1", redis="redis://r:1", model="m"), interrupts, print)
        self.checked = 0
        self.clients = list[subprocess.Popen[bytes]]()

    def start_child(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """The client."""
        self.clients.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return self.clients[-1]

    def check_running(self, *but: str) -> None:
        """At the third look one has died."""
        self.checked += 1
        if self.checked == 3:
            raise StackError("learner ended in the middle of the demo")


def test_a_service_that_dies_while_the_world_is_played_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services are checked all the time; the client of the rankers is ended before the error is raised."""
    monkeypatch.setattr("thalweg.demo.play.UPDATE_S", 0.01)
    with Interrupts() as interrupts:
        services = DyingServices(tmp_path, interrupts)
        with pytest.raises(StackError, match="learner ended in the middle of the demo"):
            play(services, SPEC, DemoConfig(), Console(quiet=True))
    assert [client.poll() for client in services.clients] == [0]
