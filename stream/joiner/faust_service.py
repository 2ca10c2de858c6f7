"""The joiner as a service: a thin Faust shell around `join.py`. The only file that imports Faust.

Faust reads, keeps the group's membership and writes; its own acks and commits are off. What is committed, and when,
is decided here:
* One agent, one record at a time, strictly in offset order: a record that isn't the next one ends the process, where
  the log has lost what is between. Where it comes before its turn it is left: at a rebalance Faust hands on what was
  read before. Which offsets hold no record is known from aiokafka (`patch_faust`).
* Nothing is acked to Faust, whose commits skip holes, and Faust's way to commit is closed (`patch_faust`): an ack
  over a hole can't be stored. `Joiner.checkpoint` says up to where nothing is remembered; it is stored when the
  broker has confirmed everything that came of the records before it.
* The watermark at that point travels in the commit's own metadata: both are stored together or not at all.
* When partitions are revoked, their state is dropped; whoever gets them reads them again from the commit.
* The agent takes what waits in its queue without going through Faust's stream, which costs as much as five pages.
"""

import asyncio
import gc
import logging
import signal
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import faust
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.tables import TableManager
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, credentials_to_aiokafka_auth

from stream.errors import LogError, LogUnavailable, SettingsError
from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartitions
from stream.joiner.commit_metadata import checkpoint_of, metadata_of
from stream.joiner.join import Checkpoint
from stream.joiner.label_rules import LabelRules
from stream.joiner.offset_gaps import Gaps
from stream.joiner.outbox import Outbox
from stream.joiner.record_processor import RecordProcessor, ShellRules
from stream.log import Record
from stream.settings import Settings
from stream.topics import EVENTS

if TYPE_CHECKING:
    from stream.histories import HistoryWriter  # redis: loaded by whoever has one

FETCH_WAIT_MS: Final = 50
WRITE_BYTES_MAX: Final = 2 * 1024 * 1024
BATCH_BYTES: Final = 512 * 1024  # one batch a partition is on its way at a time: it must not be small
ASK_MS: Final = 5_000
EXPELLED_MAX: Final = 3  # times in
EXPELLED_S: Final = 60.0  # that who has a name of its own isn't
LEAVE_S: Final = 10.0
LAST_COMMIT_S: Final = 5.0
HAND_OVER_BYTES: Final = 256 * 1024  # of output: so much is told before it is handed over, if so much waits

log = logging.getLogger(__name__)


gaps: Final = Gaps()  # of all that the process reads: what aiokafka has fetched doesn't know for whom


def patch_faust(wait_ms: int = FETCH_WAIT_MS) -> None:
    """What Faust has no setting for: its fetch wait, that it never commits, how it seeks, where its log has gaps.

    It fixes `fetch_max_wait_ms` at 1,500, which makes catching up wait with an idle CPU. Its commits skip holes. At a
    rebalance it throws away what it has fetched and seeks back to the commits: aiokafka leaves a partition where it is
    whose commit is at 0, or that has none, and what was thrown away would be lost.
    """
    original = AIOKafkaConsumerThread._create_worker_consumer
    if hasattr(original, "thalweg_patched"):
        return

    def create(self: AIOKafkaConsumerThread, transport: Any) -> Any:
        consumer = original(self, transport)
        consumer._fetch_max_wait_ms = wait_ms  # read when the consumer starts its fetcher
        return consumer

    async def refuse(self: AIOKafkaConsumerThread, offsets: Any) -> bool:
        return False  # Faust goes on as after a rebalance

    async def seek_to_committed(self: AIOKafkaConsumerThread) -> Any:
        return await self.call_thread(seek_back, self._ensure_consumer())

    async def seek_back(consumer: Any) -> Any:
        committed = await consumer.seek_to_committed()
        left = [at for at, offset in committed.items() if not offset]
        if left:
            await consumer.seek_to_beginning(*left)
        return committed

    fetched = FetchResult.getall

    def getall(self: FetchResult, max_records: int | None = None) -> list[Any]:
        read = self._partition_records
        position = read.next_fetch_offset if read is not None else 0
        records: list[Any] = fetched(self, max_records)
        if read is not None and read.next_fetch_offset > position:
            gaps.note(self._topic_partition, position, [record.offset for record in records], read.next_fetch_offset)
        return records

    FetchResult.getall = getall
    create.thalweg_patched = True  # type: ignore[attr-defined]
    AIOKafkaConsumerThread._create_worker_consumer = create  # type: ignore[method-assign]  # the patch
    AIOKafkaConsumerThread.seek_to_committed = seek_to_committed  # type: ignore[method-assign]  # the patch
    AIOKafkaConsumerThread.commit = refuse  # type: ignore[method-assign]  # the patch


