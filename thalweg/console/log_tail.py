"""The ends of topics: dead letters, and users who were seen lately. Bounded, and read only when a page asks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from stream.events.codec import decode_events
from stream.events.topics import DEAD_LETTERS, EVENTS
from stream.events.types import Impression
from stream.history.erasing import read_erased
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import Log
from stream.runtime.settings import Settings
from thalweg.views.dead_letters import read_dead_letters, without_erased

DEAD_LETTERS_MAX: Final = 100  # of each topic
RECORDS: Final = 5  # of a partition of events
USERS_MAX: Final = 12


class LogTail:
    """Reads the ends of topics, for one caller at a time. Connects at the first call. Raises LogError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log: KafkaLog | None = None
        self._lock = threading.Lock()

    def dead_letters(self) -> list[dict[str, Any]]:
        """The newest of all topics, newest first; those of erased users are left out."""
        with self._opened() as log:
            return dead_letters_of(log)

    def users(self) -> list[str]:
        """Users of the newest pages."""
        with self._opened() as log:
            return users_of(log)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._log:
                self._log.close()
            self._log = None

    @contextmanager
    def _opened(self) -> Iterator[Log]:
        with self._lock:
            if self._log is None:
                self._log = KafkaLog(self._settings)
            yield self._log


def dead_letters_of(log: Log) -> list[dict[str, Any]]:
    """The newest dead letters of all topics, newest first."""
    found: list[dict[str, Any]] = []
    for topic in DEAD_LETTERS:
        for one in without_erased(log, read_dead_letters(log, topic, newest=DEAD_LETTERS_MAX)):
            found.append({
                "topic": topic, "number": one.number, "time_ms": one.time_ms, "error": one.dead_letter.error,
                "message": one.dead_letter.message, "source": one.source, "kind": one.kind,
                "replayed": bool(one.replayed_ms),
            })  # fmt: skip
    return sorted(found, key=lambda one: -one["time_ms"])[:DEAD_LETTERS_MAX]


def users_of(log: Log) -> list[str]:
    """Users of the newest pages in `events`, distinct; without those who were erased since."""
    erased = read_erased(log)
    ends, starts = log.ends(EVENTS.name), log.starts(EVENTS.name)
    begin = {partition: max(starts[partition], end - RECORDS) for partition, end in ends.items()}
    found: dict[str, None] = {}
    for record in read_range(log, EVENTS.name, begin, ends):
        for event in decode_events(record.value or b"")[0]:
            if isinstance(event, Impression) and event.time_ms > erased.get(event.user, -1):
                found[event.user] = None
    return list(found)[-USERS_MAX:]
