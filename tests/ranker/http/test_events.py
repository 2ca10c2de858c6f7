"""`POST /v1/events`: written where producers write them, answered one by one, once the log has them."""

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ranker.http import events as endpoint
from ranker.http.event_batch import EVENTS_MAX
from stream.events.codec import decode_entity, decode_events
from stream.events.types import Impression, Install, Item, User
from stream.log.protocol import partition_of
from stream.runtime.clock import now_ms
from stream.runtime.errors import LogError, LogUnavailable
from tests.support.http_ranker import PARTITIONS, HttpRanker, http_ranker, problem_of
from tests.support.waiting import wait_until

PAGE = {"type": "impression", "user": "ann", "items": ["tea", "mug"], "time_ms": 1_732_435_200_000}
INSTALL = {"type": "install", "user": "ann", "item": "tea", "time_ms": 1_732_435_201_000}
ITEM = {"type": "item", "item": "tea", "title": "Green tea", "attributes": {"genres": ["hot"]}}
USER = {"type": "user", "user": "ann", "attributes": {"age": 34.0}}


@pytest.fixture
def ranker() -> Iterator[HttpRanker]:
    """One with an empty log."""
    with http_ranker() as made:
        yield made


def written(ranker: HttpRanker) -> list[Impression | Install]:
    """The events in the log, each in the partition of its user."""
    found: list[Any] = []
    for record in ranker.log.records("events"):
        events, bad = decode_events(record.value or b"")
        assert not bad
        assert {partition_of(event.user, PARTITIONS) for event in events} == {record.partition}  # type: ignore[union-attr]
        found += events
    return found


def test_an_item_is_retired_by_a_tombstone(ranker: HttpRanker) -> None:
    """Of the events of one item in a list the last counts."""
    assert ranker.send(ITEM, {"type": "retire", "item": "tea"}).json()["written"] == 2
    (record,) = ranker.log.records("items")
    assert (record.key, record.value) == (b"tea", None)


def test_events_are_written_as_producers_write_them(ranker: HttpRanker) -> None:
    """Pages and installs by user, in order; items and users by their own id, which is the record's key."""
    users = [f"u{n}" for n in range(20)]
    sent = [ITEM, USER] + [event | {"user": user} for user in users for event in (PAGE, INSTALL)]
    answer = ranker.send(*sent)
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("written", "rejected")} == {"written": 42, "rejected": 0}
    assert [result["index"] for result in answer.json()["results"]] == list(range(42))
    events = written(ranker)
    assert {event.user for event in events} == set(users)
    for user in users:
        page, install = [event for event in events if event.user == user]
        assert isinstance(page, Impression)
        assert isinstance(install, Install)
        assert (page.items, page.time_ms, install.item) == (["tea", "mug"], PAGE["time_ms"], "tea")
    (item,), (user_record,) = ranker.log.records("items"), ranker.log.records("users")
    assert (item.key, item.partition) == (b"tea", partition_of("tea", PARTITIONS))
    assert decode_entity(item.value or b"", Item) == Item("tea", {"genres": ["hot"]}, "Green tea")
    assert (user_record.key, decode_entity(user_record.value or b"", User)) == (b"ann", User("ann", {"age": 34.0}))
    results = answer.json()["results"]
    assert [result["id"] for result in results[:2]] == ["tea", "ann"]
    ids = {event.request_id if isinstance(event, Impression) else event.install_id for event in events}
    assert {result["id"] for result in results[2:]} == ids


def test_of_one_item_the_last_event_of_a_call_counts(ranker: HttpRanker) -> None:
    """As in a compacted topic."""
    assert ranker.send(ITEM, ITEM | {"title": "Black tea"}).json()["written"] == 2
    (record,) = ranker.log.records("items")
    assert decode_entity(record.value or b"", Item).title == "Black tea"


def test_all_forms_are_the_same_events(ranker: HttpRanker) -> None:
    """JSON, gzip and MessagePack; `time` and `time_ms`."""
    page = {name: value for name, value in PAGE.items() if name != "time_ms"} | {"time": "2024-11-24T08:00:00Z"}
    packed = gzip.compress(json.dumps([page]).encode())
    as_json = {"content-type": "application/json", "content-encoding": "gzip"}
    assert ranker.client.post("/v1/events", content=packed, headers=as_json).status_code == 200
    binary = msgspec.msgpack.encode([PAGE | {"features": b"\x00\xff" * 4}])
    answer = ranker.client.post("/v1/events", content=binary, headers={"content-type": "application/msgpack"})
    assert msgspec.msgpack.decode(answer.content)["written"] == 1
    assert ranker.send(PAGE | {"features": "AP8A/wD/AP8="}).status_code == 200
    first, second, third = written(ranker)
    assert second == third == msgspec.structs.replace(first, features=b"\x00\xff" * 4)


