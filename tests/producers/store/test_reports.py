"""Reports of installs: delays, retractions, duplicates and late events come as declared."""

import numpy as np
import pytest

from producers.store.draws import Draws
from producers.store.outgoing_queue import OutgoingQueue
from producers.store.parameters import START_MS, ReportParameters
from producers.store.world import StoreWorld
from stream.events.types import Impression, Install
from tests.support.store_worlds import DAY, SMALL, Played, by_truth, changed, play

COMPRESS = 864


@pytest.fixture(scope="module")
def played() -> Played:
    """Two days of the oracle's pages: thousands of installs."""
    return play(StoreWorld(SMALL, seed=1), by_truth, START_MS + 2 * DAY)


def installs(played: Played, retracted: bool = False) -> list[Install]:
    """Installs or retractions, as sent, with duplicates."""
    return [event for event in played.events if isinstance(event, Install) and event.retracted is retracted]


def within(share: float, expected: float, count: int) -> bool:
    """Whether a share of so many is within four standard deviations."""
    return bool(abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count))


def test_every_install_is_reported_once_or_twice(played: Played) -> None:
    """Reported installs are those that happened, each under an id of its own, on its page, by its user."""
    shown = {}
    for page, user, apps, installed in zip(played.pages.numbers.tolist(), played.pages.users.tolist(),
                                           played.apps.tolist(), played.outcomes.installed, strict=True):  # fmt: skip
        for position in np.flatnonzero(installed):
            shown[f"page-{page}-{position}"] = (f"user-{user:05d}", f"app-{apps[position]:04d}")
    assert {one.install_id: (one.user, one.item) for one in installs(played)} == shown
    assert len(set(shown.values())) == len(shown)  # nobody installs an app twice


def test_delays_have_the_declared_quantiles(played: Played) -> None:
    """Of the installs, 29 % come within a minute of world time, 59 % in 10, 73 % in an hour, 93 % in six."""
    times = dict(zip(played.pages.numbers.tolist(), played.pages.times_ms.tolist(), strict=True))
    delays_s = np.array([one.time_ms - times[int(one.install_id.split("-")[1])] for one in installs(played)])
    delays_s = delays_s * COMPRESS / 1_000
    for limit_s, share in ((600, 0.59), (3_600, 0.73), (21_600, 0.93)):  # a minute is 69 ms: rounding is 1 %
        assert within(float((delays_s <= limit_s).mean()), share, len(delays_s)), limit_s
    assert (delays_s <= 60).mean() == pytest.approx(0.29, abs=0.03)
    assert delays_s.min() >= 0
    assert delays_s.max() <= 172_801


def test_retractions_follow_their_installs(played: Played) -> None:
    """Two in a hundred installs are retracted, an hour to a day later; each retraction names what was reported."""
    made = {one.install_id: one for one in installs(played)}
    back = {one.install_id: one for one in installs(played, retracted=True)}
    assert within(len(back) / len(made), 0.02, len(made))
    assert len(back) == played.outcomes.retracted.sum()
    for install_id, one in back.items():
        first = made[install_id]
        assert (one.user, one.item, one.request_id) == (first.user, first.item, first.request_id)
        assert 3_600_000 / COMPRESS <= one.time_ms - first.time_ms <= 86_400_000 / COMPRESS + 3
    order = [(one.install_id, one.retracted) for one in played.events if isinstance(one, Install)]
    for install_id in back:
        assert order.index((install_id, False)) < order.index((install_id, True))


def test_nine_in_ten_installs_name_their_page(played: Played) -> None:
    """The others leave the page for the join to find."""
    made = {one.install_id: one for one in installs(played)}
    named = [one for one in made.values() if one.request_id]
    assert within(len(named) / len(made), 0.9, len(made))
    assert all(one.install_id.startswith(f"{one.request_id}-") for one in named)


def test_duplicates_are_equal_and_few(played: Played) -> None:
    """One in a hundred events comes twice, the same bytes; half of them at once, the others among later ones."""
    seen: dict[tuple[str, bool], int] = {}
    at_once = later = pages = 0
    for n, event in enumerate(played.events):
        if not isinstance(event, Impression | Install):
            continue
        page = isinstance(event, Impression)
        key = (event.request_id, False) if isinstance(event, Impression) else (event.install_id, not event.retracted)
        key = (f"{page}{key[0]}", key[1])
        if key in seen:
            assert played.events[seen[key]] == event
            at_once += n == seen[key] + 1
            later += n > seen[key] + 1
        pages += page
        seen[key] = n
    assert within((at_once + later) / len(seen), 0.01, len(seen))
    assert at_once > 20
    assert later > 20


def test_some_events_are_late(played: Played) -> None:
    """About one in a hundred is sent after an event that happened later; all others in the order of event time."""
    happened = [(e.time_ms, e) for e in played.events if isinstance(e, Impression | Install)]
    times = np.array([time_ms for time_ms, _ in happened])
    behind = np.maximum.accumulate(times) - times
    assert 0.005 < (behind > 0).mean() < 0.02  # late ones and late duplicates
    assert behind.max() <= 700  # ten minutes of world time


def test_the_queue_sends_by_time_and_waits_for_the_broker() -> None:
    """Events are sent in time order whatever the order of the calls; in an outage they wait, in order, for its end."""
    plain = ReportParameters(duplicated=0.0, late=0.0)
    events = [Install("u", "a", time_ms, f"i{time_ms}") for time_ms in (5, 15, 18, 25, 30)]
    for order in (events, events[::-1]):
        queue = OutgoingQueue(plain, 1.0, Draws(1), [(10, 20)])
        for event in order:
            queue.put(event, event.time_ms)
        assert queue.take(20) == events[:1]
        assert queue.take(25) == events[1:3]
        assert queue.take(None) == events[3:]


def test_late_and_duplicate_events_keep_their_time() -> None:
    """What is late or sent twice is the same event, sent later."""
    queue = OutgoingQueue(ReportParameters(duplicated=1.0, late=1.0), 1.0, Draws(1), [])
    event = Install("u", "a", 5, "i")
    sent_ms = queue.put(event, 5)
    assert 2_000 <= sent_ms - 5 <= 60_000
    assert queue.take(sent_ms) == []
    assert queue.take(None) == [event, event]


def test_compression_stretches_event_time_only() -> None:
    """With half the compression, the same users come and install the same, over twice the event time."""
    fast, slow = StoreWorld(SMALL, 3), StoreWorld(changed(compress=432.0), 3)
    one, two = play(fast, by_truth, START_MS + DAY // 4), play(slow, by_truth, START_MS + DAY // 2)
    assert np.array_equal(one.pages.users, two.pages.users)
    assert np.abs((two.pages.times_ms - START_MS) - 2 * (one.pages.times_ms - START_MS)).max() <= 2
    assert np.array_equal(one.outcomes.installed[:300], two.outcomes.installed[:300])
