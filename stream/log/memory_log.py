"""The log in memory."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stream.log.protocol import END, START, Acks, Record, Settled, check_position, fenced_member, missing_topic
from stream.runtime.errors import LogError


@dataclass
class _Partition:
    """Records of one partition; `records[0]` has the offset `start`."""

    start: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.records)

    def resolve(self, offset: int) -> int:
        return self.start if offset == START else self.end if offset == END else offset


@dataclass
class _Group:
    """Members of a consumer group, and its commits. Partitions are assigned round-robin, by member name."""

    members: "dict[str, MemoryGroupReader]" = field(default_factory=dict)
    commits: dict[int, int] = field(default_factory=dict)

    def assignment(self, member: str, partitions: int) -> list[int]:
        names = sorted(self.members)
        return [p for p in range(partitions) if names[p % len(names)] == member]


class MemoryLog:
    """A Log in this process's memory: for tests, backtests, simulation. Thread-safe; retains all records.

    `topics` gives each topic's partitions; `now_ms` is the clock of the append times.
    """

    def __init__(self, topics: Mapping[str, int], now_ms: Callable[[], int]) -> None:
        self._topics = {name: [_Partition() for _ in range(n)] for name, n in topics.items()}
        self._now_ms = now_ms
        self._groups: dict[tuple[str, str], _Group] = {}
        self._changed = threading.Condition(threading.Lock())

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Append at once."""
        assert value is not None or key is not None, "a tombstone needs a key"
        parts = self._parts(topic)
        assert 0 <= partition < len(parts), f"{topic} has no partition {partition}"
        part = parts[partition]
        with self._changed:
            part.records.append(Record(topic, partition, part.end, self._now_ms(), key, value))
            self._changed.notify_all()

    def flush(self, timeout_s: float = 10.0) -> None:
        """Nothing is ever in flight."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError when it doesn't exist."""
        return len(self._parts(topic))

    def starts(self, topic: str) -> dict[int, int]:
        """Oldest offset per partition."""
        return {p: part.start for p, part in enumerate(self._parts(topic))}

    def ends(self, topic: str) -> dict[int, int]:
        """Offset after the newest record per partition."""
        with self._changed:
            return {p: part.end for p, part in enumerate(self._parts(topic))}

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Offset of the first record appended at `time_ms` or later, per partition; the end where there is none yet."""
        with self._changed:
            return {
                p: part.start + bisect_left(part.records, time_ms, key=lambda record: record.time_ms)
                for p, part in enumerate(self._parts(topic))
            }

    def truncate(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop the records before `before_offset`, as retention does."""
        part = self._parts(topic)[partition]
        with self._changed:
            keep_from = min(max(before_offset, part.start), part.end)
            del part.records[: keep_from - part.start]
            part.start = keep_from

    def recreate(self, topic: str) -> None:
        """Drop all records and begin at offset 0, as a topic that was deleted and created again."""
        with self._changed:
            for part in self._parts(topic):
                part.start, part.records = 0, []

    def reader(self, topic: str, positions: Mapping[int, int]) -> "MemoryReader":
        """A reader of exactly these partitions from these offsets (or START, END: as of now)."""
        return MemoryReader(topic, self._parts(topic), self._changed, positions)

    def group_reader(self, topic: str, group: str, member: str) -> "MemoryGroupReader":
        """A reader of the partitions assigned to a member. An earlier reader of the same name is fenced."""
        with self._changed:
            entry = self._groups.setdefault((topic, group), _Group())
        return MemoryGroupReader(topic, self._parts(topic), self._changed, entry, member)

    def sender(self, acks: Acks) -> "MemorySender":
        """A sender to this log."""
        return MemorySender(self)

    def commit(self, topic: str, group: str, positions: Mapping[int, int]) -> None:
        """Store a group's next offset to read, per partition."""
        self._parts(topic)
        with self._changed:
            self._groups.setdefault((topic, group), _Group()).commits.update(positions)

    def close(self) -> None:
        """Nothing to close."""

    def _parts(self, topic: str) -> list[_Partition]:
        try:
            return self._topics[topic]
        except KeyError:
            raise missing_topic(topic) from None


