"""The joiner as a service: a thin Faust shell around `join.py`. The only file that imports Faust.

Faust reads, keeps the group's membership and writes; its own acks stay off. What is committed, and when, is
decided here:
* One agent, one record at a time, strictly in offset order: a record that isn't the next one ends the process.
* Nothing is acked to Faust, whose commits skip holes. `Joiner.checkpoint` says up to where nothing is remembered;
  it is stored when the broker has confirmed everything that came of the records before it.
* The watermark at that point travels in the commit's own metadata: both are stored together or not at all.
* When partitions are revoked, their state is dropped; whoever gets them reads them again from the commit.
"""

import asyncio
import logging
import signal
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final

import faust
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from stream import meters
from stream.errors import LogError, LogGap, LogUnavailable
from stream.events import Install, Tick, decode_events, encode_record
from stream.health import Health, run_file
from stream.histories import HistoryWriter
from stream.join import Checkpoint, Joiner, LabelRules
from stream.kafka_log import KafkaLog
from stream.log import Record
from stream.redis_client import connect
from stream.routing import (
    Outgoing,
    checkpoint_of,
    dead_letter,
    example_records,
    history_record,
    metadata_of,
    split_ahead,
)
from stream.settings import Settings
from stream.topics import EVENTS, EXAMPLES, HISTORIES

FETCH_WAIT_MS: Final = 50
WRITE_BYTES_MAX: Final = 2 * 1024 * 1024
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShellRules:
    """How the shell behaves; what labels are is in LabelRules."""

    commit_every_ms: int = 250
    idle_ms: int = 500  # a partition that is read to its end and silent for so long is ticked
    ahead_ms_max: int = 60_000  # an event may be this far after its own arrival; further is a dead letter
    accept_gap: bool = False  # go on when records between commit and log start are gone


@dataclass
class _Owned:
    """A partition that this worker has now."""

    joiner: Joiner
    next_offset: int | None  # None: nothing was ever committed, the first record is as good as any
    stored: Checkpoint | None
    settled: Checkpoint | None = None  # all that came of the records before it was handed to the producer
    heard_at: float = field(default_factory=time.monotonic)


def patch_fetch_wait(wait_ms: int = FETCH_WAIT_MS) -> None:
    """Faust fixes `fetch_max_wait_ms` at 1,500, which makes catching up wait with an idle CPU: set it lower."""
    original = AIOKafkaConsumerThread._create_worker_consumer
    if hasattr(original, "thalweg_patched"):
        return

    def create(self: AIOKafkaConsumerThread, transport: Any) -> Any:
        consumer = original(self, transport)
        consumer._fetch_max_wait_ms = wait_ms  # read when the consumer starts its fetcher
        return consumer

    create.thalweg_patched = True  # type: ignore[attr-defined]
    AIOKafkaConsumerThread._create_worker_consumer = create  # type: ignore[method-assign]  # the patch


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


