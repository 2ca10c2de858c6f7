"""The log on Apache Kafka, by kafka-python."""

import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.structs import MemberState, OffsetAndMetadata

from stream.events.topics import TOPICS
from stream.events.types import RECORD_BYTES_MAX
from stream.log.kafka_client import REQUEST_S, client_options, reach, translate, translated, within
from stream.log.protocol import END, START, Record, check_position, fenced, no_topic
from stream.runtime.settings import Settings

REQUEST_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX  # a dead letter holds a whole record; topics allow the same
BATCH_BYTES: Final = 512 * 1024  # one batch a partition is on its way at a time: small ones make a slow producer
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # kafka-python bounds nothing: `send` waits above this
DELIVERY_S: Final = 30.0  # after that, a record that no broker took has failed
SESSION_S: Final = 10.0
JOIN_S: Final = 0.2  # kafka-python forgets a join that is done between two polls, and starts it again: be in one
QUIET_S: Final = 10.0  # a reader that hears nothing for so long asks whether a broker is there at all
FETCH_WAIT_MS: Final = 50  # bounds how long a partition can wait for its turn while another's fetch is open
ENTITY_WAIT_MS: Final = 500  # a fetch that waits costs next to nothing, and entities change seldom
ENTITIES: Final = frozenset(topic.name for topic in TOPICS if topic.compacted)


