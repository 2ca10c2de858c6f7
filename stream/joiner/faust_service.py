"""The joiner as a service: a Faust app whose one service is the consumer loop. The only file that imports Faust.

Faust is the worker: the app with its lifecycle and supervision, its monitor, its timers. It reads and writes no
record: an agent costs an event object and two tasks each, commits over holes, and drops what it has fetched at a
rebalance. The app's boot strategy starts no Kafka client; `ConsumerLoop` has its own, in the app's event loop.
"""

import asyncio
import gc
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import faust
from aiokafka.errors import KafkaError
from faust.app.base import BootStrategy
from mode import Service

from stream.events.topics import EVENTS
from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartitions, Memory
from stream.joiner.consumer_loop import ConsumerLoop
from stream.joiner.kafka_clients import (
    check_timestamps,
    make_admin,
    make_consumer,
    make_producer,
    unavailable,
)
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import RecordProcessor, ShellRules
from stream.runtime.errors import LogError, SettingsError
from stream.runtime.settings import Settings

if TYPE_CHECKING:
    from stream.history.history_writer import HistoryWriter

LEAVE_S: Final = 10.0
LEAVE_AT_ONCE_S: Final = 0.5
LAST_COMMIT_S: Final = 5.0
MEASURE_S: Final = 0.25

log = logging.getLogger(__name__)


class WithoutKafka(BootStrategy):
    """Faust's own consumer and producer aren't started."""

    enable_kafka = False


class WorkerApp(faust.App):
    """A Faust app that is a worker, and has no Kafka clients of its own."""

    __module__ = faust.App.__module__  # what it logs is Faust's

    BootStrategy = WithoutKafka


def make_app(settings: Settings) -> faust.App:
    """The Faust app: on loopback, without topics, files or a web server of its own (`stream.runtime.health` serves)."""
    return WorkerApp(
        settings.topic("joiner"),
        broker=[f"kafka://{server}" for server in settings.brokers()],
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        datadir=str(settings.local / "joiner"),
    )


def state_folder(settings: Settings, partition: int | None = None) -> Path:
    """Where this worker saves states, or that of one partition."""
    folder = settings.local / "joiner" / settings.topic(EVENTS.name) / settings.worker
    return folder if partition is None else folder / str(partition)


class JoinerService:
    """Runs the joins of this worker's partitions until stopped or broken. One event loop, one Faust app."""

    def __init__(
        self,
        settings: Settings,
        rules: LabelRules,
        shell: ShellRules,
        partitions: dict[str, int],
        histories: "HistoryWriter | None",
        *,
        after_outage: bool = False,
    ) -> None:
        self.settings = settings
        self.shell = shell
        self.histories = histories
        self.failure: BaseException | None = None
        self.assigned = AssignedPartitions(
            rules,
            shell,
            Memory.of(settings.joiner_memory_mb * 1_000_000, settings.joiner_bodies_mb * 1_000_000),
            state_folder(settings),
        )
        processor = RecordProcessor(shell, partitions, histories, metrics.Tally())
        self.loop = ConsumerLoop(
            settings, shell, self.assigned, processor, partitions, self.fail, after_outage=after_outage
        )
        self._ended = asyncio.Event()
        self.app = make_app(settings)
        self.app.service(self._loop_service())
        for name, act, every_s in (
            ("watch", self._watch, shell.commit_every_ms / 1000),
            ("commit", self._commit, shell.commit_every_ms / 1000),
            ("measure", self._measure, MEASURE_S),
        ):
            self.app.timer(every_s, name=name, traced=False)(act)

    def _loop_service(self) -> type[Service]:
        """The loop in Faust's form: clients are started before it and stopped after it."""
        owner = self

        class Joining(Service):
            __module__ = Service.__module__  # what it logs is Faust's

            async def on_start(self) -> None:
                await owner.connect()

            @Service.task
            async def _read(self) -> None:
                await owner.loop.read()

            async def on_stop(self) -> None:
                await owner.disconnect()

        return Joining

    async def connect(self) -> None:
        """Start the Kafka clients. Raises LogUnavailable, SettingsError."""
        loop = self.loop
        loop.consumer, loop.producer = make_consumer(self.settings), make_producer(self.settings)
        loop.admin = make_admin(self.settings)
        try:
            for client in (loop.admin, loop.producer, loop.consumer):
                await client.start()
            await check_timestamps(loop.admin, self.settings)
        except (KafkaError, OSError) as bad:
            raise unavailable(self.settings, "connecting", bad) from bad

    async def disconnect(self) -> None:
        """Stop the Kafka clients. A static member doesn't leave its group: its partitions wait for it to come back."""
        refused = isinstance(self.failure, SettingsError)  # then it mustn't rejoin, which stopping in order might do
        loop = self.loop
        for stop in (loop.consumer.stop, loop.producer.stop, loop.reader.stop, loop.admin.close):
            try:
                await asyncio.wait_for(stop(), LEAVE_AT_ONCE_S if refused else LEAVE_S)
            except (TimeoutError, asyncio.CancelledError, KafkaError, OSError) as bad:
                log.info("a Kafka client did not stop in order (%r); nothing depends on it", bad)

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
        if not self.app.started or not self.loop.joined:
            return False, "joining the group"
        return True, f"{len(self.assigned.owned)} partitions at work"

    async def run(self) -> None:
        """Serve until stopped. Raises what broke it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.app.start()
            tame_collector()
            while not self._ended.is_set() and not self.app.should_stop:
                await asyncio.sleep(0.05)
            if self.app.should_stop and not self._ended.is_set():
                self.fail(LogError(f"Faust ended by itself ({self.app.crash_reason!r})"))
            self.loop.ending = True
            if self.failure is None:
                await self._commit_last()
        finally:
            await self._leave()
        if self.failure is not None:
            raise self.failure

    async def _commit_last(self) -> None:
        """What is finished now needn't be read again; a broker that is away isn't waited for."""
        try:
            await asyncio.wait_for(self.loop.commit(), LAST_COMMIT_S)
        except TimeoutError:
            log.warning("Kafka doesn't answer: the last commit isn't stored, so the next start reads more again")

    async def _leave(self) -> None:
        try:
            await asyncio.wait_for(self.app.stop(), 2 * LEAVE_S)
        except (TimeoutError, KafkaError, OSError, RuntimeError, TypeError) as bad:
            log.info("Faust did not stop in order (%r); nothing depends on it", bad)

    # Without any of these the service must not go on.

    async def _watch(self) -> None:
        await self._guarded(self.loop.watch())

    async def _commit(self) -> None:
        await self._guarded(self.loop.commit())

    async def _measure(self) -> None:
        self.loop.measure()
        if self.histories is not None:
            metrics.HISTORIES_PENDING.set(self.histories.waiting)

    async def _guarded(self, chore: Any) -> None:
        if self.failure is not None:
            chore.close()
            return
        try:
            await chore
        except Exception as bad:  # noqa: BLE001  # reported by `run`
            self.fail(bad)


def tame_collector() -> None:
    """Keep the collector's pauses short: what is there now stays, and open pages aren't tracked at all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 20, 20)
