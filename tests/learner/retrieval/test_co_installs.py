"""Lists of items that are installed together: their definition, their bounds, and what takes pairs away."""

from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.retrieval.co_installs import LAST, NEAR, POPULARITY_POWER, PRIOR
from learner.retrieval.item_retrieval import MEMORY, ItemRetrieval
from tests.support.retrieval_log import Install, Reference, learn, lists_of, retrieval

LOGS: Final = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 40), st.sampled_from([1.0, 1.0, 1.0, -1.0])), max_size=120
)


def installs_of(kept: ItemRetrieval, item: int) -> float:
    """An item's installs."""
    return float(kept.payload(np.array([item], np.uint64))["installs"][0])


@given(LOGS, st.integers(1, 7))
def test_definition(log: list[Install], at_once: int) -> None:
    """An install adds NEAR^k / (installs of the listed item + PRIOR)^POPULARITY_POWER for the user's k-th last item, in
    both lists; a retraction takes it away; neither counts twice. However many are learned at once."""
    kept, reference = retrieval(vector_dim=0), Reference()
    learn(kept, log, at_once=at_once)
    for install in log:
        reference.learn(*install)
    found = lists_of(kept)
    for item, weights in reference.weights.items():
        expected = {other: weight for other, weight in weights.items() if weight > 1e-5}
        assert {o: w for o, w in found[item].items() if w > 1e-5} == pytest.approx(expected, rel=1e-4, abs=2e-5)


def test_a_retraction_at_once_leaves_no_pair() -> None:
    """An install that is taken back before the next one leaves the lists as they were."""
    kept = retrieval(vector_dim=0)
    learn(kept, [(1, 10, 1.0), (1, 11, 1.0), (1, 12, 1.0)])
    before = lists_of(kept)
    learn(kept, [(1, 13, 1.0), (1, 13, -1.0)], first_s=3)
    assert lists_of(kept) == before | {13: {}}


def test_the_last_items_count() -> None:
    """Pairs are with the LAST items of a memory of MEMORY; an item in the memory isn't counted again."""
    kept = retrieval(list_length=2 * LAST, vector_dim=0)
    learn(kept, [(1, item, 1.0) for item in range(1, LAST + 3)])
    assert set(lists_of(kept)[LAST + 2]) == set(range(2, LAST + 2))
    learn(kept, [(1, 1, 1.0)], first_s=100)
    assert installs_of(kept, 1) == 1.0
    learn(kept, [(1, 1_000 + item, 1.0) for item in range(MEMORY)], first_s=200)
    learn(kept, [(1, 1, 1.0)], first_s=1_000)
    assert installs_of(kept, 1) == 2.0  # it was forgotten meanwhile


def test_a_full_list_replaces_its_lightest() -> None:
    """The newest pair is in the list; of the others the heaviest."""
    kept = retrieval(list_length=2, vector_dim=0)
    pairs = [(1, 1, 2), (2, 1, 2), (3, 3, 1), (4, 4, 1)]
    learn(kept, [(user, item, 1.0) for user, *items in pairs for item in items])
    assert set(lists_of(kept)[1]) == {2, 4}


def test_weights_fade_by_event_time() -> None:
    """A pair halves with each half-life that has passed when its row changes, and so do installs."""
    kept = retrieval(vector_dim=0, half_life="100s")
    learn(kept, [(1, 1, 1.0), (1, 2, 1.0)])
    weight = lists_of(kept)[1][2]
    assert weight == pytest.approx((1 + PRIOR) ** -POPULARITY_POWER)
    learn(kept, [(1, 3, 1.0)], first_s=201)  # 200 s after the second install
    assert lists_of(kept)[2][1] == pytest.approx(weight / 4, rel=1e-3)
    assert lists_of(kept)[2][3] == pytest.approx((1 + PRIOR) ** -POPULARITY_POWER)
    assert lists_of(kept)[3][1] == pytest.approx(NEAR * (2.0**-2.01 + PRIOR) ** -POPULARITY_POWER, rel=1e-3)


def test_rows_age_in_steps() -> None:
    """Many small steps of time fade as much as one large one: none is lost to rounding."""
    kept = retrieval(vector_dim=0, half_life="1000s")
    learn(kept, [(1, 1, 1.0), (1, 2, 1.0)])
    weight = lists_of(kept)[1][2]
    learn(kept, [(10 + n, 1, 1.0) for n in range(1_000)], first_s=2)
    assert lists_of(kept)[1][2] == pytest.approx(weight / 2, rel=0.02)
