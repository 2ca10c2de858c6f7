"""`POST /v1/rank`: one request, one answer, in the event loop's own thread.

Admitted requests wait in a queue, and the loop ranks one of them per iteration: between two it accepts what has
arrived, so that ages are right and what can't be answered in time is shed at once. Ranking in the loop's thread saves
two handovers of the interpreter a request (decision 0035).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from ranker.http.bodies import JSON, Headers, Receive, Send, answer_form, form_of, read_body, send_answer
from ranker.http.problems import (
    EXPIRED,
    FAILED,
    INVALID,
    NOT_READY,
    SHED,
    UNKNOWN_MODEL,
    HttpProblem,
)
from ranker.http.tokens import Caller
from ranker.serving import answering
from ranker.serving.admission import AdmissionQueue
from ranker.serving.answering import Answerer
from ranker.serving.profile_reader import ProfileRead
from stream.events import types
from stream.events.named_replies import answer_of
from stream.events.named_requests import decode_named
from stream.events.types import RankReply, RankRequest
from stream.runtime.errors import BadEvent

PROBLEMS: Final = {
    types.INVALID: INVALID,
    types.EXPIRED: EXPIRED,
    types.SHED: SHED,
    types.UNKNOWN_MODEL: UNKNOWN_MODEL,
    types.FAILED: FAILED,
}


_json, _msgpack = msgspec.json.Encoder(), msgspec.msgpack.Encoder()

_Waiting = tuple[RankRequest, int, ProfileRead, float, "asyncio.Future[RankReply]"]


class RankingQueue:
    """Requests that were admitted, in order of arrival. For one event loop's thread.

    `clock_ms` is monotonic: the mean cost of a request is measured by it.
    """

    def __init__(self, answerer: Answerer, admission: AdmissionQueue, clock_ms: Callable[[], float]) -> None:
        self._answerer, self._admission, self._clock_ms = answerer, admission, clock_ms
        self._waiting: deque[_Waiting] = deque()
        self._answered_ms = 0.0  # when the last answer was ready

    def ask(self, request: RankRequest, arrived_ms: int, profiles: ProfileRead) -> "asyncio.Future[RankReply]":
        """The reply to an admitted request, once it's its turn."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[RankReply] = loop.create_future()
        self._waiting.append((request, arrived_ms, profiles, self._clock_ms(), reply))
        if len(self._waiting) == 1:
            loop.call_soon(self._answer_next, loop)
        return reply

    def _answer_next(self, loop: asyncio.AbstractEventLoop) -> None:
        request, arrived_ms, profiles, asked_ms, waiting = self._waiting.popleft()
        if self._waiting:
            loop.call_soon(self._answer_next, loop)
        cost_ms = None
        try:
            reply = self._answerer.answer_with(request, arrived_ms, profiles)
            # A request also waits for what the loop does between two answers: reading, and shedding others.
            started_ms, self._answered_ms = max(self._answered_ms, asked_ms), self._clock_ms()
            cost_ms = None if reply.error else self._answered_ms - started_ms
        except Exception as error:  # noqa: BLE001  # whoever asked raises it
            waiting.set_exception(error)
        else:
            waiting.set_result(reply)
        finally:
            self._admission.done(cost_ms)


class RankEndpoint:
    """Answers requests. `now_ms`: the wall clock; `new_id` makes the id of a request that brings none."""

    def __init__(
        self,
        answerer: Answerer,
        admission: AdmissionQueue,
        *,
        ready: Callable[[], tuple[bool, str]],
        now_ms: Callable[[], int],
        clock_ms: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._answerer, self._admission, self._ready = answerer, admission, ready
        self._now_ms, self._new_id = now_ms, new_id
        self._queue = RankingQueue(answerer, admission, clock_ms)

    async def __call__(self, caller: Caller, headers: Headers, receive: Receive, send: Send) -> None:
        """One request. Raises HttpProblem."""
        arrived_ms = self._now_ms()
        is_ready, state = self._ready()
        if not is_ready:
            raise HttpProblem(NOT_READY, state, retry_after_s=1)
        if (problem := self.overload()) is not None:
            raise problem
        form = form_of(headers)
        answered_as = answer_form(headers, form)
        request = self._decode(await read_body(headers, receive), is_json=form == JSON)
        reply = await self._reply(request, arrived_ms)
        if reply.error:
            raise self._problem(reply)
        body = (_json if answered_as == JSON else _msgpack).encode(answer_of(reply))
        await send_answer(send, 200, answered_as, body)

    def overload(self) -> HttpProblem | None:
        """The problem of a request that is shed whatever it asks for, which needn't be read; None: read it."""
        if not self._admission.is_full:
            return None
        return self._problem(self._shed(RankRequest("", ""), self._now_ms()))

    def _decode(self, body: bytes, *, is_json: bool) -> RankRequest:
        try:
            named = decode_named(body, is_json=is_json)
            if named.reply_to is not None:
                raise BadEvent("reply_to is for requests over Kafka; over HTTP the answer is the reply")
            if not named.request_id:
                named = msgspec.structs.replace(named, request_id=self._new_id())
            return named.positional()
        except BadEvent as bad:
            raise HttpProblem(INVALID, str(bad)) from None

    async def _reply(self, request: RankRequest, arrived_ms: int) -> RankReply:
        left_ms = self._answerer.left_ms(request, arrived_ms)
        if left_ms > 0 and not self._admission.admit(left_ms):
            return self._shed(request, arrived_ms)
        profiles = self._answerer.begin_profiles([request] if left_ms > 0 else [])
        if left_ms <= 0:
            return self._answerer.answer_with(request, arrived_ms, profiles)  # expired: it costs nothing
        try:
            await profiles.arrived()  # other requests go on meanwhile
        except BaseException:
            self._admission.done()
            raise
        return await self._queue.ask(request, arrived_ms, profiles)

    def _shed(self, request: RankRequest, arrived_ms: int) -> RankReply:
        reply = answering.shed(request, self._admission.queue_ms)
        self._answerer.observe(reply, arrived_ms)
        return reply

    def _problem(self, reply: RankReply) -> HttpProblem:
        retry_s = max(1, round(self._admission.queue_ms / 1000)) if reply.kind == types.SHED else None
        return HttpProblem(
            PROBLEMS.get(reply.kind, FAILED), reply.error, request_id=reply.request_id, retry_after_s=retry_s
        )
