"""Requests in, replies out: on a log in memory."""

import re
from collections.abc import Iterator

import msgspec
import pytest

from ranker.serving.reply_writer import reply_partitions
from stream.events.codec import decode_entity, decode_replies, encode_record
from stream.events.topics import REPLIES, REQUESTS, REQUESTS_DLQ
from stream.events.types import DeadLetter, RankReply, RankRequest, ReplyTo
from stream.log.protocol import START
from stream.runtime.errors import BadEvent, SettingsError
from tests.support.request_bench import Bench, metric


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A fresh loop."""
    made = Bench()
    yield made
    made.scorer.close()


def test_each_request_has_its_reply(bench: Bench) -> None:
    """Requests of any record and partition are answered once each, in the partition of their id."""
    bench.ask(*(RankRequest(f"a{n}", "u") for n in range(20)))
    bench.ask(*(RankRequest(f"b{n}", "u") for n in range(20)), partition=1)
    assert bench.answer_all() == 40
    assert {r: len(replies) for r, replies in bench.replies().items()} == {
        f"{p}{n}": 1 for p in "ab" for n in range(20)
    }
    assert bench.loop.poll_once(0) == 0


def test_profiles_are_read_once_a_poll(bench: Bench) -> None:
    """One look-up for all users of a poll, but of those whose requests bring history and attributes."""
    bench.ask(
        RankRequest("1", "u"), RankRequest("2", "v", history=["i5"], attributes={}), RankRequest("3", "w", history=[])
    )
    bench.ask(RankRequest("4", "u"), partition=1)
    bench.loop.poll_once(0)
    assert bench.looked_up == [["u", "w"]]
    assert sorted(bench.ranker.given) == [("u", ["i0"]), ("u", ["i0"]), ("v", ["i5"]), ("w", [])]


def test_bad_requests_become_dead_letters_and_cost_only_themselves(bench: Bench) -> None:
    """An invalid request is in the dead-letter topic with reason and offset; its neighbours are ranked."""
    whole = encode_record([RankRequest("1", "u"), RankRequest("2", "", k=3), RankRequest("3", "u")])
    bench.log.send(REQUESTS.name, 0, whole)
    bench.log.send(REQUESTS.name, 1, b"\xc1 rubbish")
    bench.loop.poll_once(0)
    assert {id: bool(replies[0].items) for id, replies in bench.replies().items()} == {"1": True, "2": False, "3": True}
    records = bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0)
    dead_letters = sorted((decode_entity(r.value or b"", DeadLetter) for r in records), key=lambda d: d.partition)
    assert [(d.error, d.topic, d.partition, d.offset) for d in dead_letters] == [
        ("BadEvent", REQUESTS.name, 0, 0),
        ("BadEvent", REQUESTS.name, 1, 0),
    ]
    assert msgspec.msgpack.decode(dead_letters[0].original, type=RankRequest).request_id == "2"
    assert dead_letters[1].original == b"\xc1 rubbish"


BAD: list[tuple[dict[str, object], str]] = [
    ({"candidates": [f"i{n}" for n in range(10_000)]}, "1 to 1000 candidates"),
    ({"candidates": ["i1", "i1", "i2"]}, "distinct"),
    ({"candidates": []}, "1 to 1000 candidates"),
    ({"candidates": [f"{n:0300}" for n in range(1_000)]}, "more than the limit"),
    ({"k": 0}, "k must be 1 to 1000"),
    ({"k": -1}, "k must be 1 to 1000"),
    ({"k": "many"}, "Expected `int`"),
    ({"deadline_ms": -1}, "deadline_ms -1"),
    ({"time_ms": -1}, "event time -1"),
    ({"context": {"x": float("nan")}}, "finite"),
    ({"history": b"\xff"}, "history|Expected"),
]


@pytest.mark.parametrize(("fields", "why"), BAD)
def test_who_asked_for_what_cant_be_had_is_told(bench: Bench, fields: dict[str, object], why: str) -> None:
    """An invalid request with a readable id and user has one reply, with the reason of its dead letter, at once."""
    bench.ask(RankRequest("1", "bad", **fields), RankRequest("2", "u"))  # type: ignore[arg-type]  # that's the point
    assert bench.loop.poll_once(0) == 2
    replies = bench.replies()
    assert [len(found) for found in replies.values()] == [1, 1]
    (reply,) = replies["1"]
    assert (reply.user, reply.items, reply.version) == ("bad", [], 0)
    assert re.search(why, reply.error)
    assert replies["2"][0].items
    (record,) = bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0)
    assert decode_entity(record.value or b"", DeadLetter).message == reply.error


@pytest.mark.parametrize("names", [[], ["r"], [1, "u"], ["", "u"], ["r" * 1_000_000, "u"], [b"\xff", "u"]])
def test_nobody_is_told_where_nobody_can_be_named(bench: Bench, names: list[object]) -> None:
    """Without a request id and a user that can be read, only the dead letter reports an invalid request."""
    bench.log.send(REQUESTS.name, 0, msgspec.msgpack.encode([[5, *names, 0] if len(names) == 2 else [5, *names]]))
    assert bench.loop.poll_once(0) == 0
    assert not bench.replies()
    assert len(bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0)) == 1


@pytest.mark.parametrize("bad", [BadEvent("nothing to rank"), ZeroDivisionError("a mistake of ours")])
def test_a_request_that_fails_is_answered_with_its_error(bench: Bench, bad: Exception) -> None:
    """Whatever goes wrong with one request, it has a reply that says so, and the others have theirs."""
    bench.ranker.bad = bad
    bench.ask(RankRequest("1", "bad"), RankRequest("2", "u"))
    bench.loop.poll_once(0)
    replies = bench.replies()
    assert str(bad) in replies["1"][0].error
    assert (replies["1"][0].items, replies["2"][0].error) == ([], "")


def test_a_reply_that_no_record_holds_is_an_error(bench: Bench) -> None:
    """A reply above the log's limit isn't sent: a short one says what to do instead."""
    bench.ask(RankRequest("1", "u", k=1000, candidates=[f"{n}" + "x" * 240 for n in range(900)]))
    huge = RankReply("1", "u", [], [], 0, features=bytes(2**20))
    bench.ranker.answer = lambda *_: huge  # type: ignore[method-assign]
    bench.loop.poll_once(0)
    assert "smaller k" in bench.replies()["1"][0].error


def test_many_replies_are_cut_into_records(bench: Bench) -> None:
    """Records of replies stay within what readers decode, however many requests one record had."""
    big = RankReply("1", "u", [], [], 0, features=bytes(100_000))
    bench.ranker.answer = lambda *_: big  # type: ignore[method-assign]
    bench.ask(*(RankRequest("1", "u") for _ in range(30)))
    assert bench.answer_all() == 30
    assert len(bench.replies()["1"]) == 30


def test_a_reply_goes_where_its_request_says(bench: Bench) -> None:
    """To its `reply_to`, if the operator lists that topic; else an error goes to the partition of the request id."""
    for request_id, to in (("1", ReplyTo("mine", 1)), ("2", ReplyTo("others", 0)), ("3", ReplyTo("mine", 2)),
                           ("4", ReplyTo(REQUESTS_DLQ.name, 0)), ("5", ReplyTo(REPLIES.name, 1))):  # fmt: skip
        bench.ask(RankRequest(request_id, "u", reply_to=to))
    bench.answer_all()
    (record,) = bench.log.reader("mine", {0: START, 1: START}).poll(0)
    assert record.partition == 1
    assert [reply.request_id for reply in decode_replies(record.value or b"")] == ["1"]
    records = bench.log.reader(REPLIES.name, {0: START, 1: START, 2: START}).poll(0)
    found = {reply.request_id: (r.partition, reply) for r in records for reply in decode_replies(r.value or b"")}
    assert {request_id: reply.kind for request_id, (_, reply) in found.items()} == {
        "2": "invalid", "3": "invalid", "4": "invalid", "5": "",
    }  # fmt: skip
    assert found["5"][0] == 1
    assert "THALWEG_REPLY_TOPICS" in found["2"][1].error
    assert sorted(bench.ranker.asked) == ["1", "5"]


@pytest.mark.parametrize("fields", [{"k": 0}, {"candidates": []}, {"context": {"x": float("nan")}}])
def test_who_asked_for_what_cant_be_had_is_told_where_he_waits(bench: Bench, fields: dict[str, object]) -> None:
    """The reply to an invalid request goes to its `reply_to`, as any other's."""
    bench.ask(RankRequest("1", "u", reply_to=ReplyTo("mine", 1), **fields))  # type: ignore[arg-type]
    bench.answer_all()
    (record,) = bench.log.reader("mine", {0: START, 1: START}).poll(0)
    (reply,) = decode_replies(record.value or b"")
    assert (record.partition, reply.request_id, reply.kind) == (1, "1", "invalid")
    assert not bench.replies()


