"""Reads records of `events` again whose pages aren't cached: those of closed pages, in order, and those of installs.

Two plain consumers without a group. The trailing one reads ahead: pages close in about the order of the log, so the
next records are needed soon. The seeking one seeks for each record, and fetches little at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from stream.joiner.record_cache import RecordCache
from stream.runtime.errors import LogError, LogUnavailable

READ_ON_RECORDS: Final = 64  # a record further ahead than this is sought
TRAILING_CACHE_BYTES: Final = 8 * 1024 * 1024  # read ahead, per partition
TRAILING_FETCH_BYTES: Final = 1024 * 1024
SEEKING_FETCH_BYTES: Final = 64 * 1024  # a batch of records comes whole, however large
TIMEOUT_S: Final = 30.0


class _Reader:
    """One consumer, and each partition's next offset and records read ahead."""

    def __init__(self, consumer: Any, topic: str, cache_bytes: int) -> None:
        self.consumer = consumer
        self._topic = topic
        self._cache_bytes = cache_bytes
        self._next_offsets: dict[int, int] = {}
        self._caches: dict[int, RecordCache] = {}

    def assign(self, partitions: Iterable[int]) -> None:
        """Assign these partitions, paused until a record is wanted."""
        ats = [TopicPartition(self._topic, partition) for partition in partitions]
        self._next_offsets.clear()
        self._caches = {at.partition: RecordCache(self._cache_bytes) for at in ats}
        self.consumer.assign(ats)
        if ats:
            self.consumer.pause(*ats)
        for at in ats:
            self.consumer.seek(at, 0)  # without a position aiokafka would ask for one, and find none

    async def read(self, partition: int, offsets: Sequence[int]) -> dict[int, bytes]:
        """These records of a partition; offsets ascend. Raises LogError, LogUnavailable."""
        found: dict[int, bytes] = {}
        missing: list[int] = []
        for offset in offsets:
            raw = self._caches[partition].get(offset)
            if raw is None:
                missing.append(offset)
            else:
                found[offset] = raw
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while missing:
                    await self._fetch(partition, missing, found)
        except TimeoutError:
            raise LogUnavailable(f"{self._topic}: records can't be read again within {TIMEOUT_S:.0f} s") from None
        return found

    async def _fetch(self, partition: int, missing: list[int], found: dict[int, bytes]) -> None:
        """One response of the broker; moves what it contains from `missing` to `found`."""
        at, following = TopicPartition(self._topic, partition), self._next_offsets.get(partition, -1)
        if not following <= missing[0] < following + READ_ON_RECORDS:
            self.consumer.seek(at, missing[0])
        self.consumer.resume(at)
        try:
            fetched = await self.consumer.getmany(at, timeout_ms=1_000)
        except OffsetOutOfRangeError as bad:
            raise LogError(
                f"{self._topic}: pages of the join's state are gone from the log ({bad}): its retention must be "
                "longer than the window; `thalweg apply-topics` says by how much"
            ) from bad
        except KafkaError as bad:
            raise LogUnavailable(f"{self._topic}: records can't be read again ({bad!r})") from bad
        finally:
            self.consumer.pause(at)
        cache = self._caches[partition]
        for record in fetched.get(at, ()):
            cache.put(record.offset, record.value or b"")
            self._next_offsets[partition] = record.offset + 1
            if missing and record.offset >= missing[0]:
                if record.offset > missing[0]:
                    raise LogError(f"{self._topic}/{partition}: offset {missing[0]} was read, and isn't there any more")
                found[missing.pop(0)] = record.value or b""
        cache.trim(0)


class RecordFetcher:
    """Reads records again. `make` returns a groupless consumer with this fetch size in bytes, not started."""

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
        """The records of closed pages, and others, by offset; both ascend. Raises LogError, LogUnavailable."""
        if not self._readers:
            for fetch_bytes, cache_bytes in ((TRAILING_FETCH_BYTES, TRAILING_CACHE_BYTES), (SEEKING_FETCH_BYTES, 0)):
                consumer = self._make(fetch_bytes)
                await consumer.start()
                self._readers.append(_Reader(consumer, self._topic, cache_bytes))
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
