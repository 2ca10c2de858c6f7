"""Writes Ticks into silent partitions, and notices when no broker answers: silence counts only while one does."""

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
from stream.joiner.record_processor import ShellRules

ASK_S: Final = 1.0  # an answer that takes longer is none
STALE_MS: Final = 1_000  # likewise without a successful fetch of a partition that is read to its end

log = logging.getLogger(__name__)


class TickWatch:
    """Of one worker's partitions of `topic`. `busy`: whether records were fetched that aren't joined yet."""

    def __init__(
        self, topic: str, shell: ShellRules, assigned: AssignedPartitions, outbox: Outbox, busy: Callable[[], bool]
    ) -> None:
        self._topic = topic
        self._shell = shell
        self._assigned = assigned
        self._outbox = outbox
        self._busy = busy
        self._away: set[int] = set()  # partitions whose broker doesn't answer
        self._away_at: float | None = None  # the last time that it didn't
        self._looked_at = self._held_up_at = time.monotonic()

    def forget(self) -> None:
        """The partitions are being shared out anew."""
        self._away.clear()

    def after_outage(self, now: float) -> bool:
        """Whether an outage is so recent that producers may not be back."""
        return self._away_at is not None and now - self._away_at < self._shell.outage_grace_s

    async def look(self, consumer: Any) -> None:
        """Tick what is silent and read to its end. To be called often."""
        now, before = time.monotonic(), self._looked_at
        self._looked_at = now
        if now - before > 2 * self._shell.commit_every_ms / 1000:
            self._held_up_at = now  # not the broker is slow, but this process
        owned = self._assigned.owned
        if now - self._held_up_at > STALE_MS / 1000:
            self._note_away(partition for partition in owned if self._stale(consumer, partition))
        wanted = sorted(self._away.union(self._assigned.silent(now)))
        asked = {partition: owned[partition] for partition in wanted if partition in owned}
        if not asked:
            return
        try:
            ends = await asyncio.wait_for(consumer.end_offsets([self._at(p) for p in asked]), ASK_S)
        except (TimeoutError, KafkaError, IllegalStateError):
            if time.monotonic() - now < 2 * ASK_S:
                self._note_away(asked)
            return
        now = time.monotonic()
        for partition, before_asking in asked.items():
            end = ends[self._at(partition)]
            if owned.get(partition) is not before_asking:
                continue
            if partition in self._away:
                self._away.discard(partition)
                before_asking.silence.outage_over(end, now, self._shell.outage_grace_s)
            elif await self._at_end(consumer, partition, end):
                self._outbox.put(self._assigned.tick(partition, now))
        await self._outbox.flush()

    def _at(self, partition: int) -> Any:
        return TopicPartition(self._topic, partition)

    async def _at_end(self, consumer: Any, partition: int, end: int) -> bool:
        """Whether all that there was is joined, markers of transactions read over."""
        try:
            return await consumer.position(self._at(partition)) >= end and not self._busy()
        except (KafkaError, IllegalStateError):
            return False

    def _stale(self, consumer: Any, partition: int) -> bool:
        """Whether a partition that is read to its end, as far as is known, wasn't fetched successfully for long."""
        at, owned = self._at(partition), self._assigned.owned[partition]
        try:
            polled_ms, end = consumer.last_poll_timestamp(at), consumer.highwater(at)
        except (AssertionError, IllegalStateError):  # not assigned any more
            return False
        if self._busy() or polled_ms is None or end is None or owned.next_offset < end:
            return False
        return bool(time.time() * 1000 - polled_ms > STALE_MS)

    def _note_away(self, partitions: Iterable[int]) -> None:
        found = set(partitions)
        if found and not self._away:
            metrics.OUTAGES.inc()
            log.warning("no broker answers for partitions %s: until it does, silence says nothing", sorted(found))
        if found:
            self._away_at = time.monotonic()
        self._away |= found
