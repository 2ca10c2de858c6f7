"""Profiles with a few ms of patience."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import redis

from ranker.serving.profile_reader import BACKOFF_S, LATE_MAX, QUICK_S, RARE_QUICK_S, USERS_MAX, ProfileReader
from ranker.serving.recent_profiles import RecentProfiles
from stream.history.profiles import UNKNOWN, UserProfile
from tests.support.waiting import wait_until

FOREVER_S = 20.0


class SlowRedis:
    """A read that can hang or fail; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def read(self, users: Sequence[str]) -> dict[str, UserProfile]:
        """One item a user, once it answers."""
        self.asked.append(list(users))
        assert self.answers.wait(FOREVER_S), "the test never let it answer"
        if self.error:
            raise self.error
        return {user: profile(user) for user in users}


def profile(user: str) -> UserProfile:
    """What Redis has of a user."""
    return UserProfile([f"of {user}"], {"name": user})


@pytest.fixture
def source() -> Iterator[SlowRedis]:
    """Redis, which answers; a test's end doesn't wait for it."""
    made = SlowRedis()
    yield made
    made.answers.set()


def late_reads(reader: ProfileReader, source: SlowRedis, users: Sequence[str]) -> None:
    """One read per user, each of which takes longer than anybody waits."""
    for user in users:
        source.answers.clear()
        asked = len(source.asked)
        read = reader.begin([user])
        wait_until(lambda: len(source.asked) > asked)  # noqa: B023  # called at once
        assert read.result() == {user: UNKNOWN}
        source.answers.set()
        wait_until(lambda: reader._reading_s is None)


def test_profiles_come_through(source: SlowRedis) -> None:
    """What Redis has is what the ranker gets; for nobody it isn't asked."""
    reader = ProfileReader(source.read, FOREVER_S)
    assert reader.begin(["a", "b", "a"]).result() == {"a": profile("a"), "b": profile("b")}
    assert reader.begin([]).result() == {}
    assert source.asked == [["a", "b"]]
    reader.close()


def test_users_asked_for_meanwhile_share_a_read(source: SlowRedis) -> None:
    """While one read runs, all others wait for the next one; each caller gets its own users."""
    reader = ProfileReader(source.read, FOREVER_S)
    source.answers.clear()
    first = reader.begin(["a"])
    wait_until(lambda: len(source.asked) == 1)
    others = [reader.begin([user]) for user in "bcb"]
    source.answers.set()
    assert first.result() == {"a": profile("a")}
    assert [read.result() for read in others] == [{user: profile(user)} for user in "bcb"]
    assert source.asked == [["a"], ["b", "c"]]
    reader.close()


def test_a_read_takes_only_so_many_users(source: SlowRedis) -> None:
    """While Redis hangs, users who don't fit into the next read aren't read: the queue is bounded."""
    reader = ProfileReader(source.read, 0.0)
    source.answers.clear()
    reader.begin(["first"])
    wait_until(lambda: len(source.asked) == 1)
    for n in range(2 * USERS_MAX):
        reader.begin([f"u{n}"])
    source.answers.set()
    wait_until(lambda: len(source.asked) == 2 and reader._reading_s is None)
    assert source.asked[1] == [f"u{n}" for n in range(USERS_MAX)]
    reader.close()


def test_nobody_waits_while_a_read_hangs(source: SlowRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks once a read is overdue goes on without, though its patience is long."""
    reader = ProfileReader(source.read, FOREVER_S)
    source.answers.clear()
    hanging = reader.begin(["a"])
    wait_until(lambda: len(source.asked) == 1)
    now_s = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now_s() + 2 * FOREVER_S)
    later = reader.begin(["b"])
    assert (hanging.result(), later.result()) == ({"a": UNKNOWN}, {"b": UNKNOWN})
    reader.close()


def test_a_late_profile_serves_the_users_next_request(source: SlowRedis) -> None:
    """What came too late for one request is there for the same user's next one, though Redis hangs again."""
    reader = ProfileReader(source.read, 0.001)
    late_reads(reader, source, "ab")
    source.answers.clear()
    assert reader.begin(["a", "c"]).result() == {"a": profile("a"), "c": UNKNOWN}
    reader.close()


def test_after_late_reads_nobody_waits_until_one_is_in_time(source: SlowRedis) -> None:
    """LATE_MAX late reads in a row end the waiting, not the reading; a read in time begins it again."""
    reader = ProfileReader(source.read, 0.001)
    late_reads(reader, source, "abcde"[:LATE_MAX])
    reader._patience_s = FOREVER_S  # whoever waits now does so for long
    source.answers.clear()
    asked = len(source.asked)
    assert reader.begin(["x"]).result() == {"x": UNKNOWN}
    wait_until(lambda: len(source.asked) == asked + 1)
    source.answers.set()  # x was a probe, which is in time now
    wait_until(lambda: reader._reading_s is None)
    assert reader.begin(["y"]).result() == {"y": profile("y")}
    reader.close()


def test_one_late_read_is_no_reason_to_stop_waiting(source: SlowRedis) -> None:
    """Late reads count in a row only."""
    reader = ProfileReader(source.read, 0.001)
    for n in range(LATE_MAX):
        late_reads(reader, source, [f"late {n}{k}" for k in range(LATE_MAX - 1)])
        reader._patience_s = FOREVER_S
        assert reader.begin([f"{n}"]).result() == {f"{n}": profile(f"{n}")}
        reader._patience_s = 0.001
    reader.close()


@pytest.mark.parametrize("error", [redis.ConnectionError("down"), redis.TimeoutError("slow"), OSError("no route")])
def test_after_a_failure_there_is_a_pause(source: SlowRedis, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A Redis that fails isn't asked again at once; after the pause one read probes, for which nobody waits."""
    reader = ProfileReader(source.read, FOREVER_S)
    assert reader.begin(["a"]).result() == {"a": profile("a")}
    source.error = error
    assert reader.begin(["b"]).result() == {"b": UNKNOWN}
    assert reader.begin(["a", "b"]).result() == {"a": profile("a"), "b": UNKNOWN}
    assert source.asked == [["a"], ["b"]]
    source.error = None
    now_s = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now_s() + BACKOFF_S[0])
    source.answers.clear()
    assert reader.begin(["c"]).result() == {"c": UNKNOWN}
    source.answers.set()
    wait_until(lambda: len(source.asked) == 3 and reader._reading_s is None)
    assert reader.begin(["d"]).result() == {"d": profile("d")}
    reader.close()


def test_a_defect_is_raised(source: SlowRedis) -> None:
    """What isn't Redis' fault reaches the caller, and later reads are tried."""
    reader = ProfileReader(source.read, FOREVER_S)
    source.error = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError):
        reader.begin(["a"]).result()
    source.error = None
    assert reader.begin(["a"]).result() == {"a": profile("a")}
    reader.close()


