"""What the joiner writes, in batches: no record has a future or a wait of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

from stream.dead_letters import Outgoing
from stream.errors import LogError


class Outbox:
    """Collects records, hands them to aiokafka's producer in batches, and knows what the broker has confirmed.

    `producer()` is the started producer, `name` gives a topic its prefix. Per partition everything keeps its order.
    When the broker refuses a batch, `failed` is told, once for each.
    """

    def __init__(
        self, producer: Callable[[], Any], name: Callable[[str], str], failed: Callable[[BaseException], None]
    ) -> None:
        self.waiting_bytes = 0
        self._refused = False
        self._producer = producer
        self._name = name
        self._failed = failed
        self._batches: dict[tuple[str, int], list[Any]] = {}
        self._unconfirmed: set[asyncio.Future[Any]] = set()
        self._handing_over = asyncio.Lock()

    def put(self, outgoing: Outgoing) -> None:
        """Take a record; it goes out with the next `flush`."""
        batches = self._batches.setdefault((outgoing.topic, outgoing.partition), [])
        if not batches or not self._append(batches[-1], outgoing):
            batches.append(self._producer().create_batch())
            if not self._append(batches[-1], outgoing):
                raise LogError(f"a record of {len(outgoing.value or b'')} bytes for {outgoing.topic} fits no batch")
        self.waiting_bytes += len(outgoing.value or b"")

    async def flush(self) -> None:
        """Hand everything over; waits while an earlier batch of the same partition hasn't gone out."""
        async with self._handing_over:
            while self._batches:
                (topic, partition), batches = next(iter(self._batches.items()))
                del self._batches[topic, partition]
                for batch in batches:
                    self.waiting_bytes = 0
                    sent = await self._producer().send_batch(batch, self._name(topic), partition=partition)
                    self._unconfirmed.add(sent)
                    sent.add_done_callback(self._on_confirmed)

    async def confirm(self) -> bool:
        """Flush, and wait until the broker has confirmed everything that was put in before; False: it refused some."""
        await self.flush()
        if self._unconfirmed:
            await asyncio.wait(set(self._unconfirmed))
        return not self._refused

    @staticmethod
    def _append(batch: Any, outgoing: Outgoing) -> bool:
        return batch.append(timestamp=None, key=outgoing.key, value=outgoing.value) is not None

    def _on_confirmed(self, sent: "asyncio.Future[Any]") -> None:
        self._unconfirmed.discard(sent)
        if not sent.cancelled() and sent.exception() is not None:
            self._refused = True
            self._failed(LogError(f"Kafka did not take a record ({sent.exception()}); what came of it is read again"))
