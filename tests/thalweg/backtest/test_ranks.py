"""Figures of ranks: each is its definition, over all orders of what is equal."""

from itertools import permutations

import numpy as np
import pytest

from thalweg.backtest.judgement import JudgedRows
from thalweg.backtest.next_install import ranks_in_groups
from thalweg.backtest.ranks import MISSED, RANK_FIGURES, Ranks, expected_gains


def test_figures_are_the_mean_over_all_orders_of_equal_scores() -> None:
    """HR@10, MRR@10, NDCG@10 and recall@100 of each order in which equal candidates can stand, on average."""
    above, tied = np.array([0, 7, 8, 9, 10, 97, 98, 100]), np.array([3, 0, 4, 2, 1, 4, 0, 2])
    for a, t, found in zip(above.tolist(), tied.tolist(), expected_gains(above, tied), strict=True):
        ranks = [a + 1 + order.index(0) for order in permutations(range(t + 1))]
        wanted = np.mean([[r <= 10, (r <= 10) / r, (r <= 10) / np.log2(r + 1), r <= 100] for r in ranks], 0)
        np.testing.assert_allclose(found, wanted)


def test_an_item_that_is_not_in_the_list_counts_nothing() -> None:
    """A miss is below all ranks, and is counted."""
    ranks = Ranks(["a"], np.array([0, 1]), np.array([200, 200]), np.array([[0, MISSED]]), np.array([[0, 0]]))
    judged = ranks.judge()["a"]
    assert [judged.of(key).value for key in RANK_FIGURES] == [0.5, 0.5, 0.5, 0.5]


def test_lists_that_every_order_hits_do_not_count_as_hits() -> None:
    """HR@10 is of lists with more than 10 items, recall@100 of those with more than 100: NaN if there is none."""
    sizes = np.array([5, 10, 11, 50])
    above = np.array([[0, 0, 10, 0]])
    judged = Ranks(["a"], np.arange(4), sizes, above, np.zeros((1, 4), np.int64)).judge()["a"]
    assert judged.of("hit_rate").value == 0.5
    assert np.isnan(judged.of("recall_100").value)
    assert judged.of("mrr").value == 0.75


def test_gains_are_paired_by_user() -> None:
    """The interval of a difference between models is of the same users: narrower than those of the figures."""
    random = np.random.default_rng(1)
    users = np.repeat(np.arange(40), 10)
    easy = np.repeat(random.integers(0, 9, 40), 10)  # some users are easy for all
    above = np.stack([easy + 1, easy])
    judged = Ranks(["a", "b"], users, np.full(400, 50), above, np.zeros((2, 400), np.int64)).judge()
    gain, own = judged["b"].gain_over(judged["a"], "mrr"), judged["b"].of("mrr")
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < own.high - own.low


def test_installed_items_are_ranked_among_those_that_were_not() -> None:
    """In each group with both labels: how many that weren't installed score more, and how many the same."""
    labels = np.array([1, 0, 1, 0, 0, 1, 1, 0], np.float32)
    groups = np.array([7, 7, 3, 3, 7, 7, 5, 4])  # 5: installed only; 4: shown only
    scores = np.array([[5, 6, 2, 2, 5, 7, 1, 1], np.zeros(8)], np.float32)
    rows = JudgedRows(labels, groups.astype(np.int64), groups, groups)
    ranks = ranks_in_groups(["a", "b"], scores, rows, groups)
    columns = ranks.users.tolist(), ranks.sizes.tolist(), ranks.above.T.tolist(), ranks.tied.T.tolist()
    found = sorted(zip(*columns, strict=True))
    assert found == [(3, 2, [0, 0], [1, 1]), (7, 3, [0, 0], [0, 2]), (7, 3, [1, 0], [1, 2])]
    only = np.array([False] * 6 + [True, True])
    assert len(ranks_in_groups(["a", "b"], scores[:, only], rows.take(only), groups[only]).users) == 0


@pytest.mark.parametrize("users", [1, 2])
def test_one_user_has_no_interval(users: int) -> None:
    """Intervals are by bootstrap over users: of one there is none."""
    ranks = Ranks(["a"], np.arange(30) % users, np.full(30, 50), np.arange(30)[None], np.zeros((1, 30), np.int64))
    assert ranks.judge()["a"].of("mrr").is_known == (users > 1)