class MemorySender:
    """Sends to a MemoryLog: every record is acknowledged at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def send(self, topic: str, partition: int, value: bytes | None, settled: Settled, key: bytes | None = None) -> None:
        """Append at once; a failure is its outcome."""
        try:
            self._log.send(topic, partition, value, key)
        except LogError as failure:
            settled(failure)
        else:
            settled(None)

    def flush(self, timeout_s: float) -> bool:
        """Nothing is ever pending."""
        return True

    def close(self) -> None:
        """Nothing to close."""


class MemoryReader:
    """Reads partitions of a MemoryLog."""

    def __init__(
        self, topic: str, parts: list[_Partition], changed: threading.Condition, positions: Mapping[int, int]
    ) -> None:
        self._topic = topic
        self._parts = parts
        self._changed = changed
        with changed:
            self._positions = {p: parts[p].resolve(offset) for p, offset in positions.items()}

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """Records in offset order per partition; empty after `timeout_s`."""
        deadline_s = None
        with self._changed:
            while True:
                self._assign()
                records = self._take(records_max)
                if records or timeout_s <= 0:
                    return records
                now_s = time.monotonic()
                deadline_s = now_s + timeout_s if deadline_s is None else deadline_s
                if now_s >= deadline_s:
                    return []
                self._changed.wait(deadline_s - now_s)

    def positions(self) -> dict[int, int]:
        """The next offset to be read, per partition that is assigned now."""
        return dict(self._positions)

    def ends(self) -> dict[int, int]:
        """Offset after the newest record, per partition."""
        with self._changed:
            return {p: self._parts[p].end for p in self._positions}

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading this partition from `offset` (or START, END)."""
        assert partition in self._positions, f"partition {partition} isn't assigned to this reader"
        with self._changed:
            self._positions[partition] = self._parts[partition].resolve(offset)

    def close(self) -> None:
        """Leave; safe to call twice."""
        self._positions = {}

    def _assign(self) -> None:
        """Overridden in groups: the partitions of a plain reader never change."""

    def _take(self, records_max: int) -> list[Record]:
        records: list[Record] = []
        for p, offset in list(self._positions.items()):
            part = self._parts[p]
            if not part.start <= offset <= part.end:
                if records:  # return them first; the next poll raises
                    break
                check_position(self._topic, p, offset, part.start, part.end)
            i = offset - part.start
            found = part.records[i : i + records_max - len(records)]
            if found:
                records += found
                # Moved to the end, so that a busy partition starves no other.
                del self._positions[p]
                self._positions[p] = offset + len(found)
            if len(records) == records_max:
                break
        return records


class MemoryGroupReader(MemoryReader):
    """Reads the partitions of a MemoryLog's topic that are assigned to a group member."""

    def __init__(
        self, topic: str, parts: list[_Partition], changed: threading.Condition, group: _Group, member: str
    ) -> None:
        super().__init__(topic, parts, changed, {})
        self._group = group
        self._member = member
        with changed:
            group.members[member] = self
            changed.notify_all()

    def assigned(self) -> frozenset[int]:
        """The partitions that are assigned now."""
        return frozenset(self._positions)

    def commit(self, positions: Mapping[int, int], timeout_s: float = 10.0) -> None:
        """Store the next offset to read, per partition that is still assigned."""
        with self._changed:
            self._assign()
            self._group.commits.update({p: offset for p, offset in positions.items() if p in self._positions})

    def commit_async(self, positions: Mapping[int, int]) -> None:
        """`commit`."""
        self.commit(positions)

    def close(self) -> None:
        """Leave the group; safe to call twice."""
        with self._changed:
            if self._group.members.get(self._member) is self:
                del self._group.members[self._member]
                self._changed.notify_all()
            self._positions = {}

    def _assign(self) -> None:
        if self._group.members.get(self._member) is not self:
            raise fenced_member(self._member)
        assigned = self._group.assignment(self._member, len(self._parts))
        if assigned != sorted(self._positions):
            committed = {p: self._group.commits.get(p, self._parts[p].start) for p in assigned}
            self._positions = {p: self._positions.get(p, offset) for p, offset in committed.items()}
