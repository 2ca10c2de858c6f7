"""Reads records of `events` again whose pages aren't at hand: those that close, in order, and those of installs.

Two plain consumers without a group. One trails behind: pages close in about the order in which the log has them, so
what it has read ahead is wanted next. The other seeks, once for each record, and fetches little at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from stream.joiner.bodies import Bodies
from stream.runtime.errors import LogError, LogUnavailable

NEAR: Final = 64  # records: so far ahead is read on, further is sought
TRAIL_BYTES: Final = 8 * 1024 * 1024  # of what the trailing reader has read ahead, a partition
TRAIL_FETCH_BYTES: Final = 1024 * 1024
SEEK_FETCH_BYTES: Final = 64 * 1024  # a batch of records comes whole, however large
ANSWER_S: Final = 30.0


class _Reader:
    """One consumer, and for each partition what it will read next."""

    def __init__(self, consumer: Any, topic: str, ahead_bytes: int) -> None:
        self.consumer = consumer
        self._topic = topic
        self._ahead_bytes = ahead_bytes
        self._next: dict[int, int] = {}
        self._ahead: dict[int, Bodies] = {}

    def assign(self, partitions: Iterable[int]) -> None:
        """Read these; paused until something of them is wanted."""
        ats = [TopicPartition(self._topic, partition) for partition in partitions]
        self._next.clear()
        self._ahead = {at.partition: Bodies(self._ahead_bytes) for at in ats}
        self.consumer.assign(ats)
        if ats:
            self.consumer.pause(*ats)
        for at in ats:
            self.consumer.seek(at, 0)  # without a position aiokafka would ask for one, and find none

    async def read(self, partition: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """These records of a partition, whose offsets rise. Raises LogError, LogUnavailable."""
        found: dict[int, bytes] = {}
        waiting: list[int] = []
        for offset in wanted:
            raw = self._ahead[partition].get(offset)
            if raw is None:
                waiting.append(offset)
            else:
                found[offset] = raw
        deadline = asyncio.get_running_loop().time() + ANSWER_S
        while waiting:
            await self._fetch(partition, waiting, found)
            if asyncio.get_running_loop().time() > deadline:
                raise LogUnavailable(f"{self._topic}: records that are known can't be read again for {ANSWER_S:.0f} s")
        return found

    async def _fetch(self, partition: int, waiting: list[int], found: dict[int, bytes]) -> None:
        """One answer of the broker; takes what was wanted out of `waiting`."""
        at, following = TopicPartition(self._topic, partition), self._next.get(partition, -1)
        if not following <= waiting[0] < following + NEAR:
            self.consumer.seek(at, waiting[0])
        self.consumer.resume(at)
        try:
            fetched = await self.consumer.getmany(at, timeout_ms=1_000)
        except OffsetOutOfRangeError as bad:
            raise LogError(
                f"{self._topic}: pages that are remembered are gone from the log ({bad}): its retention must be "
                "longer than the window; `thalweg apply-topics` says by how much"
            ) from bad
        except KafkaError as bad:
            raise LogUnavailable(f"{self._topic}: records can't be read again ({bad!r})") from bad
        finally:
            self.consumer.pause(at)
        ahead = self._ahead[partition]
        for record in fetched.get(at, ()):
            ahead.put(record.offset, record.value or b"")
            self._next[partition] = record.offset + 1
            if waiting and record.offset >= waiting[0]:
                if record.offset > waiting[0]:
                    raise LogError(f"{self._topic}/{partition}: offset {waiting[0]} was read, and isn't there any more")
                found[waiting.pop(0)] = record.value or b""
        ahead.trim(0)


class BodyReader:
    """Reads records again. `make` gives a consumer of no group that fetches so many bytes at a time, not started."""

    def __init__(self, make: Callable[[int], Any], topic: str) -> None:
        self._make = make
        self._topic = topic
        self._partitions: list[int] = []
        self._readers: list[_Reader] = []

    def assign(self, partitions: Iterable[int]) -> None:
        """Read these partitions from now on."""
        self._partitions = sorted(partitions)
        for reader in self._readers:
            reader.assign(self._partitions)

    async def read(self, partition: int, closed: Sequence[int], others: Sequence[int]) -> dict[int, bytes]:
        """The records of pages that have closed, and others, by offset; both in order.

        Raises LogError, LogUnavailable.
        """
        if not self._readers:
            for fetch_bytes, ahead_bytes in ((TRAIL_FETCH_BYTES, TRAIL_BYTES), (SEEK_FETCH_BYTES, 0)):
                consumer = self._make(fetch_bytes)
                await consumer.start()
                self._readers.append(_Reader(consumer, self._topic, ahead_bytes))
            self.assign(self._partitions)
        found: dict[int, bytes] = {}
        for reader, offsets in zip(self._readers, (closed, others), strict=True):
            if offsets:
                found |= await reader.read(partition, offsets)
        return found

    async def stop(self) -> None:
        """Stop the consumers."""
        readers, self._readers = self._readers, []
        for reader in readers:
            await reader.consumer.stop()
