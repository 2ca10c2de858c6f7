"""What the joiner writes, in batches: no record has a future or a wait of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

from stream.log.dead_letters import Outgoing
from stream.runtime.errors import LogError


class _Batch:
    """A batch of aiokafka's, and the bytes of the records in it."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.size = 0

    def append(self, outgoing: Outgoing) -> bool:
        """Take a record; False: it has no room."""
        return self.builder.append(timestamp=None, key=outgoing.key, value=outgoing.value) is not None


class Outbox:
    """Collects records, hands them to aiokafka's producer in batches, and knows what the broker has confirmed.

    `producer()` is the started producer, `name` gives a topic its prefix. Per partition everything keeps its order.
    When the broker refuses a batch, `failed` is told, once for each.
    """

    def __init__(
        self, producer: Callable[[], Any], name: Callable[[str], str], failed: Callable[[BaseException], None]
    ) -> None:
        self.waiting_bytes = 0  # put, and not handed over yet
        self._flushing: asyncio.Task[None] | None = None
        self._refused = False
        self._producer = producer
        self._name = name
        self._failed = failed
        self._batches: dict[tuple[str, int], list[_Batch]] = {}
        self._unconfirmed: set[asyncio.Future[Any]] = set()
        self._handing_over = asyncio.Lock()

    def put(self, outgoing: Outgoing) -> None:
        """Take a record; it goes out with the next `flush`."""
        size = len(outgoing.value or b"")
        batches = self._batches.setdefault((outgoing.topic, outgoing.partition), [])
        if not batches or not batches[-1].append(outgoing):
            batches.append(_Batch(self._producer().create_batch()))
            if not batches[-1].append(outgoing):
                raise LogError(f"a record of {size} bytes for {outgoing.topic} fits no batch")
        batches[-1].size += size
        self.waiting_bytes += size

    def start_flush(self) -> None:
        """Hand over what there is while others of the event loop go on."""
        if self._batches and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.create_task(self.flush())
            self._flushing.add_done_callback(self._on_flushed)

    async def flush(self) -> None:
        """Hand everything over; waits while an earlier batch of the same partition hasn't gone out."""
        async with self._handing_over:
            while self._batches:
                (topic, partition), batches = next(iter(self._batches.items()))
                del self._batches[topic, partition]
                for batch in batches:
                    sent = await self._producer().send_batch(batch.builder, self._name(topic), partition=partition)
                    self.waiting_bytes -= batch.size
                    self._unconfirmed.add(sent)
                    sent.add_done_callback(self._on_confirmed)

    async def confirm(self) -> bool:
        """Flush, and wait until the broker has confirmed everything that was put in before; False: it refused some."""
        await self.flush()
        if self._unconfirmed:
            await asyncio.wait(set(self._unconfirmed))
        return not self._refused

    def _on_flushed(self, flushing: "asyncio.Task[None]") -> None:
        if not flushing.cancelled() and (bad := flushing.exception()) is not None:
            self._refused = True
            self._failed(bad)

    def _on_confirmed(self, sent: "asyncio.Future[Any]") -> None:
        self._unconfirmed.discard(sent)
        if not sent.cancelled() and sent.exception() is not None:
            self._refused = True
            self._failed(LogError(f"Kafka did not take a record ({sent.exception()}); what came of it is read again"))
