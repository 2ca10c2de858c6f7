"""The joiner's loop: reads `events` by a plain aiokafka consumer, joins batch by batch, hands over, commits, ticks.

Records reach the join without a task or a future of their own. Everything here runs in one event loop; a partition's
records are taken strictly in offset order.
* One lock is held while a batch is worked off. Commits are taken under it, so that everything below `next_offset` was
  put into the outbox; they are stored when the broker has confirmed it.
* What a long burst leads to goes out in slices. After each the partition may be another's: then the loop stops.
* A revocation waits for the record at work, stores a last commit, and parks the states; an assignment asks for the
  group's commits and begins each partition, by seeking to where its state is. What was fetched before is thrown away.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from stream.events.topics import EVENTS
from stream.joiner import metrics
from stream.joiner.assigned_partitions import Assigned, AssignedPartitions, LogRange, StoredCommit
from stream.joiner.body_reader import BodyReader
from stream.joiner.commit_metadata import commit_of
from stream.joiner.commit_writer import CommitWriter
from stream.joiner.kafka_clients import check_timestamps, group_commits, log_ranges, make_body_consumer, unavailable
from stream.joiner.labels import Labels, absent, pages_of
from stream.joiner.outbox import Outbox
from stream.joiner.output_records import emission_records
from stream.joiner.record_processor import RecordProcessor, ShellRules
from stream.joiner.state_saver import StateSaver
from stream.joiner.tick_watch import TickWatch
from stream.log.protocol import Record
from stream.runtime.errors import LogGap, LogTruncated, SettingsError
from stream.runtime.settings import Settings

BATCH_RECORDS: Final = 1_000
POLL_MS: Final = 100
BEGIN_S: Final = 10.0
RETRY_S: Final = 0.2
REVOKE_S: Final = 5.0  # so long a revocation waits for the record at work
HAND_OVER_BYTES: Final = 256 * 1024
WAITING_BYTES_MAX: Final = 4 * 1024 * 1024  # of output: the join waits while more isn't handed over
LOG_APPEND_TIME: Final = 1

log = logging.getLogger(__name__)


class ConsumerLoop(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Works on the partitions that the group gives to this consumer, until it fails or is told to stop.

    `failed` is told what ends it; `after_outage`: no broker answered just before it was made.
    """

    def __init__(
        self,
        settings: Settings,
        shell: ShellRules,
        assigned: AssignedPartitions,
        processor: RecordProcessor,
        partitions: dict[str, int],
        failed: Callable[[BaseException], None],
        *,
        after_outage: bool = False,
    ) -> None:
        self.assigned = assigned
        self.tally = processor.tally
        self.failure: BaseException | None = None
        self.ending = False  # no further batch is read
        self.consumer: Any = None
        self.producer: Any = None
        self.admin: Any = None
        self.topic = settings.topic(EVENTS.name)
        self.reader = BodyReader(
            lambda fetch_bytes: make_body_consumer(settings, fetch_bytes), settings.topic(EVENTS.name)
        )
        self.outbox = Outbox(lambda: self.producer, settings.topic, self.fail)
        self._settings = settings
        self._shell = shell
        self._processor = processor
        self._partitions = partitions
        self._failed = failed
        self._fresh: set[int] | None = None  # an assignment that isn't begun yet
        self._working = asyncio.Lock()
        self._busy = False  # from the moment at which a batch was fetched
        self._revoking = False
        self._after_outage = after_outage
        self._ticks = TickWatch(self.topic, shell, assigned, self.outbox, lambda: self._busy)
        self._revoked_at: float | None = None
        self._saver = StateSaver()
        self._commits = CommitWriter(self.topic, settings.worker, assigned, self.outbox, processor.tally)

    def fail(self, bad: BaseException) -> None:
        """End; the first failure is the one that is reported."""
        if self.failure is None:
            self.failure = bad
            self._failed(bad)

    @property
    def joined(self) -> bool:
        """Whether it has its assignment, which may be empty."""
        return self._fresh is None and self._revoked_at is None

    # --- reading -------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Read and join until failed. Whatever goes wrong ends it: a restart reads again from the commits."""
        self._revoked_at = time.monotonic()
        self.consumer.subscribe([self.topic], listener=self)
        try:
            while self.failure is None and not self.ending:
                if self._fresh is not None:
                    await self._begin(self._fresh)
                else:
                    await self._read_batch()
        except ConsumerStoppedError:
            return
        except Exception as bad:  # noqa: BLE001  # reported by whoever runs this
            self.fail(unavailable(self._settings, "reading", bad) if isinstance(bad, KafkaError | OSError) else bad)

    async def _read_batch(self) -> None:
        try:
            batch = await self.consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as bad:
            # Before a partition is begun its position is aiokafka's own guess.
            for at, offset in bad.args[0].items() if isinstance(bad, OffsetOutOfRangeError) else ():
                if at.partition in self.assigned.owned and self._fresh is None:
                    await self._out_of_range(at.partition, offset)
            await asyncio.sleep(0)
            return
        if not batch:
            return
        self._busy = True
        try:
            async with self._working:
                await self._work_off(batch)
        finally:
            self._busy = False

    async def _work_off(self, batch: dict[Any, list[Any]]) -> None:
        for at, found in batch.items():
            owned = self.assigned.owned.get(at.partition)
            if owned is None:
                continue  # not begun yet: a seek brings these again
            records = [
                Record(EVENTS.name, at.partition, one.offset, one.timestamp, one.key, one.value)
                for one in found
                if one.offset >= owned.next_offset
            ]
            if any(one.timestamp_type != LOG_APPEND_TIME for one in found):
                records = await self._with_append_times(records)
            if not await self._join(at.partition, owned, records):
                return
        self.outbox.start_flush()
        self.tally.handed_over()
        await asyncio.sleep(0)

    async def _join(self, partition: int, owned: Assigned, records: Sequence[Record]) -> bool:
        """Join these; False: the partition is going, and the rest is for whoever has it then."""
        for emission in self._processor.process(owned, records):
            if emission is not None:
                pages = await self._pages(partition, owned, emission.labels) if emission.labels else []
                if self.assigned.owned.get(partition) is not owned:
                    return False
                for outgoing in emission_records(emission, self._partitions, pages, partition):
                    self.outbox.put(outgoing)
            owned.trim_bodies()
            if not owned.whole or self.outbox.waiting_bytes > HAND_OVER_BYTES:
                self.outbox.start_flush()
                await asyncio.sleep(0)
            if self.outbox.waiting_bytes > WAITING_BYTES_MAX:
                await self.outbox.flush()
            while owned.whole and self._commits.uncommitted > self._shell.uncommitted_max and not self._revoking:
                await self._commits.store(self.consumer, self.assigned.unstored())
                if self.failure is not None or self.assigned.owned.get(partition) is not owned:
                    return False
                if self._commits.uncommitted > self._shell.uncommitted_max:
                    await asyncio.sleep(RETRY_S)  # it was refused
            if self.failure is not None or self.assigned.owned.get(partition) is not owned:
                return False
            if self._revoking and owned.whole:
                return False
        self.assigned.took(partition, owned, time.monotonic())
        return True

    async def _pages(self, partition: int, owned: Assigned, labels: Labels) -> list[bytes]:
        """The pages whose labels go out, as they lie in the log; those that aren't at hand are read again.

        Raises LogError, LogUnavailable.
        """
        closed, others = absent(labels, owned.bodies)
        if not closed and not others:
            return pages_of(labels, owned.bodies)
        found = await self.reader.read(partition, closed, others)
        metrics.REREAD.inc(len(found))
        return pages_of(labels, owned.bodies, found)

    async def _with_append_times(self, records: list[Record]) -> list[Record]:
        """Records that came while producers stamped them; taken only where the topic has been mended since.

        Raises SettingsError.
        """
        await check_timestamps(self.admin, self._settings)
        now_ms = time.time_ns() // 1_000_000
        return [record._replace(time_ms=min(record.time_ms, now_ms)) for record in records]

    async def _out_of_range(self, partition: int, offset: int) -> None:
        """The log no longer has the next offset. Raises LogGap, LogTruncated."""
        at = TopicPartition(self.topic, partition)
        start, end, _ = (await log_ranges(self.consumer, [at]))[partition]
        owned = self.assigned.owned.get(partition)
        if owned is None or start <= offset <= end:
            return
        if offset > end:
            raise LogTruncated(EVENTS.name, partition, offset, start, end)
        gap = LogGap(EVENTS.name, partition, offset, start)
        if not self._shell.accept_gap:
            raise gap
        log.warning("going on (--accept-gap): %s", gap)
        owned.next_offset = start
        self.consumer.seek(at, start)

    # --- partitions come and go ----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """aiokafka's: all partitions go, before they are shared out anew."""
        self._revoking = True
        self._revoked_at = time.monotonic()
        self._fresh = None
        metrics.REBALANCES.inc()
        partitions = [at.partition for at in revoked]
        try:
            await asyncio.wait_for(self._working.acquire(), REVOKE_S)
        except TimeoutError:
            log.warning("a record takes too long: the partitions are given away in the midst of it")
            self.assigned.drop(partitions)
        else:
            try:
                if partitions:
                    await self._commits.store_last(self.consumer)
                self.assigned.park(partitions)
            except SettingsError as bad:
                self.fail(bad)
            finally:
                self._working.release()
        finally:
            self._ticks.forget()
            self._revoking = False
        if isinstance(self.failure, SettingsError):
            await asyncio.sleep(2 * BEGIN_S)  # it would rejoin after this, and the other of its name end, too

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """aiokafka's: these are this worker's now. They are begun by the loop itself."""
        self._fresh = {at.partition for at in assigned}

    async def _begin(self, fresh: set[int]) -> None:
        """Begin newly assigned partitions. Raises what `AssignedPartitions.begin` raises."""
        ats = [TopicPartition(self.topic, partition) for partition in sorted(fresh)]
        try:
            async with asyncio.timeout(BEGIN_S):
                await check_timestamps(self.admin, self._settings)
                commits = await group_commits(self.admin, self._settings, sorted(fresh))
                ranges = await log_ranges(self.consumer, ats)
                if self._shell.accept_gap:
                    ranges |= await self._with_new(ats, commits, ranges)
        except (TimeoutError, KafkaError, OSError) as bad:
            log.warning("Kafka doesn't answer (%r): where to read on isn't known yet", bad)
            self._after_outage = True
            await asyncio.sleep(RETRY_S)
            return
        if self._fresh is not fresh:
            return  # meanwhile they were shared out anew
        now = time.monotonic()
        for at in ats:
            partition = at.partition
            owned = self.assigned.begin(partition, commits.get(partition), ranges[partition], now)
            if self._after_outage or self._ticks.after_outage(now):
                owned.silence.outage_over(ranges[partition].end, now, self._shell.outage_grace_s)
            self.consumer.seek(at, owned.next_offset)
        self.assigned.settle()
        self.reader.assign(self.assigned.owned)
        self._fresh, self._after_outage = None, False
        if self._revoked_at is not None:
            metrics.REBALANCE.set(now - self._revoked_at)
            self._revoked_at = None

    async def _with_new(
        self, ats: list[Any], commits: dict[int, StoredCommit], ranges: dict[int, LogRange]
    ) -> dict[int, LogRange]:
        """Where those begin that the commits' authors can't have read: appended later, whatever their offsets."""
        found = {}
        for at in ats:
            if (stored := commits.get(at.partition)) is not None:
                time_ms = commit_of(*stored).progress.read_ms + 1
                new = (await self.consumer.offsets_for_times({at: time_ms}))[at]
                whole = ranges[at.partition]
                found[at.partition] = whole._replace(new_from=whole.end if new is None else new.offset)
        return found

    # --- to be called often ----------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Store how far all partitions are, once what came of the records before is confirmed."""
        async with self._working:
            wanted = self.assigned.unstored()
            captures = self._saver.capture(self.assigned.owned, time.monotonic(), ending=self.ending)
        await self._commits.store(self.consumer, wanted)
        await self._saver.write(captures)

    async def watch(self) -> None:
        """Write a Tick into silent partitions that are read to their end."""
        if self._fresh is None and not self._revoking:
            await self._ticks.look(self.consumer)

    def measure(self) -> None:
        """Set the gauges."""
        now_s = time.time()
        for partition in self.assigned.owned:
            try:
                end = self.consumer.highwater(TopicPartition(self.topic, partition))
            except AssertionError:  # not assigned any more
                continue
            self.assigned.measure(partition, end, now_s)
        self.tally.publish()
