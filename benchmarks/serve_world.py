"""What `serve` runs against: Kafka and Redis of its own, a published model, rankers and the load as processes."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from benchmarks.joiner_world import new_topics
from benchmarks.machine import cpu_s
from benchmarks.serve_load import Course, Found, Visitor
from benchmarks.serving import Publisher, World
from stream.events.codec import encode
from stream.events.topics import ITEMS as ITEMS_TOPIC
from stream.events.types import User
from stream.history.histories import COMPLETE, Changes, marker_key, write_changes
from stream.history.profiles import user_key
from stream.log.kafka_log import KafkaLog
from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from thalweg.stack.stack import down, up

SPEC: Final = Path("specs/store.toml")
TOWER: Final = "hidden_units = [128, 64]"  # the default of specs
ITEMS, USERS, HISTORY = 2_000, 20_000, 20
WIDE_KEYS, ROWS = 500_000, 100_000
QUICK: Final = 0.1  # of users, keys and rows
FEATURES_BYTES: Final = 2_500  # of an answer of ten items
START_S: Final = 300.0  # the first start on a machine compiles kernels
BATCH: Final = 500  # users written to Redis at once


def store_spec() -> Spec:
    """The store's, with the default tower."""
    text = SPEC.read_text()
    assert "hidden_units        = [64]" in text, "the store's tower has changed"
    return parse_spec(text.replace("hidden_units        = [64]", TOWER))


@dataclass(frozen=True)
class Place:
    """Addresses, and the file of visitors."""

    settings: Settings
    visitors: Path
    users: int


@contextmanager
def place(*, quick: bool, items: int = ITEMS) -> Iterator[Place]:
    """Kafka and Redis with a published model, described items, and users with histories."""
    share, spec = QUICK if quick else 1.0, store_spec()
    users = int(USERS * share)
    world = World(spec, items, users)
    with TemporaryDirectory(prefix="thalweg-serve-") as folder:
        stack = up(Path(folder))
        try:
            house = Settings(kafka=stack.kafka, redis=stack.redis, local=Path(folder), partitions=4)
            settings = new_topics(house).model_copy(update={"model": spec.name})
            with closing(RedisStore(settings, spec.name)) as store:
                Publisher(world, store, wide_keys=int(WIDE_KEYS * share), rows=int(ROWS * share)).base()
            _describe(settings, world)
            file = Path(folder) / "visitors"
            file.write_bytes(msgspec.msgpack.encode(_visitors(world)))
            yield Place(settings, file, users)
        finally:
            down(Path(folder))


def _describe(settings: Settings, world: World) -> None:
    """Items to Kafka, users' profiles to Redis."""
    with closing(KafkaLog(settings)) as log:
        for item in world.described:
            log.send(ITEMS_TOPIC.name, 0, encode(item), item.item.encode())
        log.flush(60)
    with closing(connect(settings)) as client:
        for first in range(0, world.users, BATCH):
            users = range(first, min(first + BATCH, world.users))
            histories: Changes = {
                (f"u{u}", item): 1_000 * n + 1 for u in users for n, item in enumerate(world.items(HISTORY))
            }
            write_changes(client, histories, settings.topic_prefix)
            keys = {
                user_key(f"u{u}", settings.topic_prefix): encode(User(f"u{u}", world.attributes_of[u])) for u in users
            }
            client.mset(keys)
        client.set(marker_key(settings.topic_prefix), COMPLETE)


def _visitors(world: World) -> list[Visitor]:
    return [
        Visitor(
            f"u{user}",
            {
                "device": ("phone", "tablet", "desktop")[user % 3],
                "hour": str(user % 24),
                "weekday": ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[user % 7],
            },
        )
        for user in range(world.users)
    ]


class RankerProcess:
    """A ranker by the command that users run."""

    def __init__(self, settings: Settings, worker: str) -> None:
        self._settings = settings.model_copy(update={"worker": worker})
        self._run = run_file(self._settings, "ranker")
        self._log = (settings.local / f"ranker-{worker}.log").open("wb")
        command = [sys.executable, "-m", "thalweg.cli.main", "run", "ranker", "--http", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, env=self._settings.environment(), stdout=self._log, stderr=self._log)

    def wait_until_ready(self) -> None:
        """It has a version, and its partitions."""
        until = time.monotonic() + START_S
        while not self._get("readyz").startswith("ready (version"):
            log = Path(self._log.name)
            assert self.process.poll() is None, f"the ranker ended: {log.read_text()[-2_000:]}"
            assert time.monotonic() < until, f"the ranker isn't ready: {self._get('readyz')}"
            time.sleep(0.1)

    @property
    def address(self) -> str:
        """Of HTTP."""
        return str(json.loads(self._run.read_bytes())["http"])

    def metric(self, name: str) -> float:
        """One metric; 0 when the ranker doesn't answer."""
        for line in self._get("metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return 0.0

    def rss_mb(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        """CPU time so far, of all its threads."""
        return cpu_s(self.process.pid)

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()
        self._log.close()

    def _get(self, path: str) -> str:
        with suppress(OSError, ValueError):
            port = json.loads(self._run.read_bytes())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
                return str(answer.read().decode())
        return ""


@contextmanager
def ranker(settings: Settings, worker: str = "0") -> Iterator[RankerProcess]:
    """A ranker that is ready; killed when the block ends."""
    process = RankerProcess(settings, worker)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.kill()


@dataclass(frozen=True)
class Echo:
    """Where the echo answers."""

    address: str
    prefix: str


@contextmanager
def echo(settings: Settings) -> Iterator[Echo]:
    """The floor, with topics of its own; killed when the block ends."""
    apart = new_topics(settings)
    given = {"settings": plain(apart), "features": FEATURES_BYTES}
    command = [sys.executable, "-m", "benchmarks.serve_echo", json.dumps(given)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None, "it was asked for"
        yield Echo(process.stdout.readline().strip(), apart.topic_prefix)
    finally:
        process.kill()
        process.wait()


class Load:
    """The load's process: `start` a course, then `found` waits for its end; one at a time."""

    def __init__(self, here: Place) -> None:
        given = {"settings": plain(here.settings), "visitors": str(here.visitors)}
        command = [sys.executable, "-m", "benchmarks.serve_load", json.dumps(given)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._users, self._next = here.users, 0

    def start(self, course: Course) -> None:
        """Fresh visitors, unless the course says how many take turns."""
        assert self._process.stdin is not None, "it was asked for"
        course.first = self._next
        self._next = (self._next + round(course.rate * course.seconds)) % self._users
        self._process.stdin.write(msgspec.json.encode(course) + b"\n")
        self._process.stdin.flush()

    def found(self) -> Found:
        """What became of the course."""
        assert self._process.stdout is not None, "it was asked for"
        line = self._process.stdout.readline()
        assert line, "the load has ended: its error is above"
        return msgspec.json.decode(line, type=Found, strict=False)

    def run(self, course: Course) -> Found:
        """`start`, then `found`."""
        self.start(course)
        return self.found()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def plain(settings: Settings) -> dict[str, Any]:
    """These settings as JSON for a process."""
    return settings.model_dump(mode="json", exclude_defaults=True)
