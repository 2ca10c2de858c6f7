"""Ranks of installed items in lists of candidates, and their figures with intervals.

An installed item is the only right one of its list: HR@10 says whether it's among the first ten, MRR@10 is 1/rank
there, NDCG@10 1/log2(rank + 1); recall@100 says whether it's among the first hundred. An item that isn't in the list
counts 0. Candidates with equal scores count as all their orders on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stream.tables.dtypes import F64, I64
from thalweg.backtest.judgement import RESAMPLES, Judgement, resamples_of

K: Final = 10
RECALL_K: Final = 100
MISSED: Final = 1 << 30  # rank of an item that isn't in the list
RANK_FIGURES: Final = ("hit_rate", "mrr", "ndcg", "recall_100")


@dataclass(frozen=True)
class Ranks:
    """Of M models and N installs: candidates above the installed item, and others that score as it does."""

    names: Sequence[str]
    users: I64  # i64[N]
    sizes: I64  # i64[N], candidates
    above: I64  # i64[M, N]
    tied: I64  # i64[M, N], others

    def judge(self, *, resampled: int = RESAMPLES, seed: int = 0) -> dict[str, Judgement]:
        """Of each model the mean figures, with the same bootstrap over users for all.

        HR@10 and recall@100 are of lists with more than 10 and 100 candidates, since every order hits in others.
        """
        users, owners = np.unique(self.users, return_inverse=True)
        ones = np.ones(len(self.sizes))
        counted = np.stack([self.sizes > K, ones, ones, self.sizes > RECALL_K], 1).astype(np.float64)  # f64[N, F]
        counts = _by_user(counted, owners, len(users))
        found = {}
        for name, above, tied in zip(self.names, self.above, self.tied, strict=True):
            sums = _by_user(expected_gains(above, tied) * counted, owners, len(users))
            values = [_means(drawn @ sums, drawn @ counts) for drawn in resamples_of(len(users), resampled, seed)]
            resampled_values = np.array(values) if len(users) > 1 else np.full((resampled, len(RANK_FIGURES)), np.nan)
            found[name] = Judgement(_means(sums.sum(0), counts.sum(0)), resampled_values, figures=RANK_FIGURES)
        return found


def expected_gains(above: I64, tied: I64) -> F64:
    """RANK_FIGURES of installs [N] over all orders of equal scores, float64 [N, 4].

    >>> expected_gains(np.array([0, 9, MISSED]), np.array([0, 1, 0])).round(3)
    array([[1.   , 1.   , 1.   , 1.   ],
           [0.5  , 0.05 , 0.145, 1.   ],
           [0.   , 0.   , 0.   , 0.   ]])
    """
    ranks = np.arange(1, RECALL_K + 1)
    hits = ranks <= K
    gains = np.stack([hits, hits / ranks, hits / np.log2(ranks + 1), np.ones(RECALL_K)], 1)
    sums = np.concatenate([np.zeros((1, len(RANK_FIGURES))), gains.cumsum(0)])  # of ranks up to
    last, first = np.minimum(above + tied + 1, RECALL_K), np.minimum(above, RECALL_K)
    found: F64 = (sums[last] - sums[first]) / (tied + 1)[:, None]
    return found


def _by_user(columns: F64, owners: I64, users: int) -> F64:
    return np.stack([np.bincount(owners, column, users) for column in columns.T], 1)


def _means(sums: F64, counts: F64) -> F64:
    with np.errstate(divide="ignore", invalid="ignore"):
        means: F64 = sums / counts
    return means
