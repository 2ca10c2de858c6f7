"""The log: the protocol that Kafka (`kafka_log.py`) and memory (`MemoryLog`, here) both keep."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from stream.runtime.errors import LogError, LogGap

START: Final = -2  # as a position: the oldest record that is there
END: Final = -1  # as a position: behind the newest record


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

        Raises LogGap when a position is older than the log's start (the reader stays where it was:
        `seek` goes on), LogUnavailable when no broker answered for long, LogError otherwise.
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
    """A Reader whose partitions are shared out among the members of a group.

    `poll` joins the group and keeps it. A partition that moved is read again from its last commit.
    """

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the next offset to be read, per partition, for whoever reads on.

        Partitions that have moved to another member are left out: they are read again from there.
        """
        ...


class Log(Protocol):
    """Topics of partitions of records. `send` may be called from several threads."""

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Append, soon; a failure is raised by the next `send` or `flush`. `value` None: tombstone of `key`."""
        ...

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until everything sent is acknowledged. Raises LogError or LogUnavailable."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError (naming `thalweg apply-topics`) when it doesn't exist."""
        ...

    def starts(self, topic: str) -> dict[int, int]:
        """Oldest offset per partition."""
        ...

    def ends(self, topic: str) -> dict[int, int]:
        """Offset behind the newest record per partition."""
        ...

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Offset of the first record appended at `time_ms` or later, per partition; the end where there is none yet."""
        ...

    def reader(self, topic: str, positions: Mapping[int, int]) -> Reader:
        """A reader of exactly these partitions from these offsets (or START, END: as of now)."""
        ...

    def group_reader(self, topic: str, group: str, member: str) -> GroupReader:
        """A reader of a share of the topic, from the group's commits (else the start). `member` is static."""
        ...

    def close(self) -> None:
        """Flush and leave; safe to call twice."""
        ...


@lru_cache(maxsize=1 << 17)
def partition_of(key: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives to `key`: murmur2, positive, modulo.

    >>> [partition_of(user, 4) for user in ("1", "2", "3")]
    [3, 0, 3]
    """
    from kafka.partitioner import murmur2  # here: it takes 0.3 s to import, and a MemoryLog needs no Kafka

    hashed: int = murmur2(key.encode())
    return (hashed & 0x7FFFFFFF) % partitions


def no_topic(topic: str) -> LogError:
    """The error of a topic that isn't there; both logs raise the same."""
    return LogError(f"topic {topic} doesn't exist: run `thalweg apply-topics`, which creates all topics")


def fenced(member: str) -> LogError:
    """The error of a group member whose name another one has taken; both logs raise the same."""
    return LogError(
        f"another process reads as member {member!r} of this group: give each worker its own name (THALWEG_WORKER)"
    )


def check_position(topic: str, partition: int, offset: int, start: int, end: int) -> None:
    """Raises LogGap when `offset` is before the log's start, LogError when it's behind its end."""
    if offset < start:
        raise LogGap(topic, partition, offset, start)
    if offset > end:
        raise LogError(
            f"offset {offset} of {topic}/{partition} lies behind the log's end {end}: this isn't the log that was read "
            "before (a topic made anew?); start from its beginning with a new model name, or point to the old log"
        )
