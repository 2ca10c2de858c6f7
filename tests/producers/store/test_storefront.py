"""The storefront: what it asks rankers for, what it shows of their replies, and what it logs of that."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from learner.training.model import Model
from producers.features import Histories
from producers.store.arm import Arm, ByModel, ByPopularity, ByScores
from producers.store.pages import PageBatch
from producers.store.parameters import START_MS
from producers.store.storefront import PAGE_ITEMS, ShownPages
from producers.store.world import StoreWorld
from stream.events.codec import encode
from stream.events.types import WINDOW_CLOSED, Examples, Impression, Install, Item, RankReply, RankRequest, User
from stream.features.page_features import select, words_of
from stream.features.page_kernels import open_page
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32, U64
from tests.support.store_worlds import DAY, SMALL
from tests.support.stub_rankers import VERSION, Store, checksum, statistic_of
from thalweg.cli.options import SPECS

SPEC = load_spec(SPECS / "store.toml")
HOUR = round(DAY / 24)
BATCHES = 4
LATER = START_MS + 2 * DAY
ARMS = ("model", "popular", "scores")


def arms_of(store: Store) -> list[Arm]:
    """One of each policy; the second and third share a log. The last one scores by checksum, coarsely."""
    first, second = store.ranker_log(), store.ranker_log()

    def coarse(words: U64) -> F32:
        return np.floor(4 * statistic_of(store.layout, words)).astype(np.float32)

    return [
        Arm("model", ByModel(), first),
        Arm("popular", ByPopularity(store.layout), second),
        Arm("scores", ByScores(store.layout, coarse), second),
    ]


def arm_of(user: str) -> str:
    """A third of the users each."""
    return ARMS[int(user.split("-")[1]) % 3]


def opened(seed: int = 1) -> Store:
    """A store that has sent what there is."""
    return Store(SPEC, arms_of, arm_of, seed)


def asked(store: Store) -> list[RankRequest]:
    """The requests of some batches."""
    for _ in range(BATCHES):
        assert store.front.ask(START_MS + HOUR) > 1
    return [request for arm in store.arms[:2] for request in store.requests(arm)]


def answer(store: Store, replies: Sequence[RankReply]) -> None:
    """Each on the log of its user's arm."""
    for arm in store.arms:
        store.answer(arm, [reply for reply in replies if arm_of(reply.user) == arm.name])


def test_open_sends_what_there_is_and_what_users_have() -> None:
    """Items, users and installs of the past, once each."""
    store = opened()
    world = StoreWorld(SMALL, 1)
    assert sorted(encode(one) for one in store.sent()) == sorted(encode(one) for one in world.past_installs())
    entities = world.entities()
    assert {entity.item for entity in entities if isinstance(entity, Item)} == set(store.catalogue.row)
    assert {entity.user: entity for entity in entities if isinstance(entity, User)} == store.users


def test_requests_are_the_worlds_pages() -> None:
    """User, time, context and history are the page's; candidates are all, or the control's ten; k as the arm needs."""
    store = opened()
    requests = {request.request_id: request for request in asked(store)}
    world, histories = StoreWorld(SMALL, 1), Histories()
    for install in world.past_installs():
        histories.update(install)
    pages = PageBatch.concatenated([world.next_pages(START_MS + HOUR) for _ in range(BATCHES)])
    assert len(requests) == len(pages.numbers) == store.front.pending
    with_history = 0
    for b in range(len(pages.numbers)):
        request, candidates = requests[pages.request_id(b)], pages.items(b)
        ranked, k = {
            "model": (candidates, PAGE_ITEMS),
            "popular": ([candidates[i] for i in np.argsort(-pages.popularity[b], kind="stable")[:10]], PAGE_ITEMS),
            "scores": (candidates, 100),
        }[arm_of(request.user)]
        assert (request.user, request.time_ms, request.k) == (pages.user(b), pages.times_ms[b], k)
        assert request.candidates == ranked
        assert request.context == pages.context(b)
        assert list(request.context) == ["hour", "weekday", "device"]
        assert request.history == histories.newest(request.user, 20)
        with_history += bool(request.history)
    assert with_history > 5


