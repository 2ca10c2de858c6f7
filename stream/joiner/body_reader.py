"""Reads records of `events` again whose pages aren't at hand: those that close, in order, and those of late installs.

Two plain consumers without a group. One trails behind: pages close in about the order in which they stand in the log, so
what it has read ahead is wanted next. The other seeks, once for each record, and fetches little at a time.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from stream.errors import LogError, LogUnavailable
from stream.joiner.bodies import Bodies

NEAR: Final = 64  # records: so far ahead is read on, further is sought
TRAIL_BYTES: Final = 8 * 1024 * 1024  # of what the trailing reader has read ahead, a partition
ANSWER_S: Final = 30.0


class _Reader:
    """One consumer, and for each partition what it will read next."""

    def __init__(self, consumer: Any, topic: str, ahead_bytes: int) -> None:
        self._consumer = consumer
        self._topic = topic
        self._ahead_bytes = ahead_bytes
        self._next: dict[int, int] = {}
        self._ahead: dict[int, Bodies] = {}

    def assign(self, partitions: Iterable[int]) -> None:
        """Read these; paused until something of them is wanted."""
        ats = [TopicPartition(self._topic, partition) for partition in partitions]
        self._next.clear()
        self._ahead = {at.partition: Bodies(self._ahead_bytes) for at in ats}
        self._consumer.assign(ats)
        if ats:
            self._consumer.pause(*ats)

    async def read(self, wanted: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], bytes]:
        """These records, by partition and offset. Raises LogError, LogUnavailable."""
        found: dict[tuple[int, int], bytes] = {}
        waiting: dict[int, list[int]] = {}
        for partition, offsets in wanted.items():
            ahead = self._ahead[partition]
            for offset in offsets:
                if (raw := ahead.get(offset)) is not None:
                    found[partition, offset] = raw
                else:
                    waiting.setdefault(partition, []).append(offset)
        deadline = asyncio.get_running_loop().time() + ANSWER_S
        while waiting:
            await self._fetch(waiting, found)
            if asyncio.get_running_loop().time() > deadline:
                raise LogUnavailable(f"{self._topic}: records that are known can't be read again for {ANSWER_S:.0f} s")
        return found

    async def _fetch(self, waiting: dict[int, list[int]], found: dict[tuple[int, int], bytes]) -> None:
        """One round: a fetch of every partition in which something is still wanted."""
        ats = []
        for partition, offsets in waiting.items():
            at = TopicPartition(self._topic, partition)
            following = self._next.get(partition, -1)
            if not following <= offsets[0] < following + NEAR:
                self._consumer.seek(at, offsets[0])
                self._next[partition] = offsets[0]
            ats.append(at)
        self._consumer.resume(*ats)
        try:
            fetched = await self._consumer.getmany(*ats, timeout_ms=1_000)
        except OffsetOutOfRangeError as bad:
            raise LogError(
                f"{self._topic}: pages that are remembered are gone from the log ({bad}): its retention must be "
                "longer than the window; `thalweg apply` says by how much"
            ) from bad
        finally:
            self._consumer.pause(*ats)
        for at, records in fetched.items():
            offsets = waiting[at.partition]
            ahead = self._ahead[at.partition]
            for record in records:
                ahead.put(record.offset, record.value or b"")
                if offsets and record.offset == offsets[0]:
                    found[at.partition, offsets.pop(0)] = record.value or b""
            self._next[at.partition] = records[-1].offset + 1
            if offsets and records[-1].offset > offsets[0]:
                raise LogError(f"{self._topic}/{at.partition}: offset {offsets[0]} was read, and is no longer there")
            if not offsets:
                del waiting[at.partition]


class BodyReader:
    """Reads records again; `trailing` and `seeking` are started aiokafka consumers without a group."""

    def __init__(self, trailing: Any, seeking: Any, topic: str) -> None:
        self._trailing = _Reader(trailing, topic, TRAIL_BYTES)
        self._seeking = _Reader(seeking, topic, 0)
        self.read_again = 0  # records

    def assign(self, partitions: Sequence[int]) -> None:
        """Read these partitions from now on."""
        self._trailing.assign(partitions)
        self._seeking.assign(partitions)

    async def read(
        self, closed: Mapping[int, Sequence[int]], others: Mapping[int, Sequence[int]]
    ) -> dict[tuple[int, int], bytes]:
        """The records of pages that have closed, and others: by partition offsets that rise.

        Raises LogError, LogUnavailable.
        """
        found = await self._trailing.read(closed) if closed else {}
        if others:
            found |= await self._seeking.read(others)
        self.read_again += len(found)
        return found
