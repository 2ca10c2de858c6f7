"""The joiner's loop: polls `events` with a plain aiokafka consumer, joins each batch, writes output, commits and ticks.

Records reach the join without a task or a future of their own. Everything here runs in one event loop; a partition's
records are joined strictly in offset order.
* A lock is acquired for each batch. Commits are taken under it, so that all output below `next_offset` is in the
  outbox; they are stored once the broker has confirmed that output.
* A long burst of output is written in chunks. After each the partition may be revoked: then the loop stops joining it.
* A revocation waits for the current record, stores a last commit, and parks the states; an assignment reads the group's
  commits and starts each partition by seeking to where its state ends. Earlier fetches are discarded.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from stream.events.topics import EVENTS
from stream.joiner import kafka_clients as kafka
from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartition, AssignedPartitions
from stream.joiner.commit_writer import CommitWriter
from stream.joiner.labels import LabelBatch, raw_pages, uncached_offsets
from stream.joiner.outbox import Outbox
from stream.joiner.output_records import output_records
from stream.joiner.record_fetcher import RecordFetcher
from stream.joiner.record_processor import JoinerOptions, RecordProcessor
from stream.joiner.state_saver import StateSaver
from stream.joiner.tick_writer import TickWriter
from stream.log.protocol import Record
from stream.runtime.errors import SettingsError
from stream.runtime.heartbeat import Heartbeat
from stream.runtime.settings import Settings

BATCH_RECORDS: Final = 1_000
POLL_MS: Final = 100
START_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.2
REVOKE_S: Final = 5.0  # a revocation waits this long for the current record
FLUSH_BYTES: Final = 256 * 1024
BUFFERED_BYTES_MAX: Final = 4 * 1024 * 1024  # of output: the join waits until less is buffered
LOG_APPEND_TIME: Final = 1

log = logging.getLogger(__name__)


class ConsumerLoop(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Joins the partitions that the group assigns to this consumer, until it fails or is stopped.

    `ended` is set when it fails; `after_outage`: no broker answered just before it was created.
    """

    def __init__(
        self,
        settings: Settings,
        options: JoinerOptions,
        assigned: AssignedPartitions,
        processor: RecordProcessor,
        partition_counts: dict[str, int],
        *,
        after_outage: bool = False,
    ) -> None:
        self.assigned = assigned
        self.tally = processor.tally
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()
        self.heart = Heartbeat("the consumer loop", kafka.PRODUCE_MS / 1000 + 60.0)  # of an outage, for the producer
        self.ending = False  # no further batch is polled
        self.consumer: Any = None
        self.producer: Any = None
        self.admin: Any = None
        self.topic = settings.topic(EVENTS.name)
        self.fetcher = RecordFetcher(lambda fetch_bytes: kafka.make_fetcher_consumer(settings, fetch_bytes), self.topic)
        self.outbox = Outbox(lambda: self.producer, settings.topic, self.fail)
        self._settings = settings
        self._options = options
        self._processor = processor
        self._partition_counts = partition_counts
        self._new_assignment: set[int] | None = None  # not started yet
        self._batch_lock = asyncio.Lock()
        self._busy = False  # a fetched batch isn't joined yet
        self._revoking = False
        self._after_outage = after_outage
        self._ticks = TickWriter(self.topic, options, assigned, self.outbox, lambda: self._busy)
        self._revoked_at: float | None = None
        self._saver = StateSaver()
        self._commits = CommitWriter(self.topic, settings.worker, assigned, self.outbox, processor.tally)

    def fail(self, bad: BaseException, doing: str = "writing") -> None:
        """End; the first failure is reported."""
        if self.failure is None:
            self.failure = kafka.failure_of(self._settings, doing, bad)
        self.ended.set()

    @property
    def has_assignment(self) -> bool:
        """Whether it has started its assignment, which may be empty."""
        return self._new_assignment is None and self._revoked_at is None

    # --- polling and joining -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll and join until failed. Any error ends it: a restart reads again from the commits."""
        self._revoked_at = time.monotonic()
        self.consumer.subscribe([self.topic], listener=self)
        try:
            while self.failure is None and not self.ending:
                self.heart.beat()
                if self._new_assignment is not None:
                    await self._start_partitions(self._new_assignment)
                else:
                    await self._poll()
        except ConsumerStoppedError:
            return
        except Exception as bad:  # noqa: BLE001  # reported by whoever runs this
            self.fail(bad, f"reading {EVENTS.name}")

    async def _poll(self) -> None:
        try:
            batch = await self.consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as bad:
            # aiokafka chooses a position before we seek: ignore its errors until the partition is started.
            for at, offset in bad.args[0].items() if isinstance(bad, OffsetOutOfRangeError) else ():
                if at.partition in self.assigned.partitions and self._new_assignment is None:
                    await self._out_of_range(at.partition, offset)
            await asyncio.sleep(0)
            return
        if not batch:
            return
        self._busy = True
        try:
            async with self._batch_lock:
                await self._join_batch(batch)
        finally:
            self._busy = False

    async def _join_batch(self, batch: dict[Any, list[Any]]) -> None:
        for at, found in batch.items():
            state = self.assigned.partitions.get(at.partition)
            if state is None:
                continue  # not started yet: a seek fetches these again
            records = [
                Record(EVENTS.name, at.partition, one.offset, one.timestamp, one.key, one.value)
                for one in found
                if one.offset >= state.next_offset
            ]
            if any(one.timestamp_type != LOG_APPEND_TIME for one in found):
                records = await kafka.with_append_times(self.admin, self._settings, records)
            if not await self._join(at.partition, state, records):
                return
        self.outbox.start_flush()
        self.tally.observe_delays()
        await asyncio.sleep(0)

    async def _join(self, partition: int, state: AssignedPartition, records: Sequence[Record]) -> bool:
        """Join these; False: the partition is revoked, and its next owner joins the rest."""
        for output in self._processor.process(state, records):
            self.heart.beat()
            if output is not None:
                pages = await self._pages(partition, state, output.labels) if output.labels else []
                if not self._continues(partition, state):
                    return False
                for outgoing in output_records(output, self._partition_counts, pages, partition):
                    self.outbox.put(outgoing)
            state.trim_cache()
            if not state.at_boundary or self.outbox.buffered_bytes > FLUSH_BYTES:
                self.outbox.start_flush()
                await asyncio.sleep(0)
            if self.outbox.buffered_bytes > BUFFERED_BYTES_MAX:
                await self.outbox.flush()
            while state.at_boundary and self._over_uncommitted_max and not self._revoking:
                await self._commits.store(self.consumer, self.assigned.due_commits())
                if not self._continues(partition, state):
                    return False
                if self._over_uncommitted_max:  # the commit was rejected
                    await asyncio.sleep(RETRY_S)
            if not self._continues(partition, state) or (self._revoking and state.at_boundary):
                return False
        self.assigned.joined(partition, state, time.monotonic())
        return True

    def _continues(self, partition: int, state: AssignedPartition) -> bool:
        """Whether the partition is still assigned, and nothing has failed."""
        return self.failure is None and self.assigned.partitions.get(partition) is state

    @property
    def _over_uncommitted_max(self) -> bool:
        return self._commits.uncommitted > self._options.uncommitted_max

    async def _pages(self, partition: int, state: AssignedPartition, labels: LabelBatch) -> list[bytes]:
        """The raw pages of the labels; those that aren't cached are read again. Raises LogError, LogUnavailable."""
        closed, others = uncached_offsets(labels, state.cache)
        if not closed and not others:
            return raw_pages(labels, state.cache)
        fetched = await self.fetcher.read(partition, closed, others)
        metrics.REREAD.inc(len(fetched))
        return raw_pages(labels, state.cache, fetched)

    async def _out_of_range(self, partition: int, offset: int) -> None:
        """The log doesn't have the next offset any more. Raises LogGap, LogTruncated."""
        at = TopicPartition(self.topic, partition)
        log_range = (await kafka.log_ranges(self.consumer, [at]))[partition]
        if self.assigned.skip_gap(partition, offset, log_range):
            self.consumer.seek(at, log_range.start)

    # --- rebalances ----------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """aiokafka's callback: all partitions are revoked before a rebalance."""
        self._revoking = True
        self._revoked_at = time.monotonic()
        self._new_assignment = None
        metrics.REBALANCES.inc()
        partitions = [at.partition for at in revoked]
        try:
            await asyncio.wait_for(self._batch_lock.acquire(), REVOKE_S)
        except TimeoutError:
            log.warning("a record takes too long: the partitions are revoked while it is being joined")
            self.assigned.drop(partitions)
        else:
            try:
                if partitions:
                    await self._commits.store_last(self.consumer)
                self.assigned.park(partitions)
            except SettingsError as bad:
                self.fail(bad)
            finally:
                self._batch_lock.release()
        finally:
            self._ticks.clear()
            self._revoking = False
        if isinstance(self.failure, SettingsError):
            # Returning now would rejoin the group and expel the worker with the same name.
            await asyncio.sleep(2 * START_TIMEOUT_S)

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """aiokafka's callback: these are assigned now. The loop itself starts them."""
        self._new_assignment = {at.partition for at in assigned}

    async def _start_partitions(self, new: set[int]) -> None:
        """Start newly assigned partitions. Raises what `AssignedPartitions.start` raises."""
        ats = [TopicPartition(self.topic, partition) for partition in sorted(new)]
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await kafka.check_timestamps(self.admin, self._settings)
                commits = await kafka.group_commits(self.admin, self._settings, sorted(new))
                ranges = await kafka.log_ranges(self.consumer, ats)
                if self._options.accept_gap:
                    ranges = await kafka.with_new_from(self.consumer, ranges, ats, commits)
        except (TimeoutError, KafkaError, OSError) as bad:
            kafka.check_denied(self._settings, f"reading {EVENTS.name}", bad)
            log.warning("Kafka doesn't answer (%r): the commits to resume from are unknown; retrying", bad)
            self._after_outage = True
            await asyncio.sleep(RETRY_S)
            return
        if self._new_assignment is not new:
            return  # another rebalance happened meanwhile
        now = time.monotonic()
        for at in ats:
            partition = at.partition
            state = self.assigned.start(partition, commits.get(partition), ranges[partition], now)
            if self._after_outage or self._ticks.in_grace_period(now):
                state.idleness.end_outage(ranges[partition].end, now, self._options.outage_grace_s)
            self.consumer.seek(at, state.next_offset)
        self.assigned.finish_rebalance()
        self.fetcher.assign(self.assigned.partitions)
        self._new_assignment, self._after_outage = None, False
        if self._revoked_at is not None:
            metrics.REBALANCE.set(now - self._revoked_at)
            self._revoked_at = None

    # --- timers --------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Store the commits of all partitions, once the output of the records before is confirmed."""
        async with self._batch_lock:
            due = self.assigned.due_commits()
            captures = self._saver.capture(self.assigned.partitions, time.monotonic(), ending=self.ending)
        await self._commits.store(self.consumer, due)
        await self._saver.write(captures)

    async def write_ticks(self) -> None:
        """Write a Tick into idle partitions without lag."""
        if self._new_assignment is None and not self._revoking:
            await self._ticks.write(self.consumer)

    def set_gauges(self) -> None:
        """Set the partitions' gauges, and publish the counts."""
        now_s = time.time()
        assignment = self.consumer.assignment()
        for partition in self.assigned.partitions:
            at = TopicPartition(self.topic, partition)
            if at in assignment:  # still: aiokafka only asserts it
                self.assigned.set_gauges(partition, self.consumer.highwater(at), now_s)
        self.tally.publish()
