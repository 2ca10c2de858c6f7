"""Figures of predictions with 95 % intervals, by bootstrap over users.

A user's examples resemble each other, so whole users are resampled, not examples (Efron and Tibshirani 1993, section
8.3). All predictions of the same examples are resampled alike: the interval of a difference is of pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from learner.training.figures import clipped, entropy_of, log_losses
from learner.training.ranking_figures import group_rows, sums_of
from stream.tables.dtypes import F32, F64, I64, Bools
from stream.tables.jit import kernel

RESAMPLES: Final = 400
FIGURES: Final = (
    "auc", "log_loss", "normalised_entropy", "calibration",
    "page_auc", "page_ndcg", "page_hit_rate", "session_auc", "session_ndcg", "session_hit_rate",
)  # fmt: skip
GROUP_SUMS: Final = 6
AS_SHOWN: Final = "as shown"  # no entrant: what the order says in which items were shown


class JudgedRows(NamedTuple):
    """N examples, and what they belong to: users are numbered from 0, pages and sessions in any way."""

    labels: F32  # f32[N]
    users: I64  # i64[N]
    pages: I64  # i64[N]
    sessions: I64  # i64[N]

    def take(self, which: Bools) -> "JudgedRows":
        """These examples only."""
        return JudgedRows(self.labels[which], self.users[which], self.pages[which], self.sessions[which])


class Interval(NamedTuple):
    """A figure, and its 95 % interval; NaN: it has none."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite([self.low, self.high]).all())


@dataclass(frozen=True)
class Judgement:
    """Figures of some predictions. `values`: f64[F], in the order of `figures`; `resampled`: f64[RESAMPLES, F]."""

    values: F64
    resampled: F64
    groups: tuple[int, int] = (0, 0)  # pages and sessions with both labels
    figures: Sequence[str] = FIGURES

    def of(self, name: str) -> Interval:
        """One figure; NaN where it isn't defined."""
        f = self.figures.index(name)
        return interval_of(float(self.values[f]), self.resampled[:, f])

    def error(self, name: str) -> float:
        """A figure's standard error."""
        return float(np.nanstd(self.resampled[:, self.figures.index(name)]))

    def gain_over(self, other: "Judgement", name: str) -> Interval:
        """By how much a figure is above that of other predictions of the same examples."""
        f = self.figures.index(name)
        return interval_of(float(self.values[f] - other.values[f]), self.resampled[:, f] - other.resampled[:, f])


def judge(predictions: F32, rows: JudgedRows, users: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Judgement:
    """Judge predictions [N]. `users`: how many there are, of these and of other examples."""
    order = np.argsort(predictions, kind="stable")
    p, y, owners = predictions[order], rows.labels[order], rows.users[order]
    pages, sessions = (_group_sums(predictions, rows, groups, users) for groups in (rows.pages, rows.sessions))
    sums = np.concatenate([_example_sums(predictions, rows, users), pages, sessions], 1)
    found = np.empty((resamples, len(FIGURES)))
    for row, counts in zip(found, resamples_of(users, resamples, seed), strict=True):
        _fill(row, counts @ sums, _auc(p, y, owners, counts))
    if len(np.unique(owners)) < 2:
        found[:] = np.nan
    values = np.empty(len(FIGURES))
    _fill(values, sums.sum(0), _auc(p, y, owners, np.ones(users)))
    return Judgement(values, found, (int(pages[:, 2].sum()), int(sessions[:, 2].sum())))


def resamples_of(count: int, resamples: int, seed: int) -> Iterator[F64]:
    """Resamples of things drawn with replacement: how often each of them is drawn, f64[count]."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64)


def _example_sums(predictions: F32, rows: JudgedRows, users: int) -> F64:
    """Of each user: examples, log loss, predictions, labels; f64[users, 4]."""
    p, y = clipped(predictions), rows.labels
    return np.stack([np.bincount(rows.users, w, users) for w in (np.ones(len(y)), log_losses(p, y), p, y)], 1)


def _group_sums(predictions: F32, rows: JudgedRows, groups: I64, users: int) -> F64:
    """Of each user, what adds up of its groups' figures; f64[users, GROUP_SUMS]."""
    names, codes = np.unique(groups, return_inverse=True)
    owner = np.zeros(len(names), np.int64)
    owner[codes] = rows.users
    found = group_rows(predictions, rows.labels, codes)
    return np.stack([np.bincount(owner[found.groups], column, users) for column in sums_of(found.figures).T], 1)


def _fill(row: F64, sums: F64, auc: float) -> None:
    """The figures of sums."""
    examples, loss, predicted, labels = sums[:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        row[:4] = auc, loss / examples, loss / examples / entropy_of(labels / examples), predicted / labels
        for first in (4, 4 + GROUP_SUMS):
            group = sums[first : first + GROUP_SUMS]
            at = 4 + (first - 4) // 2
            row[at : at + 3] = group[1::2] / group[::2]
    row[~np.isfinite(row)] = np.nan


def interval_of(value: float, resampled: F64) -> Interval:
    """A figure's 95 % interval by percentiles of its resamples [R]; none where half of them aren't defined."""
    known = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(known) < len(resampled) / 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [0.025, 0.975]).tolist()
    return Interval(value, low, high)


@kernel
def _auc(predictions: F32, labels: F32, users: I64, counts: F64) -> float:
    """AUC of sorted examples, each as often as its user counts; NaN without both labels."""
    below, positives, area = 0.0, 0.0, 0.0
    i, n = 0, predictions.shape[0]
    while i < n:
        positive, negative, j = 0.0, 0.0, i
        while j < n and (j == i or predictions[j] == predictions[i]):
            if labels[j] > 0.5:
                positive += counts[users[j]]
            else:
                negative += counts[users[j]]
            j += 1
        area += positive * (below + negative / 2.0)
        below += negative
        positives += positive
        i = j
    return area / (below * positives) if below > 0.0 and positives > 0.0 else np.nan
