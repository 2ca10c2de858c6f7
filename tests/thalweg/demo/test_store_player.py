"""The player of the store's world: what is asked when, what counts as latency, what arms have shown."""

import pytest

from producers.store.parameters import preset
from stream.events.types import Impression, Install
from stream.runtime.errors import DataError
from tests.support.store_ranker import SmallStore, arm_of
from thalweg.demo.open_loop_client import UNANSWERED_S, RequestOutcome
from thalweg.demo.store_player import PlayerOptions, StorePlayer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WAIT_S", "WAIT_S_MIN"):
        monkeypatch.setattr(f"thalweg.demo.store_player.{name}", 0.0)


def played(store: SmallStore, player: StorePlayer, until_ms: float, step_ms: float = 5.0) -> list[RequestOutcome]:
    """What comes of stepping until this time while a ranker answers after each step."""
    outcomes = []
    while store.time_ms < until_ms:
        outcomes += player.step()
        store.ranker.answer()
        store.time_ms += step_ms
    return outcomes + player.step()


def player_of(store: SmallStore, pages: int) -> StorePlayer:
    """A player of this store that keeps each third reply whole."""
    return StorePlayer(store.front, pages, 3, lambda: store.time_ms)


def test_a_page_counts_from_when_it_was_due() -> None:
    """A player that comes late asks at once for all that was due, and each page's latency has the delay in it."""
    store = SmallStore()
    player, start_ms = player_of(store, 10_000), store.world.start_ms
    store.time_ms += 400
    assert player.step() == []
    due_ms = [one.time_ms for one in store.ranker.read()]
    assert len(due_ms) > 5
    assert max(due_ms) <= start_ms + 400
    store.ranker.answer()
    store.time_ms += 20
    assert sorted(one.latency_ms for one in player.step()) == sorted(start_ms + 420 - time_ms for time_ms in due_ms)


def test_a_page_is_never_asked_for_early() -> None:
    """However often it's stepped: no request has a time of later than now."""
    store = SmallStore()
    player = player_of(store, 10_000)
    for _ in range(200):
        player.step()
        assert all(one.time_ms <= store.time_ms for one in store.ranker.read())
        store.ranker.answer()
        store.time_ms += 3


def test_what_arms_have_shown() -> None:
    """Each page counts for its user's arm; the oracle's pages promise at least as much, and promise what happens."""
    store = SmallStore()
    player = player_of(store, 600)
    outcomes = played(store, player, store.world.start_ms + 30_000)
    pages = [event for event in store.sent() if isinstance(event, Impression)]
    counted = {f"page-{number}" for number in range(600)}  # it plays on
    distinct = {page.request_id: page for page in pages if page.request_id in counted}
    progress = player.progress
    assert progress.ended
    assert progress.pages == len(distinct) == 600 <= len(outcomes)
    for name, arm in progress.arms.items():
        of = [page for page in distinct.values() if page.variant == name]
        assert {arm_of(page.user) for page in of} == {name}
        assert (arm.pages, arm.items) == (len(of), sum(len(page.items) for page in of))
        assert 0 < arm.expected <= arm.oracle
        assert abs(arm.installs - 0.98 * arm.expected) < 4 * arm.expected**0.5


def test_latency_is_that_of_whole_lists_of_candidates() -> None:
    """The control asks for the ten that it shows: its replies count, its latencies don't; a share is kept whole."""
    store = SmallStore()
    outcomes = played(store, player_of(store, 90), store.world.start_ms + 10_000)[:90]
    assert {(arm_of(one.user), one.is_timed) for one in outcomes} == {("popular", False), ("wide_deep", True)}
    assert sum(one.reply is not None for one in outcomes) == 30


def test_a_page_that_nobody_answers_is_an_error() -> None:
    """After UNANSWERED_S it's given up, and the store comes to its end nevertheless."""
    store = SmallStore()
    player = player_of(store, 5)
    while store.time_ms < store.world.start_ms + 2_000:
        assert player.step() == []
        store.time_ms += 10
    assert not player.progress.ended
    store.time_ms += 1_000 * UNANSWERED_S
    errors = [one.error for one in player.step()]
    assert errors == [f"no answer within {UNANSWERED_S:g} s"] * 5
    assert player.progress.ended
    assert player.progress.pages == 0


def test_installs_come_after_the_last_page() -> None:
    """A store that shows no more still reports what users install of what they saw."""
    store = SmallStore()
    player = player_of(store, 200)
    played(store, player, store.world.start_ms + 6_000)
    assert player.progress.ended
    store.sent()
    played(store, player, store.world.start_ms + 16_000, step_ms=100.0)
    counted = player.progress.pages
    assert [one for one in store.sent() if isinstance(one, Install)]
    assert player.progress.pages == counted == 200


def test_it_plays_on_after_the_last_page() -> None:
    """What was learned last is served after the last page, at the latest then the first version comes: replies show
    it. Those pages are shown and learned as others are; they don't count as pages or latencies."""
    store = SmallStore()
    player, end_ms = player_of(store, 100), store.world.start_ms + 10_000
    played(store, player, end_ms)
    before = player.progress
    assert (before.ended, before.pages) == (True, 100)
    store.sent()
    store.ranker.version = 3
    outcomes = played(store, player, end_ms + 10_000)
    assert len(outcomes) > 100
    assert {one.version for one in outcomes[1:]} == {3}
    assert not any(one.is_timed for one in outcomes)
    assert len([one for one in store.sent() if isinstance(one, Impression) and one.time_ms > end_ms]) > 100
    assert player.progress == before


def test_the_rate_is_pages_a_second_of_event_time() -> None:
    """A day of the world has as many pages as its length in event time asks for; everything else is the preset's."""
    parameters = PlayerOptions(1, rate=50.0, sample_every=1, preset="usual").parameters
    usual = preset("usual")
    assert parameters.traffic.pages_a_day * parameters.compress / 86_400 == 50.0
    assert (parameters.users, parameters.base_rate) == (usual.users, usual.base_rate)
    with pytest.raises(DataError, match="no preset"):
        _ = PlayerOptions(1, 1.0, 1, preset="common ").parameters
