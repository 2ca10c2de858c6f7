"""Choosing items for the places of a page."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ranker.ranking.selection import FreePlaces, choose
from stream.tables.dtypes import F64

keys = st.lists(st.sampled_from([-np.inf, 0.0, 0.25, 0.5, 1.0]), max_size=12).map(np.array)


@given(keys, st.integers(1, 12))
def test_free_places_are_the_best(scores: F64, k: int) -> None:
    """Place by place or all at once: the same items, but those that may not be shown."""
    at_once = [i for i in choose(scores, k).order if scores[i] > -np.inf]
    assert choose(scores, k, FreePlaces(scores)).order == at_once


def test_draws_have_propensities() -> None:
    """Each place has the probability of its own draw; an item is shown once; what isn't the best is counted."""
    chosen = choose(
        np.array([1.0, 2.0, 3.0]), 5, draw=lambda now: (int(np.argmin(np.where(now > -np.inf, now, 9))), 0.5)
    )
    assert chosen == ([0, 1, 2], [0.5] * 3, 2)
