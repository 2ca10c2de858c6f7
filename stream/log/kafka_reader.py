"""A reader of given partitions of the log on Kafka."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition, errors

from stream.events.topics import TOPICS
from stream.events.types import RECORD_BYTES_MAX
from stream.log.kafka_client import REQUEST_S, client_options, translate, translated, with_timeout
from stream.log.protocol import END, START, Record, check_position
from stream.runtime.settings import Settings

QUIET_S: Final = 10.0  # a reader that receives nothing for this long checks that a broker answers at all
FETCH_WAIT_MS: Final = 50  # bounds how long a partition can wait while another's fetch is open
ENTITY_WAIT_MS: Final = 500  # a fetch that waits costs next to nothing, and entities change seldom
ENTITIES: Final = frozenset(topic.name for topic in TOPICS if topic.compacted)


class KafkaReader:
    """Reads partitions of one topic from given positions. One thread only."""

    def __init__(self, settings: Settings, topic: str, positions: Mapping[int, int]) -> None:
        self._open(settings, topic)
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
            self._check_when_quiet()
            return []
        self._received_s = time.monotonic()
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
                self._explain(bad)  # or it has sought the start of partitions that the group never committed
                offset = self._consumer.position(tp, timeout_ms=REQUEST_S * 1000)
            if offset is None:
                raise translate(self._settings, "asking for positions", errors.KafkaTimeoutError(self._topic))
            found[tp.partition] = offset
        return found

    def ends(self) -> dict[int, int]:
        """Offset after the newest record as of the last poll, per partition of which it is known."""
        ends = {tp.partition: self._consumer.highwater(tp) for tp in self._consumer.assignment()}
        return {p: end for p, end in ends.items() if end is not None}

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading this partition from `offset` (or START, END)."""
        tp = self._tp(partition)
        assert tp in self._consumer.assignment(), f"partition {partition} isn't assigned to this reader"
        with self._translated("seeking"):
            if offset == START:
                self._consumer.seek_to_beginning(tp)  # resolved by the next poll: the start may move until then
                return
            if offset == END:
                offset = self._consumer.end_offsets([tp], timeout_ms=REQUEST_S * 1000)[tp]
            self._consumer.seek(tp, offset)

    def close(self) -> None:
        """Leave; safe to call twice."""
        with_timeout(3.0, partial(self._consumer.close, autocommit=False, timeout_ms=2000), late=None)

    def _open(self, settings: Settings, topic: str, **options: Any) -> None:
        self._settings, self._topic, self._name = settings, topic, settings.topic(topic)
        self._received_s = time.monotonic()
        with self._translated("opening a reader"):
            self._consumer: Any = KafkaConsumer(
                **client_options(settings),
                **options,
                enable_auto_commit=False,
                auto_offset_reset="none",  # never skip a gap silently: poll raises LogGap
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
            return  # the log has grown meanwhile: the offset exists now
        raise translate(self._settings, f"reading {self._topic}", bad) from bad

    def _check_when_quiet(self) -> None:
        """Raise LogUnavailable if no broker answers: kafka-python's poll returns nothing for a dead one, too."""
        if time.monotonic() - self._received_s < QUIET_S:
            return
        with self._translated("reading"):
            self._consumer.end_offsets([self._tp(0)], timeout_ms=2000)
        self._received_s = time.monotonic()
