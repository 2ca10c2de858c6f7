"""Two models' predictions of the same labelled examples, compared in pairs, with intervals.

A user with more positives than three times the usual rate explains (less than one in a million users would have so
many by chance) isn't *plausible*. The judge leaves them out, by labels alone, for both models alike: bots that click
everything, and users whose labels are flipped for a minute, would say that whoever learned from them is right.

Users are what is independent, so intervals come from differences between users (pages, for one that has more than a
twentieth of all examples): sums over users, by the ratio estimator's normal interval. Few positives make its tails
heavy, so it's widened by 1 + 2/√positives.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from learner.training.figures import P_MIN, clipped, entropy_of, log_losses
from learner.training.ranking_figures import AUC, group_rows
from stream.tables.dtypes import F32, F64, I64, Bools

PLAUSIBLE_TIMES: Final = 3.0  # the usual rate
CHANCE: Final = 1e-6
USER_SHARE_MAX: Final = 0.05
NO_ROWS: Final = np.zeros(0)


class Pairs(NamedTuple):
    """N labelled examples and what two models predicted. Those of one page are scored by the same state of each."""

    pages: I64  # i64[N], keys of pages
    users: I64  # i64[N]
    labels: F32  # f32[N], 0 or 1
    weights: F32  # f32[N]
    live: F32  # f32[N], P(Y=1) by the model that learns
    anchor: F32  # f32[N], P(Y=1) by the frozen one

    def last(self, count: int) -> "Pairs":
        """The last `count` examples."""
        return Pairs._make(column[max(0, len(column) - count) :] for column in self)

    def part(self, which: Bools) -> "Pairs":
        """These examples only."""
        return Pairs._make(column[which] for column in self)


NO_PAIRS: Final = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), *np.zeros((4, 0), np.float32))


def finite(pairs: Pairs) -> Pairs:
    """A prediction that is no number is as wrong as can be."""
    wrong = (1.0 - pairs.labels).astype(np.float32)
    live, anchor = (np.where(np.isfinite(p), p, wrong) for p in (pairs.live, pairs.anchor))
    return pairs._replace(live=live, anchor=anchor)


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float

    @property
    def factor(self) -> float:
        """Of a logarithm."""
        return math.exp(self.value)


class Comparison(NamedTuple):
    """How two models did on the same examples. Differences are live − anchor."""

    examples: int
    positives: int  # unweighted, of plausible users
    groups: int  # users, or pages
    rate: float  # mean label
    live_entropy: float  # normalised: relative to the entropy of `rate`
    anchor_entropy: float
    entropy: Estimate  # difference of normalised entropies
    live_calibration: Estimate  # log of mean prediction / mean label; its error is that of the labels
    anchor_calibration: Estimate
    live_auc: float  # mean AUC of pages with both labels
    anchor_auc: float
    auc: Estimate
    auc_pages: int


def compare(pairs: Pairs, usual_rate: float) -> Comparison:
    """Compare these, of plausible users. `usual_rate`: the share of positives to expect, where there are few."""
    groups, count = _groups(pairs)
    weights, labels = pairs.weights.astype(np.float64), pairs.labels.astype(np.float64)
    total = max(float(weights.sum()), 1e-9)
    rate = float((weights * labels).sum()) / total
    entropy = entropy_of(max(rate, usual_rate / 2))  # few positives may be none
    live, anchor = clipped(pairs.live), clipped(pairs.anchor)
    live_loss, anchor_loss = (weights * log_losses(p, labels) / entropy for p in (live, anchor))
    live_aucs, anchor_aucs = _aucs(pairs)
    return Comparison(
        examples=len(labels),
        positives=int(np.count_nonzero(labels > 0.5)),
        groups=count,
        rate=rate,
        live_entropy=float(live_loss.sum()) / total,
        anchor_entropy=float(anchor_loss.sum()) / total,
        entropy=_ratio(live_loss - anchor_loss, weights, groups, count),
        live_calibration=_calibration(weights * live, weights * labels, groups, count),
        anchor_calibration=_calibration(weights * anchor, weights * labels, groups, count),
        live_auc=float(live_aucs.mean()) if len(live_aucs) else 0.5,
        anchor_auc=float(anchor_aucs.mean()) if len(anchor_aucs) else 0.5,
        auc=_mean(live_aucs - anchor_aucs),
        auc_pages=len(live_aucs),
    )


def plausible_examples(users: I64, labels: F32, usual_rate: float) -> Bools:
    """Which examples are of users whose positives chance explains, bool [N], by Chernoff's bound of the binomial."""
    _, inverse, counts = np.unique(users, return_inverse=True, return_counts=True)
    positives = np.bincount(inverse, labels > 0.5, len(counts)) if len(users) else NO_ROWS
    limit = min(PLAUSIBLE_TIMES * usual_rate, 1.0 - P_MIN)
    share = positives / np.maximum(counts, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        few = np.where(share < 1.0, (1.0 - share) * np.log((1.0 - share) / (1.0 - limit)), 0.0)
        divergence = np.where(share > limit, share * np.log(share / limit) + few, 0.0)
    plausible: Bools = (counts * divergence < -np.log(CHANCE))[inverse]
    return plausible


def _groups(pairs: Pairs) -> tuple[I64, int]:
    """Which group each example is in, and how many groups there are."""
    _, inverse, counts = np.unique(pairs.users, return_inverse=True, return_counts=True)
    large = counts[inverse] > USER_SHARE_MAX * len(inverse)
    if not large.any():
        return inverse, len(counts)
    _, groups = np.unique(np.where(large, pairs.pages, pairs.users), return_inverse=True)
    return groups, int(groups.max()) + 1


def _ratio(values: F64, weights: F64, groups: I64, count: int) -> Estimate:
    """Σ values / Σ weights, and its standard error, of groups that are independent."""
    total = float(weights.sum())
    if count < 2 or total <= 0.0:
        return Estimate(0.0, np.inf)
    mean = float(values.sum()) / total
    residuals = np.bincount(groups, values - mean * weights, count)
    return Estimate(mean, float(np.sqrt((residuals**2).sum() * count / (count - 1))) / total)


def _calibration(predicted: F64, labels: F64, groups: I64, count: int) -> Estimate:
    """log(Σ predicted / Σ labels)."""
    if count < 2 or not labels.any():
        return Estimate(0.0, np.inf)
    ratio = _ratio(labels, predicted, groups, count)
    return Estimate(-float(np.log(ratio.value)), ratio.error / ratio.value)


def _aucs(pairs: Pairs) -> tuple[F64, F64]:
    """AUC of each page with both labels, by live and anchor."""
    both = np.isin(pairs.pages, pairs.pages[pairs.labels > 0.5])
    rows = [group_rows(p[both], pairs.labels[both], pairs.pages[both]) for p in (pairs.live, pairs.anchor)]
    return rows[0].figures[:, AUC], rows[1].figures[:, AUC]


def _mean(values: F64) -> Estimate:
    n = len(values)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / np.sqrt(n)) if n > 1 else Estimate(0.0, np.inf)
