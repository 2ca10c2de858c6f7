"""The joiner's aiokafka clients: their options, and requests to the broker. Only their public interface is used.

aiokafka's errors are translated here and in `faust_service.py`.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, for_code

from stream.events.topics import EVENTS
from stream.joiner.assigned_partitions import StoredCommit
from stream.joiner.commit_metadata import decode_commit
from stream.joiner.resume_point import LogRange
from stream.log.kafka_login import denial, login_options
from stream.log.oauth_token import token_source
from stream.log.protocol import Record
from stream.runtime.errors import LogUnavailable, SettingsError
from stream.runtime.settings import Settings

# A partition that isn't part of the fetch in flight waits until that one returns.
FETCH_WAIT_MS: Final = 10
PARTITION_FETCH_BYTES: Final = 1024 * 1024  # aiokafka buffers one response a partition; a larger record comes alone
FETCH_BYTES: Final = 16 * 1024 * 1024
WRITE_BYTES_MAX: Final = 2 * 1024 * 1024
BATCH_BYTES: Final = 512 * 1024  # one batch a partition is in flight at a time: it must not be small
PRODUCE_MS: Final = 1_200_000  # the producer retries for this long
REQUEST_MS: Final = 20_000  # longer than a rebalance
ADMIN_MS: Final = 5_000

log = logging.getLogger(__name__)


def connection_options(settings: Settings) -> dict[str, Any]:
    """Options of all clients: addresses, TLS, login. Raises SettingsError, LogUnavailable, LogError."""
    tokens = {"sasl_oauth_token_provider": _Tokens(settings)} if settings.uses_oauth else {}
    return {"bootstrap_servers": settings.brokers(), **login_options(settings), **tokens}


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped
    def __init__(self, settings: Settings) -> None:
        self._source = token_source(settings)

    async def token(self) -> str:
        return await asyncio.to_thread(self._source.token)


def make_consumer(settings: Settings) -> Any:
    """A consumer of the joiner's group; not started, no topic yet.

    Membership is static: a restart within the session keeps its partitions. aiokafka has no cooperative rebalancing;
    with the sticky assignor and parked states a rebalance costs little. Uncommitted records of a transaction aren't
    read: none can appear behind a read position later.
    """
    group = settings.topic("joiner")
    return AIOKafkaConsumer(
        **connection_options(settings),
        group_id=group,
        group_instance_id=f"{group}-{settings.worker}",
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
        rebalance_timeout_ms=15_000,  # a member that can't rejoin blocks the others no longer
        request_timeout_ms=REQUEST_MS,
        partition_assignment_strategy=(StickyPartitionAssignor,),
        enable_auto_commit=False,
        auto_offset_reset="none",  # a missing position is an error, never a jump
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
    )


def make_fetcher_consumer(settings: Settings, fetch_bytes: int) -> Any:
    """A groupless consumer that reads single records again, with this fetch size; not started."""
    return AIOKafkaConsumer(
        **connection_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_MS,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=fetch_bytes,
    )


def make_producer(settings: Settings) -> Any:
    """A producer; not started. It sends a batch at once, and counts it as written when all replicas have it."""
    return AIOKafkaProducer(
        **connection_options(settings),
        acks="all",
        linger_ms=0,
        max_request_size=WRITE_BYTES_MAX,
        max_batch_size=BATCH_BYTES,
        request_timeout_ms=PRODUCE_MS,
    )


def make_admin(settings: Settings) -> Any:
    """An admin client; not started."""
    return AIOKafkaAdminClient(**connection_options(settings), request_timeout_ms=ADMIN_MS)


async def partitions_of(settings: Settings, topics: Iterable[str]) -> dict[str, int] | None:
    """How many partitions these topics have; None: one of them, or the broker, is unavailable."""
    try:
        admin = make_admin(settings)
    except LogUnavailable as bad:  # no token for the login
        log.debug("asking for partitions: %s", bad)
        return None
    try:
        await admin.start()
        described = await admin.describe_topics()  # of all topics: to name one might create it
    except (KafkaError, OSError, ValueError) as bad:
        log.debug("asking for partitions: %s", bad)
        return None
    finally:
        await admin.close()
    counts = {topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}
    found = {topic: counts.get(settings.topic(topic), 0) for topic in topics}
    return found if all(found.values()) else None


async def group_commits(admin: Any, settings: Settings, partitions: Iterable[int]) -> dict[int, StoredCommit]:
    """The group's commits of `events`, of those partitions that have one. Raises KafkaError."""
    wanted = [TopicPartition(settings.topic(EVENTS.name), partition) for partition in partitions]
    found = await admin.list_consumer_group_offsets(settings.topic("joiner"), partitions=wanted) if wanted else {}
    return {at.partition: (stored.offset, stored.metadata or "") for at, stored in found.items() if stored.offset >= 0}


