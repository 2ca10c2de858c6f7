"""A day's window whose pages' bodies exceed memory: rate with cold installs, latency of one, closing of all windows.

Full pages, 16 a record, policy `eager`. The first half of the pages has no installs. In the second, one page in twenty
has one: half of them of the page before, half *cold*, of a page drawn from the first half, which is no longer in the
cache of bodies. No window closes until the end. (The broker has the log in the system's page cache, so a
cold body is read over the network, not from a disk.)
"""

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.join_memory import BACK_MS, DAY
from benchmarks.joiner_world import (
    ITEMS,
    PAGES_A_MS,
    PARTITIONS,
    append_ms,
    emitted_so_far,
    joiner,
    new_topics,
    next_example,
    pages,
    preload,
    wait_for,
    with_bodies,
)  # fmt: skip
from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install, SourceEvent, Tick
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END, START
from stream.runtime.settings import Settings

PACK: Final = 16
USERS: Final = 20_000
BODIES_MB: Final = 16  # for the whole worker: some 12,000 full pages
SETTLED_S: Final = 2.0


@dataclass(frozen=True)
class Shown:
    """What a later install of a page needs."""

    partition: int
    user: str
    item: str
    request_id: str


def day(house: Settings, count: int, samples: int) -> dict[str, float]:
    """The figures for these numbers of pages, and of cold installs one by one."""
    settings = with_bodies(new_topics(house), BODIES_MB)
    begin_ms, half = int(time.time() * 1000) - BACK_MS, count // 2
    early: list[Shown] = []
    preload(settings, _first_half(half, begin_ms, early), PACK, None)
    random.Random(1).shuffle(early)
    middle_ms = begin_ms + half // PAGES_A_MS
    preload(settings, _second_half(half, middle_ms, early), PACK, None)
    end_ms = middle_ms + half // PAGES_A_MS
    with joiner(settings, DAY):
        log = KafkaLog(settings)
        while not emitted_so_far(settings):
            time.sleep(0.2)
        _settle(settings)
        (end,) = log.ends(EXAMPLES.name).values()
        took_s = (append_ms(log, end - 1) - append_ms(log, START)) / 1000
        found = _cold_installs(settings, log, early[-samples:], end_ms)
        close_s = _close(settings, log, end_ms, ITEMS * 2 * half)
        log.close()
    return {
        "day_ex_s_pack16": ITEMS * half / took_s,
        "cold_install_p50_ms": statistics.median(found),
        "cold_install_p99_ms": found[int(0.99 * (len(found) - 1))],
        "day_close_ex_s": ITEMS * 2 * half / close_s,
    }


def _first_half(count: int, begin_ms: int, early: list[Shown]) -> Iterator[tuple[int, SourceEvent]]:
    """Pages only; records what cold installs may refer to."""
    for k, (partition, event) in enumerate(pages(count, True, USERS, begin_ms)):
        if isinstance(event, Impression):
            early.append(Shown(partition, event.user, event.items[k % ITEMS], event.request_id))
            yield partition, event


def _second_half(count: int, begin_ms: int, early: list[Shown]) -> Iterator[tuple[int, SourceEvent]]:
    """Pages and installs, every other one of them cold: each of an early page of its own."""
    warm = False
    for partition, event in pages(count, True, USERS, begin_ms, seed=8):
        warm ^= isinstance(event, Install)
        if isinstance(event, Install) and not warm:
            cold = early.pop()
            yield cold.partition, Install(cold.user, cold.item, event.time_ms, event.install_id)
        else:
            yield partition, event


def _settle(settings: Settings) -> None:
    """Wait until nothing has been emitted for a while: a few installs may be of a page that had one already."""
    before, since = -1, time.monotonic()
    while time.monotonic() - since < SETTLED_S:
        if (now := emitted_so_far(settings)) != before:
            before, since = now, time.monotonic()
        time.sleep(0.2)


def _cold_installs(settings: Settings, log: KafkaLog, shown: list[Shown], end_ms: int) -> list[float]:
    """Install of an early page produced → its example readable, ms, some twenty a second."""
    reader, found = log.reader(EXAMPLES.name, {0: END}), []
    for k, page in enumerate(shown):
        time.sleep(random.uniform(0.02, 0.08))
        begun = time.perf_counter()
        install = Install(page.user, page.item, end_ms + k, f"cold-{k}", page.request_id)
        log.send(EVENTS.name, page.partition, encode_record([install]))
        next_example(reader, page.request_id)
        found.append((time.perf_counter() - begun) * 1000)
    reader.close()
    return sorted(found)


def _close(settings: Settings, log: KafkaLog, end_ms: int, examples: int) -> float:
    """Advance event time past all windows: seconds until every item of every page has its label."""
    begun_ms = time.time() * 1000
    for partition in range(PARTITIONS):
        log.send(EVENTS.name, partition, encode_record([Tick(end_ms + DAY.life_ms)]))
    log.flush()
    wait_for(settings, examples)
    (end,) = log.ends(EXAMPLES.name).values()
    return (append_ms(log, end - 1) - begun_ms) / 1000
