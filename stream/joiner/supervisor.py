"""Supervises the joiner: waits for Kafka, runs the service, restarts it after failures, and ends on a signal."""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ORGANIC
from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartition
from stream.joiner.faust_service import JoinerService
from stream.joiner.kafka_clients import partitions_of
from stream.joiner.label_rules import LabelRules
from stream.joiner.progress_display import ProgressDisplay
from stream.joiner.record_processor import JoinerOptions, warm_up
from stream.log.protocol import Log
from stream.runtime.errors import LogError, LogGap, LogTruncated, LogUnavailable, Poisoned
from stream.runtime.health import Health, run_file
from stream.runtime.heartbeat import Heartbeat, all_live
from stream.runtime.memory import memory_bytes, with_joiner_memory
from stream.runtime.settings import Settings

if TYPE_CHECKING:
    from stream.history.history_writer import HistoryWriter
    from stream.history.user_writer import UserWriter

BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)
HUNG_S: Final = 300.0  # loading a saved state, or compiling a kernel on a busy core, stops the event loop
START_S: Final = 1_800.0  # while all kernels are compiled: the first record waits for them

log = logging.getLogger(__name__)


def wait_for_kafka(
    settings: Settings, names: list[str], beat: Callable[[], None] = lambda: None
) -> tuple[dict[str, int], bool]:
    """How many partitions these topics have, once a broker answers, and whether none did at first.

    Logs each failed attempt, and calls `beat` before each. Raises LogError when a topic doesn't exist.
    """
    attempt = 0
    while True:
        beat()
        found = asyncio.run(partitions_of(settings, names))
        if found is not None:
            return found, attempt > 0
        from stream.log.kafka_log import KafkaLog  # a second client, slow to load, whose errors say what is wrong

        try:
            kafka = KafkaLog(settings)
            try:
                return {name: kafka.partitions(name) for name in names}, attempt > 0
            finally:
                kafka.close()
        except LogUnavailable as bad:
            wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
            log.warning("%s; attempt %d, the next one in %.1f s", bad, attempt + 1, wait_s)
            time.sleep(wait_s)
            attempt += 1


def open_log(settings: Settings) -> Log:
    """A log on kafka-python, which is imported only then. Raises LogUnavailable."""
    from stream.log.kafka_log import KafkaLog

    return KafkaLog(settings)


def open_redis_writers(settings: Settings) -> "tuple[HistoryWriter, UserWriter] | None":
    """The writers of histories and users to Redis, if one is configured. Only then are its clients imported."""
    if not settings.redis:
        log.info("no Redis is configured: histories go to the topic only")
        return None
    from stream.history.history_writer import HistoryWriter
    from stream.history.user_writer import UserWriter
    from stream.snapshots.redis_client import connect

    source = partial(open_log, settings)
    histories = HistoryWriter(connect(settings), settings.topic_prefix, source=source)
    return histories, UserWriter(
        connect(settings), source, settings.topic_prefix, metrics.DEAD_LETTERS.labels("user").inc
    )


def run_joiner(settings: Settings, rules: LabelRules, options: JoinerOptions | None = None) -> None:
    """Run the joiner until SIGINT or SIGTERM. Blocks; raises a ThalwegError when it can't go on.

    Without a broker it waits for one; after a failure it restarts from the last commit.
    """
    options = options or JoinerOptions()
    settings = with_joiner_memory(settings, memory_bytes(settings))
    for name in ("faust", "mode", "aiokafka", "kafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    writers = open_redis_writers(settings)
    histories = writers[0] if writers else None
    names = [topic.name for topic in (EVENTS, EXAMPLES, HISTORIES, *((ORGANIC,) if rules.organic else ()))]
    services: list[JoinerService] = []
    heart = Heartbeat("the event loop", HUNG_S)
    health = Health(
        settings.host,
        settings.joiner_port,
        lambda: services[-1].ready() if services else (False, "waiting for Kafka"),
        lambda: all_live([heart, *(one.loop.heart for one in services[-1:])]),
        written_to=run_file(settings, "joiner"),
    )

    def partitions() -> dict[int, AssignedPartition]:
        return next((one.assigned.partitions for one in services[-1:]), {})

    display = ProgressDisplay(partial(open_log, settings), partitions)

    async def serve(partition_counts: dict[str, int], after_outage: bool) -> None:
        # Joining the group is mostly waiting: time enough to load numba. The first record waits for the rest of it.
        warming = threading.Thread(target=warm_up, name="kernels", daemon=True)
        warming.start()

        def beat() -> None:
            heart.beat(START_S if warming.is_alive() else 0.0)

        services.append(
            JoinerService(settings, rules, options, partition_counts, histories, after_outage=after_outage, beat=beat)
        )
        await services[-1].run()

    failed = False
    try:
        while True:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            services.clear()
            partition_counts, waited = wait_for_kafka(settings, names, heart.beat)
            try:
                return asyncio.run(serve(partition_counts, waited or failed))
            except (LogGap, LogTruncated, Poisoned):
                raise
            except LogError as bad:
                log.error("the joiner failed: %s; it restarts from its last commit", bad)
                failed = True
                time.sleep(BACKOFF_S[0])
    except KeyboardInterrupt:
        log.info("stopped by a signal")
    finally:
        health.close()
        display.close()
        for writer in writers or ():
            writer.close()
