"""Batches events into records and retains them until the log has confirmed them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Final

import msgspec

from producers.clock import Clock
from stream.events.topics import EVENTS
from stream.log.protocol import Log
from stream.runtime.errors import LogUnavailable

RECORD_EVENTS_MAX: Final = 64
RECORD_BYTES_MAX: Final = 512 * 1024  # half of a record's limit
UNCONFIRMED_BYTES_MAX: Final = 8 * 1024 * 1024
CONFIRM_EVERY_S: Final = 1.0
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)


@dataclass
class _Batch:
    """Events of one partition's next record."""

    events: list[msgspec.Raw] = field(default_factory=list)
    size: int = 0


_Sent = tuple[str, int, bytes | None, bytes | None]  # topic, partition, value, key


class BatchingProducer:
    """Batches events into records, sends them, and retains them until the log has confirmed them.

    A record is sent when it is full or when its oldest event has waited for `linger_s`. After an error of the log
    all unconfirmed records are sent again, in order; the joiner drops duplicates.
    """

    def __init__(
        self, log: Log, clock: Clock, linger_s: float, notify: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        self._log, self._clock, self._linger_s, self._notify, self._stop = log, clock, linger_s, notify, stop
        self._batches: dict[int, _Batch] = {}
        self._unconfirmed: list[_Sent] = []
        self._unconfirmed_bytes = 0
        self._confirmed_s = clock.now_s()
        self.due_s = float("inf")  # when the oldest batched event has waited for linger_s

    def append(self, partition: int, raw: bytes) -> None:
        """Add an event to its partition's next record."""
        batch = self._batches.setdefault(partition, _Batch())
        if batch.events and batch.size + len(raw) > RECORD_BYTES_MAX:
            self._send_batch(partition)
            batch = self._batches.setdefault(partition, _Batch())
        if self.due_s == float("inf"):
            self.due_s = self._clock.now_s() + self._linger_s
        batch.events.append(msgspec.Raw(raw))
        batch.size += len(raw)
        if len(batch.events) == RECORD_EVENTS_MAX:
            self._send_batch(partition)

    def send_due(self) -> None:
        """Send all batches if the oldest event has waited long enough; from time to time wait for confirmation."""
        now_s = self._clock.now_s()
        if now_s >= self.due_s:
            self._send_batches()
        if self._unconfirmed and now_s >= self._confirmed_s + CONFIRM_EVERY_S:
            self._confirm()

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Send one record (`value` None: a tombstone); wait for confirmation when many bytes are unconfirmed."""
        self._unconfirmed.append((topic, partition, value, key))
        self._unconfirmed_bytes += len(value or b"")
        try:
            self._log.send(topic, partition, value, key)
        except LogUnavailable as error:
            self._resend(error)
        if self._unconfirmed_bytes > UNCONFIRMED_BYTES_MAX:
            self._confirm()

    def flush(self) -> None:
        """Send all batches and wait until the log has confirmed everything."""
        self._send_batches()
        self._confirm()

    def _send_batches(self) -> None:
        for partition in list(self._batches):
            self._send_batch(partition)
        self.due_s = float("inf")

    def _send_batch(self, partition: int) -> None:
        self.send(EVENTS.name, partition, msgspec.msgpack.encode(self._batches.pop(partition).events))

    def _confirm(self) -> None:
        try:
            self._log.flush()
        except LogUnavailable as error:
            self._resend(error)
        self._confirmed()

    def _confirmed(self) -> None:
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._confirmed_s = self._clock.now_s()

    def _resend(self, error: LogUnavailable) -> None:
        """Wait for the log and send all unconfirmed records again. Raises `error` when stopped."""
        self._notify(f"{error}; the replay waits, and continues by itself")
        for wait_s in chain(BACKOFF_S, repeat(BACKOFF_S[-1])):
            if self._stop():
                raise error
            self._clock.sleep(wait_s)
            try:
                for sent in self._unconfirmed:
                    self._log.send(*sent)
                self._log.flush()
            except LogUnavailable:
                continue
            self._notify(f"the log answers again: {len(self._unconfirmed)} records were sent again")
            self._confirmed()
            return
