"""Writes Ticks into idle partitions, and detects broker outages: a partition is idle only while its broker answers."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartitions
from stream.joiner.outbox import Outbox
from stream.joiner.record_processor import JoinerOptions

TIMEOUT_S: Final = 1.0  # of a broker's answer
STALE_MS: Final = 1_000  # an outage, too: no successful fetch of a partition without lag for this long

log = logging.getLogger(__name__)


class TickWriter:
    """Ticks one worker's partitions of `topic`. `busy`: whether fetched records aren't joined yet."""

    def __init__(
        self,
        topic: str,
        options: JoinerOptions,
        assigned: AssignedPartitions,
        outbox: Outbox,
        busy: Callable[[], bool],
    ) -> None:
        self._topic = topic
        self._options = options
        self._assigned = assigned
        self._outbox = outbox
        self._busy = busy
        self._unreachable: set[int] = set()  # partitions whose broker doesn't answer
        self._unreachable_at: float | None = None  # the last time
        self._called_at = self._stalled_at = time.monotonic()

    def clear(self) -> None:
        """The partitions were revoked."""
        self._unreachable.clear()

    def in_grace_period(self, now: float) -> bool:
        """Whether an outage is so recent that producers may not be back."""
        return self._unreachable_at is not None and now - self._unreachable_at < self._options.outage_grace_s

    async def write(self, consumer: Any) -> None:
        """Tick the idle partitions without lag. To be called every `commit_every_ms`."""
        now, before = time.monotonic(), self._called_at
        self._called_at = now
        if now - before > 2 * self._options.commit_every_ms / 1000:
            self._stalled_at = now  # not the broker is slow, but this process
        partitions = self._assigned.partitions
        if now - self._stalled_at > STALE_MS / 1000:
            self._mark_unreachable(partition for partition in partitions if self._is_stale(consumer, partition))
        wanted = sorted(self._unreachable.union(self._assigned.idle_partitions(now)))
        asked = {partition: partitions[partition] for partition in wanted if partition in partitions}
        if not asked:
            return
        try:
            ends = await asyncio.wait_for(consumer.end_offsets([self._at(p) for p in asked]), TIMEOUT_S)
        except (TimeoutError, KafkaError, IllegalStateError):
            if time.monotonic() - now < 2 * TIMEOUT_S:
                self._mark_unreachable(asked)
            return
        now = time.monotonic()
        for partition, state in asked.items():
            end = ends[self._at(partition)]
            if partitions.get(partition) is not state:
                continue
            if partition in self._unreachable:
                self._unreachable.discard(partition)
                state.idleness.end_outage(end, now, self._options.outage_grace_s)
            elif await self._is_at_end(consumer, partition, end):
                self._outbox.put(self._assigned.tick(partition, now))
        await self._outbox.flush()

    def _at(self, partition: int) -> Any:
        return TopicPartition(self._topic, partition)

    async def _is_at_end(self, consumer: Any, partition: int, end: int) -> bool:
        """Whether all records are joined. The position counts: it is also past transaction markers."""
        try:
            return await consumer.position(self._at(partition)) >= end and not self._busy()
        except (KafkaError, IllegalStateError):
            return False

    def _is_stale(self, consumer: Any, partition: int) -> bool:
        """Whether a partition without known lag had no successful fetch for too long."""
        at, state = self._at(partition), self._assigned.partitions[partition]
        if at not in consumer.assignment():  # any more: aiokafka only asserts it
            return False
        polled_ms, end = consumer.last_poll_timestamp(at), consumer.highwater(at)
        if self._busy() or polled_ms is None or end is None or state.next_offset < end:
            return False
        return bool(time.time() * 1000 - polled_ms > STALE_MS)

    def _mark_unreachable(self, partitions: Iterable[int]) -> None:
        found = set(partitions)
        if found and not self._unreachable:
            metrics.OUTAGES.inc()
            log.warning("no broker answers for partitions %s: until one does, they don't count as idle", sorted(found))
        if found:
            self._unreachable_at = time.monotonic()
        self._unreachable |= found