async def log_ranges(consumer: Any, ats: list[Any]) -> dict[int, LogRange]:
    """First and end offsets of these partitions. Raises KafkaError."""
    starts, ends = await consumer.beginning_offsets(ats), await consumer.end_offsets(ats)
    return {at.partition: LogRange(starts[at], ends[at]) for at in ats}


async def with_new_from(
    consumer: Any, ranges: dict[int, LogRange], ats: list[Any], commits: dict[int, StoredCommit]
) -> dict[int, LogRange]:
    """The ranges with `new_from`: records appended after the commit's author read its last one, whatever their offsets.

    Raises KafkaError.
    """
    found = dict(ranges)
    for at in ats:
        if (stored := commits.get(at.partition)) is not None:
            time_ms = decode_commit(*stored).progress.read_ms + 1
            new = (await consumer.offsets_for_times({at: time_ms}))[at]
            log_range = ranges[at.partition]
            found[at.partition] = log_range._replace(new_from=log_range.end if new is None else new.offset)
    return found


async def check_timestamps(admin: Any, settings: Settings) -> None:
    """Raises SettingsError when producers stamp the records of `events`, KafkaError when no broker answers, LogError.

    A record's timestamp bounds how far an event may advance the watermark: it must be the broker's.
    """
    name = settings.topic(EVENTS.name)
    (described,) = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, {"message.timestamp.type": None})]
    )
    for error_code, _, _, _, entries in described.resources:
        if (denied := denial(settings, "describing configs", for_code(error_code)(name))) is not None:
            raise denied
        kinds = [entry[1] for entry in entries if entry[0] == "message.timestamp.type"]
        if not error_code and kinds and kinds[0] != "LogAppendTime":
            raise SettingsError(
                f"{name} has message.timestamp.type={kinds[0]}: a producer's wrong clock would make others' events "
                "late. `thalweg apply-topics` sets it to LogAppendTime; then start again"
            )


async def with_append_times(admin: Any, settings: Settings, records: list[Record]) -> list[Record]:
    """Records with producers' timestamps, capped at now; valid only if the topic was corrected since.

    Raises SettingsError, KafkaError.
    """
    await check_timestamps(admin, settings)
    now_ms = time.time_ns() // 1_000_000
    return [record._replace(time_ms=min(record.time_ms, now_ms)) for record in records]


def check_denied(settings: Settings, doing: str, bad: BaseException) -> None:
    """Raises LogError where a broker denied something."""
    if (denied := denial(settings, doing, bad)) is not None:
        raise denied from bad


def failure_of(settings: Settings, doing: str, bad: BaseException) -> BaseException:
    """Our error for one of aiokafka's, which may be the cause of ours; any other as it is."""
    if (denied := denial(settings, doing, bad.__cause__ or bad)) is not None:
        return denied
    if not isinstance(bad, KafkaError | OSError):
        return bad
    return LogUnavailable(f"Kafka at {settings.kafka} doesn't answer ({doing}: {bad!r})")