class KafkaLog:
    """A Log on Kafka: one producer and one admin client, shared by all threads; each reader has its own consumer.

    `linger_ms`: how long a record may wait for others (0 for latency, 5 for throughput); `compression`
    None or "lz4". Topics and groups are named without the prefix of the settings. Raises LogUnavailable
    when no broker answers within a few seconds, SettingsError when none is known.

    The producer is idempotent with acks from all replicas in sync: a retry neither repeats nor reorders.
    After an error of `send` or `flush`, all that was sent since the last good flush is in doubt.
    """

    def __init__(self, settings: Settings, *, linger_ms: int = 0, compression: str | None = None) -> None:
        self._settings = settings
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._closed = False
        self._asking = threading.Lock()
        self._room = threading.Condition(threading.Lock())
        self._pending_bytes = 0
        self._failure: Exception | None = None
        reach(settings)
        options = client_options(settings)
        self._connect = partial(
            KafkaProducer,
            **options,
            acks="all",
            linger_ms=linger_ms,
            compression_type=compression,
            batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
            delivery_timeout_ms=int(DELIVERY_S * 1000),
            max_block_ms=int(REQUEST_S * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        with translated(settings, "connecting"):
            self._admin = KafkaAdminClient(**options)
            self._producer = self._connect()

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Append, soon. Waits while PENDING_BYTES_MAX are on their way; raises the failure of an earlier send."""
        assert value is not None or key is not None, "a tombstone needs a key"
        assert not self._closed, "the log is closed"
        name = self._names.get(topic) or self._learn(topic)
        size = len(value or b"") + len(key or b"")
        with self._room:
            if self._failure is not None or self._pending_bytes > PENDING_BYTES_MAX:
                self._wait_for_room()
            self._pending_bytes += size
            producer = self._producer
        try:
            future = producer.send(name, value, key, None, partition)
        except errors.KafkaError as bad:
            self._settle(size, None, None)
            raise translate(self._settings, f"sending to {topic}", bad) from bad
        future.add_callback(partial(self._settle, size, None))
        future.add_errback(partial(self._settle, size, producer))

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until everything sent is acknowledged."""
        doing = f"waiting for {self._pending_bytes} bytes to be acknowledged"
        with translated(self._settings, doing):
            if not within(timeout_s, partial(self._flush, timeout_s), late=False):
                raise errors.KafkaTimeoutError(f"not done after {timeout_s:g} s")
        with self._room:
            self._raise_failure()

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has (asked once). Raises LogError when it doesn't exist."""
        if topic not in self._counts:
            self._learn(topic)
        return self._counts[topic]

    def starts(self, topic: str) -> dict[int, int]:
        """Oldest offset per partition."""
        return self._offsets(topic, START)

    def ends(self, topic: str) -> dict[int, int]:
        """Offset behind the newest record per partition."""
        return self._offsets(topic, END)

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Offset of the first record appended at `time_ms` or later, per partition; the end where there is none yet."""
        ends = self.ends(topic)  # asked first, so that what is appended meanwhile lies behind them
        found = self._offsets(topic, max(time_ms, 0))
        return {p: ends[p] if at < 0 else at for p, at in found.items()}

    def reader(self, topic: str, positions: Mapping[int, int]) -> "KafkaReader":
        """A reader of exactly these partitions from these offsets (or START, END: as of now)."""
        return KafkaReader(self, topic, positions)

    def group_reader(self, topic: str, group: str, member: str) -> "KafkaGroupReader":
        """A reader of a share of the topic, from the group's commits (else the start). `member` is static."""
        return KafkaGroupReader(self, topic, group, member)

    def close(self) -> None:
        """Flush and leave; safe to call twice. Raises what a flush would raise, after leaving."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            within(5.0, partial(end, self._producer), late=None)
            within(2.0, self._admin.close, late=None)

    def _learn(self, topic: str) -> str:
        name = self._settings.topic(topic)
        with translated(self._settings, f"asking about topic {topic}"), self._asking:
            (found,) = self._admin.describe_topics([name])
            if found["error_code"] == errors.UnknownTopicOrPartitionError.errno:
                raise no_topic(name)
            if found["error_code"]:
                raise errors.for_code(found["error_code"])(name)
        self._counts[topic] = len(found["partitions"])
        self._names[topic] = name
        return name

    def _offsets(self, topic: str, which: int) -> dict[int, int]:
        asked = {TopicPartition(self._settings.topic(topic), p): which for p in range(self.partitions(topic))}
        with translated(self._settings, f"asking for the offsets of {topic}"), self._asking:
            found = self._admin.list_partition_offsets(asked, timeout_ms=int(REQUEST_S * 1000))
        return {tp.partition: found[tp].offset for tp in asked}

    def _flush(self, timeout_s: float) -> bool:
        self._producer.flush(timeout_s)
        return True

    def _wait_for_room(self) -> None:
        self._raise_failure()
        if not self._room.wait_for(lambda: self._failure or self._pending_bytes <= PENDING_BYTES_MAX, DELIVERY_S):
            raise translate(self._settings, "sending", errors.KafkaTimeoutError(f"{self._pending_bytes} bytes wait"))
        self._raise_failure()

    def _raise_failure(self) -> None:
        """With the lock held. A producer that had a record refused takes no more, so it is replaced first."""
        if self._failure is None:
            return
        with translated(self._settings, "connecting anew"):
            old, self._producer = self._producer, self._connect()
        threading.Thread(target=end, args=(old,), name="kafka-old-producer", daemon=True).start()
        failure, self._failure = self._failure, None
        raise translate(self._settings, "a record sent before wasn't taken", failure) from failure

    def _settle(self, size: int, failed: KafkaProducer | None, outcome: object) -> None:
        with self._room:
            self._pending_bytes -= size
            if failed is self._producer and isinstance(outcome, Exception):
                self._failure = self._failure or outcome
            self._room.notify_all()


def end(producer: KafkaProducer) -> None:
    """End a producer that was flushed, or whose records are in doubt anyway: what it still holds isn't sent any more.

    Its own `close` flushes first, and when that takes too long it raises and leaves the producer's thread at work.
    """
    producer._sender.force_close()
    with suppress(errors.KafkaTimeoutError):
        producer.close(timeout=2.0)


class KafkaReader:
    """Reads partitions of one topic from given positions. One thread only."""

    def __init__(self, log: KafkaLog, topic: str, positions: Mapping[int, int]) -> None:
        self._open(log, topic)
        with self._translated("opening a reader"):
            self._consumer.assign([self._tp(p) for p in positions])
        for p, offset in positions.items():
            self.seek(p, offset)

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """Records in offset order per partition; empty after `timeout_s`."""
        topic = self._topic
        try:
            found = self._consumer.poll(int(timeout_s * 1000), records_max)
        except (errors.KafkaError, OSError) as bad:
            self._explain(bad)
            return []
        if not found:
            self._ask_when_quiet()
            return []
        self._heard_s = time.monotonic()
        return [
            Record(topic, r.partition, r.offset, r.timestamp, r.key, r.value)
            for records in found.values()
            for r in records
        ]

    def positions(self) -> dict[int, int]:
        """The next offset to be read, per partition that is assigned now."""
        found: dict[int, int] = {}
        for tp in sorted(self._consumer.assignment()):
            try:
                offset = self._consumer.position(tp, timeout_ms=REQUEST_S * 1000)
            except errors.KafkaError as bad:
                self._explain(bad)  # or it has sought a start for partitions that the group never committed
                offset = self._consumer.position(tp, timeout_ms=REQUEST_S * 1000)
            if offset is None:
                raise translate(self._settings, "asking for positions", errors.KafkaTimeoutError(self._topic))
            found[tp.partition] = offset
        return found

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading this partition from `offset` (or START, END)."""
        tp = self._tp(partition)
        assert tp in self._consumer.assignment(), f"partition {partition} isn't read here"
        with self._translated("seeking"):
            if offset == START:
                self._consumer.seek_to_beginning(tp)  # resolved when read: the start may move until then
                return
            if offset == END:
                offset = self._consumer.end_offsets([tp], timeout_ms=REQUEST_S * 1000)[tp]
            self._consumer.seek(tp, offset)

    def close(self) -> None:
        """Leave; safe to call twice."""
        within(3.0, partial(self._consumer.close, autocommit=False, timeout_ms=2000), late=None)

    def _open(self, log: KafkaLog, topic: str, **options: Any) -> None:
        self._settings = log._settings
        self._topic = topic
        self._name = self._settings.topic(topic)
        self._heard_s = time.monotonic()
        reach(self._settings)
        log.partitions(topic)  # a topic that isn't there is said, not waited for
        with self._translated("opening a reader"):
            self._consumer: Any = KafkaConsumer(
                **client_options(self._settings),
                **options,
                enable_auto_commit=False,
                auto_offset_reset="none",  # never jump over a gap in silence: poll raises LogGap
                fetch_max_wait_ms=ENTITY_WAIT_MS if topic in ENTITIES else FETCH_WAIT_MS,
                max_partition_fetch_bytes=RECORD_BYTES_MAX,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._name, partition)

    def _translated(self, doing: str) -> AbstractContextManager[None]:
        return translated(self._settings, f"{doing} of {self._topic}")

    def _explain(self, bad: Exception) -> None:
        if isinstance(bad, errors.OffsetOutOfRangeError):
            for tp, offset in bad.args[0].items():
                with self._translated("asking for offsets"):
                    start = self._consumer.beginning_offsets([tp], timeout_ms=REQUEST_S * 1000)[tp]
                    end = self._consumer.end_offsets([tp], timeout_ms=REQUEST_S * 1000)[tp]
                check_position(self._topic, tp.partition, offset, start, end)
            return  # the log has moved on meanwhile: the offset is there now
        raise translate(self._settings, f"reading {self._topic}", bad) from bad

    def _ask_when_quiet(self) -> None:
        """kafka-python's poll is as silent about a dead broker as about an empty topic."""
        if time.monotonic() - self._heard_s < QUIET_S:
            return
        with self._translated("reading"):
            self._consumer.end_offsets([self._tp(0)], timeout_ms=2000)
        self._heard_s = time.monotonic()


class KafkaGroupReader(KafkaReader):
    """Reads a member's share of a topic. The member is static: restarted within SESSION_S, it keeps its share."""

    def __init__(self, log: KafkaLog, topic: str, group: str, member: str) -> None:
        self._member = member
        self._open(
            log,
            topic,
            group_id=log._settings.topic(group),
            group_instance_id=member,
            session_timeout_ms=int(SESSION_S * 1000),
            heartbeat_interval_ms=1000,
        )
        with self._translated("joining the group"):
            self._consumer.subscribe([self._name])
            # Else the group's leader may know no partitions yet, and the first round shares out none.
            within(REQUEST_S, partial(self._consumer.partitions_for_topic, self._name), late=None)

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """Records in offset order per partition; empty after `timeout_s` (after JOIN_S while joining the group)."""
        if self._consumer.group_metadata().state != MemberState.STABLE:
            timeout_s = max(timeout_s, JOIN_S)
        return super().poll(timeout_s, records_max)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the next offset to be read, per partition that is still this member's; waits for the broker."""
        mine = self._consumer.assignment()
        offsets = {
            tp: OffsetAndMetadata(offset, "", -1) for p, offset in positions.items() if (tp := self._tp(p)) in mine
        }
        try:
            self._consumer.commit(offsets, timeout_ms=REQUEST_S * 1000)
        except (errors.CommitFailedError, errors.RebalanceInProgressError):
            return  # the partitions have moved: whoever has them reads again from the last commit
        except errors.KafkaError as bad:
            self._explain(bad)

    def _explain(self, bad: Exception) -> None:
        if isinstance(bad, errors.NoOffsetForPartitionError):
            for tp in bad.args[0]:
                self._consumer.seek_to_beginning(tp)  # the group has never committed here
            return
        if isinstance(bad, errors.FencedInstanceIdError):
            raise fenced(self._member) from bad
        super()._explain(bad)
