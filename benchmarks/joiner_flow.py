"""Pages and installs as they happen, in order of event time; buffered while their producers reach no broker."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final

from benchmarks.joiner_world import PARTITIONS
from stream.events.codec import encode_record
from stream.events.topics import EVENTS
from stream.events.types import Impression, Install, SourceEvent
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import partition_of
from stream.runtime.settings import Settings

PAGES: Final = 2  # a group
INSTALLED: Final = 0.2  # of the pages
DELAY_S_MAX: Final = 4.0  # from a page to its install
ITEMS: Final = 4
RECORD_EVENTS: Final = 256


class Flow:
    """Sends in a thread of its own until stopped. Each page has a user of its own, so an install's page is unambiguous.

    `positives`: (request id, position) of every install within its page's window.
    """

    def __init__(self, settings: Settings, groups_a_s: float, window_ms: int, seed: int = 7) -> None:
        self.positives: set[tuple[str, int]] = set()
        self._window_ms, self._every_s = window_ms, 1 / groups_a_s
        self._random = random.Random(seed)
        self._numbers = count()
        self._later: list[tuple[int, int, int, Install]] = []  # a heap: event time, number, partition
        self._waiting: dict[int, list[SourceEvent]] = {p: [] for p in range(PARTITIONS)}
        self._ending, self._holding = threading.Event(), threading.Event()
        self._sending = threading.Lock()
        self._failure: Exception | None = None
        self._log = KafkaLog(settings)
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self._thread.start()

    @classmethod
    @contextmanager
    def running(cls, settings: Settings, groups_a_s: float, window_ms: int) -> "Iterator[Flow]":
        """A flow until the end of the block at the latest."""
        flow = cls(settings, groups_a_s, window_ms)
        try:
            yield flow
        finally:
            flow.stop()

    def pause(self) -> None:
        """Buffer events from now on; those sent so far are in the log."""
        with self._sending:
            self._holding.set()
            self._log.flush()

    def resume(self) -> None:
        """Send the buffered events, and continue."""
        self._holding.clear()

    def stop(self) -> None:
        """Let the remaining installs happen, and wait until the log has all. Raises the error of its thread."""
        self._ending.set()
        self._thread.join(60.0)
        assert not self._thread.is_alive(), "the flow could not be ended"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            due_s = time.monotonic()
            while not self._ending.is_set() or self._later:
                if not self._ending.is_set():
                    for _ in range(PAGES):
                        self._show()
                self._install()
                self._send()
                due_s += self._every_s
                time.sleep(max(0.0, due_s - time.monotonic()))
            self._holding.clear()
            self._send()
            self._log.close()
        except Exception as bad:  # noqa: BLE001  # whatever it is, `stop` raises it
            self._failure = bad

    def _show(self) -> None:
        number, now_ms = next(self._numbers), int(time.time() * 1000)
        page = Impression(f"flow-{number}", now_ms, f"flow-{number}", [f"item-{k}" for k in range(ITEMS)])
        partition = partition_of(f"flow-{number}", PARTITIONS)
        self._waiting[partition].append(page)
        if self._random.random() < INSTALLED:
            position = self._random.randrange(ITEMS)
            at_ms = now_ms + int(1000 * self._random.uniform(0.0, DELAY_S_MAX))
            install = Install(page.user, page.items[position], at_ms, f"flow-{number}")
            heappush(self._later, (at_ms, number, partition, install))
            if at_ms < now_ms + self._window_ms:
                self.positives.add((page.request_id, position))

    def _install(self) -> None:
        """What has been installed by now."""
        now_ms = int(time.time() * 1000)
        while self._later and self._later[0][0] <= now_ms:
            _, _, partition, install = heappop(self._later)
            self._waiting[partition].append(install)

    def _send(self) -> None:
        with self._sending:
            if self._holding.is_set():
                return
            for partition, events in self._waiting.items():
                for at in range(0, len(events), RECORD_EVENTS):
                    self._log.send(EVENTS.name, partition, encode_record(events[at : at + RECORD_EVENTS]))
                events.clear()
