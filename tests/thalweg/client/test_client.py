"""The clients against HTTP servers of rankers."""

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import thalweg.client
from stream.events.codec import decode_events
from stream.events.topics import EVENTS, ITEMS
from tests.support.http_ranker import HttpRanker, http_ranker
from thalweg.client import (
    AsyncClient,
    Client,
    Expired,
    Failed,
    Impression,
    Install,
    InvalidRequest,
    Item,
    Overloaded,
    Ranked,
    Sent,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unreachable,
    User,
)  # fmt: skip
from thalweg.client.client import url_of

HEAVY = ("torch", "numba", "numpy", "kafka", "redis", "litestar", "prometheus_client")
TOKEN = "a-token-of-the-shop-0123456789"
PATIENCE_MS = 30_000


@pytest.fixture
def ranker() -> Iterator[HttpRanker]:
    """One that answers at once."""
    with http_ranker() as made:
        yield made


def address(ranker: HttpRanker) -> str:
    """Where it listens."""
    return f"127.0.0.1:{ranker.server.port}"


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls one method of a client of these addresses: `ask("rank", addresses, arguments of both...)`."""

    def in_sync(name: str, addresses: Any, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        with Client(addresses, **(options or {})) as client:
            return getattr(client, name)(*args, **kwargs)

    def in_async(name: str, addresses: Any, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(addresses, **(options or {})) as client:
                call: Coroutine[Any, Any, Any] = getattr(client, name)(*args, **kwargs)
                return await call

        return asyncio.run(run())

    return in_sync if request.param == "sync" else in_async


def test_exported_names() -> None:
    """What users import is pinned."""
    assert sorted(thalweg.client.__all__) == [
        "AsyncClient", "Client", "ClientError", "EventResult", "Expired", "Failed", "Impression", "Install",
        "InvalidRequest", "Item", "Overloaded", "Ranked", "Sent", "Unauthorized", "Unavailable", "UnknownModel",
        "Unreachable", "User",
    ]  # fmt: skip


def test_a_light_import() -> None:
    """The client imports nothing that only a service needs."""
    code = f"import sys, thalweg.client; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rank(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """All fields arrive, and the answer comes back whole."""
    found = ask(
        "rank", address(ranker), "ann", k=2, candidates=("x", "y", "z"), context={"hour": 8.0}, request_id="r1",
        history=["a"], attributes={"age": 34.0, "likes": ["tea"]}, time_ms=5, deadline_ms=PATIENCE_MS, model="m",
        rules=["varied", {"kind": "forbid", "items": ["z"]}],
    )  # fmt: skip
    assert isinstance(found, Ranked)
    assert (found.request_id, found.user, found.items, found.scores) == ("r1", "ann", ["x", "y"], [0.5, 0.5])
    assert (found.version, found.features) == (3, b"\x00\xff" * 4)
    [asked] = ranker.answerer.asked
    assert (asked.user, asked.k, asked.candidates, asked.context) == ("ann", 2, ["x", "y", "z"], {"hour": 8.0})
    assert (asked.history, asked.attributes, asked.time_ms) == (["a"], {"age": 34.0, "likes": ["tea"]}, 5)
    assert (asked.model, asked.rules) == ("m", ["varied", {"kind": "forbid", "items": ["z"]}])
    assert 0 < asked.deadline_ms <= PATIENCE_MS


def test_defaults(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """Model and deadline are the client's, the id is made."""
    found = ask("rank", address(ranker), "ann", options={"model": "m", "deadline_ms": PATIENCE_MS})
    [asked] = ranker.answerer.asked
    assert asked.model == "m"
    assert PATIENCE_MS / 2 < asked.deadline_ms <= PATIENCE_MS
    assert found.request_id == asked.request_id != ""


def test_send(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """Each event has its result; what is written has the time at which it was sent first."""
    page = Ranked("r1", "ann", ["tea", "mug"], [0.5, 0.25], 3, features=b"\x01" * 8).impression(context={"a": 1.0})
    installs = [Install(user="ann", item="tea"), Install(user="", item="x")]
    sent = ask("send", address(ranker), [Item(item="tea"), page, *installs])
    assert isinstance(sent, Sent)
    assert (sent.written, sent.rejected) == (3, 1)
    assert [result.status for result in sent.results] == ["written", "written", "written", "invalid"]
    events = [event for record in ranker.log.records(EVENTS.name) for event in decode_events(record.value or b"")[0]]
    assert {type(event).__name__ for event in events} == {"Impression", "Install"}
    assert len(ranker.log.records(ITEMS.name)) == 1
    impression = next(event for event in events if type(event).__name__ == "Impression")
    assert (impression.features, impression.version, impression.context) == (b"\x01" * 8, 3, {"a": 1.0})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"model": "other"}, UnknownModel), ({"candidates": ["a", "a"]}, InvalidRequest)],
)
def test_problems(ranker: HttpRanker, ask: Callable[..., Any], options: dict[str, Any], error: type[Exception]) -> None:
    """What the ranker refuses is an error of its kind."""
    with pytest.raises(error):
        ask("rank", address(ranker), "ann", **options)


