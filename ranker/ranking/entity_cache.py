"""Cache of items, and the consumer that fills it from their compacted topic."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

from ranker import metrics
from ranker.retrieval.item_columns import ONLY_SHOWN, ItemColumns
from stream.events.checks import check_lengths
from stream.events.codec import decode_entity
from stream.events.topics import ITEMS
from stream.events.types import Item
from stream.features.page_features import Catalogue, Layout
from stream.log.dead_letters import Outgoing, dead_letter
from stream.log.lag_age import LagAge
from stream.log.protocol import START, Log, Reader, Record
from stream.runtime.clock import now_ms
from stream.runtime.errors import BadEvent, LogError, LogGap, LogUnavailable

RETRY_S: Final = 1.0
POLL_S: Final = 0.2
RECORDS_MAX: Final = 5_000
PACE_ITEMS, PACE_S = 256, 0.004  # a catalogue is rebuilt in pieces of about a millisecond, and rests in between
DEAD_LETTERS_MAX: Final = 1_000  # buffered for writing; later ones are found again at the next start
TOMBSTONES_MAX: Final = 100_000
STALE_ROWS_MAX: Final = 65_536  # rows of a catalogue that no known item uses, beyond one per known item

log = logging.getLogger(__name__)


class EntityCache:
    """Items, and one catalogue of the items in the live model's columns. Threads may share it."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._changes_during_build: list[tuple[str, Item | None]] | None = None
        self.columns = ItemColumns()  # of known items, and of those only shown
        self._shown_names: Sequence[str] = ()
        self._shown: dict[str, None] = {}
        self._tombstones: dict[str, None] = {}  # deleted names, newest last

    def put(self, name: str, item: Item | None) -> None:
        """Add or replace an item; None deletes it, and it isn't retrieved though it was shown."""
        with self._lock:
            self._tombstones.pop(name, None)
            if item is None:
                self._tombstones[name] = None
                if len(self._tombstones) > TOMBSTONES_MAX:
                    oldest = next(iter(self._tombstones))
                    del self._tombstones[oldest]
                    self._update_column(oldest)
            if self.items.get(name) != item:
                if item is None:
                    self.items.pop(name, None)
                else:
                    self.items[name] = item
                if self._catalogue is not None:
                    _apply(self._catalogue, name, item)
                if self._changes_during_build is not None:
                    self._changes_during_build.append((name, item))
            self._update_column(name)

    def set_shown(self, names: Sequence[str]) -> None:
        """Replace the names of items that were shown, described or not."""
        if names is self._shown_names:
            return
        shown, before = dict.fromkeys(names), self._shown
        with self._lock:
            self._shown_names, self._shown = names, shown
            for name in [name for name in shown if name not in before] + [name for name in before if name not in shown]:
                self._update_column(name)

    def _update_column(self, name: str) -> None:
        item = self.items.get(name)
        if item is not None:
            self.columns.put(name, item.popularity)
        elif name in self._shown and name not in self._tombstones:
            self.columns.put(name, ONLY_SHOWN)
        else:
            self.columns.remove(name)

    def is_deleted(self, name: str) -> bool:
        """Whether an item has a tombstone."""
        return name in self._tombstones

    def catalogue(self, layout: Layout) -> Catalogue:
        """The items in this layout's columns, kept up to date until the next call with another layout."""
        with self._lock:
            current = self._catalogue
            if current is not None and current.layout.hash == layout.hash and not self._has_many_stale_rows(current):
                return current
            changes: list[tuple[str, Item | None]] = []
            self._changes_during_build = changes
        rebuilt, names = Catalogue(layout), self.columns.names
        for n in range(len(names)):  # what is added meanwhile is among the changes
            item = self.items.get(names[n])
            if item is not None:
                rebuilt.put(item)
            if current is not None and n % PACE_ITEMS == 0:
                time.sleep(PACE_S)  # requests are being answered
        with self._lock:
            for name, change in changes:
                _apply(rebuilt, name, change)
            self._changes_during_build, self._catalogue = None, rebuilt
        return rebuilt

    def _has_many_stale_rows(self, catalogue: Catalogue) -> bool:
        """Replaced and deleted items keep their rows until a rebuild."""
        return len(catalogue) > 2 * len(self.items) + STALE_ROWS_MAX


def _apply(catalogue: Catalogue, name: str, item: Item | None) -> None:
    if item is None:
        catalogue.remove(name)
    else:
        catalogue.put(item)


class ItemConsumer:
    """Reads the compacted topic `items` into caches, one per model, which share the items. `ready` is set once it was
    read up to its end as of start.

    Invalid records are counted, skipped, and become dead letters. Every ranker finds them at each start and writes
    them again: dead letters of one record share a key in a compacted topic, and `thalweg dlq` counts them once.
    `open_dead_letter_log` opens the log to write them to. It isn't the log of the replies, whose failures must reach
    those who wait for replies. A failed write is retried.
    """

    def __init__(
        self,
        source: Log,
        caches: Sequence[EntityCache],
        open_dead_letter_log: Callable[[], Log] | None = None,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        assert caches, "items are read for somebody"
        self._now_ms, self._started_ms = now_ms, now_ms()
        self._read_ms: dict[int, int] = {}  # append time of the last record read, by partition
        self._lag_ages: dict[int, LagAge] = {}
        self.ready = threading.Event()
        self._log, self._caches = source, caches
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
                    ends = self._log.ends(ITEMS.name)
                    reader = self._log.reader(ITEMS.name, dict.fromkeys(ends, START))
                self._poll(reader, ends)
                self._observe_lag(reader)
                self._write_dead_letters()
                failing = False
            except LogUnavailable as error:
                if not failing:
                    log.warning("%s: %s; ranking continues with the items known so far", ITEMS.name, error)
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
                self._read_ms[record.partition] = record.time_ms
        except LogGap as gap:  # compaction keeps the newest record of each key: nothing is lost
            reader.seek(gap.partition, START)

    def _observe_lag(self, reader: Reader) -> None:
        positions = reader.positions()
        for partition, end in reader.ends().items():
            records, read_ms = max(0, end - positions[partition]), self._read_ms.get(partition, 0)
            age = self._lag_ages.setdefault(partition, LagAge(self._started_ms))
            metrics.ITEM_LAG_RECORDS.labels(str(partition)).set(records)
            metrics.ITEM_LAG_SECONDS.labels(str(partition)).set(age.seconds(records, read_ms, self._now_ms()))

    def _consume(self, record: Record) -> None:
        try:
            if record.value is None:
                name = (record.key or b"").decode()
                check_lengths("a deleted item's id", (name,))
                self._put(name, None)
            else:
                item = decode_entity(record.value, Item)
                self._put(item.item, item)
        except (BadEvent, UnicodeDecodeError) as error:
            metrics.BAD_ENTITIES.labels(ITEMS.name).inc()
            log.warning("%s/%d offset %d is skipped: %s", ITEMS.name, record.partition, record.offset, error)
            if self._open_dead_letter_log is not None and len(self._dead_letters) < DEAD_LETTERS_MAX:
                self._dead_letters.append(dead_letter(record.value or b"", BadEvent.__name__, str(error), record))
        metrics.ITEMS.set(len(self._caches[0].items))

    def _put(self, name: str, item: Item | None) -> None:
        for cache in self._caches:
            cache.put(name, item)

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
                log.warning("%d dead letters of %s are pending: %s", len(self._dead_letters), ITEMS.name, error)
            self._retry_write_s = time.monotonic() + RETRY_S
        else:
            self._dead_letters, self._retry_write_s = [], 0.0
