"""The joiner as a service: a Faust app whose one service is the consumer loop. The only file that imports Faust.

Faust is the worker: the app with its lifecycle and supervision, its monitor, its timers. It reads and writes no
record: an agent costs an event object and two tasks for each, commits past gaps, and drops its fetched records at a
rebalance. The app's boot strategy starts no Kafka client; `ConsumerLoop` has its own, in the app's event loop.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import faust
from aiokafka.errors import KafkaError
from faust.app.base import BootStrategy
from mode import Service

from stream.events.topics import EVENTS
from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartitions, MemoryBudget
from stream.joiner.consumer_loop import ConsumerLoop
from stream.joiner.kafka_clients import (
    check_timestamps,
    failure_of,
    make_admin,
    make_consumer,
    make_producer,
)
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import JoinerOptions, RecordProcessor
from stream.runtime.errors import LogError, SettingsError
from stream.runtime.settings import Settings

if TYPE_CHECKING:
    from stream.history.history_writer import HistoryWriter

STOP_TIMEOUT_S: Final = 10.0
ABORT_TIMEOUT_S: Final = 0.5
LAST_COMMIT_S: Final = 5.0
GAUGES_EVERY_S: Final = 0.25

log = logging.getLogger(__name__)


class WithoutKafka(BootStrategy):
    """Faust's own consumer and producer aren't started."""

    enable_kafka = False


class WorkerApp(faust.App):
    """A Faust app without Kafka clients of its own."""

    __module__ = faust.App.__module__  # the name of its logger

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
    """The folder of this worker's saved states, or of one partition's."""
    folder = settings.local / "joiner" / settings.topic(EVENTS.name) / settings.worker
    return folder if partition is None else folder / str(partition)


class JoinerService:
    """Runs the joins of this worker's partitions until stopped or failed. One event loop, one Faust app.

    `settings` as `with_joiner_memory` returns them.
    """

    def __init__(
        self,
        settings: Settings,
        rules: LabelRules,
        options: JoinerOptions,
        partition_counts: dict[str, int],
        histories: "HistoryWriter | None",
        *,
        after_outage: bool = False,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._beat = beat  # called by a timer, while the event loop runs
        self.settings = settings
        self.histories = histories
        self.assigned = AssignedPartitions(
            rules,
            options,
            MemoryBudget.of(settings.joiner_memory_mb * 1_000_000, settings.joiner_bodies_mb * 1_000_000),
            state_folder(settings),
        )
        processor = RecordProcessor(options, partition_counts, histories, metrics.Tally())
        self.loop = ConsumerLoop(
            settings, options, self.assigned, processor, partition_counts, after_outage=after_outage
        )
        self.app = make_app(settings)
        self.app.service(self._loop_service())
        for name, task, every_s in (
            ("ticks", self._write_ticks, options.commit_every_ms / 1000),
            ("commit", self._commit, options.commit_every_ms / 1000),
            ("gauges", self._set_gauges, GAUGES_EVERY_S),
        ):
            self.app.timer(every_s, name=name, traced=False)(task)

    def _loop_service(self) -> type[Service]:
        """The loop as a Faust service: clients are started before it and stopped after it."""
        owner = self

        class Joining(Service):
            __module__ = Service.__module__  # the name of its logger

            async def on_start(self) -> None:
                await owner.connect()

            @Service.task
            async def _run(self) -> None:
                await owner.loop.run()

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
            raise failure_of(self.settings, "connecting", bad) from bad

    async def disconnect(self) -> None:
        """Stop the Kafka clients. A static member doesn't leave its group: its partitions wait for its restart."""
        aborts = isinstance(self.loop.failure, SettingsError)  # then it mustn't rejoin, which an orderly stop might do
        loop = self.loop
        for stop in (loop.consumer.stop, loop.producer.stop, loop.fetcher.stop, loop.admin.close):
            try:
                await asyncio.wait_for(stop(), ABORT_TIMEOUT_S if aborts else STOP_TIMEOUT_S)
            except (TimeoutError, asyncio.CancelledError, KafkaError, OSError) as bad:
                log.info(
                    "a Kafka client did not stop cleanly (%r); ignored: a restart resumes from the stored commits", bad
                )

    def stop(self) -> None:
        """End the service cleanly."""
        self.loop.ended.set()

    def ready(self) -> tuple[bool, str]:
        """Whether this worker is ready: it has its assignment, which is empty for a spare."""
        if self.loop.failure is not None:
            return False, str(self.loop.failure)
        if not self.app.started or not self.loop.has_assignment:
            return False, "joining the group"
        return True, f"{len(self.assigned.partitions)} partitions assigned"

    async def run(self) -> None:
        """Serve until stopped. Raises its failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.app.start()
            tune_gc()
            while not self.loop.ended.is_set() and not self.app.should_stop:
                await asyncio.sleep(0.05)
            if self.app.should_stop and not self.loop.ended.is_set():
                self.loop.fail(LogError(f"Faust stopped by itself ({self.app.crash_reason!r})"))
            self.loop.ending = True
            if self.loop.failure is None:
                await self._commit_last()
        finally:
            await self._stop_app()
        if self.loop.failure is not None:
            raise self.loop.failure

    async def _commit_last(self) -> None:
        """Store a last commit, so that a restart reads less; don't wait for a broker that is unavailable."""
        try:
            await asyncio.wait_for(self.loop.commit(), LAST_COMMIT_S)
        except TimeoutError:
            log.warning("Kafka doesn't answer: the last commit isn't stored, so the next start reads more again")

    async def _stop_app(self) -> None:
        try:
            await asyncio.wait_for(self.app.stop(), 2 * STOP_TIMEOUT_S)
        except (TimeoutError, KafkaError, OSError, RuntimeError, TypeError) as bad:
            log.info("Faust did not stop cleanly (%r); ignored: a restart resumes from the stored commits", bad)

    # A failure of one of these timers ends the service.

    async def _write_ticks(self) -> None:
        await self._guarded(self.loop.write_ticks)

    async def _commit(self) -> None:
        await self._guarded(self.loop.commit)

    async def _set_gauges(self) -> None:
        self._beat()
        self.loop.set_gauges()
        if self.histories is not None:
            metrics.HISTORIES_PENDING.set(self.histories.pending)

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        if self.loop.failure is not None:
            return
        try:
            await task()
        except Exception as bad:  # noqa: BLE001  # reported by `run`
            self.loop.fail(bad)


def tune_gc() -> None:
    """Keep the garbage collector's pauses short: objects of the start are frozen, and the join state isn't tracked."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 20, 20)
