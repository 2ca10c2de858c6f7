"""The log: the protocol that Kafka (`kafka_log.py`) and memory (`MemoryLog`, here) both keep."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

START = -2  # as a position: the oldest record that is there
END = -1  # as a position: behind the newest record


class Record(NamedTuple):
    """One record as read. `time_ms` is the log's own append time (ingest time)."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None


class Reader(Protocol):
    """Reads partitions of one topic from given positions. One thread only."""

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """Records in offset order per partition; empty after `timeout_s`.

        Raises LogGap when a position is older than the log's start, LogUnavailable when no broker
        answered for long, LogError otherwise.
        """
        ...

    def positions(self) -> dict[int, int]:
        """The next offset to be read, per partition that is assigned now."""
        ...

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading this partition from `offset` (or START, END)."""
        ...

    def close(self) -> None:
        """Leave; safe to call twice."""
        ...


class GroupReader(Reader, Protocol):
    """A Reader whose partitions are shared out among the members of a group."""

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the next offset to be read, per partition, for whoever reads on."""
        ...


class Log(Protocol):
    """Topics of partitions of records. `send` may be called from several threads."""

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Append, soon; a failure is raised by the next `send` or `flush`. `value` None: tombstone."""
        ...

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until everything sent is acknowledged. Raises LogError or LogUnavailable."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError (naming `thalweg apply`) when it doesn't exist."""
        ...

    def starts(self, topic: str) -> dict[int, int]:
        """Oldest offset per partition."""
        ...

    def ends(self, topic: str) -> dict[int, int]:
        """Offset behind the newest record per partition."""
        ...

    def reader(self, topic: str, positions: Mapping[int, int]) -> Reader:
        """A reader of exactly these partitions from these offsets (or START, END)."""
        ...

    def group_reader(self, topic: str, group: str, member: str) -> GroupReader:
        """A reader of a share of the topic, from the group's commits (else the start). `member` is static."""
        ...

    def close(self) -> None:
        """Flush and leave; safe to call twice."""
        ...


def partition_of(key: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives to `key`: murmur2, positive, modulo."""
    raise NotImplementedError
