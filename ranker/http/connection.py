"""One HTTP/1.1 connection: uvicorn's, with the bounds that it hasn't.

A client that sends slowly, much, or nothing costs one connection for a bounded time: heads and bodies have timeouts,
heads a size, connections a number. Beyond that number the connection that has been idle for longest is closed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ranker import metrics
from ranker.http.problems import HEADERS_TOO_LARGE, INVALID, SHED, TIMEOUT, HttpProblem, http_bytes
from ranker.http.routes import OTHER

HEAD_BYTES_MAX: Final = 16 * 1024
PIPELINED_MAX: Final = 64  # requests that wait on one connection for the answers before theirs


class QuietTransport:
    """A connection's transport; once it is closing, what the app still does with it is ignored: uvloop would raise.

    Who doesn't read what was sent before `close` is cut off after `write_s`.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, write_s: float) -> None:
        self._transport, self._loop, self._write_s = transport, loop, write_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close it once all is sent."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._write_s, self._transport.abort)
        self._transport.close()

    def pause_reading(self) -> None:
        """Receive no more data for now."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive data again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()


@dataclass
class Bounds:
    """Of all connections of a server. `idle` has those that wait for a request, the longest idle one first.

    `overload` is asked, by method and path, before a request costs anything: one for which it returns a problem is
    answered with that at once, and its body is dropped.
    """

    connections_max: int
    head_s: float = 10.0  # from a connection's start, or a request's first byte, until its headers are complete
    body_s: float = 10.0  # from then until the body is
    write_s: float = 10.0  # for a client to read what was sent
    overload: Callable[[bytes, bytes], HttpProblem | None] = lambda method, path: None
    idle: "dict[BoundedConnection, None]" = field(default_factory=dict)


class Phase(Enum):
    """What is being read."""

    BETWEEN = 0
    HEAD = 1
    BODY = 2


class BoundedConnection(HttpToolsProtocol):
    """See the module."""

    def __init__(self, bounds: Bounds, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._bounds = bounds
        self._phase = Phase.HEAD  # the first request is due
        self._is_answered = False  # the request that is being read
        self._refusal: HttpProblem | None = None  # of the last request: nothing after it is read
        self._requests = 0
        self._head_bytes = 0
        self._read_timer: asyncio.TimerHandle | None = None
        self._timed: tuple[int, Phase] | None = None  # request and phase that `_read_timer` is for
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, or refuse."""
        quiet: Any = QuietTransport(transport, self.loop, self._bounds.write_s)  # the same methods
        super().connection_made(quiet)
        metrics.HTTP_CONNECTIONS.set(len(self.connections))
        if len(self.connections) > self._bounds.connections_max and not self._evict_idle():
            self.refuse(HttpProblem(SHED, f"{self._bounds.connections_max} connections are open", retry_after_s=1))
            return
        self._bounds.idle[self] = None
        self._time_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._bounds.idle.pop(self, None)
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        metrics.HTTP_CONNECTIONS.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Parse, and watch the clock while something is incomplete."""
        if not self._is_reading:
            return
        before = self._requests
        super().data_received(data)
        if self._phase is Phase.HEAD and self._requests == before:  # part of a head, with nothing complete
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.refuse(_head_too_large())
        self._time_reading()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._phase, self._head_bytes = Phase.HEAD, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request can begin."""
        self._requests += 1
        self._bounds.idle.pop(self, None)
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if not self._is_reading:
            return
        if size > HEAD_BYTES_MAX:
            self.refuse(_head_too_large())
        elif len(self.pipeline) >= PIPELINED_MAX:
            self.refuse(
                HttpProblem(SHED, f"more than {PIPELINED_MAX} requests wait on one connection", retry_after_s=1)
            )
        else:
            if not self._is_answering and (problem := self._bounds.overload(self.parser.get_method(), self.url)):
                self._answer_at_once(problem)
            else:
                super().on_headers_complete()
            self._phase = Phase.BODY

    def on_body(self, body: bytes) -> None:
        """Part of a body; ignored when the request was refused, or is answered."""
        if not self._is_answered and self._is_reading:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._phase = Phase.BETWEEN
        if self._is_answered:
            self._is_answered = False
            self.on_response_complete()
        elif self._is_reading:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was sent."""
        is_last = not self.pipeline
        super().on_response_complete()
        if not is_last or self.transport.is_closing():
            return
        if self._refusal is None:
            self._bounds.idle[self] = None
        else:
            self._end_with(self._refusal)

    def pause_writing(self) -> None:
        """The client doesn't read: it may do so for a while."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._bounds.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Idle for too long; what the client doesn't read is dropped."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Not HTTP."""
        self.refuse(HttpProblem(INVALID, "these bytes aren't an HTTP/1.1 request"))

    def refuse(self, problem: HttpProblem) -> None:
        """Answer the request that is being read with this, after those before it, and close; what follows isn't read.

        A request whose answer has begun gets no other one.
        """
        if not self._is_reading:
            return
        self._refusal = problem
        if self._phase is not Phase.BODY:
            if not self._is_answering:
                self._end_with(problem)
        elif self.pipeline:
            self.pipeline.popleft()  # this request
        elif self._is_answering and not self.cycle.response_started:
            self._end_with(problem)
        else:
            self.transport.close()

    def _end_with(self, problem: HttpProblem) -> None:
        self.transport.write(http_bytes(problem))
        metrics.HTTP_REQUESTS.labels(OTHER, problem.kind.status).inc()
        self.transport.close()

    @property
    def _is_reading(self) -> bool:
        """Whether requests are read: none was refused, and the connection is open."""
        return self._refusal is None and not self.transport.is_closing()

    @property
    def _is_answering(self) -> bool:
        """Whether the app answers a request that was read."""
        return self.cycle is not None and not self.cycle.response_complete

    def _answer_at_once(self, problem: HttpProblem) -> None:
        """Answer the request whose headers are complete; what follows of it is dropped."""
        keeps_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._is_answered = True
        self.transport.write(http_bytes(problem, closes=not keeps_alive))
        if not keeps_alive:
            self.transport.close()

    def _evict_idle(self) -> bool:
        """Close the connection that has been idle for longest; False: none is."""
        victim = next(iter(self._bounds.idle), None)
        if victim is None:
            return False
        del self._bounds.idle[victim]
        victim.transport.abort()
        return True

    def _time_reading(self) -> None:
        """Let the timer run for what is incomplete now."""
        due = None if self._phase is Phase.BETWEEN else (self._requests, self._phase)
        if due == self._timed:
            return
        self._timed = due
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        if due is not None and not self.transport.is_closing():
            limit_s = self._bounds.head_s if self._phase is Phase.HEAD else self._bounds.body_s
            self._read_timer = self.loop.call_later(limit_s, self._too_slow, limit_s)

    def _too_slow(self, limit_s: float) -> None:
        if self.pipeline or self.flow.read_paused:  # while requests before it wait, it isn't the client that is slow
            self._timed = None
            self._time_reading()
            return
        what = "headers" if self._phase is Phase.HEAD else "body"
        if self._requests == 0 and not self._head_bytes and self._phase is Phase.HEAD:
            self.transport.close()  # it has sent nothing: nothing is answered
        else:
            self.refuse(HttpProblem(TIMEOUT, f"the {what} weren't complete within {limit_s:g} s"))


def _head_too_large() -> HttpProblem:
    return HttpProblem(HEADERS_TOO_LARGE, f"a request's line and headers have at most {HEAD_BYTES_MAX} bytes")
