"""Whatever is sent to /v1/rank: a clear error, and others go on."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import msgspec
import pytest

from ranker.http.bodies import BODY_BYTES_MAX
from ranker.http.connection import HEAD_BYTES_MAX
from tests.support.http_ranker import HttpRanker, http_ranker, problem_of, read_to_end


@pytest.fixture(scope="module")
def ranker() -> Iterator[HttpRanker]:
    """One for all cases: each must leave it as it was."""
    with http_ranker() as made:
        yield made


@pytest.fixture(autouse=True)
def still_answers(ranker: HttpRanker) -> Iterator[None]:
    """After each case another request is answered, over the same connection as before, and nothing is queued."""
    yield
    assert ranker.rank().status_code == 200
    assert ranker.admission.waiting == 0


def body(**fields: Any) -> bytes:
    """A JSON request with these fields, NaN and all."""
    return json.dumps({"user": "u"} | fields).encode()


CASES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "nothing": (b"", {}, 400),
    "not JSON": (b"{", {}, 400),
    "not an object": (b"[]", {}, 400),
    "no user": (b"{}", {}, 400),
    "an empty user": (body(user=""), {}, 400),
    "a user that is a number": (body(user=7), {}, 400),
    "an unknown field": (body(usr="u"), {}, 400),
    "empty candidates": (body(candidates=[]), {}, 400),
    "the same candidate twice": (body(candidates=["a", "a"]), {}, 400),
    "an empty candidate": (body(candidates=["a", ""]), {}, 400),
    "too many candidates": (body(candidates=[f"i{n}" for n in range(1_001)]), {}, 400),
    "k of 0": (body(k=0), {}, 400),
    "k below 0": (body(k=-1), {}, 400),
    "k over the limit": (body(k=1_001), {}, 400),
    "k as a text": (body(k="10"), {}, 400),
    "k with a fraction": (body(k=1.5), {}, 400),
    "k beyond 64 bits": (body(k=10**30), {}, 400),
    "a deadline below 0": (body(deadline_ms=-1), {}, 400),
    "a time beyond 2100": (body(time_ms=10**15), {}, 400),
    "NaN": (body(context={"x": float("nan")}), {}, 400),
    "infinity": (body(context={"x": float("inf")}), {}, 400),
    "a number that overflows": (b'{"user":"u","context":{"x":1e999}}', {}, 400),
    "an attribute that is null": (body(attributes={"age": None}), {}, 400),
    "lone surrogates": (b'{"user":"\\ud800"}', {}, 400),
    "bytes that aren't UTF-8": (b'{"user":"\xff"}', {}, 400),
    "deep nesting": (b'{"user":"u","context":' + b"[" * 100_000, {}, 400),
    "another model": (body(model="other"), {}, 404),
    "no content type": (body(), {"content-type": ""}, 415),
    "a form": (b"user=u", {"content-type": "application/x-www-form-urlencoded"}, 415),
    "an answer as XML": (body(), {"accept": "text/xml"}, 406),
    "JSON that claims to be MessagePack": (body(), {"content-type": "application/msgpack"}, 400),
    "deflate": (zlib.compress(body()), {"content-encoding": "deflate"}, 415),
    "no gzip": (body(), {"content-encoding": "gzip"}, 400),
    "truncated gzip": (gzip.compress(body())[:-9], {"content-encoding": "gzip"}, 400),
    "more after gzip": (gzip.compress(body()) + b"x", {"content-encoding": "gzip"}, 400),
    "a gzip bomb": (gzip.compress(b" " * (1 << 28)), {"content-encoding": "gzip"}, 413),
    "too large": (b" " * (BODY_BYTES_MAX + 1), {}, 413),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_is_a_problem_that_says_what_why_and_what_next(ranker: HttpRanker, name: str) -> None:
    """Never a hang, a crash, or a list for something that wasn't asked."""
    content, headers, status = CASES[name]
    response = ranker.client.post("/v1/rank", content=content, headers={"content-type": "application/json"} | headers)
    assert (response.status_code, problem_of(response)["status"]) == (status, status)


def test_a_body_of_unknown_length_is_bounded_too(ranker: HttpRanker) -> None:
    """Chunks are counted as they come: the server stops reading beyond the limit."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    with suppress(httpx.WriteError):  # it may be cut off while it still sends
        assert ranker.rank(endless()).status_code == 413


def test_good_requests_in_chunks_or_gzip_or_messagepack_are_the_same(ranker: HttpRanker) -> None:
    """The form doesn't change the answer."""
    asked = {"user": "u", "request_id": "r", "k": 2, "candidates": ["a", "b", "c"]}
    plain = ranker.rank(json.dumps(asked).encode())
    chunked = ranker.rank(iter([json.dumps(asked).encode()[:10], json.dumps(asked).encode()[10:]]))
    packed = ranker.rank(gzip.compress(json.dumps(asked).encode()), content_encoding="gzip")
    form = {"content-type": "application/msgpack"}
    binary = ranker.client.post("/v1/rank", content=msgspec.msgpack.encode(asked), headers=form)
    assert binary.headers["content-type"] == "application/msgpack"
    answers = [r.json() for r in (plain, chunked, packed)] + [msgspec.msgpack.decode(binary.content)]
    assert [answer["items"] for answer in answers] == [["a", "b"]] * 4
    assert answers[0]["features"] == "AP8A/wD/AP8="
    assert answers[3]["features"] == b"\x00\xff" * 4


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"what is this\r\n\r\n", 400),
        (b"POST /v1/rank HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 421),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 421),
        (b"GET /livez HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 100_000, 431),
    ],
)
def test_what_is_not_a_proper_request_is_answered_and_the_connection_closed(
    ranker: HttpRanker, sent: bytes, status: int
) -> None:
    """Also before a request is complete."""
    with ranker.connect() as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = read_to_end(connection)
        except ConnectionError:
            assert len(sent) > HEAD_BYTES_MAX  # it was closed while we sent, and the answer may be lost
            return
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer


def test_pipelined_requests_are_answered_in_order(ranker: HttpRanker) -> None:
    """A client that doesn't wait for answers gets each of them, one after another."""
    with ranker.connect() as connection:
        for n in range(20):
            content = body(request_id=f"p{n}")
            head = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
            connection.sendall(head + b"%d\r\n\r\n" % len(content) + content)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = read_to_end(connection)
    found = [answers.index(b'"request_id":"p%d"' % n) for n in range(20)]
    assert found == sorted(found)
    assert answers.count(b"HTTP/1.1 200 OK") == 21


def test_a_client_that_leaves_costs_nothing(ranker: HttpRanker) -> None:
    """A request whose sender is gone before its body was complete isn't ranked."""
    asked = len(ranker.answerer.asked)
    with ranker.connect() as connection:
        connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 100\r\n\r\n{")
    assert ranker.client.get("/livez").status_code == 200
    assert len(ranker.answerer.asked) == asked
