"""The clients: synchronous and asynchronous, over httpx."""

import asyncio
import random
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec

from stream.events import half_surrogates
from stream.events.named_events import SentEvent, Timed
from stream.events.named_requests import NamedRequest
from stream.runtime.clock import now_ms
from thalweg.client.answers import Ranked, Sent
from thalweg.client.calls import Call, CallPlanner, NoResponse, Outcome, Pause, Response, Steps, Try, headers_of
from thalweg.client.errors import Failed, InvalidRequest
from thalweg.client.options import ClientOptions, RankOptions, SendOptions
from thalweg.client.retries import Addresses, RetryBudget

DEADLINE_MS: Final = 1_000
SEND_TIMEOUT_S: Final = 10.0
CONNECT_S: Final = 0.25
TRY_RANK_S: Final = 0.5
TRY_SEND_S: Final = 6.0  # a ranker waits for Kafka for 5 s
LIMITS: Final = httpx.Limits(max_keepalive_connections=100, keepalive_expiry=60.0)  # rankers close idle ones after 75 s

_Answer = TypeVar("_Answer", Ranked, Sent)


class _HttpOptions(TypedDict):
    headers: Mapping[str, str]
    trust_env: bool
    limits: httpx.Limits


class _Calls:
    """What both clients share: they differ in how they wait."""

    def __init__(self, addresses: str | Sequence[str], **options: Unpack[ClientOptions]) -> None:
        urls = [url_of(one) for one in ([addresses] if isinstance(addresses, str) else addresses)]
        if not urls:
            raise ValueError("a client needs the address of a ranker")
        self._model = options.get("model", "")
        self._deadline_ms = options.get("deadline_ms", DEADLINE_MS)
        self._send_timeout_s = options.get("send_timeout_s", SEND_TIMEOUT_S)
        self._connect_s = options.get("connect_s", CONNECT_S)
        now_s = options.get("now_s", time.monotonic)
        uniform = options.get("uniform", random.uniform)
        self._caller = CallPlanner(Addresses(urls, now_s), RetryBudget(), now_s, uniform)

    def _rank_steps(self, user: str, options: RankOptions) -> Steps:
        fields = {"request_id": uuid4().hex, "model": self._model, **options, "user": user}
        try:
            named = msgspec.convert(fields, NamedRequest)
        except msgspec.ValidationError as bad:
            raise _invalid(str(bad)) from None

        def body(left_ms: int) -> bytes:
            return _encode(msgspec.structs.replace(named, deadline_ms=left_ms))

        within_s = (named.deadline_ms or self._deadline_ms) / 1000
        return self._caller.steps(Call("/v1/rank", body, within_s, TRY_RANK_S))

    def _send_steps(self, events: Sequence[SentEvent], options: SendOptions) -> Steps:
        time_ms = now_ms()
        body = _encode([_timed(event, time_ms) for event in events])
        within_s = options.get("timeout_s") or self._send_timeout_s
        headers = {"idempotency-key": options.get("key") or uuid4().hex}
        return self._caller.steps(Call("/v1/events", lambda left_ms: body, within_s, TRY_SEND_S, headers))

    def _timeout(self, wait_s: float) -> httpx.Timeout:
        return httpx.Timeout(wait_s, connect=min(wait_s, self._connect_s))


