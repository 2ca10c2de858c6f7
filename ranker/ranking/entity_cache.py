"""What is known of items and users: the compacted topics, in memory."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

import numpy as np
import numpy.typing as npt

from ranker import metrics
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
POPULAR_AGE_S: Final = 1.0  # how old the order by popularity may be
LETTERS_MAX: Final = 1_000  # that wait to be written; more are met again at the next start
GONE_MAX: Final = 100_000  # names that were taken back and are remembered
WASTE_MAX: Final = 65_536  # rows of a catalogue that no known item needs, above as many as there are items

log = logging.getLogger(__name__)


class Shelf:
    """Items, users, and one catalogue of the items in the live model's columns. Threads may share it."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.users: dict[str, dict[str, Value]] = {}
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._missed: list[tuple[str, Item | None]] | None = None
        self._popular: list[str] = []
        self._popular_s = -POPULAR_AGE_S
        self._changed = False
        self._shown: tuple[str, ...] = ()
        self._gone: dict[str, None] = {}  # names that were taken back, the last ones last

    def put(self, name: str, item: Item | None) -> None:
        """Add or replace an item; None: forget it, and don't retrieve it though it was shown."""
        with self._lock:
            self._gone.pop(name, None)
            if item is None:
                self._gone[name] = None
                if len(self._gone) > GONE_MAX:
                    del self._gone[next(iter(self._gone))]
            if self.items.get(name) == item:
                return
            if item is None:
                self.items.pop(name, None)
            else:
                self.items[name] = item
            if self._catalogue is not None:
                _put(self._catalogue, name, item)
            if self._missed is not None:
                self._missed.append((name, item))
            self._changed = True

    def show(self, names: tuple[str, ...]) -> None:
        """Items that were shown, described or not, instead of those of the last call."""
        with self._lock:
            if names is not self._shown:
                self._shown, self._changed = names, True

    def is_gone(self, name: str) -> bool:
        """Whether an item was taken back."""
        return name in self._gone

    def catalogue(self, layout: Layout) -> Catalogue:
        """The items in this layout's columns, kept up to date until the next call with another layout."""
        with self._lock:
            held = self._catalogue
            if held is not None and held.layout.hash == layout.hash and not self._wasteful(held):
                return held
            known = list(self.items.values())
            missed: list[tuple[str, Item | None]] = []
            self._missed = missed
        fresh = Catalogue(layout)
        for item in known:
            fresh.put(item)
        with self._lock:
            for name, change in missed:
                _put(fresh, name, change)
            self._missed, self._catalogue = None, fresh
        return fresh

    def rows(self, catalogue: Catalogue, items: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of items in a catalogue; one that isn't known gets a row with its id only."""
        with self._lock:
            return catalogue.rows(items)

    def by_popularity(self, max_age_s: float = POPULAR_AGE_S) -> list[str]:
        """Known items, statically most popular first, then those that were only shown; at most `max_age_s` old."""
        with self._lock:
            if self._changed and time.monotonic() - self._popular_s >= max_age_s:
                described = [i.item for i in sorted(self.items.values(), key=lambda i: -i.popularity)]
                only_shown = [i for i in self._shown if i not in self.items and i not in self._gone]
                self._popular = described + only_shown
                self._popular_s, self._changed = time.monotonic(), False
            return self._popular

    def _wasteful(self, catalogue: Catalogue) -> bool:
        """Replaced and unknown items keep their rows; now and then the catalogue is made anew without them."""
        return len(catalogue) > 2 * len(self.items) + WASTE_MAX


def _put(catalogue: Catalogue, name: str, item: Item | None) -> None:
    if item is None:
        catalogue.remove(name)
    else:
        catalogue.put(item)


class Feeder:
    """Reads one compacted topic into a shelf. `ready` is set once it was read to its end as of start.

    Bad records are counted, left out, and become dead letters. Every ranker meets them, at each of its starts, and
    writes their letters: those of one record have one key in a compacted topic, which keeps the last, and `thalweg
    dlq` counts them once. `open_letters` opens the log to write them to; it isn't the one that replies go through,
    whose failures are for those who wait for replies. What can't be written is tried again.
    """

    def __init__(self, source: Log, topic: str, shelf: Shelf, open_letters: Callable[[], Log] | None = None) -> None:
        assert topic in (ITEMS.name, USERS.name), f"{topic} doesn't feed a shelf"
        self.ready = threading.Event()
        self._log, self._topic, self._shelf = source, topic, shelf
        self._open_letters = open_letters
        self._letters: list[Outgoing] = []  # not yet written
        self._post_s = 0.0  # when to try
        self._unposted = False

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises LogError when waiting won't help."""
        reader: Reader | None = None
        failing = False
        while not stop.is_set():
            try:
                if reader is None:
                    ends = self._log.ends(self._topic)
                    reader = self._log.reader(self._topic, dict.fromkeys(ends, START))
                self._read(reader, ends)
                self._post()
                failing = False
            except LogUnavailable as bad:
                if not failing:
                    log.warning("%s: %s; ranking goes on with what is known", self._topic, bad)
                failing = True
                stop.wait(RETRY_S)
        if reader is not None:
            reader.close()

    def _read(self, reader: Reader, ends: dict[int, int]) -> None:
        if not self.ready.is_set():
            positions = reader.positions()
            if all(positions[p] >= end for p, end in ends.items()):
                self.ready.set()
        try:
            for record in reader.poll(POLL_S, RECORDS_MAX):
                self._take(record)
        except LogGap as gap:  # compaction keeps the newest of each: nothing is lost
            reader.seek(gap.partition, START)

    def _take(self, record: Record) -> None:
        try:
            if record.value is None:
                self._forget((record.key or b"").decode())
            elif self._topic == ITEMS.name:
                item = decode_entity(record.value, Item)
                self._shelf.put(item.item, item)
            else:
                user = decode_entity(record.value, User)
                self._shelf.users[user.user] = user.attributes
        except (BadEvent, UnicodeDecodeError) as bad:
            metrics.BAD_ENTITIES.labels(self._topic).inc()
            log.warning("%s/%d offset %d is left out: %s", self._topic, record.partition, record.offset, bad)
            if self._open_letters is not None and len(self._letters) < LETTERS_MAX:
                self._letters.append(dead_letter(record.value or b"", BadEvent.__name__, str(bad), record))
        metrics.ITEMS.set(len(self._shelf.items))
        metrics.USERS.set(len(self._shelf.users))

    def _post(self) -> None:
        """Write the letters that wait."""
        if not self._letters or self._open_letters is None or time.monotonic() < self._post_s:
            return
        try:
            with closing(self._open_letters()) as target:
                for letter in self._letters:
                    target.send(letter.topic, letter.partition, letter.value, letter.key)
                target.flush()
        except LogError as bad:
            if not self._unposted:
                log.warning("%d dead letters of %s wait: %s", len(self._letters), self._topic, bad)
            self._unposted, self._post_s = True, time.monotonic() + RETRY_S
            return
        self._letters, self._unposted = [], False

    def _forget(self, name: str) -> None:
        if self._topic == ITEMS.name:
            self._shelf.put(name, None)
        else:
            self._shelf.users.pop(name, None)
