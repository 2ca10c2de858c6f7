"""`POST /v1/rank`: answers, and what becomes of requests that can't be answered in time."""

import socket

import pytest

from ranker.http.problems import KINDS
from tests.support.http_ranker import HttpRanker, http_ranker, problem_of, read_to_end
from tests.support.waiting import wait_until

HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


def send(ranker: HttpRanker, user: str) -> socket.socket:
    """Ask over a connection of its own, without waiting."""
    connection = ranker.connect()
    body = b'{"user":"%s","request_id":"of-%s"}' % (user.encode(), user.encode())
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return connection


def test_an_answer_has_the_list_and_what_an_impression_needs() -> None:
    """Ids, items with scores, version and features; a request without an id gets one."""
    with http_ranker() as ranker:
        answer = ranker.rank(b'{"user":"u","k":3}').json()
        assert answer["items"] == ["i0", "i1", "i2"]
        assert len(answer["scores"]) == 3
        assert (answer["user"], answer["version"], answer["request_id"]) == ("u", 3, "made-1")
        assert ranker.rank(b'{"user":"u","request_id":"mine"}').json()["request_id"] == "mine"


def test_what_would_wait_too_long_is_shed_at_once_and_the_rest_is_answered_in_order() -> None:
    """The newest are shed, with 503 and when to come back; they don't wait for those before them."""
    with http_ranker(queue_ms_max=5.0) as ranker:  # a request costs 2 ms until some were answered
        ranker.answerer.may_read.clear()
        connections = []
        for n in range(10):
            connections.append(send(ranker, f"u{n}"))
            wait_until(lambda: ranker.admission.waiting + len(ranker.answerer.observed) == len(connections))
        assert ranker.admission.waiting == 3
        for connection in connections[3:]:
            answer = read_to_end(connection)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert b"urn:thalweg:problem:shed" in answer
        ranker.answerer.may_read.set()
        assert all(read_to_end(connection).startswith(b"HTTP/1.1 200 ") for connection in connections[:3])
        for connection in connections:
            connection.close()
        assert [request.user for request in ranker.answerer.asked] == ["u0", "u1", "u2"]
        assert [reply.kind for reply in ranker.answerer.observed] == ["shed"] * 7
        assert ranker.admission.waiting == 0


def test_a_full_queue_sheds_before_the_body_is_read() -> None:
    """A head is enough: under overload nothing is parsed in vain. Events go on."""
    with http_ranker(queue_ms_max=1.0) as ranker:  # a request costs 2 ms until some were answered
        ranker.answerer.may_read.clear()
        first = send(ranker, "u0")
        wait_until(lambda: ranker.admission.is_full)
        with ranker.connect() as second:
            second.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
            answer = read_to_end(second)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"urn:thalweg:problem:shed" in answer
        assert [reply.kind for reply in ranker.answerer.observed] == ["shed"]
        assert ranker.send({"type": "user", "user": "u"}).status_code == 200
        ranker.answerer.may_read.set()
        assert read_to_end(first).startswith(b"HTTP/1.1 200 ")
        first.close()


def test_what_is_past_its_deadline_is_not_ranked() -> None:
    """504, with the id of the request."""
    with http_ranker() as ranker:
        ranker.answerer.age_ms = 20.0
        late = ranker.rank(b'{"user":"u","request_id":"r","deadline_ms":10}')
        assert late.status_code == 504
        assert problem_of(late)["request_id"] == "r"
        assert not ranker.answerer.asked
        assert ranker.rank(b'{"user":"u"}').status_code == 200  # the default deadline is longer


def test_before_it_is_ready_it_says_so() -> None:
    """503 with Retry-After, from /v1/rank as from /readyz; /livez is another question."""
    with http_ranker() as ranker:
        ranker.is_ready = False
        refused = ranker.rank()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert problem_of(refused)["type"].endswith(":not_ready")
        assert ranker.client.get("/readyz").status_code == 503
        assert ranker.client.get("/livez").status_code == 200
        ranker.is_live = False
        assert ranker.client.get("/livez").status_code == 503


def test_a_bug_is_one_problem_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw: 500, a traceback in the log, and the queue moves on."""
    with http_ranker() as ranker:
        assert problem_of(ranker.rank(b'{"user":"broken"}'))["status"] == 500
        assert "ZeroDivisionError" in caplog.text
        assert ranker.rank().status_code == 200
        assert ranker.admission.waiting == 0


def test_a_history_that_is_read_slowly_delays_only_its_own_request() -> None:
    """Requests that bring their history, and those about health, are answered meanwhile."""
    with http_ranker() as ranker:
        ranker.answerer.may_read.clear()
        slow = send(ranker, "u0")
        wait_until(lambda: ranker.admission.waiting == 1)
        assert ranker.rank(b'{"user":"u","history":["a"]}').status_code == 200
        assert ranker.client.get("/livez").status_code == 200
        ranker.answerer.may_read.set()
        assert read_to_end(slow).startswith(b"HTTP/1.1 200 ")
        slow.close()


def test_problems_have_names_of_their_own() -> None:
    """One `type` each, and a remedy."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind.remedy and kind.title for kind in KINDS)
