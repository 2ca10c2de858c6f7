"""Requests in, replies out, commits: on a log in memory."""

import re
from collections.abc import Callable, Sequence

import msgspec
import pytest

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.serving.profile_reader import ProfileReader
from ranker.serving.request_loop import RequestLoop
from stream.events.codec import decode_entity, decode_replies, encode_record
from stream.events.topics import REPLIES, REQUESTS, REQUESTS_DLQ
from stream.events.types import DeadLetter, RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, partition_of
from stream.runtime.errors import BadEvent, LogUnavailable
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import items


class ShakyLog(MemoryLog):
    """A log whose sends or flushes can be made to fail."""

    failing = False

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """See Log."""
        if self.failing:
            raise LogUnavailable("as the test wants")
        super().send(topic, partition, value, key)

    def flush(self, timeout_s: float = 10.0) -> None:
        """See Log."""
        if self.failing:
            raise LogUnavailable("as the test wants")


class Recording(Ranker):
    """Remembers which histories and deadlines it was given; fails where the test wants."""

    given: list[tuple[str, Sequence[str] | None]]
    patience_ms: list[float | None]
    bad: Exception | None = None

    def answer(
        self,
        request: RankRequest,
        profile: Callable[[], UserProfile],
        read_s: float,
        deadline_s: float | None = None,
    ) -> RankReply:
        """See Ranker."""
        self.given.append((request.user, profile().history if request.history is None else request.history))
        self.patience_ms.append(None if deadline_s is None else round((deadline_s - read_s) * 1e3, 6))
        if self.bad and request.user == "bad":
            raise self.bad
        return super().answer(request, profile, read_s, deadline_s)


class Bench:
    """A loop on a log of two partitions, without a model: answers come by popularity."""

    def __init__(self) -> None:
        self.log = ShakyLog({REQUESTS.name: 2, REPLIES.name: 3, REQUESTS_DLQ.name: 1}, lambda: 1)
        cache = EntityCache()
        for item in items(30):
            cache.put(item.item, item)
        watcher = VersionWatcher(MemoryStore("m"), "m", cache, lambda: 1)
        self.ranker = Recording(cache, watcher, Scorer(1), lambda: 1)
        self.ranker.given, self.ranker.patience_ms = [], []
        self.asked: list[list[str]] = []
        self.reader = self.log.group_reader(REQUESTS.name, "ranker", "0")
        profiles = ProfileReader(self._read, patience_s=20)
        self.loop = RequestLoop(self.log, self.reader, self.ranker, profiles, watcher.freshness, lambda: 1)

    def _read(self, users: Sequence[str]) -> dict[str, UserProfile]:
        self.asked.append(sorted(users))
        return {user: UserProfile(["i0"], {}) for user in users}

    def ask(self, *requests: RankRequest, partition: int = 0) -> None:
        """Write a record of requests."""
        self.log.send(REQUESTS.name, partition, encode_record(requests))

    def replies(self) -> dict[str, list[RankReply]]:
        """All replies so far, by request."""
        reader = self.log.reader(REPLIES.name, dict.fromkeys(range(3), START))
        found: dict[str, list[RankReply]] = {}
        for record in reader.poll(0, 10_000):
            for reply in decode_replies(record.value or b""):
                assert record.partition == partition_of(reply.request_id, 3)
                found.setdefault(reply.request_id, []).append(reply)
        return found


@pytest.fixture
def bench() -> Bench:
    """A fresh loop."""
    return Bench()


def test_each_request_has_its_reply(bench: Bench) -> None:
    """Requests of any record and partition are answered once each, in the partition of their id."""
    bench.ask(*(RankRequest(f"a{n}", "u") for n in range(20)))
    bench.ask(*(RankRequest(f"b{n}", "u") for n in range(20)), partition=1)
    assert bench.loop.poll_once(0) == 40
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
    assert bench.asked == [["u", "w"]]
    assert sorted(bench.ranker.given) == [("u", ["i0"]), ("u", ["i0"]), ("v", ["i5"]), ("w", [])]


def test_a_deadline_counts_from_when_its_request_was_read(bench: Bench) -> None:
    """`deadline_ms` after the poll that read it; without one all candidates are scored."""
    bench.ask(RankRequest("1", "u", deadline_ms=40), RankRequest("2", "u"))
    bench.loop.poll_once(0)
    assert bench.ranker.patience_ms == [40.0, None]


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


def test_what_is_not_committed_is_answered_again(bench: Bench) -> None:
    """Who takes over goes on at the commit: replies before it stand, requests after it are answered (again)."""
    bench.ask(RankRequest("1", "u"))
    bench.loop.poll_once(0)
    bench.loop.commit()
    bench.ask(RankRequest("2", "u"))
    bench.loop.poll_once(0)
    bench.reader.close()
    again = bench.log.group_reader(REQUESTS.name, "ranker", "1")
    assert [(r.partition, r.offset) for r in again.poll(0)] == [(0, 1)]


def test_replies_that_may_be_lost_are_sent_again(bench: Bench) -> None:
    """When the log fails, nothing is committed, and after a rewind all that is in doubt is answered again."""
    bench.ask(RankRequest("1", "u"))
    bench.loop.poll_once(0)
    bench.loop.commit()
    bench.ask(RankRequest("2", "u"), partition=1)
    bench.log.failing = True
    with pytest.raises(LogUnavailable):
        bench.loop.poll_once(0)
    bench.loop.rewind()
    bench.log.failing = False
    assert bench.loop.poll_once(0) == 1
    assert {r: len(replies) for r, replies in bench.replies().items()} == {"1": 1, "2": 1}
    bench.log.failing = True
    with pytest.raises(LogUnavailable):
        bench.loop.commit()
    bench.loop.rewind()
    bench.log.failing = False
    assert bench.loop.poll_once(0) == 1
    assert len(bench.replies()["2"]) == 2


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
    assert bench.loop.poll_once(0) == 30
    assert len(bench.replies()["1"]) == 30
