"""Pages that get no list: nobody sees them, and none is forgotten."""

import numpy as np

from producers.store.storefront import Failed
from stream.events.types import Impression
from tests.support.store_ranker import SmallStore


def test_a_request_without_a_reply_expires() -> None:
    """Only those from before the given time; a reply that comes later is nobody's any more."""
    store = SmallStore()
    front, start_ms = store.front, store.world.start_ms
    while front.ask(start_ms + 2_000):
        pass
    requests = store.ranker.read()
    old = [one for one in requests if one.time_ms < start_ms + 1_000]
    assert 0 < len(old) < len(requests)
    front.expire(start_ms + 1_000, "too late")
    assert front.failed == [Failed(one.user, one.time_ms, "too late") for one in sorted(old, key=lambda r: r.time_ms)]
    assert front.pending == len(requests) - len(old)
    store.ranker.answer()
    shown = front.receive()
    assert shown is not None
    assert len(shown.arms) == len(requests) - len(old)
    assert int(np.min(shown.pages.times_ms)) >= start_ms + 1_000
    assert front.pending == 0


def test_a_reply_with_an_error_shows_nothing() -> None:
    """It says why, and no event is sent for the page."""
    store = SmallStore()
    store.sent()
    asked = store.front.ask(store.world.start_ms + 2_000)
    store.ranker.answer(error="no candidates")
    assert store.front.receive() is None
    assert [one.reason for one in store.front.failed] == ["no candidates"] * asked
    store.front.send(store.world.start_ms + 2_000)
    assert not [event for event in store.sent() if isinstance(event, Impression)]
