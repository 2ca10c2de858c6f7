"""What an item's rank in retrieval adds to the logit by which a page is ordered."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.explain.explainer import Explainer
from ranker.ranking.page_candidates import PINNED
from ranker.ranking.retrieval_terms import rank_terms, retrieval_terms, with_terms
from stream.events.types import RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.spec.explore import Explore
from stream.spec.retrieval import Retrieval
from tests.ranker.ranking.test_rank import ATTRIBUTES, House
from tests.support.random_models import some_spec

WEIGHT = 2.0


def house(weight: float, explore: Explore | None = None) -> House:
    """A ranker of a spec with this `rank_weight`: its 30 items are popular."""
    spec = some_spec(np.random.default_rng(5), ["wide", "deep"])
    found = House(spec=msgspec.structs.replace(
        spec, retrieval=Retrieval(rank_weight=weight), explore=explore or Explore()
    ))  # fmt: skip
    found.publish()
    return found


def logits(reply: RankReply) -> list[float]:
    """Of a reply's scores."""
    return [float(np.log(p / (1 - p))) for p in reply.scores]


@given(st.integers(1, 300), st.integers(0, 5), st.floats(0.01, 4))
def test_the_last_retrieved_item_and_pinned_ones_get_nothing(count: int, pins: int, weight: float) -> None:
    """weight · ln((5 + n) / (5 + rank)) of n retrieved items, which falls to 0; items that weren't retrieved get 0."""
    terms = retrieval_terms([PINNED] * pins + ["together"] * count, weight)
    assert terms is not None
    wanted = [weight * np.log((5 + count) / (5 + rank)) for rank in range(1, count + 1)]
    np.testing.assert_allclose(terms, [*[0.0] * pins, *wanted], atol=1e-12)
    assert (np.diff(terms[pins:]) < 0).all()


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 9)), min_size=1, max_size=20))
def test_terms_are_added_to_log_odds(pairs: list[tuple[float, float]]) -> None:
    """σ(logit(p) + term); a probability of 0 or 1 stays."""
    scores, terms = np.array(pairs).T
    with np.errstate(divide="ignore"):
        wanted = 1 / (1 + np.exp(-(np.log(scores) - np.log1p(-scores) + terms)))
    np.testing.assert_allclose(with_terms(scores, terms), wanted, rtol=1e-9)


def test_a_page_is_ordered_by_the_logit_and_the_term() -> None:
    """The reply has each item's term, by its rank in retrieval; scores stay the model's."""
    plain, weighed = house(0).answer(["i3"], k=29), house(WEIGHT).answer(["i3"], k=29)
    assert plain.retrieval_terms == []
    assert weighed.items != plain.items
    assert dict(zip(weighed.items, weighed.scores, strict=True)) == pytest.approx(
        dict(zip(plain.items, plain.scores, strict=True)), abs=1e-6
    )
    terms = rank_terms(29, WEIGHT)
    assert weighed.retrieval_terms == [terms[rank - 1] for rank in weighed.source_ranks]
    keys = np.add(logits(weighed), weighed.retrieval_terms)
    assert (np.diff(keys) <= 1e-5).all()


def test_given_candidates_are_ordered_by_the_model_alone() -> None:
    """Nothing retrieved them: the weight changes neither their order nor the reply."""
    names = [f"i{n}" for n in range(20)]
    plain, weighed = (house(weight).answer([], k=20, candidates=names) for weight in (0, WEIGHT))
    assert (weighed.items, weighed.scores, weighed.retrieval_terms) == (plain.items, plain.scores, [])


def test_rules_and_terms_add_up() -> None:
    """A boost comes on top of the term; a pinned item is at its position, whatever its term."""
    ranker, rules = house(WEIGHT), [
        {"kind": "boost", "items": ["i20", "i21", "i22"], "factor": 30.0}, {"kind": "pin", "item": "i7", "position": 2},
    ]  # fmt: skip
    reply = ranker.answer(["i3"], k=29, rules=rules)
    assert (reply.items[1], reply.sources[1], reply.retrieval_terms[1]) == ("i7", PINNED, 0.0)
    boosts = [np.log(30.0) if item in ("i20", "i21", "i22") else 0.0 for item in reply.items]
    keys = np.delete(np.sum([logits(reply), reply.retrieval_terms, boosts], 0), 1)
    assert (np.diff(keys) <= 1e-5).all()
    assert max(reply.items.index(item) for item in ("i20", "i21", "i22")) < 12


def test_draws_go_by_the_same_order() -> None:
    """Under epsilon the best candidate left by logit and term has the propensity of the best, others of a draw."""
    ranker, n, epsilon = house(WEIGHT, Explore(kind="epsilon", epsilon=0.5)), 29, 0.5
    for r in range(5):
        reply = ranker.answer(["i3"], k=n, request_id=f"r{r}")
        keys = np.add(logits(reply), reply.retrieval_terms)
        for at, propensity in enumerate(reply.propensities):
            is_best = keys[at] >= keys[at:].max() - 1e-6
            assert propensity == pytest.approx(epsilon / (n - at) + (1 - epsilon) * is_best)


def test_an_explanation_has_what_orders_the_page() -> None:
    """Logit and retrieval of each item are the reply's, and fall along the page; also of an item behind it."""
    ranker = house(WEIGHT)
    explainer = Explainer(ranker.ranker, ranker.watcher, ranker.cache.items.get, lambda: 4_000_000)
    profile = UserProfile(["i3"], ATTRIBUTES)
    request, reply = RankRequest("r", "u1", 10), ranker.answer(["i3"], k=29)
    page = explainer.explain(request, profile, "m")
    assert [one.retrieval for one in page.items] == reply.retrieval_terms[:10]
    assert (np.diff([one.logit + one.retrieval for one in page.items]) <= 1e-5).all()
    (behind,) = explainer.explain(request, profile, "m", reply.items[20]).items
    assert (behind.rank, behind.retrieval) == (21, reply.retrieval_terms[20])
    assert explainer.explain(request, profile, "m", "i3").items[0].retrieval == 0.0
