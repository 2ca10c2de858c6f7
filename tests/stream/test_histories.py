"""The copy of histories in Redis."""

import threading
import time
from collections.abc import Callable

import pytest
import redis

from stream.histories import HistoryWriter, history_key, read_histories
from thalweg.stack import Stack


@pytest.fixture
def cache(stack: Stack) -> redis.Redis:
    """The run's Redis."""
    return redis.Redis.from_url(stack.redis)


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_newest_installs_are_kept_and_read_newest_last(cache: redis.Redis, topic_prefix: str) -> None:
    """Bounded per user: the oldest go first; a late one finds its place by its time; retractions are taken out."""
    writer = HistoryWriter(cache, topic_prefix, members_max=4)
    for k in (5, 1, 4, 2, 3, 6):
        writer.put("u", f"i{k}", k)
    writer.put("u", "i5", None)
    writer.put("v", "x", 1)
    writer.close(10)
    assert read_histories(cache, ["u", "nobody", "v"], 2, topic_prefix) == {"u": ["i4", "i6"], "nobody": [], "v": ["x"]}
    assert read_histories(cache, ["u"], 0, topic_prefix) == {"u": []}
    assert cache.keys(f"{topic_prefix}*v") == [history_key("v", topic_prefix).encode()]


def test_an_install_read_again_changes_nothing(cache: redis.Redis, topic_prefix: str) -> None:
    """Writing the same again, or an older time of the same item, leaves the newest."""
    for times in ((5, 9), (5,), (9,)):
        writer = HistoryWriter(cache, topic_prefix)
        for at in times:
            writer.put("u", "a", at)
        writer.close(10)
    assert cache.zrange(history_key("u", topic_prefix), 0, -1, withscores=True) == [(b"a", 9.0)]


class Flaky:
    """A Redis that doesn't answer until it is told to."""

    def __init__(self, real: redis.Redis) -> None:
        self.real = real
        self.up = False
        self.asked = threading.Event()

    def pipeline(self, transaction: bool) -> object:
        """A pipeline, or no connection."""
        self.asked.set()
        if not self.up:
            raise redis.ConnectionError("gone")
        return self.real.pipeline(transaction=transaction)


def test_what_redis_did_not_take_is_written_when_it_answers(cache: redis.Redis, topic_prefix: str) -> None:
    """While Redis is away changes wait, without blocking whoever brings them; the last one per item counts."""
    flaky = Flaky(cache)
    writer = HistoryWriter(flaky, topic_prefix, retry_s=0.01)
    writer.put("u", "a", 1)
    assert flaky.asked.wait(10)
    writer.put("u", "b", 2)
    writer.put("u", "a", None)
    flaky.up = True
    until(lambda: writer.waiting == 0)
    writer.close(10)
    assert read_histories(cache, ["u"], 10, topic_prefix) == {"u": ["b"]}


def test_waiting_changes_are_bounded(cache: redis.Redis, topic_prefix: str) -> None:
    """Above the bound the oldest changes are dropped and counted."""
    flaky = Flaky(cache)
    writer = HistoryWriter(flaky, topic_prefix, waiting_max=3, retry_s=30.0)
    writer.put("u", "a", 1)
    assert flaky.asked.wait(10)
    for k in range(10):
        writer.put("u", f"i{k}", k)
    assert writer.dropped >= 6
    assert writer.waiting <= 4
    writer.close(10)
