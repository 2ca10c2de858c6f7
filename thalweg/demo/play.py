"""Plays a demo's world while its services run, and shows what happens until everything is learned."""

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from rich.console import Console

from stream.runtime.errors import StackError
from stream.snapshots.redis_store import RedisStore
from thalweg.demo.config import DemoConfig
from thalweg.demo.freshness import DemoFreshness
from thalweg.demo.monitor import ClientProcess, DemoMonitor
from thalweg.demo.screen import Screen
from thalweg.demo.services import DemoServices

UPDATE_S: Final = 1.0
SETTLE_S: Final = 2.0  # after the store's last page: the joiner has read it by then, and published its metrics
STALLED_S: Final = 60.0  # after the last page, a learner that learns nothing for this long is stuck
UNANSWERED: Final = "no ranking request was answered by a model"


def play(services: DemoServices, spec: Path, config: DemoConfig, console: Console) -> DemoMonitor:
    """Play the world and show what happens, until everything is learned. Raises StackError."""
    if config.world == "store":
        words = ["play-store", "--spec", str(spec), "--pages", str(config.pages), "--seed", str(config.seed)]
        words += ["--rate", str(config.pages_a_second), "--sample", str(config.sample_every)]
        name, playing = "store", "playing"
    else:
        name, playing, words = (
            "asker",
            "replaying",
            ["ask", "--rps", str(config.rps), "--sample", str(config.sample_every)],
        )
    with (
        closing(RedisStore(services.settings, services.settings.model)) as store,
        closing(ClientProcess(services, name, *words)) as client,
        Screen(console) as screen,
    ):
        monitor = DemoMonitor(services, DemoFreshness(store), config.pages, playing)
        if config.world == "store":
            look_for_end: Callable[[], None] = _StoreEnd(monitor).look
        else:
            look_for_end = _Replay(services, spec, config, monitor).look
        while not monitor.done:
            time.sleep(UPDATE_S)
            services.check_running("replay")
            monitor.add(client.take())
            monitor.update()
            look_for_end()
            if monitor.examples_wanted is not None and time.monotonic() > monitor.last_learned_s + STALLED_S:
                reason = UNANSWERED if monitor.learned_all else "not all examples are learned, and nothing moves"
                raise StackError(f"{reason}; see {services.local / 'logs'}")
            screen.show(monitor.state)
        monitor.add(client.close())
        monitor.update()
    return monitor


class _StoreEnd:
    """Looks whether the store has shown its last page: then all that was emitted by now is to be learned.

    Windows that are still open aren't waited for: they close as time goes by, as in a store that stays open.
    """

    def __init__(self, monitor: DemoMonitor) -> None:
        self._monitor = monitor
        self._settled_s = 0.0

    def look(self) -> None:
        monitor, now_s = self._monitor, time.monotonic()
        if monitor.store is None or not monitor.store.ended or monitor.examples_wanted is not None:
            return
        self._settled_s = self._settled_s or now_s + SETTLE_S
        if now_s >= self._settled_s:
            monitor.examples_wanted = monitor.examples_emitted


class _Replay:
    """Replays MovieLens; when that has ended, its report says how many examples are to be learned."""

    def __init__(self, services: DemoServices, spec: Path, config: DemoConfig, monitor: DemoMonitor) -> None:
        self._services, self._monitor, self._report = services, monitor, services.local / "replay.json"
        services.start("replay", "replay", "movielens", "--spec", str(spec), "--rate", str(config.pages_a_second),
                       "--limit", str(config.pages), "--json", str(self._report))  # fmt: skip

    def look(self) -> None:
        services, monitor = self._services, self._monitor
        if monitor.examples_wanted is not None or services.is_running("replay"):
            return
        with suppress(OSError, ValueError):  # there is none, or it's cut off
            report = json.loads(self._report.read_bytes())
            monitor.examples_wanted, monitor.state.figures["pages"] = report["examples"], report["pages"]
        services.check_running(*["replay"] * (monitor.examples_wanted is not None))  # else: say how it ended
