"""Plays a demo's world while its services run, and shows what happens until everything is learned."""

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from stream.runtime.errors import StackError
from stream.snapshots.redis_store import RedisStore
from thalweg.demo.config import DemoConfig
from thalweg.demo.freshness import DemoFreshness
from thalweg.demo.monitor import ClientProcess, DemoMonitor
from thalweg.demo.retrain_scenes import SCENES, RetrainScenes
from thalweg.demo.screen import Screen
from thalweg.demo.services import DemoServices

UPDATE_S: Final = 1.0
LEARNING_THE_PAST: Final = "learning past installs"
PLAYING: Final = "playing"
LAG_S_MAX: Final = 1.0  # a learner whose oldest waiting record is younger has caught up
CAUGHT_UP: Final = 2  # looks in a row
SETTLE_S: Final = 2.0  # after the store's last page: the joiner has read it by then, and published its metrics
STALLED_S: Final = 60.0  # after the last page, a learner that learns nothing for this long is stuck
UNANSWERED: Final = "no ranking request was answered by a model"
NOT_SERVED: Final = "version {} is published, and no ranker serves it"


def play(services: DemoServices, spec: Path, config: DemoConfig, console: Console) -> DemoMonitor:
    """Play the world and show what happens, until everything is learned. Raises StackError."""
    if config.world == "store":
        words = ["play-store", "--spec", str(spec), "--pages", str(config.pages), "--seed", str(config.seed)]
        words += ["--rate", str(config.pages_a_second), "--sample", str(config.sample_every)]
        name, playing = "store", LEARNING_THE_PAST
    else:
        name, playing, words = (
            "asker",
            "replaying",
            ["ask", "--rps", str(config.rps), "--sample", str(config.sample_every)],
        )
    words += ["--http", services.http_of("ranker")]
    with (
        closing(RedisStore(services.settings, services.settings.model)) as store,
        closing(ClientProcess(services, name, *words)) as client,
        Screen(console) as screen,
    ):
        monitor = DemoMonitor(services, DemoFreshness(store), config.pages, playing)
        if config.world == "store":
            look: Callable[[], None] = StoreRun(monitor, client.begin, services.local / "logs").look
            scenes = RetrainScenes(services, spec, monitor, partial(console.print, soft_wrap=True, highlight=False))
        else:
            look, scenes = _Replay(services, spec, config, monitor).look, None
        while not (monitor.done and (scenes is None or scenes.done)):
            time.sleep(UPDATE_S)
            services.check_running("replay", *SCENES)
            monitor.add(client.take())
            monitor.update()
            look()
            if scenes:
                scenes.look()
            if monitor.examples_wanted is not None and time.monotonic() > monitor.last_learned_s + STALLED_S:
                raise StackError(f"{_what_is_missing(monitor)}; see {services.local / 'logs'}")
            screen.show(monitor.state)
        monitor.add(client.close())
        monitor.update()
    return monitor


def _what_is_missing(monitor: DemoMonitor) -> str:
    if not monitor.learned_all:
        return "not all examples are learned, and nothing moves"
    last = monitor.requests.last
    return NOT_SERVED.format(monitor.version_wanted) if last is not None and last.version else UNANSWERED


class StoreRun:
    """Lets the store's world begin once its past is learned, and looks whether it has shown its last page: then all
    that was emitted by now is to be learned. `begin`: signals the start. `logs`: of the services.

    No page is shown before its services have caught up: else, on a slow machine, a short world would be over before the
    learner has published anything.

    Windows that are still open at the end aren't waited for: they close as time goes by, as in a store that stays open.
    """

    def __init__(self, monitor: DemoMonitor, begin: Callable[[], None], logs: Path) -> None:
        self._monitor, self._begin, self._logs = monitor, begin, logs
        self._has_begun, self._caught_up = False, 0  # looks in a row
        self._settled_s = 0.0
        self._moved_s, self._seen = time.monotonic(), (0, 0)

    def look(self) -> None:
        """Look once. Raises StackError when nothing moves for STALLED_S before the world has begun."""
        if self._has_begun:
            self._look_for_end()
        elif self._past_is_learned():
            self._has_begun, self._monitor.playing = True, PLAYING
            self._begin()

    def _past_is_learned(self) -> bool:
        """Whether the joiner has joined all installs of the past and nothing waits for the learner, which has learned
        some, at two looks in a row: what was just joined may still be on its way to the learner."""
        monitor, now_s = self._monitor, time.monotonic()
        if monitor.past is None:  # if its process ends, the client says so
            self._moved_s = now_s
            return False
        seen = monitor.installs_joined, monitor.organic_learned
        if seen != self._seen:
            self._moved_s, self._seen = now_s, seen
        joined = monitor.installs_joined + monitor.dead_letters >= monitor.past.installs
        learned = monitor.learner_lag_s <= LAG_S_MAX and (monitor.organic_learned or not monitor.past.installs)
        self._caught_up = self._caught_up + 1 if joined and learned else 0
        if self._caught_up < CAUGHT_UP and now_s > self._moved_s + STALLED_S:
            raise StackError(f"what was before the world isn't learned, and nothing moves; see {self._logs}")
        return self._caught_up >= CAUGHT_UP

    def _look_for_end(self) -> None:
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