def test_the_control_ranks_by_popularity_whatever_the_order() -> None:
    """The ten that were installed most lately; ties in the order of the candidates."""
    pages = StoreWorld(SMALL, 1).next_pages(START_MS + HOUR)
    counts = np.arange(100.0) % 10  # ten candidates have the most
    control = opened().arms[1].policy
    chosen = control.candidates(pages._replace(popularity=np.tile(counts, (len(pages.numbers), 1))), 0, PAGE_ITEMS)
    assert chosen.tolist() == [*range(9, 100, 10)]


def test_histories_grow_by_what_was_sent() -> None:
    """An install that has been sent is in its user's next requests; one that isn't due yet isn't."""
    store = opened()
    installed: dict[str, list[str]] = {}
    for hour in range(1, 9):
        while store.front.ask(START_MS + hour * HOUR):
            requests = [request for arm in store.arms[:2] for request in store.requests(arm)]
            for request in requests:
                new = installed.get(request.user, [])
                assert new == (request.history or [])[len(request.history or []) - len(new) :]
            answer(store, [store.ranked(request) for request in requests])
            store.front.receive()
        store.impressions(START_MS + hour * HOUR)
        installed = _in_order([one for one in store.sent() if isinstance(one, Install) and one.time_ms >= START_MS])
    assert sum(map(len, installed.values())) > 50


def _in_order(installs: Sequence[Install]) -> dict[str, list[str]]:
    """What users have installed and not retracted, in the order of installing."""
    histories = Histories()
    for install in installs:
        histories.update(install)
    return {one.user: histories.newest(one.user, 20) for one in installs}


def test_impressions_say_what_was_shown() -> None:
    """Arm, version, items, scores, propensities, context: as replied, in the order in which the arm shows them."""
    store = opened()
    requests = asked(store)
    answer(store, [store.ranked(request) for request in requests])
    shown = store.front.receive()
    assert isinstance(shown, ShownPages)
    impressions = store.impressions(LATER)
    assert len(impressions) == len(requests) == len(shown.arms)
    for request in requests:
        page, candidates = impressions[request.request_id], request.candidates or []
        coarse = {item: float(int(4 * checksum(item))) for item in candidates}
        items, scores = {
            "model": (sorted(candidates, key=checksum, reverse=True)[:10], checksum),
            "popular": (candidates, None),
            "scores": (sorted(candidates, key=lambda item: -coarse[item])[:10], coarse.get),  # ties as requested
        }[arm_of(request.user)]
        assert page.items == items
        assert page.scores == ([scores(item) for item in items] if scores else [])
        assert (page.variant, page.version) == (arm_of(request.user), VERSION)
        is_as_replied = arm_of(request.user) == "model"  # the other arms choose for themselves, and draw nothing
        assert page.propensities == ([(1 + checksum(item)) / 2 for item in items] if is_as_replied else [])
        assert (page.user, page.time_ms, page.context) == (request.user, request.time_ms, request.context)
    assert shown.pages.numbers.tolist() == sorted(shown.pages.numbers.tolist())
    for b in range(len(shown.arms)):
        page = impressions[shown.pages.request_id(b)]
        assert page.items == shown.pages.items(b, shown.shown[b])
        assert page.variant == ARMS[shown.arms[b]]
        assert page.features == shown.features[b]


def test_features_are_those_of_the_items_in_the_order_shown() -> None:
    """Whatever an arm leaves out or moves, each place has its own item's columns and statistics, as replied."""
    store = opened()
    requests = asked(store)
    answer(store, [store.ranked(request) for request in requests])
    store.front.receive()
    impressions = store.impressions(LATER)
    for request in requests:
        page = impressions[request.request_id]
        words = words_of(page.features, store.layout, PAGE_ITEMS).copy()
        for k, item in enumerate(page.items):
            alone = select(store.layout, words, [k])
            assert alone.tobytes() == store.page(request, [item]).tobytes()
        assert statistic_of(store.layout, words).tolist() == [*map(checksum, page.items)]


def test_a_page_whose_reply_is_an_error_is_not_shown() -> None:
    """It is counted, and nobody waits for it any more; the others are shown."""
    store = opened()
    requests = asked(store)
    bad = {request.request_id for request in requests[::4]}
    answer(store, [
        RankReply(one.request_id, one.user, [], [], 0, error="no such item") if one.request_id in bad
        else store.ranked(one)
        for one in requests
    ])  # fmt: skip
    shown = store.front.receive()
    assert shown is not None
    assert (len(store.front.failed), store.front.pending) == (len(bad), 0)
    assert set(store.impressions(LATER)) == {request.request_id for request in requests} - bad
    assert len(shown.arms) == len(requests) - len(bad)


