"""Explanations of pages: of the page's own version and features, with the reasons that the reply names."""

import re
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from ranker.explain.explainer import PAGE_TERMS_MAX, Explainer
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.named_explanations import Explanation, ItemExplanation
from stream.events.types import RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import ToyModel, items, some_spec

NOW_MS = 3_000_500
FACTORS = st.floats(0.01, 100.0)
PROFILE = UserProfile(["i3", "i4", "i1"], {"age": 30.0, "likes": ["a", "b"]})


class Whole:
    """A ranker of a toy model, and its explainer."""

    def __init__(self, seed: int = 5, parts: tuple[str, ...] = ("wide", "deep"), *, publish: bool = True) -> None:
        self.cache, store = EntityCache(), MemoryStore("m")
        for item in items(30):
            self.cache.put(item.item, item)
        self.model = ToyModel(some_spec(np.random.default_rng(seed), list(parts)), seed)
        self.watcher = VersionWatcher(store, "m", self.cache, lambda: NOW_MS)
        if publish:
            self.model.publish(store)
            assert self.watcher.step()
        self.ranker = Ranker(self.cache, self.watcher, Scorer(1), lambda: NOW_MS)
        self.explainer = Explainer(self.ranker, self.watcher, self.cache.items.get, lambda: NOW_MS)

    def explain(self, item: str = "", k: int = 5) -> Explanation:
        """The page of one user."""
        request = RankRequest("r", "u1", k, 1_500_000, {"device": "x", "hour": 7.0})
        return self.explainer.explain(request, PROFILE, "m", item)


def check_sums(one: ItemExplanation) -> None:
    """The parts are the logit, and the score is its σ."""
    assert one.bias + one.wide + one.deep == pytest.approx(one.logit, abs=1e-5)
    assert one.score == pytest.approx(1 / (1 + np.exp(-one.logit)), abs=1e-6)


@pytest.mark.parametrize("parts", [("wide", "deep"), ("wide",), ("deep",)])
@pytest.mark.parametrize("seed", range(5, 10))
def test_a_page_is_explained_by_what_ranked_it(seed: int, parts: tuple[str, ...]) -> None:
    """Items, order and scores are the reply's; each item's parts are its logit; its largest terms are named."""
    whole = Whole(seed, parts)
    page, request = whole.explain(), RankRequest("r", "u1", 5, 1_500_000, {"device": "x", "hour": 7.0})
    reply = whole.ranker.answer(request, lambda: PROFILE, 0.0)
    assert [one.item for one in page.items] == reply.items
    assert [one.score for one in page.items] == pytest.approx(reply.scores, abs=1e-6)
    assert [(one.rank, one.on_page) for one in page.items] == [(n, True) for n in range(1, 6)]
    for one in page.items:
        check_sums(one)
        assert one.title == f"Item {one.item[1:]}"
        assert len(one.wide_terms) == min(PAGE_TERMS_MAX, one.wide_fired)
        assert len(one.deep_terms) == min(PAGE_TERMS_MAX, one.deep_columns)
        assert (one.deep_columns > 0) == ("deep" in parts)


def test_an_explanation_names_its_version() -> None:
    """The version, its age by the clock, the newest page that it has learned, and how many examples."""
    page = Whole().explain()
    assert (page.version, page.version_age_ms, page.newest_event_ms, page.examples) == (1, 499, 1_000_001, 1)
    assert (page.user, page.model, page.time_ms, page.notes) == ("u1", "m", 1_500_000, [])


def test_one_item_is_explained_in_full() -> None:
    """All its terms, the same as on the page, by names that the request, the profile and the items give."""
    whole = Whole()
    page = whole.explain()
    for short in page.items:
        (one,) = whole.explain(short.item).items
        assert (one.item, one.rank, one.logit) == (short.item, short.rank, short.logit)
        assert len(one.deep_terms) == one.deep_columns > PAGE_TERMS_MAX
        assert one.wide_terms[:PAGE_TERMS_MAX] == short.wide_terms
        assert sum(term.weight for term in one.wide_terms) == pytest.approx(one.wide, abs=1e-6)
        values = {term.column: term.value for term in one.deep_terms}
        assert values.get("user.age", "30") == "30"
        assert values.get("user.likes", "a, b") == "a, b"
        assert values.get("context.device", "x") in ("x", "y")  # served as y by some specs
        assert not any(re.search("=[0-9a-f]{16}( |$)", term.name) for term in one.wide_terms), "an id has no name"