def test_a_bug_of_the_ranker(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """It isn't asked again."""
    with pytest.raises(Failed):
        ask("rank", address(ranker), "broken", deadline_ms=PATIENCE_MS)
    assert len(ranker.answerer.asked) == 1


@pytest.mark.parametrize("options", [{"k": 0}, {"k": "10"}, {"candidates": []}, {"candidates": ["x" * 257]}, {"kk": 3}])
def test_refused_without_a_request(ask: Callable[..., Any], options: dict[str, Any]) -> None:
    """What can't be valid isn't sent."""
    with pytest.raises(InvalidRequest):
        ask("rank", nobody(), "ann", **options)


def test_too_late(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """A request that is older than its deadline has expired."""
    ranker.answerer.age_ms = 1e6
    with pytest.raises(Expired, match="past its deadline"):
        ask("rank", address(ranker), "ann", deadline_ms=300)


def test_not_ready(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """It says when to come again."""
    ranker.is_ready = False
    with pytest.raises(Unavailable) as error:
        ask("rank", address(ranker), "ann", deadline_ms=900)
    assert (error.value.type, error.value.retry_after_s) == ("not_ready", 1.0)


def test_shed(ask: Callable[..., Any]) -> None:
    """An overloaded ranker's answer is an error of its own."""
    with http_ranker(queue_ms_max=1.0) as ranker:
        assert ranker.admission.admit(1e6)  # a request costs 2 ms until some were answered
        with pytest.raises(Overloaded):
            ask("rank", address(ranker), "ann", deadline_ms=900)


def test_failover(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """Where nobody listens at one address the other answers; nothing is logged or raised."""
    for addresses in ([nobody(), address(ranker)], [address(ranker), nobody()]):
        assert ask("rank", addresses, "ann", deadline_ms=PATIENCE_MS).user == "ann"


def test_a_ranker_that_hangs(ask: Callable[..., Any]) -> None:
    """One that accepts and never answers leaves the other enough time."""
    with http_ranker() as hung, http_ranker() as works:
        hung.answerer.may_answer.clear()
        assert ask("rank", [address(hung), address(works)], "ann", request_id="r", deadline_ms=PATIENCE_MS)
        assert [request.request_id for request in works.answerer.asked] == ["r"], "the same request"


def test_a_ranker_that_dies(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """One that closes the connection with the request half done: the other one gets the same request."""
    with socket.create_server(("127.0.0.1", 0)) as dying:

        def die() -> None:
            connection, _ = dying.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=die)
        thread.start()
        addresses = [f"127.0.0.1:{dying.getsockname()[1]}", address(ranker)]
        assert ask("rank", addresses, "ann", request_id="r", deadline_ms=PATIENCE_MS).request_id == "r"
        thread.join()


def test_nobody_answers(ask: Callable[..., Any]) -> None:
    """The error names the address, and the remedy."""
    where = nobody()
    with pytest.raises(Unreachable, match=f"{where} has refused the connection; does a ranker run there"):
        ask("rank", where, "ann", deadline_ms=300)


def test_an_answer_of_another_server(ask: Callable[..., Any]) -> None:
    """Whatever answers 200 isn't a ranker if its bytes aren't one's."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Failed, match="isn't one of a ranker"):
            ask("rank", f"127.0.0.1:{server.getsockname()[1]}", "ann", deadline_ms=PATIENCE_MS)
        thread.join()


def test_events_that_come_twice(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """A list that is sent again with its key is written once."""
    for _ in range(2):
        sent = ask("send", address(ranker), [Install(user="ann", item="tea", time_ms=5)], key="k1")
        assert sent.written == 1
    assert len(ranker.log.records(EVENTS.name)) == 1


def test_kafka_is_away(ranker: HttpRanker, ask: Callable[..., Any]) -> None:
    """Events that can't be written are tried again until the call's time is over."""
    ranker.is_connected = False
    with pytest.raises(Unavailable) as error:
        ask("send", address(ranker), [User(user="ann")], timeout_s=0.5)
    assert error.value.type == "log_unavailable"


def test_connections_are_reused(ranker: HttpRanker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests take one connection."""
    connect, made = socket.create_connection, []

    def counted(*args: Any, **options: Any) -> socket.socket:
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(socket, "create_connection", counted)
    with Client(address(ranker), deadline_ms=PATIENCE_MS) as client:
        for _ in range(20):
            client.rank("ann")
    assert len(made) == 1


def test_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture, ask: Callable[..., Any]) -> None:
    """A token opens the door, and is neither logged nor in an error or a repr."""
    file = tmp_path / "tokens.toml"
    file.write_text(f'[shop]\ntoken = "{TOKEN}"\nscopes = ["rank"]\n')
    caplog.set_level(logging.DEBUG)
    with http_ranker(file) as ranker:
        assert ask("rank", address(ranker), "ann", options={"token": TOKEN}, deadline_ms=PATIENCE_MS)
        with pytest.raises(Unauthorized) as error:
            ask("rank", address(ranker), "ann", options={"token": TOKEN + "x"})
    with Client("localhost:1", token=TOKEN) as client:
        shown = [repr(client), repr(vars(client)), str(error.value), caplog.text]
    assert not any(TOKEN in one for one in shown)


@pytest.mark.parametrize("bad", ["", "ftp://x", "http://", "http://user:secret@x", "x:1?a=b"])
def test_addresses(bad: str) -> None:
    """What can't be an address is refused at once, and not shown: it may have a password."""
    with pytest.raises(ValueError, match="an address is") as error:
        url_of(bad)
    assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match="needs the address"):
        Client([])


def test_events_keep_their_time() -> None:
    """An impression of a ranked list has what its list has."""
    page = Ranked("r1", "ann", ["tea"], [0.5], 3, features=b"\x01").impression(time_ms=7)
    assert page == Impression(
        user="ann", items=["tea"], request_id="r1", time_ms=7, version=3, scores=[0.5], features=b"\x01"
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(page), type=Impression) == page
