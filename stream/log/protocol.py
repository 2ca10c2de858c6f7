"""The log's protocol, which `KafkaLog` and `MemoryLog` implement."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple, Protocol

from stream.runtime.errors import LogError, LogGap, LogReset, MissingTopic

START: Final = -2  # as a position: the oldest record
END: Final = -1  # as a position: after the newest record

Acks = Literal["1", "all"]  # a record is acknowledged by its leader, or by all replicas in sync
Settled = Callable[[LogError | None], None]  # called once a record is acknowledged (None) or has failed


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

        Raises LogGap when a position is older than the log's start (the reader keeps its position; `seek` moves it),
        LogReset when it's after its end, LogUnavailable when no broker has answered for long, LogError otherwise.
        """

    def positions(self) -> dict[int, int]:
        """The next offset to be read, per partition that is assigned now."""

    def ends(self) -> dict[int, int]:
        """Offset after the newest record as of the last poll, per partition of which it is known."""

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading this partition from `offset` (or START, END)."""

    def close(self) -> None:
        """Leave; safe to call twice."""


class GroupReader(Reader, Protocol):
    """A Reader of the partitions that its consumer group assigns to it.

    `poll` joins the group and keeps it alive. A reassigned partition is read from its last commit.
    """

    def assigned(self) -> frozenset[int]:
        """The partitions that are assigned now."""

    def commit(self, positions: Mapping[int, int], timeout_s: float = 10.0) -> None:
        """Commit the next offset to read, per partition. Partitions that were revoked are skipped."""

    def commit_async(self, positions: Mapping[int, int]) -> None:
        """`commit` without waiting. Nothing happens while an earlier one is pending: call it again with all positions.

        A commit that failed for a while is made good by the next one; raises what the broker refused for good.
        """


class Sender(Protocol):
    """Appends records without ever waiting; whoever sends learns each record's outcome. For one thread."""

    def send(self, topic: str, partition: int, value: bytes | None, settled: Settled, key: bytes | None = None) -> None:
        """Append, soon, perhaps twice. `settled` is called once, perhaps by another thread."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything sent is settled; False: some isn't after `timeout_s`."""

    def close(self) -> None:
        """Close without waiting; safe to call twice."""


class Log(Protocol):
    """Topics of partitions of records. `send` may be called from several threads."""

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Append asynchronously; the next `send` or `flush` raises a failure. `value` None: tombstone of `key`."""

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until everything sent is acknowledged. Raises LogError or LogUnavailable."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError (naming `thalweg apply-topics`) when it doesn't exist."""

    def starts(self, topic: str) -> dict[int, int]:
        """Oldest offset per partition."""

    def ends(self, topic: str) -> dict[int, int]:
        """Offset after the newest record per partition."""

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Offset of the first record appended at `time_ms` or later, per partition; the end where there is none yet."""

    def reader(self, topic: str, positions: Mapping[int, int]) -> Reader:
        """A reader of exactly these partitions from these offsets (or START, END: as of now)."""

    def group_reader(self, topic: str, group: str, member: str) -> GroupReader:
        """A reader of the partitions assigned to a member (a static name), from the group's commits, else the start."""

    def sender(self, acks: Acks) -> Sender:
        """A producer of its own whose sends never wait."""

    def commit(self, topic: str, group: str, positions: Mapping[int, int]) -> None:
        """Store a group's next offset to read, per partition; the group has no members. For lag exporters.

        Raises LogUnavailable, LogError.
        """

    def close(self) -> None:
        """Flush and close; safe to call twice."""


@lru_cache(maxsize=1 << 17)
def partition_of(key: str, partitions: int) -> int:
    """The partition of `key` by Kafka's default partitioner: murmur2, positive, modulo.

    >>> [partition_of(user, 4) for user in ("1", "2", "3")]
    [3, 0, 3]
    """
    if partitions == 1:
        return 0
    from kafka.partitioner import murmur2  # here: it takes 0.3 s to import, and a MemoryLog needs no Kafka

    hashed: int = murmur2(key.encode())
    return (hashed & 0x7FFFFFFF) % partitions


def missing_topic(topic: str) -> MissingTopic:
    """The error of a topic that doesn't exist."""
    return MissingTopic(f"topic {topic} doesn't exist: run `thalweg apply-topics`, which creates all topics")


def fenced_member(member: str) -> LogError:
    """The error of a group member whose name another process uses."""
    return LogError(
        f"another process reads as member {member!r} of this group: give each worker its own name (THALWEG_WORKER)"
    )


def check_position(topic: str, partition: int, offset: int, start: int, end: int) -> None:
    """Raises LogGap when `offset` is before the log's start, LogReset when it's after its end."""
    if offset < start:
        raise LogGap(topic, partition, offset, start)
    if offset > end:
        raise LogReset(topic, partition, offset, end)
