"""Connections: slow, idle and many ones cost a bounded time and number, and nobody else anything."""

import asyncio
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from typing import Final
from unittest.mock import Mock

import pytest
from prometheus_client import REGISTRY

from ranker.http.connection import HEAD_BYTES_MAX, PIPELINED_MAX, Bounds, QuietTransport
from ranker.http.server import HttpServer, parse_address
from stream.runtime.errors import SettingsError
from tests.support.http_ranker import HttpRanker, http_ranker, read_to_end
from tests.support.waiting import wait_until

IDLE: Final = 10_000 if os.environ.get("SOAK") else 300
HEAD: Final = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
BODY: Final = b'{"user":"u"}'


def answers(ranker: HttpRanker) -> bool:
    """Whether a request over a connection of its own is answered."""
    with ranker.connect() as connection:
        connection.sendall(HEAD + b"Connection: close\r\n\r\n" + BODY)
        return read_to_end(connection).startswith(b"HTTP/1.1 200 OK")


CLIENTS: Final = """
import resource, socket, sys
port, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
connections = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(count)]
for connection in connections[::2]:
    connection.sendall(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
print("connected", flush=True)
sys.stdin.read()
"""


def test_idle_connections_delay_nobody() -> None:
    """Thousands that have sent nothing, or are between two requests; their clients are another process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with http_ranker(bounds=Bounds(IDLE + 10, head_s=600.0)) as ranker:
        command = [sys.executable, "-c", CLIENTS, str(ranker.server.port), str(IDLE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
            assert clients.stdout is not None
            assert clients.stdout.readline() == b"connected\n"
            assert answers(ranker)
            assert ranker.rank().status_code == 200
            clients.communicate()
        assert clients.returncode == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_beyond_the_bound_the_longest_idle_connection_is_closed() -> None:
    """Who sends nothing can't lock out who does."""
    with http_ranker(bounds=Bounds(5, head_s=600.0)) as ranker, ExitStack() as stack:
        idle = [stack.enter_context(ranker.connect()) for _ in range(5)]
        assert answers(ranker)
        with suppress(ConnectionError):
            assert read_to_end(idle[0]) == b""
        idle[-1].sendall(HEAD + b"\r\n" + BODY)
        assert idle[-1].recv(65_536).startswith(b"HTTP/1.1 200 OK")


def test_where_every_connection_is_busy_a_further_one_is_refused() -> None:
    """With a problem that says so, and when to come back."""
    with http_ranker(bounds=Bounds(2, body_s=600.0)) as ranker, ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(ranker.connect())
            busy.sendall(HEAD + b"Expect: 100-continue\r\n\r\n")
            assert busy.recv(65_536).startswith(b"HTTP/1.1 100 ")
        with ranker.connect() as further:
            refused = read_to_end(further)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in refused


@pytest.mark.parametrize("sent", [HEAD[:30], HEAD, HEAD + b"\r\n" + BODY[:-1]])
def test_a_slow_client_is_cut_off(sent: bytes) -> None:
    """Whether it is slow in its headers or its body: 408, and the connection ends. Others are answered meanwhile."""
    with http_ranker(bounds=Bounds(100, head_s=0.3, body_s=0.3)) as ranker, ranker.connect() as slow:
        slow.sendall(sent)
        assert answers(ranker)
        assert read_to_end(slow).startswith(b"HTTP/1.1 408 ")
        assert ranker.admission.waiting == 0


def test_drops_of_a_header_do_not_extend_its_time() -> None:
    """A client that sends a byte now and then has no more time than another."""
    with http_ranker(bounds=Bounds(100, head_s=0.5)) as ranker, ranker.connect() as slow:
        stop = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                slow.sendall(HEAD)
                while not stop.wait(0.05):
                    slow.sendall(b"X: y\r\n")

        thread = threading.Thread(target=drip)
        thread.start()
        answer = slow.recv(65_536)
        stop.set()
        thread.join()
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_never_sends_anything_is_closed() -> None:
    """Without an answer, since nothing was asked."""
    with http_ranker(bounds=Bounds(100, head_s=0.2)) as ranker, ranker.connect() as silent:
        assert read_to_end(silent) == b""


def test_who_does_not_read_is_cut_off() -> None:
    """A client that sends requests and never reads the answers: its connection ends, so its answers aren't kept."""
    with http_ranker(bounds=Bounds(100, write_s=0.3)) as ranker, ranker.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        asked = b"GET /docs/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50

        deaf.settimeout(1.0)
        with suppress(OSError):
            while True:
                deaf.sendall(asked)
        wait_until(lambda: REGISTRY.get_sample_value("thalweg_ranker_http_connections") == 0)
        assert answers(ranker)


def test_who_does_not_read_the_last_answer_is_cut_off() -> None:
    """A connection that is closed waits for as long as others for its client to read, not for ever."""

    async def close(unsent: int) -> Mock:
        transport = Mock(**{"is_closing.return_value": False, "get_write_buffer_size.return_value": unsent})
        QuietTransport(transport, asyncio.get_running_loop(), 0.0).close()
        await asyncio.sleep(0.01)
        return transport

    for unsent, aborted in ((1, 1), (0, 0)):
        transport = asyncio.run(close(unsent))
        assert (transport.close.call_count, transport.abort.call_count) == (1, aborted)