@pytest.mark.parametrize("topic", [REQUESTS.name, "nowhere"])
def test_topics_for_replies_are_checked_at_the_start(bench: Bench, topic: str) -> None:
    """One of the system's own, or one that doesn't exist, is a mistake in the settings."""
    with pytest.raises(SettingsError, match=f"THALWEG_REPLY_TOPICS names {topic}"):
        reply_partitions(bench.log, [topic])


def test_each_model_has_its_own_rankers(bench: Bench) -> None:
    """A request is answered by the group of the model that it names; one that names none by those who say so."""
    other = bench.new_loop("0", "other", answers_unnamed=False)
    for request_id, model in (("1", ""), ("2", "m"), ("3", "other"), ("4", "nobody's")):
        bench.ask(RankRequest(request_id, "u", model=model))
    bench.log.send(REQUESTS.name, 0, b"\xc1 rubbish")
    before = metric("others_requests_total")
    assert other.poll_once(0) == 1
    assert (bench.ranker.asked, metric("others_requests_total") - before) == (["3"], 3)
    assert bench.answer_all() == 2
    assert bench.ranker.asked == ["3", "1", "2"]
    assert len(bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0)) == 1


def test_json_requests(bench: Bench) -> None:
    """Requests with named fields are answered as positional ones, in MessagePack; an invalid one is told why."""
    bench.log.send(REQUESTS.name, 0, b'{"request_id": "1", "user": "u", "k": 2}')
    bench.log.send(REQUESTS.name, 1, b'[{"request_id": "2", "user": "u"}, {"request_id": "3", "user": "u", "kk": 3}]')
    bench.log.send(REQUESTS.name, 1, b'{"request_id": ')
    assert bench.answer_all() == 3
    replies = bench.replies()
    assert (len(replies["1"][0].items), replies["2"][0].error) == (2, "")
    assert replies["3"][0].kind == "invalid"
    assert "kk" in replies["3"][0].error
    assert len(bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0)) == 2


def test_half_of_a_surrogate_pair_silences_no_other_request(bench: Bench) -> None:
    """In a list or alone it is one invalid request: a dead letter, and a reply where its id can be read."""
    bad = rb'{"request_id": "%d", "user": "\ud800"}'
    bench.log.send(
        REQUESTS.name, 0, b'[{"request_id": "1", "user": "u"}, %s, {"request_id": "3", "user": "u"}]' % (bad % 2)
    )
    bench.log.send(REQUESTS.name, 1, bad % 4)
    assert bench.answer_all() == 4
    replies = bench.replies()
    assert [replies[name][0].kind for name in "1234"] == ["", "invalid", "", "invalid"]
    assert "half of a surrogate pair" in replies["2"][0].error
    assert len(bench.log.reader(REQUESTS_DLQ.name, {0: START}).poll(0)) == 2
