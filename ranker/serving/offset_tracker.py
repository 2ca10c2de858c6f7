"""Which offset of a partition may be committed: all before it are answered, their replies acknowledged. Pure."""

from collections import deque


class OpenRecord:
    """A record that was read. `open` counts what isn't done of it: its reading, its requests, its replies."""

    __slots__ = ("offset", "open", "time_ms")

    def __init__(self, offset: int, time_ms: int) -> None:
        self.offset, self.time_ms, self.open = offset, time_ms, 1


class OffsetTracker:
    """The records of one partition, in the order in which they are read.

    >>> tracker = OffsetTracker(7)
    >>> first, second = tracker.read(7, 1_000), tracker.read(9, 1_001)
    >>> second.open -= 1
    >>> tracker.committable()
    7
    >>> first.open -= 1
    >>> tracker.committable(), tracker.oldest_ms()
    (10, None)
    """

    def __init__(self, first: int) -> None:
        self.next_read = self._committable = first
        self._records: deque[OpenRecord] = deque()

    def read(self, offset: int, time_ms: int) -> OpenRecord:
        """A record is read, which was appended at `time_ms`; whoever reads it counts `open` down to 0."""
        assert offset >= self.next_read, f"offset {offset} is read after {self.next_read - 1}"
        record = OpenRecord(offset, time_ms)
        self._records.append(record)
        self.next_read = offset + 1
        return record

    def committable(self) -> int:
        """The offset after the last record up to which none is open."""
        while self._records and not self._records[0].open:
            self._committable = self._records.popleft().offset + 1
        return self._committable

    def oldest_ms(self) -> int | None:
        """Append time of the first record that is open; None: none is."""
        self.committable()
        return self._records[0].time_ms if self._records else None
