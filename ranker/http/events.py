"""`POST /v1/events`: events are answered one by one, once Kafka has them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import msgspec

from ranker import metrics
from ranker.http.bodies import JSON, Headers, Receive, Send, answer_form, form_of, read_body, send_answer
from ranker.http.event_batch import EventBatch, EventsAnswer, batch_of, erasure_records, read_events
from ranker.http.event_writer import EventWriter
from ranker.http.idempotency import RecentAnswers, key_of
from ranker.http.problems import FAILED, INVALID, LOG_UNAVAILABLE, SHED, HttpProblem
from ranker.http.tokens import Caller
from stream.events.checks import check_id
from stream.events.types import Erase
from stream.runtime.errors import BadEvent, LogError, LogUnavailable, MissingTopic

CALLS_MAX: Final = 64  # that wait for Kafka at once: their bodies are in memory
ACK_S: Final = 5.0

log = logging.getLogger(__name__)

T = TypeVar("T")

_msgpack = msgspec.msgpack.Decoder(EventsAnswer)


class EventsEndpoint:
    """Takes events. `now_ms`: the wall clock.

    A thread of its own checks and sends them: neither a large list nor a slow broker stops the event loop.
    """

    def __init__(
        self, writer: EventWriter, answers: RecentAnswers, now_ms: Callable[[], int], *, ack_s: float = ACK_S
    ) -> None:
        self._writer, self._answers, self._now_ms, self._ack_s = writer, answers, now_ms, ack_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="http-events")
        self._calls = 0
        self._is_unavailable = False

    async def __call__(self, caller: Caller, headers: Headers, receive: Receive, send: Send) -> None:
        """One call. Raises HttpProblem."""
        arrived_ms = self._now_ms()
        form = form_of(headers)
        answered_as = answer_form(headers, form)
        key = key_of(headers)
        body = await read_body(headers, receive)
        work = partial(self._work, caller, body, key, arrived_ms, is_json=form == JSON)
        packed = await (self._answers.once((caller.name, key), body, work) if key else work())
        answer = _msgpack.decode(packed)
        encoded = msgspec.json.encode(answer) if answered_as == JSON else packed
        await send_answer(send, 207 if answer.rejected else 200, answered_as, encoded)

    async def erase(self, user: str) -> Erase:
        """Write the erasure of a user, as of now. Raises HttpProblem."""
        event = Erase(user, self._now_ms())

        async def written() -> None:
            check_id("user", user)
            loop = asyncio.get_running_loop()
            send = partial(self._send_erasure, event)
            await asyncio.wrap_future(await loop.run_in_executor(self._thread, send))

        await self._within_bounds(written)
        return event

    def close(self) -> None:
        """End the thread and the producer."""
        self._thread.submit(self._writer.close)
        self._thread.shutdown()

    async def _work(self, caller: Caller, body: bytes, key: str, arrived_ms: int, *, is_json: bool) -> bytes:
        """The encoded answer, once Kafka has the events."""
        written = partial(self._written, caller, body, key, arrived_ms, is_json=is_json)
        answer = await self._within_bounds(written)
        for result in answer.results:
            metrics.HTTP_EVENTS.labels(result.status).inc()
        return msgspec.msgpack.encode(answer)

    async def _within_bounds(self, written: Callable[[], Awaitable[T]]) -> T:
        """What `written` returns, once Kafka has what it writes. Raises HttpProblem."""
        if self._calls >= CALLS_MAX:
            raise HttpProblem(SHED, f"{self._calls} calls wait for Kafka", retry_after_s=1)
        self._calls += 1
        try:
            async with asyncio.timeout(self._ack_s):
                found = await written()
        except BadEvent as bad:
            raise HttpProblem(INVALID, str(bad)) from None
        except (TimeoutError, LogUnavailable) as failure:
            if not self._is_unavailable:
                self._is_unavailable = True
                log.warning("events can't be written: %s", str(failure) or f"no answer within {self._ack_s:g} s")
            raise HttpProblem(LOG_UNAVAILABLE, "Kafka hasn't acknowledged all of them", retry_after_s=1) from None
        except MissingTopic as missing:
            raise HttpProblem(FAILED, str(missing), remedy="create the topic") from None
        except LogError as failure:
            log.error("events of a call can't be written: %s", failure)
            raise HttpProblem(FAILED, "Kafka refuses the events") from None
        finally:
            self._calls -= 1
        self._is_unavailable = False
        return found

    async def _written(self, caller: Caller, body: bytes, key: str, arrived_ms: int, *, is_json: bool) -> EventsAnswer:
        send = partial(self._send, caller, body, key, arrived_ms, is_json=is_json)
        batch, acknowledged = await asyncio.get_running_loop().run_in_executor(self._thread, send)
        await asyncio.wrap_future(acknowledged)
        return batch.answer

    def _send_erasure(self, event: Erase) -> "Future[None]":
        """In the thread. Raises LogError."""
        return self._writer.write(erasure_records(event, self._writer.partitions))

    def _send(
        self, caller: Caller, body: bytes, key: str, arrived_ms: int, *, is_json: bool
    ) -> "tuple[EventBatch, Future[None]]":
        """In the thread. Raises BadEvent, LogError."""
        batch = batch_of(
            read_events(body, is_json=is_json),
            is_json=is_json,
            scopes=caller.scopes,
            arrived_ms=arrived_ms,
            key=f"{caller.name}\x00{key}" if key else "",
            partitions=self._writer.partitions,
        )
        return batch, self._writer.write(batch.records)
