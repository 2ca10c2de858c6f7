"""The log on Apache Kafka, through kafka-python."""

import threading
from collections.abc import Mapping
from functools import partial
from typing import Final

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition, errors
from kafka.structs import OffsetAndMetadata

from stream.events.types import RECORD_BYTES_MAX
from stream.log.kafka_client import REQUEST_S, check_reachable, client_options, translate, translated, with_timeout
from stream.log.kafka_group_reader import KafkaGroupReader
from stream.log.kafka_reader import KafkaReader
from stream.log.kafka_sender import KafkaSender, stop
from stream.log.protocol import END, START, Acks, missing_topic
from stream.runtime.settings import Settings

REQUEST_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX  # a dead letter contains a whole record; topics allow the same
BATCH_BYTES: Final = 512 * 1024  # one batch a partition is in flight at a time: small batches make a slow producer
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # kafka-python has no bound: `send` waits above this
COMMIT_S: Final = 2.0  # nobody waits for a group's offsets
FLUSH_S: Final = 10.0  # how long `close` waits for what was sent
DELIVERY_S: Final = 30.0  # after this time a record that no broker has acknowledged has failed


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
        self._counts: dict[str, int] = {}  # partitions of each topic
        self._closed = False
        self._admin_lock = threading.Lock()
        self._room = threading.Condition(threading.Lock())
        self._pending_bytes = 0
        self._failure: Exception | None = None
        check_reachable(settings)
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
        """Append, soon. Waits while PENDING_BYTES_MAX are in flight; raises the failure of an earlier send."""
        assert value is not None or key is not None, "a tombstone needs a key"
        assert not self._closed, "the log is closed"
        self.partitions(topic)  # raises where the topic doesn't exist
        size = len(value or b"") + len(key or b"")
        with self._room:
            if self._failure is not None or self._pending_bytes > PENDING_BYTES_MAX:
                self._wait_for_room()
            self._pending_bytes += size
            producer = self._producer
        try:
            future = producer.send(self._settings.topic(topic), value, key, None, partition)
        except errors.KafkaError as bad:
            self._settle(size, None, None)
            raise translate(self._settings, f"sending to {topic}", bad) from bad
        future.add_callback(partial(self._settle, size, None))
        future.add_errback(partial(self._settle, size, producer))

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until everything sent is acknowledged."""
        doing = f"waiting for {self._pending_bytes} bytes to be acknowledged"
        with translated(self._settings, doing):
            if not with_timeout(timeout_s, lambda: self._producer.flush(timeout_s) or True, late=False):
                raise errors.KafkaTimeoutError(f"not done after {timeout_s:g} s")
        with self._room:
            self._raise_failure()

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has (asked once). Raises LogError when it doesn't exist."""
        if topic not in self._counts:
            name = self._settings.topic(topic)
            with translated(self._settings, f"asking about topic {topic}"), self._admin_lock:
                (found,) = self._admin.describe_topics([name])
                if found["error_code"] == errors.UnknownTopicOrPartitionError.errno:
                    raise missing_topic(name)
                if found["error_code"]:
                    raise errors.for_code(found["error_code"])(name)
            self._counts[topic] = len(found["partitions"])
        return self._counts[topic]

    def starts(self, topic: str) -> dict[int, int]:
        """Oldest offset per partition."""
        return self._offsets(topic, START)

    def ends(self, topic: str) -> dict[int, int]:
        """Offset after the newest record per partition."""
        return self._offsets(topic, END)

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Offset of the first record appended at `time_ms` or later, per partition; the end where there is none yet."""
        ends = self.ends(topic)  # asked first, so that records appended meanwhile don't count
        found = self._offsets(topic, max(time_ms, 0))
        return {p: ends[p] if at < 0 else at for p, at in found.items()}

    def reader(self, topic: str, positions: Mapping[int, int]) -> KafkaReader:
        """A reader of exactly these partitions from these offsets (or START, END: as of now)."""
        self._check(topic)
        return KafkaReader(self._settings, topic, positions)

    def group_reader(self, topic: str, group: str, member: str) -> KafkaGroupReader:
        """A reader of the partitions assigned to a member (a static name), from the group's commits, else the start."""
        self._check(topic)
        return KafkaGroupReader(self._settings, topic, group, member)

    def sender(self, acks: Acks) -> KafkaSender:
        """A producer of its own whose sends never wait."""
        return KafkaSender(self._settings, acks)

    def commit(self, topic: str, group: str, positions: Mapping[int, int]) -> None:
        """Store a group's next offset to read, per partition; the group has no members. For lag exporters."""
        name = self._settings.topic(topic)
        offsets = {TopicPartition(name, p): OffsetAndMetadata(offset, "", -1) for p, offset in positions.items()}
        commit = partial(self._admin.alter_group_offsets, self._settings.topic(group), offsets)
        with translated(self._settings, f"committing offsets of {group}"), self._admin_lock:
            found = with_timeout(COMMIT_S, commit, late={0: errors.KafkaTimeoutError})
            for error in found.values():
                if error is errors.NotCoordinatorError:  # a client remembers a group's coordinator for ever (3.0.12)
                    old, self._admin = self._admin, KafkaAdminClient(**client_options(self._settings))
                    with_timeout(COMMIT_S, old.close, late=None)
                if error is not errors.NoError:
                    raise error(f"group {group}")

    def close(self) -> None:
        """Flush and close; safe to call twice. Raises what `flush` raises, after closing."""
        if self._closed:
            return
        try:
            self.flush(FLUSH_S)
        finally:
            self._closed = True
            with_timeout(5.0, partial(stop, self._producer), late=None)
            with_timeout(2.0, self._admin.close, late=None)

    def _check(self, topic: str) -> None:
        """Fail at once where a reader would wait for a broker or a topic that doesn't exist."""
        check_reachable(self._settings)
        self.partitions(topic)

    def _offsets(self, topic: str, which: int) -> dict[int, int]:
        asked = {TopicPartition(self._settings.topic(topic), p): which for p in range(self.partitions(topic))}
        with translated(self._settings, f"asking for the offsets of {topic}"), self._admin_lock:
            found = self._admin.list_partition_offsets(asked, timeout_ms=int(REQUEST_S * 1000))
        return {tp.partition: found[tp].offset for tp in asked}

    def _wait_for_room(self) -> None:
        self._raise_failure()
        if not self._room.wait_for(lambda: self._failure or self._pending_bytes <= PENDING_BYTES_MAX, DELIVERY_S):
            raise translate(self._settings, "sending", errors.KafkaTimeoutError(f"{self._pending_bytes} bytes wait"))
        self._raise_failure()

    def _raise_failure(self) -> None:
        """Called with the lock. A producer accepts nothing after a failed record, so it is replaced first."""
        if self._failure is None:
            return
        with translated(self._settings, "reconnecting"):
            old, self._producer = self._producer, self._connect()
        threading.Thread(target=stop, args=(old,), name="kafka-old-producer", daemon=True).start()
        failure, self._failure = self._failure, None
        raise translate(self._settings, "an earlier record wasn't written", failure) from failure

    def _settle(self, size: int, failed: KafkaProducer | None, outcome: object) -> None:
        with self._room:
            self._pending_bytes -= size
            if failed is self._producer and isinstance(outcome, Exception):
                self._failure = self._failure or outcome
            self._room.notify_all()
