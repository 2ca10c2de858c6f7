"""Rankers over HTTP, for callers that measure: no thread of its own, and a thirtieth of a general client's CPU.

Applications use `thalweg.client`: it retries, and takes several addresses.
"""

import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from producers.store.rankers import Replied
from stream.events.named_replies import RankAnswer, reply_of
from stream.events.named_requests import NamedRequest
from stream.events.types import FAILED, RankReply, RankRequest
from stream.runtime.clock import now_ms
from thalweg.client.errors import error_of

CONNECT_S: Final = 2.0
CHUNK: Final = 256 * 1024
END_OF_HEAD: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class HttpRankers:
    """Asks the ranker at `address` (host:port), one request a connection at a time; idle connections are reused.

    One thread may ask while another one receives. A request that gets no list has a reply with an error.
    """

    def __init__(self, address: str, now_ms: Callable[[], int] = now_ms) -> None:
        self._address, self._now_ms = address, now_ms
        self._idle: list[_Connection] = []
        self._failed: list[RankReply] = []
        self._selector = selectors.DefaultSelector()

    def ask(self, requests: Sequence[RankRequest]) -> None:
        """See Rankers."""
        for request in requests:
            try:
                connection = self._connection()
                connection.send(request)
            except OSError as bad:
                self._failed.append(_failure(request, f"{self._address}: {bad.strerror or bad}"))
            else:
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def replies(self, wait_s: float) -> list[Replied]:
        """See Rankers."""
        failed, self._failed = self._failed, []
        found = [Replied(reply, self._now_ms()) for reply in failed]
        for key, _ in self._selector.select(0.0 if found else wait_s):
            connection: _Connection = key.data
            reply = connection.receive()
            if reply is None:
                continue  # there's more to come
            self._selector.unregister(connection.socket)
            found.append(Replied(reply, self._now_ms()))
            if connection.is_open:
                self._idle.append(connection)
        return found

    def _connection(self) -> "_Connection":
        """An idle one, or a new one. Raises OSError."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle:
                return connection
            connection.close()
        return _Connection(self._address)

    def close(self) -> None:
        """Close all connections."""
        for connection in [*self._idle, *(key.data for key in self._selector.get_map().values())]:
            connection.close()
        self._selector.close()


class _Connection:
    """One request at a time."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), CONNECT_S)
        self.socket.settimeout(None)  # a peek returns at once then
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open = True
        self._head = (
            f"POST /v1/rank HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/msgpack\r\ncontent-length: "
        ).encode()
        self._request = RankRequest("", "")
        self._received = bytearray()

    @property
    def is_idle(self) -> bool:
        """Whether nothing has come: neither bytes nor the end, which rankers send to those that idle for long."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, request: RankRequest) -> None:
        """Send a request."""
        self._request = request
        self._received.clear()
        named = NamedRequest(
            request.user, request.request_id, request.k, request.time_ms, request.context, request.candidates,
            request.deadline_ms, request.history, request.attributes, request.model,
        )  # fmt: skip
        body = msgspec.msgpack.encode(named)
        self.socket.sendall(b"%b%d%b%b" % (self._head, len(body), END_OF_HEAD, body))

    def receive(self) -> RankReply | None:
        """The reply, once all of it is there; the socket must be readable."""
        try:
            chunk = self.socket.recv(CHUNK)
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            return _failure(self._request, "the ranker has closed the connection")
        self._received += chunk
        head, found, body = self._received.partition(END_OF_HEAD)
        if not found or len(body) < _length(bytes(head)):
            return None
        return self._reply(int(head[9:12]), bytes(body))

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        self.socket.close()

    def _reply(self, status: int, body: bytes) -> RankReply:
        if status != 200:
            error = error_of(status, body, None)
            return _failure(self._request, str(error), error.type)
        return reply_of(msgspec.msgpack.decode(body, type=RankAnswer))


def _length(head: bytes) -> int:
    start = head.lower().index(LENGTH) + len(LENGTH)
    return int(head[start:].split(b"\r\n", 1)[0])


def _failure(request: RankRequest, why: str, kind: str = FAILED) -> RankReply:
    return RankReply(request.request_id, request.user, [], [], 0, error=why, time_ms=request.time_ms, kind=kind)
