"""Cache of items and users, and the consumers that fill it from the compacted topics."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

import numpy as np
import numpy.typing as npt

from ranker import metrics
from stream.events.checks import check_lengths
from stream.events.codec import decode_entity
from stream.events.topics import ITEMS, USERS
from stream.events.types import Item, User, Value
from stream.features.page_features import Catalogue, Layout
from stream.log.dead_letters import Outgoing, dead_letter
from stream.log.protocol import START, Log, Reader, Record
from stream.runtime.errors import BadEvent, LogError, LogGap, LogUnavailable

RETRY_S: Final = 1.0
POLL_S: Final = 0.2
RECORDS_MAX: Final = 5_000
POPULARITY_AGE_S: Final = 1.0  # maximum age of the order by popularity
DEAD_LETTERS_MAX: Final = 1_000  # buffered for writing; later ones are found again at the next start
TOMBSTONES_MAX: Final = 100_000
STALE_ROWS_MAX: Final = 65_536  # rows of a catalogue that no known item uses, beyond one per known item

log = logging.getLogger(__name__)


class EntityCache:
    """Items, users, and one catalogue of the items in the live model's columns. Threads may share it."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.users: dict[str, dict[str, Value]] = {}
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._changes_during_build: list[tuple[str, Item | None]] | None = None
        self._by_popularity: list[str] = []
        self._ordered_s = -POPULARITY_AGE_S
        self._changed = False
        self._shown: tuple[str, ...] = ()
        self._tombstones: dict[str, None] = {}  # deleted names, newest last

    def put(self, name: str, item: Item | None) -> None:
        """Add or replace an item; None deletes it, and it isn't retrieved though it was shown."""
        with self._lock:
            self._tombstones.pop(name, None)
            if item is None:
                self._tombstones[name] = None
                if len(self._tombstones) > TOMBSTONES_MAX:
                    del self._tombstones[next(iter(self._tombstones))]
            if self.items.get(name) == item:
                return
            if item is None:
                self.items.pop(name, None)
            else:
                self.items[name] = item
            if self._catalogue is not None:
                _apply(self._catalogue, name, item)
            if self._changes_during_build is not None:
                self._changes_during_build.append((name, item))
            self._changed = True

    def set_shown(self, names: tuple[str, ...]) -> None:
        """Replace the names of items that were shown, described or not."""
        with self._lock:
            if names is not self._shown:
                self._shown, self._changed = names, True

    def is_deleted(self, name: str) -> bool:
        """Whether an item has a tombstone."""
        return name in self._tombstones

    def catalogue(self, layout: Layout) -> Catalogue:
        """The items in this layout's columns, kept up to date until the next call with another layout."""
        with self._lock:
            current = self._catalogue
            if current is not None and current.layout.hash == layout.hash and not self._has_many_stale_rows(current):
                return current
            known = list(self.items.values())
            changes: list[tuple[str, Item | None]] = []
            self._changes_during_build = changes
        rebuilt = Catalogue(layout)
        for item in known:
            rebuilt.put(item)
        with self._lock:
            for name, change in changes:
                _apply(rebuilt, name, change)
            self._changes_during_build, self._catalogue = None, rebuilt
        return rebuilt

    def rows(self, catalogue: Catalogue, items: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of items in a catalogue, int64 [n]; an unknown item gets a row with its id only."""
        with self._lock:
            return catalogue.rows(items)

    def by_popularity(self, max_age_s: float = POPULARITY_AGE_S) -> list[str]:
        """Known items, highest static popularity first, then those only shown; at most `max_age_s` old."""
        with self._lock:
            if self._changed and time.monotonic() - self._ordered_s >= max_age_s:
                described = [i.item for i in sorted(self.items.values(), key=lambda i: -i.popularity)]
                only_shown = [i for i in self._shown if i not in self.items and i not in self._tombstones]
                self._by_popularity = described + only_shown
                self._ordered_s, self._changed = time.monotonic(), False
            return self._by_popularity

    def _has_many_stale_rows(self, catalogue: Catalogue) -> bool:
        """Replaced and unknown items keep their rows until a rebuild."""
        return len(catalogue) > 2 * len(self.items) + STALE_ROWS_MAX


def _apply(catalogue: Catalogue, name: str, item: Item | None) -> None:
    if item is None:
        catalogue.remove(name)
    else:
        catalogue.put(item)


class EntityConsumer:
    """Reads one compacted topic into a cache. `ready` is set once it has read up to the topic's end as of start.

    Invalid records are counted, skipped, and become dead letters. Every ranker finds them at each start and writes
    them again: dead letters of one record share a key in a compacted topic, and `thalweg dlq` counts them once.
    `open_dead_letter_log` opens the log to write them to. It isn't the log of the replies, whose failures must reach
    those who wait for replies. A failed write is retried.
    """

    def __init__(
        self, source: Log, topic: str, cache: EntityCache, open_dead_letter_log: Callable[[], Log] | None = None
    ) -> None:
        assert topic in (ITEMS.name, USERS.name), f"{topic} has no entities"
        self.ready = threading.Event()
        self._log, self._topic, self._cache = source, topic, cache
        self._open_dead_letter_log = open_dead_letter_log
        self._dead_letters: list[Outgoing] = []  # not yet written
        self._retry_write_s = 0.0  # when to retry; 0: the last write has succeeded

    def run(self, stop: threading.Event) -> None:
        """Read until `stop` is set. Raises LogError when a retry won't help."""
        reader: Reader | None = None
        failing = False
        while not stop.is_set():
            try:
                if reader is None:
                    ends = self._log.ends(self._topic)
                    reader = self._log.reader(self._topic, dict.fromkeys(ends, START))
                self._poll(reader, ends)
                self._write_dead_letters()
                failing = False
            except LogUnavailable as error:
                if not failing:
                    log.warning("%s: %s; ranking continues with the entities known so far", self._topic, error)
                failing = True
                stop.wait(RETRY_S)
        if reader is not None:
            reader.close()

    def _poll(self, reader: Reader, ends: dict[int, int]) -> None:
        if not self.ready.is_set():
            positions = reader.positions()
            if all(positions[p] >= end for p, end in ends.items()):
                self.ready.set()
        try:
            for record in reader.poll(POLL_S, RECORDS_MAX):
                self._consume(record)
        except LogGap as gap:  # compaction keeps the newest record of each key: nothing is lost
            reader.seek(gap.partition, START)

    def _consume(self, record: Record) -> None:
        try:
            if record.value is None:
                name = (record.key or b"").decode()
                check_lengths("a deleted entity's id", (name,))
                self._delete(name)
            elif self._topic == ITEMS.name:
                item = decode_entity(record.value, Item)
                self._cache.put(item.item, item)
            else:
                user = decode_entity(record.value, User)
                self._cache.users[user.user] = user.attributes
        except (BadEvent, UnicodeDecodeError) as error:
            metrics.BAD_ENTITIES.labels(self._topic).inc()
            log.warning("%s/%d offset %d is skipped: %s", self._topic, record.partition, record.offset, error)
            if self._open_dead_letter_log is not None and len(self._dead_letters) < DEAD_LETTERS_MAX:
                self._dead_letters.append(dead_letter(record.value or b"", BadEvent.__name__, str(error), record))
        metrics.ITEMS.set(len(self._cache.items))
        metrics.USERS.set(len(self._cache.users))

    def _delete(self, name: str) -> None:
        if self._topic == ITEMS.name:
            self._cache.put(name, None)
        else:
            self._cache.users.pop(name, None)

    def _write_dead_letters(self) -> None:
        if not self._dead_letters or self._open_dead_letter_log is None or time.monotonic() < self._retry_write_s:
            return
        try:
            with closing(self._open_dead_letter_log()) as target:
                for record in self._dead_letters:
                    target.send(record.topic, record.partition, record.value, record.key)
                target.flush()
        except LogError as error:
            if not self._retry_write_s:
                log.warning("%d dead letters of %s are pending: %s", len(self._dead_letters), self._topic, error)
            self._retry_write_s = time.monotonic() + RETRY_S
        else:
            self._dead_letters, self._retry_write_s = [], 0.0
