"""Figures of ranking within groups: AUC, NDCG@10 and HR@10 of a page's items, or of a user session's.

Only groups with a positive and a negative say anything of ranking. Equal predictions count as every order of them on
average, so a constant prediction gains nothing. HR@10 is of groups with more than 10 items: below, every order hits.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F32, F64, I64, U64
from stream.tables.jit import kernel

K: Final = 10
SESSION_GAP_MS: Final = 1_800_000  # a longer pause ends a session
ITEMS, AUC, NDCG, HIT = range(4)  # columns of a group's figures


class GroupRows(NamedTuple):
    """Figures of G groups with both labels. `figures`: f64[G, 4], items, AUC, NDCG@10, HR@10 (NaN: not defined)."""

    groups: I64  # i64[G]
    figures: F64


@dataclass(frozen=True)
class RankingFigures:
    """Means over groups with both labels; NaN: there is none. AUC is weighted by items (Zhou et al. 2018)."""

    groups: int
    auc: float
    ndcg: float
    hit_rate: float

    def named(self) -> dict[str, float]:
        """All of them by name, but for the count."""
        return {"auc": self.auc, "ndcg": self.ndcg, "hit_rate": self.hit_rate}


def group_rows(predictions: F32, labels: F32, groups: I64) -> GroupRows:
    """Figures of each group of examples [N] that has both labels, in the order of `groups`."""
    order = np.lexsort((-predictions, groups))
    p, y, g = predictions[order], labels[order], groups[order]
    starts = np.flatnonzero(np.r_[True, g[1:] != g[:-1]]) if len(g) else np.zeros(0, np.int64)
    figures = np.empty((len(starts), 4))
    _fill_groups(p, y, np.append(starts, len(g)), figures)
    has_both = ~np.isnan(figures[:, AUC])
    return GroupRows(g[starts][has_both], figures[has_both])


def ranking_figures(predictions: F32, labels: F32, groups: I64) -> RankingFigures:
    """Means over the groups of examples [N].

    >>> p, y = np.float32([0.1, 0.9, 0.9, 0.1]), np.float32([0, 1, 0, 1])
    >>> found = ranking_figures(p, y, np.array([1, 1, 2, 2]))
    >>> found.auc, round(found.ndcg, 3)
    (0.5, 0.815)
    """
    return of_sums(sums_of(group_rows(predictions, labels, groups).figures).sum(0))


def sums_of(figures: F64) -> F64:
    """What adds up, of groups' figures [G, 4]: f64[G, 6], items, items · AUC, groups, NDCG, groups with a hit rate,
    hits."""
    hits = figures[:, HIT]
    has_hit = ~np.isnan(hits)
    ones = np.ones(len(figures))
    columns = (figures[:, ITEMS], figures[:, ITEMS] * figures[:, AUC], ones, figures[:, NDCG],
               has_hit.astype(np.float64), np.where(has_hit, hits, 0.0))  # fmt: skip
    return np.stack(columns, 1)


def of_sums(sums: F64) -> RankingFigures:
    """The figures of sums [6]."""
    items, auc, groups, ndcg, with_hit, hits = sums.tolist()
    return RankingFigures(
        int(groups),
        auc / items if items else math.nan,
        ndcg / groups if groups else math.nan,
        hits / with_hit if with_hit else math.nan,
    )


def sessions(users: I64 | U64, times_ms: I64) -> I64:
    """Number of the session of each page [N]: a user's pages with pauses of at most half an hour.

    >>> sessions(np.array([7, 8, 7, 7]), np.array([0, 1, 1_800_000, 9_000_000]))
    array([0, 2, 0, 1])
    """
    order = np.lexsort((times_ms, users))
    u, t = users[order], times_ms[order]
    begins = (u[1:] != u[:-1]) | (t[1:] - t[:-1] > SESSION_GAP_MS)
    found = np.empty(len(u), np.int64)
    found[order] = np.cumsum(np.r_[False, begins]) if len(u) else 0
    return found


@kernel
def rank_group(predictions: F32, labels: Any, begin: Any, end: Any) -> Any:
    """(AUC, NDCG@K, HR@K) of rows begin:end, sorted by falling prediction; NaN where they aren't defined."""
    above, positives, wrong, gain, miss = 0.0, 0.0, 0.0, 0.0, 1.0  # `above`: negatives so far
    i = begin
    while i < end:
        tied, j = 1.0 if labels[i] > 0.5 else 0.0, i + 1
        while j < end and predictions[j] == predictions[i]:
            tied += 1.0 if labels[j] > 0.5 else 0.0
            j += 1
        others, slots = (j - i) - tied, min(j - begin, K) - (i - begin)  # slots: of these among the first K
        wrong += tied * (above + others / 2.0)
        if tied > 0.0 and slots > 0:
            for r in range(i - begin, i - begin + slots):
                gain += tied / (j - i) / np.log2(r + 2.0)
            if positives == 0.0:
                for s in range(slots):
                    miss *= max(others - s, 0.0) / (j - i - s)
        above += others
        positives += tied
        i = j
    if positives == 0.0 or above == 0.0:
        return np.nan, np.nan, np.nan
    ideal = 0.0
    for r in range(min(int(positives), K)):
        ideal += 1.0 / np.log2(r + 2.0)
    return 1.0 - wrong / (positives * above), gain / ideal, 1.0 - miss if end - begin > K else np.nan


@kernel
def _fill_groups(predictions: F32, labels: F32, ends: I64, figures: F64) -> None:
    for g in range(figures.shape[0]):
        auc, ndcg, hit = rank_group(predictions, labels, ends[g], ends[g + 1])
        figures[g, 0], figures[g, 1], figures[g, 2], figures[g, 3] = ends[g + 1] - ends[g], auc, ndcg, hit
