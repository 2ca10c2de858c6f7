"""A publisher in a process of its own: it builds random versions in advance, then publishes them on schedule to Redis.

So a swap's effect on requests is due to the ranker's work, not to the generation of deltas.
"""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.serving import Publisher, World
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec

SPEC = Path("specs/movielens.toml")
ITEMS, USERS = 4_000, 150


@dataclass(frozen=True)
class Course:
    """The schedule: a base with these numbers of keys and rows, then `swaps` small deltas, one every `every_s`.

    Every `dense_each`-th has new dense layers; before every `merge_each`-th the deltas are merged.
    """

    wide_keys: int
    rows: int
    swaps: int
    every_s: float
    dense_each: int
    merge_each: int


class Feed:
    """A handle on the publisher: `start` begins the schedule, `moments` returns the time of each version at its end."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self, at_s: float) -> None:
        """Publish from `at_s` of time.perf_counter on."""
        self._pipe.send(at_s)

    def over(self) -> bool:
        """Whether all were published."""
        return self._pipe.poll()

    def moments(self) -> list[tuple[float, bool]]:
        """When each version was published (time.perf_counter), and whether its dense layers are new. Waits."""
        found: list[tuple[float, bool]] = self._pipe.recv()
        return found


@contextmanager
def feeding(settings: Settings, course: Course) -> Iterator[Feed]:
    """A feed whose base is published and whose versions are all built."""
    spawn = multiprocessing.get_context("spawn")  # no thread of this process is copied halfway
    here, there = spawn.Pipe()
    process = spawn.Process(target=_publish, args=(settings, course, there), daemon=True)
    process.start()
    there.close()
    try:
        state = here.recv()
        assert state == "ready", state
        yield Feed(here)
    finally:
        here.close()
        process.join(10)
        if process.is_alive():
            process.kill()


def _publish(settings: Settings, course: Course, pipe: Connection) -> None:
    spec = load_spec(SPEC)
    with closing(RedisStore(settings, spec.name)) as store:
        publisher = Publisher(World(spec, ITEMS, USERS), store, wide_keys=course.wide_keys, rows=course.rows)
        publisher.base()
        cut = []
        for n in range(course.swaps):
            dense = n % course.dense_each == course.dense_each - 1
            publisher.delta(2_000, 2_000, 500, dense=dense)
            if n % course.merge_each == course.merge_each - 1:
                publisher.merge()
            cut.append((publisher.cut(), dense))
        pipe.send("ready")
        started: float = pipe.recv()
        moments = []
        for n, (manifest, dense) in enumerate(cut):
            time.sleep(max(0.0, started + n * course.every_s - time.perf_counter()))
            store.publish(manifest)
            moments.append((time.perf_counter(), dense))
        pipe.send(moments)