def test_an_event_has_happened_by_its_arrival(ranker: HttpRanker) -> None:
    """A time in the future, and none at all, become the arrival; the past stays, however long ago."""
    before_ms = now_ms()
    times: list[dict[str, Any]] = [{"time_ms": 4_000_000_000_000}, {"time": "2090-01-01T00:00:00Z"}, {}, {"time_ms": 1}]
    untimed = {name: value for name, value in PAGE.items() if name != "time_ms"}
    assert ranker.send(*(untimed | time_ for time_ in times)).json()["written"] == 4
    ahead, far_ahead, none, old = [event.time_ms for event in written(ranker)]
    assert before_ms <= ahead == far_ahead == none <= now_ms()
    assert old == 1


BAD = {
    "no object": 7,
    "another type": {"type": "click", "user": "ann"},
    "a tick": {"type": "tick", "time_ms": 1},
    "a misspelled field": INSTALL | {"itme": "tea"},
    "no user": {"type": "install", "item": "tea"},
    "an empty user": PAGE | {"user": ""},
    "the same item twice": PAGE | {"items": ["a", "a"]},
    "too many items": PAGE | {"items": [f"i{n}" for n in range(1_001)]},
    "two times": PAGE | {"time": "2024-11-24T08:00:00Z"},
    "a time without zone": {"type": "install", "user": "ann", "item": "tea", "time": "2024-11-24T08:00:00"},
    "a time before 1970": INSTALL | {"time_ms": -1},
    "a time before all numbers": INSTALL | {"time_ms": -(10**30)},
    "a number as text": PAGE | {"version": "1"},
    "a retraction of nothing": INSTALL | {"retracted": True},
    "an item without id": ITEM | {"item": ""},
    "an event over its limit": PAGE | {"features": "AAAA" * 22_000},
    "a lone surrogate": INSTALL | {"user": "\ud800"},
    "features that aren't words": PAGE | {"features": "AAAA"},
}


def test_a_bad_event_hinders_no_other(ranker: HttpRanker) -> None:
    """207: what is valid is written, and each that isn't has its reason."""
    sent = [event for bad in BAD.values() for event in (bad, INSTALL)]
    answer = ranker.client.post("/v1/events", content=json.dumps(sent), headers={"content-type": "application/json"})
    assert answer.status_code == 207
    results = answer.json()["results"]
    for name, result in zip(BAD, results[::2], strict=True):
        assert (name, result["status"], result["id"]) == (name, "invalid", "")
        assert result["reason"]
    assert "half of a surrogate pair" in results[2 * list(BAD).index("a lone surrogate")]["reason"]
    assert [result["status"] for result in results[1::2]] == ["written"] * len(BAD)
    assert answer.json()["rejected"] == len(BAD)
    assert len(written(ranker)) == len(BAD)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(ranker: HttpRanker, number: float) -> None:
    """MessagePack has NaN and infinity: events don't."""
    sent = [
        PAGE | {"context": {"x": number}},
        PAGE | {"scores": [number, 1.0]},
        ITEM | {"attributes": {"x": number}},
        ITEM | {"popularity": number},
        USER | {"attributes": {"x": number}},
    ]
    headers = {"content-type": "application/msgpack", "accept": "application/json"}
    answer = ranker.client.post("/v1/events", content=msgspec.msgpack.encode(sent), headers=headers)
    assert [result["status"] for result in answer.json()["results"]] == ["invalid"] * len(sent)
    assert not ranker.log.records("items")