def test_other_callers_replies_are_ignored() -> None:
    """Neither shown nor an error; the same reply a second time isn't one's own any more."""
    store = opened()
    request = asked(store)[0]
    reply = store.ranked(request)
    answer(store, [msgspec.structs.replace(reply, request_id="somebody-else"),
                   msgspec.structs.replace(reply, request_id="another", error="bad")])  # fmt: skip
    assert store.front.receive() is None
    pending = store.front.pending
    answer(store, [reply, reply])
    shown = store.front.receive()
    assert shown is not None
    assert len(shown.arms) == 1
    assert (len(store.front.failed), store.front.pending) == (0, pending - 1)
    assert store.front.receive() is None
    assert list(store.impressions(LATER)) == [request.request_id]


def test_pages_without_a_model_can_be_learned() -> None:
    """A reply of version 0 has no features: the page gets those of a model that knows nothing, in its arm's order."""
    store = opened()
    requests = asked(store)
    empty = [
        RankReply(one.request_id, one.user, (one.candidates or [])[: one.k], [], 0, notes=["no_model"], time_ms=1)
        for one in requests
    ]
    answer(store, empty)
    store.front.receive()
    impressions = store.impressions(LATER)
    model = Model(SPEC)
    for offset, request in enumerate(requests):
        page, candidates = impressions[request.request_id], request.candidates or []
        words = words_of(page.features, store.layout, PAGE_ITEMS).copy()
        statistics = statistic_of(store.layout, words)
        assert len(set(statistics.tolist())) == 1, "no item is better than another"
        if page.variant != "scores":
            assert page.items == candidates[:PAGE_ITEMS]
            assert page.scores == ([] if page.variant == "popular" else [0.5] * PAGE_ITEMS)
        expected = store.page(msgspec.structs.replace(request, history=[]), page.items)
        ids_end = open_page(words, store.layout.size_array).at.user_numbers // 2
        assert words[:ids_end].tolist() == expected[:ids_end].tolist(), "user, items, context; no history"
        ids = [1 + 10 * offset + k for k in range(PAGE_ITEMS)]
        learned = Examples(page, ids, [*range(10)], [0] * 10, [1.0] * 10, [WINDOW_CLOSED] * 10, [START_MS] * 10)
        assert model.learn([learned], offset) == PAGE_ITEMS
    assert model.rejected == []
    assert model.examples == PAGE_ITEMS * len(requests)


@pytest.mark.parametrize("size", [1, 7])
def test_replies_may_come_in_pieces(size: int) -> None:
    """Over several calls of `receive`, in any order and across batches: the same pages, outcomes and events."""
    whole, pieces = opened(), opened()
    requests = asked(whole)
    answer(whole, [whole.ranked(request) for request in requests])
    at_once = whole.front.receive()
    assert at_once is not None
    assert asked(pieces) == requests
    backwards = [pieces.ranked(request) for request in requests][::-1]
    found: dict[str, tuple[bytes, ...]] = {}
    calls = 0
    for first in range(0, len(backwards), size):
        answer(pieces, backwards[first : first + size])
        shown = pieces.front.receive()
        assert shown is not None
        found |= _by_page(shown)
        calls += 1
    assert calls == -(-len(requests) // size)
    assert found == _by_page(at_once)
    assert at_once.outcomes.installed.any()
    ends = [sorted(map(encode, _due(store))) for store in (whole, pieces)]
    assert ends[0] == ends[1]
    assert any(isinstance(one, Install) and one.time_ms >= START_MS for one in whole.sent())


def _by_page(shown: ShownPages) -> dict[str, tuple[bytes, ...]]:
    """What was shown and what came of it, by request id."""
    columns = (shown.shown, shown.probabilities, *shown.outcomes)
    return {
        shown.pages.request_id(b): (
            *(np.ascontiguousarray(column[b]).tobytes() for column in columns),
            shown.features[b],
        )
        for b in range(len(shown.arms))
    }


def _due(store: Store) -> list[Impression | Install]:
    """All events that are due after what was shown."""
    store.impressions(START_MS + HOUR)
    return [event for event in store.sent() if isinstance(event, Impression | Install)]
