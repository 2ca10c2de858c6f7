"""What a service answers whose health endpoint doesn't work as it should."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from thalweg.stack.server import Lag
from thalweg.stack.status import LAGS, Service
from thalweg.views.metrics_table import table


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


def test_the_lag_of_a_service_is_that_of_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are summed, of the ages the greatest counts; each topic has a line."""
    lines = [
        'thalweg_ranker_request_lag_records{model="a",partition="0"} 1200.0',
        'thalweg_ranker_request_lag_records{model="a",partition="1"} 34.0',
        'thalweg_ranker_request_lag_seconds{model="a",partition="0"} 1.25',
        'thalweg_ranker_request_lag_seconds{model="a",partition="1"} 3.0',
        'thalweg_ranker_item_lag_records{partition="0"} 0.0',
        'thalweg_ranker_item_lag_seconds{partition="0"} 0.0',
    ]
    monkeypatch.setattr(Service, "get", lambda self, path: (200, "\n".join(lines) + "\n"))
    found = Service("ranker", "0", os.getpid(), "127.0.0.1", 1).status().lags
    assert found == (Lag("rank.requests", 1_234, 3.0), Lag("items", 0, 0.0))
    assert [str(one) for one in found] == ["rank.requests: 1,234 records, 3.0 s", "items: 0"]


def test_a_service_that_has_no_metric_yet_has_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't 0: nobody knows it."""
    monkeypatch.setattr(Service, "get", lambda self, path: (503, "starting\n"))
    found = Service("joiner", "0", os.getpid(), "127.0.0.1", 1).status()
    assert (found.state, found.lags) == ("starting", ())


@pytest.mark.parametrize("name", [name for topics in LAGS.values() for name in topics.values()])
def test_the_metrics_of_lag_exist(name: str) -> None:
    """A metric that is renamed is renamed here, too."""
    page = table()
    assert f"`{name}_records`" in page
    assert f"`{name}_seconds`" in page
