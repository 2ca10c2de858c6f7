"""What a request waits for is bounded: age, queue, huge records."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ranker.serving.admission import COST_MS_START
from ranker.serving.request_loop import HEADS_MAX
from stream.events.topics import REPLIES, REQUESTS, REQUESTS_DLQ
from stream.events.types import RankRequest
from stream.log.protocol import START, Record
from tests.support.request_bench import COST_MS, QUEUE_MS, Bench, metric


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A fresh loop."""
    made = Bench()
    yield made
    made.scorer.close()


@pytest.mark.parametrize(("deadline_ms", "left_ms"), [(0, 700.0), (400, 100.0), (5_000, 4_700.0)])
def test_age_counts_from_the_append(bench: Bench, deadline_ms: int, left_ms: float) -> None:
    """A request that waited in the log has what is left of its deadline, by default of a second."""
    bench.ask(RankRequest("1", "u", deadline_ms=deadline_ms))
    bench.clock.now_ms += 300
    assert bench.loop.poll_once(0) == 1
    assert bench.ranker.left_ms == [left_ms]


def test_a_clock_that_is_behind_the_brokers_adds_nothing(bench: Bench) -> None:
    """A request from the future has its whole deadline, and the skew is a metric."""
    bench.ask(RankRequest("1", "u", deadline_ms=400))
    bench.clock.now_ms -= 30_000
    bench.loop.poll_once(0)
    assert (bench.ranker.left_ms, metric("clock_skew_seconds")) == ([400.0], 30.0)


def test_what_is_too_old_is_not_ranked(bench: Bench) -> None:
    """After its deadline a request has a reply that says so; nothing is looked up or ranked for it."""
    bench.ask(RankRequest("1", "u"), RankRequest("2", "u", deadline_ms=50), RankRequest("3", "u", deadline_ms=2_000))
    bench.clock.now_ms += 1_000
    assert bench.answer_all() == 3
    assert bench.kinds() == {"1": "expired", "2": "expired", "3": ""}
    assert "1000 ms old and had 50 ms" in bench.replies()["2"][0].error
    assert (bench.ranker.asked, bench.looked_up) == (["3"], [["u"]])


def test_after_an_outage_the_dead_cost_next_to_nothing(bench: Bench) -> None:
    """Thousands of expired requests have their replies in a few records, and the live one behind them is ranked."""
    for n in range(2_000):
        bench.ask(RankRequest(f"{n}", "u", candidates=["i1", "i2"]))
    bench.clock.now_ms += 60_000
    bench.ask(RankRequest("live", "u"))
    assert bench.answer_all() == 2_001
    assert bench.ranker.asked == ["live"]
    assert sum(bench.log.ends(REPLIES.name).values()) <= 40
    assert sum(kind == "expired" for kind in bench.kinds().values()) == 2_000


def test_the_newest_are_shed(bench: Bench) -> None:
    """As many are admitted as fit the bound, the oldest; the rest is told at once, before any of them is ranked."""
    for n in range(200):
        bench.ask(RankRequest(f"{n:03}", "u"))
    bench.loop.poll_once(0)
    admitted = int(QUEUE_MS / COST_MS_START) + 1
    assert [request_id for request_id, kind in sorted(bench.kinds().items()) if kind == "shed"] == [
        f"{n:03}" for n in range(admitted, 200)
    ]
    assert "102 ms of requests wait" in bench.replies()["199"][0].error
    bench.answer_all()
    assert bench.ranker.asked == [f"{n:03}" for n in range(admitted)]


def test_who_was_admitted_keeps_his_place(bench: Bench) -> None:
    """Requests that come while the queue is full are shed, however short of time those before them are."""
    for n in range(51):
        bench.ask(RankRequest(f"old{n}", "u"))
    bench.loop.poll_once(0)
    for n in range(51):
        bench.ask(RankRequest(f"new{n}", "u"))
    bench.answer_all()
    kinds = bench.kinds()
    assert {kinds[f"old{n}"] for n in range(51)} == {""}
    answered = [n for n in range(51) if not kinds[f"new{n}"]]
    assert answered == list(range(len(answered)))
    assert 0 < len(answered) < 51


