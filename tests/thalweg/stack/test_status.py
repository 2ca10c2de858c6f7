"""What a service answers whose health endpoint doesn't work as it should."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from thalweg.stack.status import Service


@contextmanager
def answering(raw: bytes, *, then_close: bool) -> Iterator[Service]:
    """A service that answers its one request with these bytes, and then closes the connection or falls silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        is_over = threading.Event()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(raw)
                if not then_close:
                    is_over.wait()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield Service("learner", "0", 1, "127.0.0.1", server.getsockname()[1])
        finally:
            is_over.set()
            thread.join()


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
@pytest.mark.parametrize("then_close", [True, False], ids=["closes", "is silent"])
def test_half_an_answer_is_none(monkeypatch: pytest.MonkeyPatch, status: str, then_close: bool) -> None:
    """A service that is killed or starved in the middle of an answer, good or bad, is one that doesn't answer."""
    monkeypatch.setattr("thalweg.stack.status.TIMEOUT_S", 0.1)
    with answering(f"HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\nhalf".encode(), then_close=then_close) as service:
        assert service.get("/readyz")[0] == 0
    with answering(f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nfull".encode(), then_close=then_close) as service:
        assert service.get("/readyz") == (int(status[:3]), "full")
