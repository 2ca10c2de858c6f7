"""The copy of users' attributes in Redis."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import redis

from stream.events.codec import decode_entity, encode
from stream.events.topics import USERS, USERS_DLQ
from stream.events.types import DeadLetter, User, Value
from stream.history import user_writer
from stream.history.histories import COMPLETE, history_key, marker_key
from stream.history.profiles import UNKNOWN, UserProfile, read_profiles, user_key
from stream.history.user_writer import UserWriter, offsets_key
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import LogUnavailable
from tests.support.waiting import wait_until


@pytest.fixture
def source() -> MemoryLog:
    """The topic in two partitions, empty."""
    return MemoryLog({USERS.name: 2, USERS_DLQ.name: 1}, lambda: 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers check the copy often and retry soon, in small batches."""
    for name, value in (("RETRY_S", 0.01), ("CHECK_S", 0.01), ("POLL_S", 0.01), ("BATCH", 3)):
        monkeypatch.setattr(user_writer, name, value)


@contextmanager
def copying(cache: redis.Redis, source: MemoryLog, prefix: str) -> Iterator[UserWriter]:
    """A writer that runs."""
    writer = UserWriter(cache, lambda: source, prefix)
    try:
        yield writer
    finally:
        writer.close(20)


def put(source: MemoryLog, user: str, age: float | None, partition: int = 0) -> None:
    """Write a user as producers do; without an age a tombstone."""
    source.send(USERS.name, partition, None if age is None else encode(User(user, {"age": age})), user.encode())


def attributes(cache: redis.Redis, prefix: str, *users: str) -> list[object]:
    """Users' attributes in Redis."""
    return [profile.attributes for profile in read_profiles(cache, users, prefix).values()]


def test_a_profile_has_the_whole_history_and_the_attributes(cache: redis.Redis, topic_prefix: str) -> None:
    """Items newest last, however many; who is unknown has no attributes, and nothing installed if that is sure."""
    many = {f"i{n}": n for n in range(500)}
    cache.zadd(history_key("u", topic_prefix), many)
    cache.set(user_key("u", topic_prefix), encode(User("u", {"age": 1.0})))
    cache.set(user_key("v", topic_prefix), b"\xc1 from a later release")
    for marker in (None, b"begun"):
        if marker:
            cache.set(marker_key(topic_prefix), marker)
        found = read_profiles(cache, ["u", "v", "w"], topic_prefix)
        assert found == {"u": UserProfile(list(many), {"age": 1.0}), "v": UNKNOWN, "w": UNKNOWN}
    cache.set(marker_key(topic_prefix), COMPLETE)
    cache.zadd(history_key("x", topic_prefix), {b"\xff from elsewhere": 1})
    assert read_profiles(cache, ["w", "x"], topic_prefix) == {"w": UserProfile([], None), "x": UNKNOWN}
    cache.delete(marker_key(topic_prefix), history_key("u", topic_prefix))
    assert read_profiles(cache, ["u"], topic_prefix) == {"u": UserProfile(None, {"age": 1.0})}, "a wiped Redis"


def test_the_newest_record_of_each_user_is_copied(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """Those that were there and those that come; replaced ones are replaced, deleted ones are gone."""
    for n in range(10):
        put(source, "u", float(n))
        put(source, f"other {n}", 1.0, partition=1)
    with copying(cache, source, topic_prefix):
        wait_until(lambda: attributes(cache, topic_prefix, "u", "other 9") == [{"age": 9.0}, {"age": 1.0}])
        put(source, "u", None)
        put(source, "new", 5.0)
        wait_until(lambda: attributes(cache, topic_prefix, "u", "new") == [None, {"age": 5.0}])
    assert cache.hgetall(offsets_key(topic_prefix)) == {b"0": b"12", b"1": b"10"}


def test_a_start_continues_where_the_copy_ends(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """What is copied isn't copied again: a key that was changed by hand stays so."""
    put(source, "u", 1.0)
    with copying(cache, source, topic_prefix):
        wait_until(lambda: attributes(cache, topic_prefix, "u") == [{"age": 1.0}])
    cache.delete(user_key("u", topic_prefix))
    put(source, "v", 2.0)
    with copying(cache, source, topic_prefix):
        wait_until(lambda: attributes(cache, topic_prefix, "u", "v") == [None, {"age": 2.0}])


def test_a_wiped_redis_is_filled_again(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """All users come back by themselves, and what is written later follows."""
    users = [f"u{n}" for n in range(20)]
    for user in users:
        put(source, user, 1.0)
    everybody: list[Value | dict[str, Value]] = [{"age": 1.0}] * 20
    with copying(cache, source, topic_prefix):
        wait_until(lambda: attributes(cache, topic_prefix, *users) == everybody)
        cache.delete(offsets_key(topic_prefix), *(user_key(user, topic_prefix) for user in users))
        wait_until(lambda: attributes(cache, topic_prefix, *users) == everybody)
        put(source, "late", 2.0)
        wait_until(lambda: attributes(cache, topic_prefix, "late") == [{"age": 2.0}])


def test_a_topic_that_was_created_anew_is_copied(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """Its offsets are smaller than those of the copy."""
    cache.hset(offsets_key(topic_prefix), "0", 1_000)
    put(source, "u", 1.0)
    with copying(cache, source, topic_prefix):
        wait_until(lambda: attributes(cache, topic_prefix, "u") == [{"age": 1.0}])


def test_several_writers_copy_in_order(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """A writer that is behind never writes an old record over a newer one: times only rise."""
    for n in range(300):
        put(source, "u", float(n))
    seen: list[float] = []

    def all_copied() -> bool:
        found = read_profiles(cache, ["u"], topic_prefix)["u"].attributes or {"age": -1.0}
        seen.append(float(found["age"]))  # type: ignore[arg-type]
        return seen[-1] == 299.0

    with copying(cache, source, topic_prefix), copying(cache, source, topic_prefix):
        wait_until(all_copied)
    assert seen == sorted(seen)


def test_bad_records_become_dead_letters(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """They are left out with their reason and offset; the others are copied."""
    source.send(USERS.name, 0, b"\xc1 no user", b"x")
    source.send(USERS.name, 0, None, b"\xff")
    put(source, "u", 1.0)
    counted: list[int] = []
    with closing(UserWriter(cache, lambda: source, topic_prefix, counted.append)):
        wait_until(lambda: attributes(cache, topic_prefix, "u") == [{"age": 1.0}])
    assert sum(counted) == 2
    records = source.reader(USERS_DLQ.name, {0: 0}).poll(0)
    letters = {record.key: decode_entity(record.value or b"", DeadLetter) for record in records}
    assert {key: (one.original, one.topic) for key, one in letters.items()} == {
        b"0/0": (b"\xc1 no user", "users"), b"0/1": (b"", "users"),
    }  # fmt: skip


def test_an_outage_is_waited_for(cache: redis.Redis, source: MemoryLog, topic_prefix: str) -> None:
    """Without the log nothing is copied; when it's there, everything is."""
    put(source, "u", 1.0)
    failures = iter((LogUnavailable("no broker"), redis.ConnectionError("gone"), OSError("no route")))
    failed: list[Exception] = []

    def opened() -> MemoryLog:
        for error in failures:
            failed.append(error)
            raise error
        return source

    writer = UserWriter(cache, opened, topic_prefix)
    wait_until(lambda: attributes(cache, topic_prefix, "u") == [{"age": 1.0}])
    writer.close(20)
    assert len(failed) == 3
