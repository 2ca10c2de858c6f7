"""Every room as a process, on the run's Kafka and Redis; a made-up world to play; ways to kill."""

import contextlib
import os
import signal
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

import numpy as np

from producers.source import WorldEvent
from stream.events.types import Impression, Install, Item, User
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from tests.support.forked_services import Nest, alive
from tests.support.learner_world import SPEC
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack
from thalweg.stack.status import Service

WARM_START = "every = 300, window = 200"
SYSTEM_SPEC = SPEC.replace(', half_life = "1h"', "").replace(WARM_START, "window = 30, judged = 600")
SYSTEM_SPEC = SYSTEM_SPEC.replace("holdout = 0.0", "holdout = 0.0, refusals_max = 1000000")  # they depend on the clock
SYSTEM_SPEC += 'every = "100ms"\ndeep_every = "300ms"\n'


def ended(pid: int, number: int, what: str, wait_s: float = 30.0) -> None:
    """Send a signal, and return when the process is gone. Raises ProcessLookupError when it was before."""
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), f"{what} to be gone", wait_s)


class House:
    """Joiner, learner, ranker, as processes."""

    def __init__(self, nest: Nest, stack: Stack, prefix: str, home: Path) -> None:
        self.home = home
        self._nest = nest
        self.spec_file = home / "spec.toml"
        self.spec_file.write_text(SYSTEM_SPEC)
        self.settings = Settings(
            kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=home / "local", partitions=2,
            checkpoint_every_ms=300,
        )  # fmt: skip
        self.running: dict[str, int] = {}  # pids
        apply_topics(self.settings, plan_topics(self.settings))

    @property
    def spec(self) -> Spec:
        """The spec that all rooms run."""
        return load_spec(self.spec_file)

    def start(self, *rooms: str, ready: bool = True) -> None:
        """Start rooms, and wait until each says that it is ready."""
        for room in rooms:
            arguments = ["run", room, "--spec", str(self.spec_file)]
            self.running[room] = self._nest.start(arguments, self.settings_of(room), self.home / f"{room}.log")
        for room in rooms if ready else ():
            self.wait_ready(room)

    def settings_of(self, room: str) -> dict[str, object]:
        """The settings of a room's process."""
        names = ("kafka", "redis", "topic_prefix", "local", "checkpoint_every_ms", "ranker_http")
        return {name: getattr(self.settings, name) for name in names}

    def wait_ready(self, room: str) -> None:
        """Until it says that it is."""
        wait_until(lambda: self.is_ready(room), f"{room} to be ready; see {self.home / room}.log")

    def is_ready(self, room: str) -> bool:
        """Does it say so? Fails when it has ended."""
        assert alive(self.running[room]), (self.home / f"{room}.log").read_text()[-3000:]
        service = Service.read(self.settings.local / "run" / f"{room}-0.json")
        return service is not None and service.pid == self.running[room] and service.get("/readyz")[0] == 200

    def metric(self, room: str, name: str) -> float:
        """One figure of a room; −1 while it doesn't answer."""
        service = Service.read(self.settings.local / "run" / f"{room}-0.json")
        return (service.metrics() if service else {}).get(name, -1.0)

    def kill(self, room: str) -> None:
        """kill -9."""
        ended(self.running[room], signal.SIGKILL, room)

    def end(self, *rooms: str) -> None:
        """SIGTERM, and wait; all of them when none is named."""
        for room in rooms or tuple(self.running):
            pid = self.running.pop(room)
            with contextlib.suppress(ProcessLookupError):  # it was killed
                try:
                    ended(pid, signal.SIGTERM, room, 20.0)
                except AssertionError:
                    os.kill(pid, signal.SIGKILL)  # so that it's in nobody's way
                    raise


def world(pages: int, seed: int) -> Iterator[WorldEvent]:
    """30 items, 40 users, pages of 3, installs some time later, some too late, in order of event time."""
    random = np.random.default_rng(seed)
    for i in range(30):
        yield Item(f"i{i}", {"tags": [f"t{i % 3}", f"t{3 + i % 2}"], "price": float(i)}, f"Item {i}", float(30 - i))
    for u in range(40):
        yield User(f"u{u}", {"age": 15.0 + u})
    coming: list[tuple[int, int, WorldEvent]] = []  # a heap: nobody waits for a long world to be made
    numbers = count()  # of two with the same time the one that was made first goes first
    time_ms = 1_700_000_000_000
    for n in range(pages):
        time_ms += int(random.integers(1, 400))
        while coming and coming[0][0] < time_ms:
            yield heappop(coming)[2]
        user = int(random.integers(40))
        shown = [int(i) for i in random.choice(30, 3, replace=False)]
        page = Impression(f"r{n}", time_ms, f"u{user}", [f"i{i}" for i in shown])
        heappush(coming, (time_ms, next(numbers), page))
        for i in shown:
            if random.random() < 0.1 + 0.5 * ((i + user) % 3 == 0):
                at = time_ms + int(random.integers(1, 2_300))
                install = Install(f"u{user}", f"i{i}", at, f"in{n}-{i}", f"r{n}")
                heappush(coming, (at, next(numbers), install))
    while coming:
        yield heappop(coming)[2]
