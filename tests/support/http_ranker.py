"""A ranker over HTTP without a model: the whole server, and an answerer that the test controls."""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import httpx

from ranker.http.app import ModelInfo, Served, http_app
from ranker.http.connection import Bounds
from ranker.http.event_writer import EventWriter
from ranker.http.events import EventsEndpoint
from ranker.http.explaining import ExplainEndpoint
from ranker.http.gate import overload_of
from ranker.http.idempotency import RecentAnswers
from ranker.http.ranking import RankEndpoint
from ranker.http.routes import RANK
from ranker.http.server import HttpServer, connections_max
from ranker.http.tokens import Tokens
from ranker.serving.admission import AdmissionQueue
from ranker.serving.answering import deadline_of, expired, refusal
from ranker.serving.profile_reader import ProfileRead, ProfileReader
from stream.events.types import UNKNOWN_MODEL, Item, RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Acks, Record
from stream.runtime.clock import now_ms
from tests.support.request_bench import HeldSender

PATIENCE_S = 30.0
PARTITIONS = 4
JSON_HEADERS = {"content-type": "application/json"}
KNOWN = {"i1": Item("i1", {"genres": ["a"]}, "One", 2.0), "with/slash/": Item("with/slash/")}


class FakeAnswerer:
    """Answers with items by their order; waits while `may_answer` (`may_read` for profiles) is cleared.

    `asked` has what it was asked, `observed` the replies that others made.
    """

    def __init__(self) -> None:
        self.asked: list[RankRequest] = []
        self.observed: list[RankReply] = []
        self.may_answer, self.may_read, self.is_answering = Event(), Event(), Event()
        self.may_answer.set()
        self.may_read.set()
        self.age_ms = 0.0
        self._profiles = ProfileReader(self._read, PATIENCE_S)

    def left_ms(self, request: RankRequest, arrived_ms: int) -> float:
        """As if requests arrived `age_ms` ago."""
        return deadline_of(request.deadline_ms) - self.age_ms

    def _read(self, users: Sequence[str]) -> dict[str, UserProfile]:
        assert self.may_read.wait(PATIENCE_S), "the test never let it read"
        return {user: UserProfile([], {}) for user in users}

    def begin_profiles(self, requests: Sequence[RankRequest]) -> ProfileRead:
        """Nobody has anything."""
        return self._profiles.begin([request.user for request in requests if request.history is None])

    def answer_with(self, request: RankRequest, arrived_ms: int, profiles: ProfileRead) -> RankReply:
        """The list, or what the request provokes."""
        if self.left_ms(request, arrived_ms) <= 0:
            return expired(request, self.age_ms)
        self.asked.append(request)
        self.is_answering.set()
        assert self.may_answer.wait(PATIENCE_S), "the test never let it answer"
        if request.model not in ("", "m"):
            return refusal(request, UNKNOWN_MODEL, f"no model {request.model!r} is served here, but m")
        if request.user == "broken":
            raise ZeroDivisionError("a bug")
        items = (request.candidates or [f"i{n}" for n in range(100)])[: request.k]
        return RankReply(
            request.request_id, request.user, items, [0.5] * len(items), 3, features=b"\x00\xff" * 4, time_ms=now_ms()
        )

    def model(self, name: str) -> None:
        """No model can be explained."""

    def observe(self, reply: RankReply, arrived_ms: int) -> None:
        """Remember it."""
        self.observed.append(reply)


class EventLog(MemoryLog):
    """A log of four topics, whose sender acknowledges when the test says so."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(("events", "items", "users", "erased"), PARTITIONS), now_ms)
        self.sends = HeldSender(self)

    def sender(self, acks: Acks) -> HeldSender:  # type: ignore[override]  # the same methods
        """The one sender."""
        assert acks == "all", "events are safe once all replicas have them"
        return self.sends

    def records(self, topic: str) -> list[Record]:
        """All records, by partition and offset."""
        return self.reader(topic, dict.fromkeys(range(PARTITIONS), START)).poll(0.0, 10_000)


class HttpRanker:
    """A running server with its parts, and a client of it."""

    def __init__(
        self,
        tokens: Path | None = None,
        *,
        bounds: Bounds | None = None,
        queue_ms_max: float = 1_000.0,
        hosts: Sequence[str] = (),
        now_s: Any = time.monotonic,
        ack_s: float = 60.0,
    ) -> None:
        self.answerer = FakeAnswerer()
        self.admission = AdmissionQueue(queue_ms_max)
        self.is_ready = self.is_live = True
        self.dropped: list[str] = []  # users whose profiles were dropped
        self.log = EventLog()
        self.is_connected = True
        writer = EventWriter(lambda: self.log if self.is_connected else None)
        ids = count(1)
        rank = RankEndpoint(
            self.answerer,  # type: ignore[arg-type]  # the same methods
            self.admission,
            ready=lambda: (self.is_ready, "as the test wants"),
            now_ms=now_ms,
            clock_ms=lambda: time.monotonic() * 1e3,
            new_id=lambda: f"made-{next(ids)}",
        )
        served = Served(
            rank,
            EventsEndpoint(writer, RecentAnswers(time.monotonic), now_ms, ack_s=ack_s),
            ExplainEndpoint(
                self.answerer,  # type: ignore[arg-type]  # as much of one as bad queries reach
                KNOWN.get,
                ready=lambda: (self.is_ready, "as the test wants"),
                now_ms=now_ms,
            ),
            lambda: [ModelInfo("m", 3, 1, 2)],
            KNOWN.get,
            self.dropped.append,
            lambda: (self.is_ready, "as the test wants"),
            lambda: (self.is_live, "as the test wants"),
        )
        bounds = bounds or Bounds(connections_max())
        bounds.overload = overload_of(RANK, rank.overload)
        self.server = HttpServer(http_app(served, Tokens(tokens, now_s), hosts), "127.0.0.1", 0, bounds)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", timeout=PATIENCE_S)

    def rank(self, content: Any = b'{"user":"u"}', **headers: str) -> httpx.Response:
        """POST /v1/rank with these bytes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/v1/rank", content=content, headers=JSON_HEADERS | named)

    def send(self, *events: Mapping[str, Any], **headers: str) -> httpx.Response:
        """POST /v1/events."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/v1/events", json=events, headers=named)

    def connect(self) -> socket.socket:
        """A connection of its own, for bytes that no client would send."""
        return socket.create_connection(("127.0.0.1", self.server.port), PATIENCE_S)

    def close(self) -> None:
        """End client and server."""
        self.client.close()
        self.server.close()


@contextmanager
def http_ranker(*args: Any, **options: Any) -> Iterator[HttpRanker]:
    """An HttpRanker, closed at the end."""
    ranker = HttpRanker(*args, **options)
    try:
        yield ranker
    finally:
        ranker.answerer.may_answer.set()
        ranker.close()


def read_to_end(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def problem_of(response: httpx.Response) -> Mapping[str, Any]:
    """The problem details of an error, whose form is checked."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["type"].startswith("urn:thalweg:problem:")
    assert all(body[name] for name in ("title", "detail", "remedy"))
    return body
