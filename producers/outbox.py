"""On the way into the log: events gathered into records, kept until the log is known to have them."""

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
RECORD_BYTES_MAX: Final = 512 * 1024  # half of what a record may have
DOUBT_BYTES_MAX: Final = 8 * 1024 * 1024  # sent, but not known to be in the log
SETTLE_S: Final = 1.0
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)


@dataclass
class _Gathered:
    """Events of one partition that wait for others."""

    events: list[msgspec.Raw] = field(default_factory=list)
    size: int = 0


_Sent = tuple[str, int, bytes, bytes | None]  # topic, partition, value, key


class Outbox:
    """Gathers events into records, sends them, and keeps them until the log is known to have them.

    A record goes when it is full or when the oldest event has waited for `linger_s`. After an error of the log
    all that isn't known to be there is sent again, in order; the joiner drops repetitions.
    """

    def __init__(
        self, log: Log, clock: Clock, linger_s: float, say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        self._log, self._clock, self._linger_s, self._say, self._stop = log, clock, linger_s, say, stop
        self._gathered: dict[int, _Gathered] = {}
        self._doubt: list[_Sent] = []
        self._doubt_bytes = 0
        self._settled_s = clock.now_s()
        self.due_s = float("inf")  # when what is gathered has waited long enough

    def gather(self, partition: int, raw: bytes) -> None:
        """Put an event into its partition's next record."""
        gathered = self._gathered.setdefault(partition, _Gathered())
        if gathered.events and gathered.size + len(raw) > RECORD_BYTES_MAX:
            self._send_gathered(partition)
            gathered = self._gathered.setdefault(partition, _Gathered())
        if self.due_s == float("inf"):
            self.due_s = self._clock.now_s() + self._linger_s
        gathered.events.append(msgspec.Raw(raw))
        gathered.size += len(raw)
        if len(gathered.events) == RECORD_EVENTS_MAX:
            self._send_gathered(partition)

    def send_due(self) -> None:
        """Send all that is gathered, if the oldest of it has waited long enough; now and then make sure of it all."""
        now_s = self._clock.now_s()
        if now_s >= self.due_s:
            self._send_all()
        if self._doubt and now_s >= self._settled_s + SETTLE_S:
            self._confirm()

    def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> None:
        """Send one record; wait for the log when much is on its way."""
        self._doubt.append((topic, partition, value, key))
        self._doubt_bytes += len(value)
        try:
            self._log.send(topic, partition, value, key)
        except LogUnavailable as bad:
            self._try_again(bad)
        if self._doubt_bytes > DOUBT_BYTES_MAX:
            self._confirm()

    def settle(self) -> None:
        """Send what is gathered and wait until the log has everything."""
        self._send_all()
        self._confirm()

    def _send_all(self) -> None:
        for partition in list(self._gathered):
            self._send_gathered(partition)
        self.due_s = float("inf")

    def _send_gathered(self, partition: int) -> None:
        value = msgspec.msgpack.encode(self._gathered.pop(partition).events)
        self.send(EVENTS.name, partition, value)

    def _confirm(self) -> None:
        try:
            self._log.flush()
        except LogUnavailable as bad:
            self._try_again(bad)
        self._settled()

    def _settled(self) -> None:
        self._doubt.clear()
        self._doubt_bytes = 0
        self._settled_s = self._clock.now_s()

    def _try_again(self, bad: LogUnavailable) -> None:
        """Wait for the log and send all that is in doubt once more. Raises `bad` when told to stop."""
        self._say(f"{bad}; the replay waits, and goes on by itself")
        for wait_s in chain(BACKOFF_S, repeat(BACKOFF_S[-1])):
            if self._stop():
                raise bad
            self._clock.sleep(wait_s)
            try:
                for sent in self._doubt:
                    self._log.send(*sent)
                self._log.flush()
            except LogUnavailable:
                continue
            self._say(f"the log answers again: {len(self._doubt)} records were sent once more")
            self._settled()
            return
