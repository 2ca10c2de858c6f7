"""The joiner's output in producer batches: no record has a future of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

from stream.log.dead_letters import Outgoing
from stream.runtime.errors import LogError


class _Batch:
    """An aiokafka batch, and the size of its values in bytes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.size = 0

    def append(self, outgoing: Outgoing) -> bool:
        """Add a record; False: the batch is full."""
        return self.builder.append(timestamp=None, key=outgoing.key, value=outgoing.value) is not None


class Outbox:
    """Collects records, hands them to aiokafka's producer in batches, and tracks what the broker has confirmed.

    `producer()` is the started producer, `name` adds a topic's prefix. Each partition's records keep their order.
    `failed` is called for each batch that the broker rejects.
    """

    def __init__(
        self, producer: Callable[[], Any], name: Callable[[str], str], failed: Callable[[BaseException], None]
    ) -> None:
        self.buffered_bytes = 0  # not handed over yet
        self._flushing: asyncio.Task[None] | None = None
        self._rejected = False
        self._producer = producer
        self._name = name
        self._failed = failed
        self._batches: dict[tuple[str, int], list[_Batch]] = {}
        self._unconfirmed: set[asyncio.Future[Any]] = set()
        self._flush_lock = asyncio.Lock()

    def put(self, outgoing: Outgoing) -> None:
        """Add a record; the next `flush` hands it over. Raises LogError when it is too large."""
        size = len(outgoing.value or b"")
        batches = self._batches.setdefault((outgoing.topic, outgoing.partition), [])
        if not batches or not batches[-1].append(outgoing):
            batches.append(_Batch(self._producer().create_batch()))
            if not batches[-1].append(outgoing):
                raise LogError(f"a record of {size} bytes for {outgoing.topic} fits no batch")
        batches[-1].size += size
        self.buffered_bytes += size

    def start_flush(self) -> None:
        """Flush in a task of its own, unless one is running."""
        if self._batches and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.create_task(self.flush())
            self._flushing.add_done_callback(self._on_flushed)

    async def flush(self) -> None:
        """Hand over all records; waits while an earlier batch of the same partition is in flight."""
        async with self._flush_lock:
            while self._batches:
                (topic, partition), batches = next(iter(self._batches.items()))
                del self._batches[topic, partition]
                for batch in batches:
                    sent = await self._producer().send_batch(batch.builder, self._name(topic), partition=partition)
                    self.buffered_bytes -= batch.size
                    self._unconfirmed.add(sent)
                    sent.add_done_callback(self._on_confirmed)

    async def confirm(self) -> bool:
        """Flush, and wait until the broker has confirmed all records put before; False: it rejected some."""
        await self.flush()
        if self._unconfirmed:
            await asyncio.wait(set(self._unconfirmed))
        return not self._rejected

    def _on_flushed(self, flushing: "asyncio.Task[None]") -> None:
        if not flushing.cancelled() and (bad := flushing.exception()) is not None:
            self._rejected = True
            self._failed(bad)

    def _on_confirmed(self, sent: "asyncio.Future[Any]") -> None:
        self._unconfirmed.discard(sent)
        if not sent.cancelled() and sent.exception() is not None:
            self._rejected = True
            bad = LogError(f"Kafka rejected a batch ({sent.exception()}); its input is read again")
            bad.__cause__ = sent.exception()
            self._failed(bad)
