"""Histories with a few ms of patience."""

import threading
import time
from collections.abc import Sequence

import pytest
import redis

from ranker.serving.history import HistoryReader


class Source:
    """A read that can hang or fail; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False
        self.answers = threading.Event()
        self.answers.set()

    def read(self, users: Sequence[str], last: int) -> dict[str, list[str]]:
        """One item a user, once it answers."""
        self.asked += 1
        assert self.answers.wait(20), "the test never let it answer"
        if self.fails:
            raise redis.ConnectionError("as the test wants")
        return {user: [f"of {user}"][-last:] for user in users}


def test_histories_come_through() -> None:
    """What the store has is what the ranker gets; nobody to ask for isn't asked."""
    source = Source()
    reader = HistoryReader(source.read, timeout_s=20)
    assert reader.get(["a", "b"], 5) == {"a": ["of a"], "b": ["of b"]}
    assert reader.get([], 5) == {}
    assert source.asked == 1
    reader.close()


def test_a_hanging_read_is_waited_for_only_once() -> None:
    """While one read hangs no other is begun; when it has come back, the next one is."""
    source = Source()
    reader = HistoryReader(source.read, timeout_s=0.01)
    source.answers.clear()
    assert [reader.get(["a"], 5) for _ in range(5)] == [None] * 5
    assert source.asked == 1
    source.answers.set()
    reader._timeout_s = 20
    while (found := reader.get(["a"], 5)) is None:
        pass
    assert found == {"a": ["of a"]}
    reader.close()


def test_after_a_failure_there_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails isn't asked again at once, and is when the pause is over."""
    source = Source()
    reader = HistoryReader(source.read, timeout_s=20)
    source.fails = True
    assert [reader.get(["a"], 5) for _ in range(5)] == [None] * 5
    assert source.asked == 1
    source.fails = False
    later_s = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    assert reader.get(["a"], 5) == {"a": ["of a"]}
    reader.close()