class NoTables(TableManager):
    """Faust waits a second for tables to be declared before it joins the group. Here there are none."""

    __module__ = TableManager.__module__  # what it logs is Faust's

    async def sleep(self, *_: object, **__: object) -> None:
        """It sleeps for nothing else."""


def spare_tasks(app: faust.App, queue_of: Callable[[], Any]) -> None:
    """Faust hands each record on in one task and waits for the flow's end in another: most of what a record costs.

    Where the flow goes on and the agent's queue has room, handing on can't wait, and is done at once.
    """
    consumer: Any = app.consumer
    slowly = consumer.wait_first

    async def wait_first(*coros: Any, timeout: Any = None) -> Any:
        queue = queue_of()
        if (
            len(coros) != 2  # Faust waits for one thing by it, too
            or timeout is not None
            or queue is None
            or queue.full()
            or consumer.suspend_flow.is_set()
            or not app.flow_control.is_active()
        ):
            return await slowly(*coros, timeout=timeout)
        handed_on, suspended = coros
        suspended.close()
        await handed_on
        return None

    consumer.wait_first = wait_first


def credentials(settings: Settings) -> Any:
    """Faust's form of the Kafka login, None for a plain connection."""
    tls = ssl.create_default_context(cafile=settings.kafka_ca or None) if "SSL" in settings.kafka_security else None
    if settings.kafka_security.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.kafka_user,
            password=settings.kafka_password.get_secret_value(),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=tls,
        )
    return faust.SSLCredentials(context=tls) if tls is not None else None


async def partitions_of(settings: Settings, topics: Iterable[str]) -> dict[str, int] | None:
    """How many partitions these topics have; None: some of them, or the broker, can't be seen from here."""
    client = None
    try:
        auth = credentials_to_aiokafka_auth(credentials(settings))
        client = AIOKafkaClient(bootstrap_servers=settings.brokers(), request_timeout_ms=ASK_MS, **auth)
        await client.bootstrap()
        cluster = await client.fetch_all_metadata()  # of all topics there are: one that is named might be created
        found = {topic: cluster.partitions_for_topic(settings.topic(topic)) for topic in topics}
    except (KafkaError, OSError, ValueError) as bad:
        log.debug("asking for partitions: %s", bad)
        return None
    finally:
        if client is not None:
            await client.close()
    return {topic: len(numbers) for topic, numbers in found.items()} if all(found.values()) else None


def make_app(settings: Settings) -> faust.App:
    """The Faust app with the settings that keep it fast, on loopback, and from making topics.

    What Faust does about acks (waiting for them, alarms when none come) needs none: it hears of no record's ack.
    """
    patch_faust()
    return faust.App(
        settings.topic("joiner"),
        broker=[f"kafka://{server}" for server in settings.brokers()],
        broker_credentials=credentials(settings),
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        broker_rebalance_timeout=15.0,  # a member that can't rejoin holds the others up no longer
        consumer_group_instance_id=f"{settings.topic('joiner')}-{settings.worker}",
        consumer_max_fetch_size=4 * 1024 * 1024,
        producer_max_request_size=WRITE_BYTES_MAX,
        producer_max_batch_size=BATCH_BYTES,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        TableManager=NoTables,
        datadir=str(settings.local / "joiner"),
    )


