"""aiokafka's clients as the joiner needs them: one consumer, one producer, and what is asked of the broker beside.

Only their public interface is used. aiokafka's errors are translated here and in `faust_service.py`.
"""

import logging
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from stream.events.topics import EVENTS
from stream.joiner.assigned_partitions import LogRange
from stream.log.kafka_login import login_options
from stream.runtime.errors import LogUnavailable, SettingsError
from stream.runtime.settings import Settings

# A partition that isn't part of the fetch on its way waits until that one returns.
FETCH_WAIT_MS: Final = 10
PARTITION_FETCH_BYTES: Final = 1024 * 1024  # aiokafka buffers one response a partition; a larger record comes alone
FETCH_BYTES: Final = 16 * 1024 * 1024
WRITE_BYTES_MAX: Final = 2 * 1024 * 1024
BATCH_BYTES: Final = 512 * 1024  # one batch a partition is on its way at a time: it must not be small
BROKER_AWAY_MS: Final = 1_200_000  # so long the producer tries to write
REQUEST_MS: Final = 20_000  # longer than a rebalance
ASK_MS: Final = 5_000

log = logging.getLogger(__name__)


def connection(settings: Settings) -> dict[str, Any]:
    """What all clients have in common: addresses, TLS, login. Raises SettingsError."""
    return {"bootstrap_servers": settings.brokers(), **login_options(settings)}


def reading(settings: Settings) -> dict[str, Any]:
    """The consumer's settings beside the connection.

    Membership is static: a restart within the session keeps its partitions. aiokafka has no cooperative rebalancing;
    with the sticky assignor and states that are kept over a rebalance it costs little. What isn't committed of a
    transaction isn't read: it can't come later in its place.
    """
    group = settings.topic("joiner")
    return {
        "group_id": group,
        "group_instance_id": f"{group}-{settings.worker}",
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 2_000,
        "rebalance_timeout_ms": 15_000,  # a member that can't rejoin holds the others up no longer
        "request_timeout_ms": REQUEST_MS,
        "partition_assignment_strategy": (StickyPartitionAssignor,),
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # a position that isn't there is an error, never a jump
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "fetch_max_bytes": FETCH_BYTES,
        "max_partition_fetch_bytes": PARTITION_FETCH_BYTES,
    }


def writing() -> dict[str, Any]:
    """The producer's settings beside the connection: a batch goes out at once, and counts when all replicas have it."""
    return {
        "acks": "all",
        "linger_ms": 0,
        "max_request_size": WRITE_BYTES_MAX,
        "max_batch_size": BATCH_BYTES,
        "request_timeout_ms": BROKER_AWAY_MS,
    }


def make_consumer(settings: Settings) -> Any:
    """A consumer of the joiner's group; not started, no topic yet."""
    return AIOKafkaConsumer(**connection(settings), **reading(settings))


def make_body_consumer(settings: Settings, fetch_bytes: int) -> Any:
    """A consumer of no group that reads single records again, fetching about so much at a time; not started."""
    return AIOKafkaConsumer(
        **connection(settings),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_MS,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=fetch_bytes,
    )


def make_producer(settings: Settings) -> Any:
    """A producer; not started."""
    return AIOKafkaProducer(**connection(settings), **writing())


def make_admin(settings: Settings) -> Any:
    """An admin client; not started."""
    return AIOKafkaAdminClient(**connection(settings), request_timeout_ms=ASK_MS)


async def partitions_of(settings: Settings, topics: Iterable[str]) -> dict[str, int] | None:
    """How many partitions these topics have; None: some of them, or the broker, can't be seen from here."""
    admin = make_admin(settings)
    try:
        await admin.start()
        described = await admin.describe_topics()  # of all topics there are: one that is named might be created
    except (KafkaError, OSError, ValueError) as bad:
        log.debug("asking for partitions: %s", bad)
        return None
    finally:
        await admin.close()
    counts = {topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}
    found = {topic: counts.get(settings.topic(topic), 0) for topic in topics}
    return found if all(found.values()) else None


async def group_commits(admin: Any, settings: Settings, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
    """The group's commits of `events`: offset and metadata, of those partitions that have one. Raises KafkaError."""
    wanted = [TopicPartition(settings.topic(EVENTS.name), partition) for partition in partitions]
    found = await admin.list_consumer_group_offsets(settings.topic("joiner"), partitions=wanted) if wanted else {}
    return {at.partition: (stored.offset, stored.metadata or "") for at, stored in found.items() if stored.offset >= 0}


async def log_ranges(consumer: Any, ats: list[Any]) -> dict[int, LogRange]:
    """Where the logs of these partitions start and end. Raises KafkaError."""
    starts, ends = await consumer.beginning_offsets(ats), await consumer.end_offsets(ats)
    return {at.partition: LogRange(starts[at], ends[at]) for at in ats}


async def check_timestamps(admin: Any, settings: Settings) -> None:
    """Raises SettingsError when producers stamp the records of `events`, KafkaError when nobody says.

    A record's own time bounds how far an event may move the watermark: it must be the broker's.
    """
    name = settings.topic(EVENTS.name)
    (told,) = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, {"message.timestamp.type": None})]
    )
    for error_code, _, _, _, entries in told.resources:
        kinds = [entry[1] for entry in entries if entry[0] == "message.timestamp.type"]
        if not error_code and kinds and kinds[0] != "LogAppendTime":
            raise SettingsError(
                f"{name} has message.timestamp.type={kinds[0]}: a producer's wrong clock would make others' events "
                "late. `thalweg apply-topics` sets it to LogAppendTime; then start again"
            )


def unavailable(settings: Settings, doing: str, bad: BaseException) -> LogUnavailable:
    """The error of ours for a broker that doesn't answer."""
    return LogUnavailable(f"Kafka at {settings.kafka} doesn't answer ({doing}: {bad!r})")
