"""The demo's own HTTP caller: replies in their own time, failures that are replies, connections that are reused."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from stream.events.types import RankReply, RankRequest
from tests.support.http_ranker import HttpRanker, http_ranker
from tests.support.waiting import wait_until
from thalweg.demo.http_rankers import HttpRankers

REQUEST = RankRequest("r1", "ann", 2, 5, {"hour": 8.0}, ["x", "y", "z"], 60_000, ["a"], {"age": 34.0}, "m")


@pytest.fixture
def ranker() -> Iterator[HttpRanker]:
    """One that answers at once."""
    with http_ranker() as made:
        yield made


def rankers_of(port: int) -> HttpRankers:
    """A caller whose clock stands at 7."""
    return HttpRankers(f"127.0.0.1:{port}", lambda: 7)


def received(rankers: HttpRankers, count: int) -> list[RankReply]:
    """The next replies."""
    found: list[RankReply] = []

    def come() -> bool:
        for reply, replied_ms in rankers.replies(0.05):
            assert replied_ms == 7
            found.append(reply)
        return len(found) >= count

    wait_until(come, f"{count} replies")
    return found


def test_a_request_and_its_reply(ranker: HttpRanker) -> None:
    """All fields go out, and the reply is the ranker's."""
    rankers = rankers_of(ranker.server.port)
    rankers.ask([REQUEST])
    [reply] = received(rankers, 1)
    assert ranker.answerer.asked == [REQUEST]
    assert (reply.request_id, reply.user, reply.items, reply.scores) == ("r1", "ann", ["x", "y"], [0.5, 0.5])
    assert (reply.version, reply.features, reply.error, reply.kind) == (3, b"\x00\xff" * 4, "", "")
    rankers.close()


def test_requests_go_out_while_others_wait(ranker: HttpRanker) -> None:
    """A slow ranker holds no request back, and idle connections are used again."""
    rankers = rankers_of(ranker.server.port)
    ranker.answerer.may_read.clear()
    requests = [RankRequest(f"r{n}", "ann", deadline_ms=60_000) for n in range(5)]
    rankers.ask(requests)
    wait_until(lambda: ranker.admission.waiting == 5, "all to have arrived")
    assert rankers.replies(0.0) == []
    ranker.answerer.may_read.set()
    assert {reply.request_id for reply in received(rankers, 5)} == {request.request_id for request in requests}
    for n in range(20):
        rankers.ask([RankRequest(f"again{n}", "ann")])
        received(rankers, 1)
    assert len(rankers._idle) == 5
    rankers.close()


def test_an_error_is_a_reply(ranker: HttpRanker) -> None:
    """It says why there's no list, and its kind."""
    rankers = rankers_of(ranker.server.port)
    ranker.is_ready = False
    rankers.ask([REQUEST])
    [reply] = received(rankers, 1)
    assert (reply.request_id, reply.items, reply.kind) == ("r1", [], "not_ready")
    assert "as the test wants" in reply.error
    rankers.close()


def test_nobody_listens() -> None:
    """Each request has a reply that says so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rankers = rankers_of(free.getsockname()[1])
        rankers.ask([REQUEST, RankRequest("r2", "bob")])
        replies = received(rankers, 2)
    assert [(reply.request_id, reply.kind) for reply in replies] == [("r1", "failed"), ("r2", "failed")]
    assert "refused" in replies[0].error
    rankers.close()


BODY = b'{"type":"urn:thalweg:problem:shed","title":"T","status":503,"detail":"D","remedy":"R"}'
PARTS = [b"HTTP/1.1 503 x\r\nContent-Le", b"ngth: %d\r\n\r" % len(BODY), b"\n" + BODY[:9], BODY[9:]]


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server whose connections are served like this, one after another; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def answer(connection: socket.socket) -> None:
    """Read a request, and answer in pieces."""
    connection.recv(65_536)
    for part in PARTS:
        connection.sendall(part)


def test_an_answer_in_pieces_and_an_end_without_one() -> None:
    """A reply is read however it arrives; a connection that ends before is an error, and isn't used again."""

    def serve(connection: socket.socket) -> None:
        answer(connection)
        connection.recv(65_536)

    with raw_server(serve) as port:
        rankers = rankers_of(port)
        rankers.ask([REQUEST])
        assert [(reply.kind, reply.error) for reply in received(rankers, 1)] == [("shed", "T: D; R")]
        rankers.ask([REQUEST])
        [reply] = received(rankers, 1)
        assert (reply.kind, reply.error) == ("failed", "the ranker has closed the connection")
        assert rankers._idle == []
        rankers.close()


def test_a_connection_that_was_closed_while_idle() -> None:
    """Rankers close connections that idle for long: the next request gets a new one."""
    with raw_server(answer) as port:
        rankers = rankers_of(port)
        for _ in range(2):
            rankers.ask([REQUEST])
            assert [reply.kind for reply in received(rankers, 1)] == ["shed"]
            wait_until(lambda: not rankers._idle[0].is_idle, "the server to close the connection")
        rankers.close()