class Client(_Calls):
    """Asks rankers over HTTP; several threads may share one. Close it at the end, or use it in `with`.

    `addresses`: one or several, such as "10.0.0.1:8080" or "https://rank.example.com"; they take turns, and the next
    one takes over from one that fails. Both calls try again where it's safe, with the same ids, and raise a ClientError
    (errors.py). Raises ValueError when an address or the token can't be one.
    """

    def __init__(self, addresses: str | Sequence[str], **options: Unpack[ClientOptions]) -> None:
        super().__init__(addresses, **options)
        self._http = httpx.Client(**_http_options(options))

    def rank(self, user: str, **options: Unpack[RankOptions]) -> Ranked:
        """A ranked list for a user."""
        return _decode(self._run(self._rank_steps(user, options)), Ranked)

    def send(self, events: Sequence[SentEvent], **options: Unpack[SendOptions]) -> Sent:
        """Write events, 1 to 1,000 in 256 KiB; each has its own result. An event without a time is of now."""
        return _decode(self._run(self._send_steps(events, options)), Sent)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self, steps: Steps) -> bytes:
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return bytes(end.value)
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = self._try(step)

    def _try(self, step: Try) -> Outcome:
        try:
            response = self._http.post(
                step.url, content=step.body, headers=step.headers, timeout=self._timeout(step.wait_s)
            )
        except httpx.RequestError as error:
            return _no_response(error)
        return _response(response)


class AsyncClient(_Calls):
    """The same as Client, for asyncio: `rank` and `send` are awaited. For one event loop."""

    def __init__(self, addresses: str | Sequence[str], **options: Unpack[ClientOptions]) -> None:
        super().__init__(addresses, **options)
        self._http = httpx.AsyncClient(**_http_options(options))

    async def rank(self, user: str, **options: Unpack[RankOptions]) -> Ranked:
        """See Client."""
        return _decode(await self._run(self._rank_steps(user, options)), Ranked)

    async def send(self, events: Sequence[SentEvent], **options: Unpack[SendOptions]) -> Sent:
        """See Client."""
        return _decode(await self._run(self._send_steps(events, options)), Sent)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, steps: Steps) -> bytes:
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return bytes(end.value)
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._try(step)

    async def _try(self, step: Try) -> Outcome:
        try:
            response = await self._http.post(
                step.url, content=step.body, headers=step.headers, timeout=self._timeout(step.wait_s)
            )
        except httpx.RequestError as error:
            return _no_response(error)
        return _response(response)


def _http_options(options: ClientOptions) -> _HttpOptions:
    """Rankers are asked directly: a proxy that the environment names is for other traffic."""
    return _HttpOptions(headers=headers_of(options.get("token", "")), trust_env=False, limits=LIMITS)


def url_of(address: str) -> str:
    """The URL of an address. Raises ValueError.

    >>> url_of("10.0.0.1:8080"), url_of("https://rank.example.com/")
    ('http://10.0.0.1:8080', 'https://rank.example.com')
    """
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("an address is HOST:PORT, http://HOST:PORT or https://HOST, without a password")
    return url


def _timed(event: SentEvent, time_ms: int) -> SentEvent:
    """The event with a time: however often it is sent, it is the same one."""
    if isinstance(event, Timed) and event.time is None and event.time_ms is None:
        return msgspec.structs.replace(event, time_ms=time_ms)
    return event


def _response(response: httpx.Response) -> Response:
    return Response(response.status_code, response.content, response.headers.get("retry-after"))


def _no_response(error: httpx.RequestError) -> NoResponse:
    """Whether the ranker may have the request depends on whether there was a connection."""
    is_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.TimeoutException):
        return NoResponse("been silent for too long", is_sent, is_timeout=True)
    if _is_unresolved(error):
        return NoResponse("a name that doesn't resolve", is_sent)
    return NoResponse("broken the connection" if is_sent else "refused the connection", is_sent)


def _is_unresolved(error: BaseException | None) -> bool:
    """Whether a failed look-up of a name is the cause, or the cause of the cause."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest("The request is invalid", why, "correct the request", type="invalid")


def _encode(value: NamedRequest | Sequence[SentEvent]) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:
        raise _invalid(half_surrogates.WHY) from None


def _decode(body: bytes, form: type[_Answer]) -> _Answer:
    try:
        return msgspec.msgpack.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as bad:
        raise Failed(
            "The answer isn't one of a ranker", str(bad), "look at the address: does a ranker listen there?",
            type="foreign_answer", status=200,
        ) from None  # fmt: skip
