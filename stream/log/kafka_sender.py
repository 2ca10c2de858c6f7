"""Sends records to Kafka without waiting, and reports each record's outcome: for replies, and events over HTTP."""

import threading
from contextlib import suppress
from functools import partial
from typing import Final

from kafka import KafkaProducer, errors

from stream.events.types import RECORD_BYTES_MAX
from stream.log.kafka_client import REQUEST_S, client_options, translate, translated, with_timeout
from stream.log.protocol import Acks, Settled
from stream.runtime.errors import LogUnavailable
from stream.runtime.settings import Settings

PENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # kafka-python has no bound
BATCH_BYTES: Final = 512 * 1024
METADATA_S: Final = 2.0  # the first `send` to a topic waits for its partitions; later ones don't, though it be deleted


class KafkaSender:
    """A Sender on Kafka: a producer without linger and without idempotence, so a retry may repeat a record.

    An idempotent producer keeps a partition's next batch back until the last one is acknowledged.
    """

    def __init__(self, settings: Settings, acks: Acks) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pending_bytes = 0
        self._closed = False
        self._asked: set[str] = set()  # topics whose partitions were waited for
        with translated(settings, "connecting"):
            self._producer = KafkaProducer(
                **client_options(settings),
                acks="all" if acks == "all" else 1,
                enable_idempotence=False,
                linger_ms=0,
                batch_size=BATCH_BYTES,
                max_request_size=2 * RECORD_BYTES_MAX,  # a dead letter contains a whole record
                delivery_timeout_ms=int(REQUEST_S * 1000),
                max_block_ms=int(METADATA_S * 1000),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )

    def send(self, topic: str, partition: int, value: bytes | None, settled: Settled, key: bytes | None = None) -> None:
        """Append, soon. `settled` may be called by this thread or another, once."""
        doing = f"sending to {topic}"
        if self._pending_bytes > PENDING_BYTES_MAX:
            settled(LogUnavailable(f"{self._pending_bytes} bytes wait for the broker ({doing}): is it up?"))
            return
        name = self._settings.topic(topic)
        if not self._may_send(name):
            settled(LogUnavailable(f"no broker knows the topic {name} ({doing}): was it deleted?"))
            return
        size = len(value or b"")
        self._add(size)
        try:
            future = self._producer.send(name, value, key, partition=partition)
        except errors.KafkaError as bad:
            self._add(-size)
            settled(translate(self._settings, doing, bad))
            return
        future.add_callback(partial(self._settle, size, settled, doing))
        future.add_errback(partial(self._settle, size, settled, doing))

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything sent is settled; False: some isn't after `timeout_s`."""
        with suppress(errors.KafkaError):
            with_timeout(timeout_s, lambda: self._producer.flush(timeout_s), late=None)
        return self._pending_bytes == 0

    def close(self) -> None:
        """Close without waiting for what is pending; safe to call twice."""
        if not self._closed:
            self._closed = True
            with_timeout(2.0, partial(stop, self._producer), late=None)

    def _may_send(self, name: str) -> bool:
        """Whether the producer knows the topic, or hasn't waited for it yet. It would wait again at each record."""
        known = self._producer._metadata.partitions_for_topic(name) is not None
        if known or name not in self._asked:
            self._asked.add(name)
            return True
        self._producer._sender.add_topic(name)
        self._producer._metadata.request_update()
        self._producer._sender.wakeup()
        return False

    def _settle(self, size: int, settled: Settled, doing: str, outcome: object) -> None:
        self._add(-size)
        settled(translate(self._settings, doing, outcome) if isinstance(outcome, Exception) else None)

    def _add(self, size: int) -> None:
        with self._lock:
            self._pending_bytes += size


def stop(producer: KafkaProducer) -> None:
    """Stop a producer that was flushed, or whose records are in doubt anyway: its pending records are dropped.

    Its own `close` flushes first, and where that takes too long it raises and leaves the producer's thread running.
    """
    producer._sender.force_close()
    with suppress(errors.KafkaTimeoutError):
        producer.close(timeout=2.0)