def test_an_event_loop_goes_on_while_it_waits(source: SlowRedis) -> None:
    """`arrived` gives what `result` does, in time or too late, and other tasks run meanwhile."""
    reader = ProfileReader(source.read, FOREVER_S)
    source.answers.clear()

    async def ask() -> tuple[object, object]:
        in_time = reader.begin(["a"])
        waiting = asyncio.create_task(in_time.arrived())
        await asyncio.sleep(0)
        source.answers.set()  # which only runs because the loop isn't blocked
        found = await waiting
        source.answers.clear()
        reader._patience_s = 0.001
        return found, await reader.begin(["b"]).arrived()

    assert asyncio.run(ask()) == ({"a": profile("a")}, {"b": UNKNOWN})
    source.answers.set()
    reader.close()


def test_recent_profiles_expire_and_are_bounded() -> None:
    """A profile is known for its TTL; beyond the weight, the longest unread ones are evicted."""
    now_s = 0.0
    recent = RecentProfiles(lambda: now_s, ttl_s=10.0, weight_max=7)
    recent.put({"a": UserProfile(["1", "2"], {}), "b": UserProfile(None, {"x": 1.0})})
    now_s = 5.0
    recent.put({"a": UserProfile(["1"], {})})
    assert (recent.get("a"), recent.get("b")) == (UserProfile(["1"], {}), UserProfile(None, {"x": 1.0}))
    recent.put({"c": UserProfile(["1", "2", "3"], None)})
    assert [recent.get(user) is not None for user in "abc"] == [True, False, True]
    now_s = 15.0
    assert [recent.get(user) for user in "abc"] == [None] * 3
    recent.put({"d": UserProfile(["1"] * 6, None)})
    assert recent.get("d") is not None


def test_quick_reads_are_the_callers_own(source: SlowRedis) -> None:
    """Once reads are quick, `begin` returns with the profiles, which are kept, and the thread reads nothing."""
    quick = SlowRedis()
    reader = ProfileReader(source.read, FOREVER_S, quick=quick.read)
    assert reader.begin(["u"]).result() == {"u": profile("u")}
    assert not quick.asked, "how long reads take isn't known yet"
    reader._mean_s, before = 0.0, len(source.asked)
    assert reader.begin(["a", "b", "a"]).result() == {"a": profile("a"), "b": profile("b")}
    assert (quick.asked, len(source.asked)) == ([["a", "b"]], before)
    assert reader._recent.get("b") == profile("b")
    reader.close()


@pytest.mark.parametrize("error", [redis.TimeoutError("late"), ConnectionRefusedError("gone"), ZeroDivisionError()])
def test_a_quick_read_that_fails_is_left_to_the_thread(source: SlowRedis, error: Exception) -> None:
    """Its profiles are read again by the thread, and so are others until reads are quick again."""
    quick = SlowRedis()
    quick.error = error
    reader = ProfileReader(source.read, FOREVER_S, quick=quick.read)
    reader._mean_s = 0.0
    for user in "ab":
        assert reader.begin([user]).result() == {user: profile(user)}
    assert (quick.asked, source.asked) == ([["a"]], [["a"], ["b"]])
    reader.close()


def test_a_read_that_comes_long_after_the_last_may_take_longer(source: SlowRedis) -> None:
    """Then nobody else waits for the caller's thread; reads close to each other go to the reader's."""
    quick = SlowRedis()
    reader = ProfileReader(source.read, FOREVER_S, quick=quick.read)
    reader._mean_s = (QUICK_S + RARE_QUICK_S) / 2
    assert reader.begin(["a"]).result() == {"a": profile("a")}
    reader._mean_s, reader._begun_s = (QUICK_S + RARE_QUICK_S) / 2, math.inf
    assert reader.begin(["b"]).result() == {"b": profile("b")}
    assert (quick.asked, source.asked) == ([["a"]], [["b"]])
    reader.close()