def test_what_others_cost_is_part_of_the_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and shedding between two slices count in the mean cost by which requests are admitted."""
    poll = bench.reader.poll

    def slow_poll(timeout_s: float, records_max: int = 500) -> list[Record]:
        bench.clock.now_ms += 5
        return poll(timeout_s, records_max)

    monkeypatch.setattr(bench.reader, "poll", slow_poll)
    bench.ask(*(RankRequest(f"{n}", "u") for n in range(40)))
    bench.answer_all()
    assert COST_MS < bench.admission.cost_ms < COST_MS + 5


@pytest.mark.parametrize("request_id", ["r" * 257, "é" * 129])
def test_an_id_over_the_limit_is_invalid(bench: Bench, request_id: str) -> None:
    """Also where the head decides: a request that has expired, or would be shed."""
    bench.ask(RankRequest(request_id, "u"))
    bench.clock.now_ms += 60_000
    bench.answer_all()
    assert bench.kinds() == {request_id: "invalid"}


def test_what_cant_be_answered_in_time_is_shed(bench: Bench) -> None:
    """A short deadline is shed behind a queue that a longer one may join; alone it's tried."""
    bench.ask(*(RankRequest(f"{n}", "u") for n in range(20)), RankRequest("short", "u", deadline_ms=30),
              RankRequest("long", "u", deadline_ms=80))  # fmt: skip
    bench.answer_all()
    assert (bench.kinds()["short"], bench.kinds()["long"]) == ("shed", "")
    bench.ask(RankRequest("alone", "u", deadline_ms=1))
    bench.answer_all()
    assert bench.kinds()["alone"] == ""


def test_a_huge_record_stops_nobody(bench: Bench) -> None:
    """Its requests are taken a few at a time, and those of other partitions are answered between them, not shed."""
    bench.ask(*(RankRequest(f"a{n}", "u", history=[], deadline_ms=60_000) for n in range(3_000)))
    assert bench.loop.poll_once(0) <= HEADS_MAX
    waited: list[float] = []
    for n in range(40):
        bench.ask(RankRequest(f"b{n}", "u", history=[]), partition=1)
        asked_ms = bench.clock.now_ms
        while f"b{n}" not in bench.ranker.asked:
            assert bench.loop.poll_once(0) <= HEADS_MAX + 32
        waited.append(bench.clock.now_ms - asked_ms)
    assert max(waited) <= 20.0
    bench.answer_all()
    assert len(bench.replies()) == 3_040
    assert set(bench.kinds().values()) == {"", "shed"}
    assert bench.admission.waiting == 0


def test_a_huge_record_of_invalid_requests_stops_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Each becomes a dead letter, which takes its time; another partition's request is answered meanwhile."""
    send = bench.sender.send

    def slowly(topic: str, *args: Any) -> None:
        if topic == REQUESTS_DLQ.name:
            bench.clock.now_ms += 1
        send(topic, *args)

    bench.sender.send = slowly  # type: ignore[method-assign,assignment]
    bench.log.send(REQUESTS.name, 0, msgspec.msgpack.encode([[5, f"{n}", 1] for n in range(200)]))
    bench.ask(RankRequest("other", "u"), partition=1)
    bench.loop.poll_once(0)
    assert list(bench.replies()) == ["other"]
    letters = bench.log.reader(REQUESTS_DLQ.name, {0: START})
    assert 1 <= len(letters.poll(0, 1_000)) < 20
    for _ in range(100):
        bench.loop.poll_once(0)
    assert len(bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0, 1_000)) == 200
    assert caplog.text.count("a request is invalid") == 1


def test_the_queue_is_a_metric(bench: Bench) -> None:
    """How many wait and how old the oldest is; both are 0 when none does."""
    for n in range(40):
        bench.ask(RankRequest(f"{n}", "u"))
    bench.clock.now_ms += 500
    bench.loop.poll_once(0)
    assert metric("queue_requests") == bench.admission.waiting > 0
    assert 0.5 <= metric("queue_age_seconds") < 0.6
    bench.answer_all()
    assert (metric("queue_requests"), metric("queue_age_seconds")) == (0, 0)