def test_one_pipelined_request_too_many_is_refused_after_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """What waits on one connection is bounded: those before it are answered, it gets a 503, and the connection ends."""
    with http_ranker() as ranker:
        ranker.answerer.may_answer.clear()
        with ranker.connect() as connection:
            connection.sendall(HEAD + b"\r\n" + BODY)
            assert ranker.answerer.is_answering.wait(20)
            connection.sendall((HEAD + b"\r\n" + BODY) * 200)
            ranker.answerer.may_answer.set()
            answers_ = read_to_end(connection)
        assert re.findall(rb"HTTP/1.1 (\d+) ", answers_) == [b"200"] * (1 + PIPELINED_MAX) + [b"503"]
        assert b"connection: close" in answers_.rpartition(b"HTTP/1.1")[2]
        assert answers(ranker)
    assert not caplog.records


@pytest.mark.parametrize("bad", [b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n", b"no HTTP\r\n\r\n"])
def test_a_bad_pipelined_request_costs_those_before_it_nothing(bad: bytes) -> None:
    """They are answered first, each with its own answer."""
    with http_ranker() as ranker, ranker.connect() as connection:
        ranker.answerer.may_answer.clear()
        connection.sendall(HEAD + b"\r\n" + BODY)
        assert ranker.answerer.is_answering.wait(20)
        connection.sendall(HEAD + b"\r\n" + BODY + bad)
        ranker.answerer.may_answer.set()
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", read_to_end(connection))
    assert statuses[:-1] == [b"200", b"200"]
    assert statuses[-1] in (b"400", b"431")


def test_a_pipelined_request_is_not_late_because_of_the_others() -> None:
    """While it waits for the answers before its own, what is left of it isn't read: that time isn't the client's."""
    with http_ranker(bounds=Bounds(10, body_s=0.1)) as ranker, ranker.connect() as connection:
        ranker.answerer.may_read.clear()
        connection.sendall(HEAD + b"\r\n" + BODY + HEAD + b"Connection: close\r\n\r\n" + BODY[:5])
        time.sleep(0.4)
        connection.sendall(BODY[5:])
        ranker.answerer.may_read.set()
        assert re.findall(rb"HTTP/1.1 (\d+) ", read_to_end(connection)) == [b"200", b"200"]


@pytest.mark.parametrize("pipelined", [1, 3])
def test_a_client_that_leaves_within_an_answer_is_no_error(pipelined: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is one that has sent further requests; nothing is logged."""
    with http_ranker() as ranker:
        ranker.answerer.may_read.clear()
        with ranker.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset at its close
            connection.sendall((HEAD + b"\r\n" + BODY) * pipelined)
            wait_until(lambda: ranker.admission.waiting)
        assert ranker.client.get("/livez").status_code == 200
        ranker.answerer.may_read.set()
        wait_until(lambda: not ranker.admission.waiting)
        assert answers(ranker)
    assert not caplog.records


def test_a_server_that_stops_answers_what_it_has() -> None:
    """A request that was received gets its answer; idle connections don't delay the end."""
    with http_ranker() as ranker, ranker.connect() as idle:
        ranker.answerer.may_answer.clear()
        with ranker.connect() as connection:
            connection.sendall(HEAD + b"\r\n" + BODY)
            assert ranker.answerer.is_answering.wait(20)
            ending = threading.Thread(target=ranker.server.close)
            ending.start()
            ranker.answerer.may_answer.set()
            assert read_to_end(connection).startswith(b"HTTP/1.1 200 OK")
            ending.join()
        assert read_to_end(idle) == b""
        assert not ranker.server.live()[0]


def test_a_hung_loop_is_seen_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """`live` is for a health check that doesn't run in the loop."""
    with http_ranker() as ranker:
        assert ranker.server.live() == (True, "ok")
        ranker.answerer.may_answer.clear()
        with ranker.connect() as connection:
            connection.sendall(HEAD + b"\r\n" + BODY)
            assert ranker.answerer.is_answering.wait(20)
            monkeypatch.setattr("ranker.http.server.HUNG_S", 0.0)
            assert "hangs" in ranker.server.live()[1]
        ranker.answerer.may_answer.set()


def test_addresses() -> None:
    """What --http takes; an address in use is a settings error that names it."""
    for wrong in ("", "8080", "localhost", ":80", "localhost:", "localhost:x", "localhost:70000"):
        with pytest.raises(SettingsError, match="HOST:PORT"):
            parse_address(wrong)
    with http_ranker() as ranker, pytest.raises(SettingsError, match=str(ranker.server.port)):
        HttpServer(None, "127.0.0.1", ranker.server.port)


def test_a_shed_request_costs_its_connection_nothing() -> None:
    """Its answer comes with its headers; its body, however late, is dropped, and the connection serves the next one."""
    with http_ranker(queue_ms_max=1.0) as ranker, ranker.connect() as connection:  # a request costs 2 ms
        assert [ranker.admission.admit(1_000.0) for _ in range(2)] == [True, False]
        for _ in range(2):
            connection.sendall(HEAD + b"\r\n" + BODY[:5])
            answer = connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" not in answer
            connection.sendall(BODY[5:])
        connection.sendall(HEAD + b"\r\n" + BODY + HEAD + b"\r\n" + BODY)
        answer = b""
        while answer.count(b"HTTP/1.1 503 ") < 2 or not answer.endswith(b"}"):
            answer += connection.recv(65_536)
        ranker.admission.done()
        connection.sendall(HEAD + b"\r\n" + BODY)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert [reply.kind for reply in ranker.answerer.observed] == ["shed"] * 4


def test_a_shed_request_whose_body_never_comes_is_answered_once() -> None:
    """After the body's time the connection is closed, without a second answer."""
    with http_ranker(queue_ms_max=1.0, bounds=Bounds(10, body_s=0.1)) as ranker, ranker.connect() as connection:
        assert ranker.admission.admit(1_000.0)
        connection.sendall(HEAD + b"\r\n" + BODY[:5])
        assert read_to_end(connection).count(b"HTTP/1.1 ") == 1
        ranker.admission.done()