CALLS: dict[str, tuple[bytes, dict[str, str], int]] = {
    "nothing": (b"", {}, 400),
    "an event by itself": (json.dumps(PAGE).encode(), {}, 400),
    "no events": (b"[]", {}, 400),
    "a list that doesn't end": (b"[" + json.dumps(PAGE).encode(), {}, 400),
    "deep nesting": (b"[" * 100_000, {}, 400),
    "too many events": (json.dumps([{}] * (EVENTS_MAX + 1)).encode(), {}, 400),
    "100,000 installs": (json.dumps([INSTALL] * 100_000).encode(), {}, 413),
    "100,000 installs in gzip": (gzip.compress(json.dumps([INSTALL] * 100_000).encode()),
                                 {"content-encoding": "gzip"}, 413),
    "truncated gzip": (gzip.compress(json.dumps([PAGE]).encode())[:-9], {"content-encoding": "gzip"}, 400),
    "no content type": (b"[]", {"content-type": ""}, 415),
    "an empty key": (b"[]", {"idempotency-key": ""}, 400),
    "a long key": (b"[]", {"idempotency-key": "k" * 129}, 400),
    "a key with a blank": (b"[]", {"idempotency-key": "a b"}, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_a_problem_and_writes_nothing(ranker: HttpRanker, name: str) -> None:
    """What isn't a list of events has no results."""
    content, headers, status = CALLS[name]
    answer = ranker.client.post("/v1/events", content=content, headers={"content-type": "application/json"} | headers)
    assert (answer.status_code, problem_of(answer)["status"]) == (status, status)
    assert not ranker.log.records("events")
    assert ranker.send(PAGE).status_code == ranker.rank().status_code == 200


def test_it_answers_once_the_log_has_them(ranker: HttpRanker) -> None:
    """Not before; rankings go on meanwhile."""
    ranker.log.sends.is_held = True
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(ranker.send(PAGE, ITEM)))
    thread.start()
    wait_until(lambda: len(ranker.log.sends.held) == 2)
    ranker.log.sends.acknowledge(1)
    assert ranker.rank().status_code == 200
    assert not answers
    ranker.log.sends.acknowledge()
    thread.join(30)
    assert [answer.status_code for answer in answers] == [200]


def test_without_the_log_it_is_503_and_a_retry_writes_them(ranker: HttpRanker, caplog: Any) -> None:
    """Not connected, unavailable, silent: Retry-After; a refusal for good is 500. The key isn't used up."""

    def call() -> httpx.Response:
        return ranker.send(PAGE, idempotency_key="k")

    def check(failed: httpx.Response, status: int) -> None:
        assert (failed.status_code, failed.headers.get("retry-after")) == (status, "1" if status == 503 else None)
        problem_of(failed)

    ranker.is_connected = False
    check(call(), 503)
    ranker.is_connected = True
    ranker.log.sends.failing = LogUnavailable("no broker answers at 10.0.0.1:9092")
    check(refused := call(), 503)
    assert "10.0.0.1" not in refused.text
    assert caplog.text.count("events can't be written") == 1
    ranker.log.sends.failing = LogError("not authorized")
    check(call(), 500)
    ranker.log.sends.failing = None
    assert call().status_code == 200
    assert len(written(ranker)) == 1


def test_a_silent_log_is_not_waited_for_endlessly() -> None:
    """What arrives late in the log is the same as the retry: it has the same id."""
    with http_ranker(ack_s=0.1) as ranker:
        ranker.log.sends.is_held = True
        assert ranker.send(PAGE, idempotency_key="k").status_code == 503
        ranker.log.sends.is_held = False
        ranker.log.sends.acknowledge()
        assert ranker.send(PAGE, idempotency_key="k").status_code == 200
        first, second = written(ranker)
        assert first == second


def test_calls_that_wait_for_the_log_are_bounded(ranker: HttpRanker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is shed."""
    monkeypatch.setattr(endpoint, "CALLS_MAX", 2)
    ranker.log.sends.is_held = True
    threads = [threading.Thread(target=ranker.send, args=(PAGE,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(ranker.log.sends.held) == 2)
    shed = ranker.send(PAGE)
    assert (shed.status_code, problem_of(shed)["type"]) == (503, "urn:thalweg:problem:shed")
    ranker.log.sends.acknowledge()
    for thread in threads:
        thread.join(30)
    ranker.log.sends.is_held = False
    assert ranker.send(PAGE).status_code == 200


def test_scopes_are_per_event(tmp_path: Path) -> None:
    """Pages and installs need `events`, items and users `catalogue`; without either nothing is read."""
    file = tmp_path / "tokens.toml"
    tokens = {"shop": "events", "catalogue": "catalogue", "page": "rank"}
    file.write_text("".join(f'[{name}]\ntoken = "{name:x<20}"\nscopes = ["{s}"]\n' for name, s in tokens.items()))
    with http_ranker(file) as ranker:

        def statuses(name: str) -> Any:
            answer = ranker.send(PAGE, ITEM, USER, INSTALL, Authorization=f"Bearer {name:x<20}", idempotency_key="k")
            if answer.status_code == 403:
                return problem_of(answer)["type"]
            return [result["status"] for result in answer.json()["results"]]

        assert statuses("page") == "urn:thalweg:problem:forbidden"
        assert not ranker.log.records("events")
        assert statuses("shop") == ["written", "forbidden", "forbidden", "written"]
        assert not ranker.log.records("items")
        assert statuses("catalogue") == ["forbidden", "written", "written", "forbidden"]  # a key is its caller's