def test_an_item_behind_the_page_has_its_rank() -> None:
    """A candidate that isn't on the page is explained at its rank, by the logit that puts it there."""
    whole = Whole()
    everything = [one.item for one in whole.explain(k=27).items]
    last = whole.explain(k=27).items[-1]
    (one,) = whole.explain(last.item).items
    assert (one.rank, one.on_page) == (everything.index(last.item) + 1, False)
    check_sums(one)


def test_an_item_that_is_no_candidate_has_rank_0() -> None:
    """What the user has isn't retrieved; it's explained all the same, and names the rule."""
    (one,) = Whole().explain("i3").items
    assert (one.rank, one.on_page, one.source, one.removed_by) == (0, False, "", ["installed"])
    check_sums(one)


def test_rules_that_boost_or_keep_off_are_named() -> None:
    """A boost by what it adds to the log odds, a rule that takes an item away, a pin as its source."""
    whole, request = Whole(), RankRequest("r", "u1", 5, 1_500_000)

    def explain(item: str, *rules: dict[str, object]) -> ItemExplanation:
        return whole.explainer.explain(msgspec.structs.replace(request, rules=[*rules]), PROFILE, "m", item).items[0]

    last = whole.explain(k=27).items[-1].item
    plain, boosted = explain(last), explain(last, {"kind": "boost", "items": [last], "factor": 1000.0})
    assert (plain.boosts, plain.on_page) == ({}, False)
    assert (boosted.boosts, boosted.rank) == ({"rules[0]": float(np.log(1000.0))}, 1)
    check_sums(boosted)
    assert explain(last, {"kind": "forbid", "items": [last]}).removed_by == ["rules[0]"]
    assert explain(last, {"kind": "pin", "item": last, "position": 1}).source == "pinned"


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 29), FACTORS), max_size=4))
@how(max_examples=20)
def test_boosts_order_the_page_and_leave_the_parts(seed: int, boosted: list[tuple[int, float]]) -> None:
    """Under any boosts, over random specs: each item's bias + wide + deep = its logit, as without them; the page's
    order is that of logit + boosts, which are the logs of the factors.
    """
    whole = Whole(seed)
    rules = [{"kind": "boost", "items": [f"i{n}"], "factor": factor} for n, factor in boosted]
    request = RankRequest("r", "u1", 27, 1_500_000, {"device": "x", "hour": 7.0})
    plain = {one.item: one.logit for one in whole.explainer.explain(request, PROFILE, "m").items}
    page = whole.explainer.explain(msgspec.structs.replace(request, rules=[*rules]), PROFILE, "m").items
    for one in page:
        check_sums(one)
        assert one.logit == pytest.approx(plain[one.item], abs=1e-5)
        of_item = [np.log(factor) for n, factor in boosted if f"i{n}" == one.item]
        assert sorted(one.boosts.values()) == pytest.approx(sorted(of_item))
    ordered = np.array([one.logit + sum(one.boosts.values()) for one in page])
    assert np.diff(ordered).max(initial=0.0) <= 1e-5


class Ruled(Ranker):
    """A ranker with a rule that takes i7 away."""

    def answer(
        self, request: RankRequest, profile: Callable[[], UserProfile], read_s: float, deadline_s: float | None = None
    ) -> RankReply:
        """Rank the others, and say so."""
        candidates = request.candidates or [f"i{n}" for n in range(30)]
        kept = [item for item in candidates if item != "i7"]
        reply = super().answer(msgspec.structs.replace(request, candidates=kept), profile, read_s, deadline_s)
        return msgspec.structs.replace(reply, removed={"other": 2, "no-i7": len(candidates) - len(kept)})


def test_an_item_that_a_rule_keeps_off_names_the_rule() -> None:
    """The rule whose count is less without the item."""
    whole = Whole()
    ruled = Ruled(whole.cache, whole.watcher, Scorer(1), lambda: NOW_MS)
    explainer = Explainer(ruled, whole.watcher, whole.cache.items.get, lambda: NOW_MS)
    page = explainer.explain(RankRequest("r", "u1", 5, 1_500_000), PROFILE, "m", "i7")
    assert page.removed == {"other": 2, "no-i7": 1}
    assert (page.items[0].rank, page.items[0].removed_by) == (0, ["no-i7"])
    check_sums(page.items[0])
    behind = explainer.explain(RankRequest("r", "u1", 1, 1_500_000), PROFILE, "m", "i8").items[0]
    assert behind.removed_by == []


def test_without_a_version_nothing_is_explained() -> None:
    """Popularity is no model."""
    whole = Whole(publish=False)
    with pytest.raises(BadEvent, match="learner"):
        whole.explain()


def test_known_items_are_described_or_shown() -> None:
    """Others are mistyped."""
    whole = Whole()
    assert whole.explainer.knows("i3")
    assert not whole.explainer.knows("i333")
