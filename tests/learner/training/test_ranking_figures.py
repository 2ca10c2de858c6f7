"""Figures within groups against their definitions."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.training.ranking_figures import K, group_rows, ranking_figures, sessions

EXAMPLES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans(), st.integers(0, 4)), min_size=1, max_size=40
)


def columns(examples: list[tuple[float, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, labels, groups."""
    p, y, g = (np.array(column) for column in zip(*examples, strict=True))
    return p.astype(np.float32), y.astype(np.float32), g


@given(EXAMPLES)
def test_group_auc_is_that_of_all_pairs(examples: list[tuple[float, bool, int]]) -> None:
    """Within each group: how often a positive is above a negative, ties half; groups weighted by their examples."""
    weighted, weights = 0.0, 0
    for group in {group for _, _, group in examples}:
        positive = [p for p, y, g in examples if g == group and y]
        negative = [p for p, y, g in examples if g == group and not y]
        if positive and negative:
            size = len(positive) + len(negative)
            wins = sum((p > q) + (p == q) / 2 for p in positive for q in negative)
            weighted += size * wins / (len(positive) * len(negative))
            weights += size
    found = ranking_figures(*columns(examples)).auc
    assert found == pytest.approx(weighted / weights) if weights else math.isnan(found)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.8]), st.booleans()), min_size=2, max_size=6), st.integers(0, 7))
def test_equal_predictions_count_as_all_orders_on_average(few: list[tuple[float, bool]], below: int) -> None:
    """NDCG and the hit rate by definition, as means over all orders that the predictions allow. `below`: negatives at
    ranks before, so that ties lie across the tenth place."""
    rows = [(0.9, False)] * below + few
    labels = [y for _, y in rows]
    ideal = sum(1 / math.log2(r + 2) for r in range(min(sum(labels), K)))
    found = group_rows(*columns([(p, y, 0) for p, y in rows]))
    if not any(labels) or all(labels):
        assert not len(found.groups)
        return
    gains, hits = [], []
    for order in permutations(few):
        if [p for p, _ in order] == sorted((p for p, _ in few), reverse=True):
            ranked = [False] * below + [y for _, y in order]
            gains.append(sum(1 / math.log2(r + 2) for r, y in enumerate(ranked[:K]) if y) / ideal)
            hits.append(any(ranked[:K]))
    _, _, ndcg, hit = found.figures[0]
    assert ndcg == pytest.approx(np.mean(gains))
    assert hit == pytest.approx(np.mean(hits)) if len(rows) > K else math.isnan(hit)


def test_a_constant_prediction_gains_nothing() -> None:
    """Though positives stand first in the input: half of all pairs, and the mean over all orders."""
    y = np.array([1, 1, *[0] * 18], np.float32)
    found = ranking_figures(np.full(20, 0.3, np.float32), y, np.zeros(20, np.int64))
    assert found.auc == 0.5
    assert found.hit_rate == pytest.approx(1 - 10 / 20 * 9 / 19)


def test_no_group_with_both_labels_has_no_figure() -> None:
    """Not a number, and no group, for nothing at all too."""
    for n in (0, 3):
        found = ranking_figures(np.ones(n, np.float32), np.zeros(n, np.float32), np.arange(n))
        assert found.groups == 0
        assert np.isnan([found.auc, found.ndcg, found.hit_rate]).all()


def test_figures_change_nothing_of_their_input() -> None:
    """Arrays that are read stay as they were."""
    p, y, g = columns([(0.5, True, 2), (0.1, False, 2), (0.9, True, 1)])
    before = p.copy(), y.copy(), g.copy()
    ranking_figures(p, y, g)
    assert all(np.array_equal(a, b) for a, b in zip((p, y, g), before, strict=True))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=30))
def test_a_session_ends_with_a_pause(pages: list[tuple[int, int]]) -> None:
    """Two pages share a session exactly if they are one user's and no pause of over half an hour lies between."""
    users, times = np.array([u for u, _ in pages], np.int64), np.array([1_000_000 * t for _, t in pages], np.int64)
    found = sessions(users, times)
    for i in range(len(pages)):
        for j in range(len(pages)):
            between = sorted(
                t
                for u, t in pages
                if u == pages[i][0] and min(pages[i][1], pages[j][1]) <= t <= max(pages[i][1], pages[j][1])
            )
            together = users[i] == users[j] and all(b - a <= 1 for a, b in pairwise(between))
            assert (found[i] == found[j]) == together