class JoinerService:
    """Runs the joins of this worker's partitions until stopped or broken. One event loop, one Faust app."""

    def __init__(
        self,
        settings: Settings,
        rules: LabelRules,
        shell: ShellRules,
        partitions: dict[str, int],
        histories: "HistoryWriter | None",
    ) -> None:
        self.settings = settings
        self.rules = rules
        self.shell = shell
        self.histories = histories
        self.failure: BaseException | None = None
        self.tally = metrics.Tally()
        self._outbox = Outbox(lambda: self.app.producer._ensure_producer(), settings.topic, self.fail)  # type: ignore[attr-defined]
        self.share = AssignedPartitions(
            rules, shell, RecordProcessor(shell, partitions, histories, self.tally), self._outbox.put
        )
        self._queue: Any = None
        self._revocations = 0
        self._starts: dict[int, tuple[int, int]] = {}  # first offset of a partition, and how far it was read by then
        self._revoked_at: float | None = None
        self._expelled_at: deque[float] = deque(maxlen=EXPELLED_MAX)
        self._events = settings.topic(EVENTS.name)
        self._ended = asyncio.Event()
        self.app = make_app(settings)
        source = self.app.topic(
            self._events, key_serializer="raw", value_serializer="raw", partitions=partitions[EVENTS.name]
        )
        self.app.agent(source, name="join", concurrency=1)(self._join)
        self.app.on_partitions_revoked.connect(self._on_revoked, weak=False)  # type: ignore[arg-type]  # Faust's own form

    # --- the agent -----------------------------------------------------------------------------------------

    async def _join(self, stream: Any) -> None:
        """Faust's agent: every record, in order. Whatever goes wrong ends the service: a restart reads it again."""
        queue = self._queue = stream.channel.queue
        while True:
            event = await queue.get()
            try:
                await self._take(event.message)
                while self._outbox.waiting_bytes < HAND_OVER_BYTES and not queue.empty():
                    await self._take(queue.get_nowait().message)
                await self._outbox.flush()
                self.tally.handed_over()
                await asyncio.sleep(0)
            except Exception as bad:  # noqa: BLE001  # an agent that raises is restarted and the record lost
                self.fail(bad)
                return

    async def _take(self, message: Any) -> None:
        partition = message.partition
        owned, revocations = self.share.owned.get(partition), self._revocations
        if owned is None:
            owned = self.share.begin(await self._committed(partition))
        at = TopicPartition(self._events, partition)
        begin = gaps.begin(at, message.offset)
        start = await self._start_of(message) if self.share.jumps(owned, begin) else None
        if self._revocations != revocations:
            return  # the partition may be another's by now, and its commit have moved on: whoever has it begins
        if message.generation_id != self.app.consumer_generation_id or self.failure is not None:
            return
        self.share.owned[partition] = owned
        record = Record(
            EVENTS.name, partition, message.offset, round(message.timestamp * 1000), message.key, message.value
        )
        for _ in self.share.take(owned, record, time.monotonic(), begin, start):
            await self._outbox.flush()
            await asyncio.sleep(0)
            if self.failure is not None or self.share.owned.get(partition) is not owned:
                return  # in the middle of a burst: whoever has the partition next reads the record again
        if owned.waits_since is not None:
            return  # it was left
        gaps.taken(at, message.offset)
        if self._revoked_at is not None:
            metrics.REBALANCE.set(time.monotonic() - self._revoked_at)
            self._revoked_at = None

    # --- partitions come and go ----------------------------------------------------------------------------

    @property
    def _thread(self) -> Any:
        """Faust's consumer thread. aiokafka's consumer may be used in it only."""
        return self.app.consumer._thread  # type: ignore[attr-defined]  # what aiokafka offers beyond Faust

    def _end_of(self, partition: int) -> int | None:
        """The offset behind the newest record, as of the last fetch. A marker of a transaction is none."""
        at = TopicPartition(self._events, partition)
        end: int | None = self.app.consumer.highwater(at)
        return None if end is None else gaps.end(at, end)

    async def _start_of(self, message: Any) -> int:
        """The log's first offset after this record was read; asked for once for all records that were by then.

        Raises LogUnavailable.
        """
        at = TopicPartition(self._events, message.partition)
        known = self._starts.get(message.partition)
        if known is None or known[1] < message.offset:
            read_to = max(message.offset, self.app.consumer._read_offset.get(at) or 0)  # type: ignore[attr-defined]  # Faust's
            try:
                found = await self._thread.call_thread(self._thread._consumer.beginning_offsets, [at])
            except KafkaError as bad:
                raise LogUnavailable(f"{EVENTS.name}/{message.partition}: where it starts isn't told ({bad})") from bad
            known = self._starts[message.partition] = found[at], read_to
        return known[0]

    async def _committed(self, partition: int) -> Checkpoint | None:
        """What the group has committed of a partition."""
        at = TopicPartition(self._events, partition)
        found = await self._thread.call_thread(self._thread._consumer._coordinator.fetch_committed_offsets, [at])
        committed = found.get(at)
        if committed is None or committed.offset < 0:
            return None
        stored = checkpoint_of(committed.offset, committed.metadata)
        log.info("partition %d: reads on at %d, watermark %d ms", partition, stored.offset, stored.watermark_ms)
        return stored

    async def _on_revoked(self, _app: Any, revoked: set[Any], **_: Any) -> None:
        self._revocations += 1
        self._starts.clear()
        self._revoked_at = time.monotonic()
        if revoked and not self._thread._consumer._coordinator.member_id:
            self._expelled()
        metrics.REBALANCES.inc()
        self.share.drop(at.partition for at in revoked)
        if isinstance(self.failure, SettingsError):
            threading.excepthook = lambda _: None  # Faust's thread ends here: where it was is nobody's business
            await asyncio.sleep(2 * LEAVE_S)  # it would rejoin after this, and the other end, too

    def _expelled(self) -> None:
        """The group doesn't know this member any more: it was silent for too long, or another took its name.

        Two of one name would take each other's partitions for ever.
        """
        now = time.monotonic()
        self._expelled_at.append(now)
        if len(self._expelled_at) == EXPELLED_MAX and now - self._expelled_at[0] < EXPELLED_S:
            self.fail(
                SettingsError(
                    f"the group has let this joiner go {EXPELLED_MAX} times within {EXPELLED_S:.0f} s: another is "
                    f"named {self.settings.worker}, too. Give each its own name: THALWEG_WORKER=… thalweg run joiner"
                )
            )

    async def commit(self) -> None:
        """Store the checkpoints of all partitions, once what came of the records before them is confirmed."""
        wanted = self.share.unstored()
        if not wanted:
            return
        await self._outbox.confirm()
        if self.failure is not None:
            return
        offsets = {
            TopicPartition(self._events, partition): OffsetAndMetadata(
                settled.offset, metadata_of(settled, self.rules, self.shell.model)
            )
            for partition, settled in self.share.still(wanted).items()
        }
        if not offsets:
            return
        try:
            await self._thread.call_thread(self._thread._consumer.commit, offsets)
        except (CommitFailedError, IllegalStateError) as bad:
            log.info("commit refused, the partitions are changing hands: %s", bad)
            return
        except KafkaError as bad:
            log.warning("commit failed (%s); it is tried again", bad)
            return
        for owned, settled in wanted.values():
            owned.stored = settled

    async def tick(self, now: float) -> None:
        """Write a Tick into silent partitions that are read to their end and have open pages."""
        self.share.tick(now, self._end_of)
        await self._outbox.flush()

    # --- life ----------------------------------------------------------------------------------------------

    def fail(self, bad: BaseException) -> None:
        """End the service; the first failure is the one that is reported."""
        if self.failure is None:
            self.failure = bad
        self._ended.set()

    def stop(self) -> None:
        """End the service in order."""
        self._ended.set()

    def ready(self) -> tuple[bool, str]:
        """Whether this worker takes part: it has partitions, or waits as a spare."""
        if self.failure is not None:
            return False, str(self.failure)
        if not self.app.started or self.app.rebalancing:
            return False, "joining the group"
        return True, f"{len(self.share.owned)} partitions at work"

    def measure(self) -> None:
        """Set the gauges."""
        self.share.measure(time.time(), self._end_of)
        self.tally.publish()
        if self.histories is not None:
            metrics.HISTORIES_WAITING.set(self.histories.waiting)

    async def run(self) -> None:
        """Serve until stopped. Raises what broke it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        spare_tasks(self.app, lambda: self._queue)
        chores = asyncio.create_task(self._chores())
        try:
            try:
                await self.app.start()
            except (KafkaError, OSError) as bad:
                raise LogUnavailable(f"Kafka at {self.settings.kafka} can't be joined ({bad})") from bad
            tame_collector()
            while not self._ended.is_set() and not self.app.should_stop:
                await asyncio.sleep(0.05)
            if self.app.should_stop and not self._ended.is_set():
                self.fail(LogError(f"Faust ended by itself ({self.app.crash_reason!r})"))
            if self.failure is None:
                await self._commit_last()
        finally:
            chores.cancel()
            await self._leave()
        if self.failure is not None:
            raise self.failure

    async def _commit_last(self) -> None:
        """What is finished now needn't be read again; a broker that is away isn't waited for."""
        try:
            await asyncio.wait_for(self.commit(), LAST_COMMIT_S)
        except TimeoutError:
            log.warning("Kafka doesn't answer: the last commit isn't stored, so the next start reads more again")

    async def _leave(self) -> None:
        """A static member doesn't leave its group: its partitions wait for it to come back."""
        try:
            await asyncio.wait_for(self.app.stop(), LEAVE_S)
        except (TimeoutError, KafkaError, OSError, RuntimeError, TypeError) as bad:
            log.info("Faust did not stop in order (%r); nothing depends on it", bad)

    async def _chores(self) -> None:
        while True:
            await asyncio.sleep(self.shell.commit_every_ms / 1000)
            try:
                await self.tick(time.monotonic())
                await self.commit()
                self.measure()
            except Exception as bad:  # noqa: BLE001  # without commits and ticks the service must not go on
                self.fail(bad)
                return


def tame_collector() -> None:
    """Keep the collector's pauses short: what is there now stays, and open pages aren't tracked at all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 20, 20)