def make_app(settings: Settings) -> faust.App:
    """The Faust app with the settings that keep it fast, quiet, on loopback, and its commits out of the way."""
    patch_fetch_wait()
    return faust.App(
        settings.topic("joiner"),
        broker=[f"kafka://{server.strip()}" for server in settings.need_kafka().split(",")],
        broker_credentials=credentials(settings),
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        broker_commit_livelock_soft_timeout=1e9,  # Faust's own commits are off
        consumer_group_instance_id=f"{settings.topic('joiner')}-{settings.worker}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * 1024 * 1024,
        producer_linger=0.0,
        producer_max_request_size=WRITE_BYTES_MAX,
        producer_max_batch_size=256 * 1024,  # one batch a partition is on its way at a time: it must not be small
        producer_request_timeout=1200.0,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        stream_buffer_maxsize=4096,
        stream_processing_timeout=1e9,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        worker_redirect_stdouts=False,
        store="memory://",
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
        histories: HistoryWriter | None,
    ) -> None:
        self.settings = settings
        self.rules = rules
        self.shell = shell
        self.histories = histories
        self.failure: BaseException | None = None
        self.owned: dict[int, _Owned] = {}
        self._revocations = 0
        self._partitions = partitions
        self._events = settings.topic(EVENTS.name)
        self._unconfirmed: set[asyncio.Future[Any]] = set()
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
        async for event in stream.noack().events():
            try:
                await self._take(event.message)
            except Exception as bad:  # noqa: BLE001  # an agent that raises is restarted and the record lost
                self.fail(bad)
                return

    async def _take(self, message: Any) -> None:
        partition = message.partition
        owned = self.owned.get(partition)
        if owned is None:
            revocations = self._revocations
            owned = await self._begin(partition)
            if self._revocations != revocations:
                return  # the partition may be another's by now, and its commit have moved on: whoever has it begins
        if message.generation_id != self.app.consumer_generation_id or self.failure is not None:
            return
        self.owned[partition] = owned
        record = Record(
            EVENTS.name, partition, message.offset, round(message.timestamp * 1000), message.key, message.value
        )
        if owned.next_offset is not None and record.offset != owned.next_offset:
            if record.offset < owned.next_offset:
                return  # behind the commit, which moved while the partition changed hands
            self._gap(owned.next_offset, record)
        owned.settled = None
        for outgoing in self._turn(owned, record):
            await self._send(outgoing)
        owned.next_offset = record.offset + 1
        owned.settled = owned.joiner.checkpoint(record.offset + 1)

    def _turn(self, owned: _Owned, record: Record) -> list[Outgoing]:
        """One record through the join: everything that has to be written for it."""
        events, bad = decode_events(record.value or b"")
        taken, ahead = split_ahead(events, record.time_ms, self.shell.ahead_ms_max)
        said = owned.joiner.feed(taken, record.offset, record.time_ms)
        outgoing = example_records(said, self._partitions[EXAMPLES.name])
        for event in taken:
            if isinstance(event, Install):
                outgoing.append(history_record(event, self._partitions[HISTORIES.name]))
                if self.histories is not None:
                    self.histories.put(event.user, event.item, None if event.retracted else event.time_ms)
        outgoing += [dead_letter(raw, "BadEvent", why, record) for raw, why in bad]
        outgoing += [dead_letter(raw, "FromTheFuture", why, record) for raw, why in ahead]
        meters.count(taken, said, len(bad), len(ahead))
        owned.heard_at = time.monotonic()
        return outgoing

    def _gap(self, expected: int, record: Record) -> None:
        gap = LogGap(self._events, record.partition, expected, record.offset)
        if not self.shell.accept_gap:
            raise gap
        log.warning("going on, as told: %s", gap)

    async def _send(self, outgoing: Outgoing) -> None:
        sent: Any = await self.app.producer.send(
            self.settings.topic(outgoing.topic), outgoing.key, outgoing.value, outgoing.partition, None, None
        )
        self._unconfirmed.add(sent)
        sent.add_done_callback(self._on_confirmed)

    def _on_confirmed(self, sent: "asyncio.Future[Any]") -> None:
        self._unconfirmed.discard(sent)
        if not sent.cancelled() and sent.exception() is not None:
            self.fail(LogError(f"Kafka did not take a record ({sent.exception()}); what came of it is read again"))

    # --- partitions come and go ----------------------------------------------------------------------------

    @property
    def _thread(self) -> Any:
        """Faust's consumer thread. aiokafka's consumer may be used in it only."""
        return self.app.consumer._thread  # type: ignore[attr-defined]  # what aiokafka offers beyond Faust

    async def _begin(self, partition: int) -> _Owned:
        """The state at the commit: an empty joiner with the watermark that was stored there."""
        at = TopicPartition(self._events, partition)
        found = await self._thread.call_thread(self._thread._consumer._coordinator.fetch_committed_offsets, [at])
        committed = found.get(at)
        if committed is None or committed.offset < 0:
            return _Owned(Joiner(self.rules), next_offset=None, stored=None)
        stored = checkpoint_of(committed.offset, committed.metadata)
        log.info("partition %d: reads on at %d, watermark %d ms", partition, stored.offset, stored.watermark_ms)
        return _Owned(Joiner.start(self.rules, stored), next_offset=stored.offset, stored=stored)

    async def _on_revoked(self, _app: Any, revoked: set[Any], **_: Any) -> None:
        self._revocations += 1
        for at in revoked:
            self.owned.pop(at.partition, None)

    async def commit(self) -> None:
        """Store the checkpoints of all partitions, once what came of the records before them is confirmed."""
        wanted = {
            partition: (owned, owned.settled)
            for partition, owned in self.owned.items()
            if owned.settled is not None and owned.settled != owned.stored
        }
        if not wanted:
            return
        if self._unconfirmed:
            await asyncio.wait(set(self._unconfirmed))
        if self.failure is not None:
            return
        offsets = {
            TopicPartition(self._events, partition): OffsetAndMetadata(settled.offset, metadata_of(settled))
            for partition, (owned, settled) in wanted.items()
            if settled is not None and self.owned.get(partition) is owned
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
        for partition, owned in list(self.owned.items()):
            silence_ms = round((now - owned.heard_at) * 1000)
            if silence_ms < self.shell.idle_ms or not owned.joiner.open_pages or owned.settled is None:
                continue
            highwater = self.app.consumer.highwater(TopicPartition(self._events, partition))
            if highwater is None or owned.next_offset is None or owned.next_offset < highwater:
                continue
            owned.heard_at = now
            tick = Tick(owned.joiner.tick_ms(silence_ms))
            await self._send(Outgoing(EVENTS.name, partition, encode_record([tick])))

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
        return True, f"{len(self.owned)} partitions at work"

    def measure(self) -> None:
        """Set the gauges."""
        for partition, owned in self.owned.items():
            held = (owned.next_offset or 0) - owned.settled.offset if owned.settled is not None else 0
            meters.measure(partition, owned.joiner, held, time.time())
        if self.histories is not None:
            meters.HISTORIES_WAITING.set(self.histories.waiting)

    async def run(self) -> None:
        """Serve until stopped. Raises what broke it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        chores = asyncio.create_task(self._chores())
        try:
            try:
                await self.app.start()
            except (KafkaError, OSError) as bad:
                raise LogUnavailable(f"Kafka at {self.settings.kafka} can't be joined ({bad})") from bad
            while not self._ended.is_set() and not self.app.should_stop:
                await asyncio.sleep(0.05)
            if self.app.should_stop and not self._ended.is_set():
                self.fail(LogError(f"Faust ended by itself ({self.app.crash_reason!r})"))
            if self.failure is None:
                await asyncio.wait_for(self.commit(), 5.0)
        finally:
            chores.cancel()
            await self._leave()
        if self.failure is not None:
            raise self.failure

    async def _leave(self) -> None:
        """A static member doesn't leave its group: its partitions wait for it to come back."""
        try:
            await asyncio.wait_for(self.app.stop(), 10.0)
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


def wait_for_kafka(settings: Settings) -> dict[str, int]:
    """How many partitions the joiner's topics have, once a broker answers; a line for each attempt.

    Raises LogError when a topic doesn't exist.
    """
    attempt = 0
    while True:
        try:
            kafka = KafkaLog(settings)
            try:
                return {topic.name: kafka.partitions(topic.name) for topic in (EVENTS, EXAMPLES, HISTORIES)}
            finally:
                kafka.close()
        except LogUnavailable as bad:
            wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
            log.warning("%s; attempt %d, the next in %.1f s", bad, attempt + 1, wait_s)
            time.sleep(wait_s)
            attempt += 1


def run_joiner(settings: Settings, rules: LabelRules, shell: ShellRules | None = None) -> None:
    """Run the joiner until SIGINT or SIGTERM. Blocks; raises a ThalwegError when it can't go on.

    Without a broker it waits for one; when Faust breaks down it starts again from the last commit.
    """
    shell = shell or ShellRules()
    for name in ("faust", "mode", "aiokafka", "kafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    histories = None
    if settings.redis:
        histories = HistoryWriter(connect(settings), settings.topic_prefix, source=lambda: KafkaLog(settings))
    else:
        log.info("no Redis is known: histories go to the topic only")
    services: list[JoinerService] = []
    health = Health(
        settings.host,
        settings.joiner_port,
        lambda: services[-1].ready() if services else (False, "waiting for Kafka"),
        written_to=run_file(settings, "joiner"),
    )

    async def life(partitions: dict[str, int]) -> None:
        services.append(JoinerService(settings, rules, shell, partitions, histories))
        await services[-1].run()

    try:
        while True:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            services.clear()
            partitions = wait_for_kafka(settings)
            try:
                return asyncio.run(life(partitions))
            except LogGap:
                raise
            except LogError as bad:
                log.error("the joiner broke down: %s; it starts again from its last commit", bad)
                time.sleep(BACKOFF_S[0])
    except KeyboardInterrupt:
        log.info("told to stop")
    finally:
        health.close()
        if histories is not None:
            histories.close()
