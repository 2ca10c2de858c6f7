"""One seed's figures: what each arm served, and how each learner predicted all traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stream.tables.dtypes import F32, F64, I64, Bools
from thalweg.backtest.backtest import exact_auc
from thalweg.experiment.traffic_scores import ScoredTraffic
from thalweg.experiment.user_adjustment import Adjustment

PERIODS = 20  # of regret over time
SHADOWS = ("oracle", "random")  # arms that serve nobody: what they would have shown on every page


@dataclass(frozen=True)
class ArmFigures:
    """What an arm served. Installs and expected installs are per 1,000 shown items.

    Those not raw are adjusted for how the arms' users differ (`Adjustment`).
    """

    users: int
    pages: int
    installs: float  # that weren't retracted
    expected: float  # by the world's truth
    raw_installs: float
    raw_expected: float
    gap_closed: float  # share of the gap between `popular` and `oracle`, both on this arm's pages
    coverage: float  # share of the store's apps that it showed
    regret: Sequence[float]  # [PERIODS]: expected installs per 1,000 items below the oracle's, over time


@dataclass(frozen=True)
class LearnerFigures:
    """How well a learner predicted all traffic, at page time."""

    auc: float
    group_auc: float  # mean of users' AUCs, weighted by their items
    log_loss: float
    calibration: float  # mean prediction / mean probability by the world's truth


@dataclass(frozen=True)
class SeedFigures:
    """Of one seed. `shadows`: of oracle and random, on all pages."""

    seed: int
    pages: int
    base_rate: float  # share of shown items that were installed
    arms: Mapping[str, ArmFigures]
    shadows: Mapping[str, ArmFigures]
    learners: Mapping[str, LearnerFigures]
    same_pages: Mapping[str, float]  # expected installs per 1,000 items on pages that all rank, of learners and shadows
    seconds: Mapping[str, float]  # by what they were spent for
    versions_rejected: int


def arm_figures(traffic: ScoredTraffic, rows: Bools, apps: int, adjustment: Adjustment) -> ArmFigures:
    """Of the pages `rows`, bool [N]."""
    items = traffic.labels.shape[1]
    installs = traffic.labels.sum(1).astype(np.float64)
    nothing = float("nan")
    if not rows.any():
        none = [nothing] * PERIODS
        return ArmFigures(0, 0, nothing, nothing, nothing, nothing, nothing, nothing, none)
    gap = (traffic.oracle[rows] - traffic.popular[rows]).sum()
    return ArmFigures(
        len(np.unique(traffic.user[rows])),
        int(rows.sum()),
        1_000 / items * adjustment.mean(installs, rows),
        1_000 / items * adjustment.mean(traffic.expected, rows),
        float(1_000 / items * installs[rows].mean()),
        float(1_000 / items * traffic.expected[rows].mean()),
        float((traffic.expected[rows] - traffic.popular[rows]).sum() / gap) if gap > 0 else 0.0,
        len(np.unique(traffic.items[rows])) / apps,
        _regret(traffic, traffic.expected, rows),
    )


def shadow_figures(traffic: ScoredTraffic, expected: F64) -> ArmFigures:
    """Of an arm that would have shown pages of these expected installs, float64 [N]."""
    items = traffic.labels.shape[1]
    gap = (traffic.oracle - traffic.popular).sum()
    per_mille = float(1_000 * expected.mean() / items)
    return ArmFigures(
        0, len(expected), float("nan"), per_mille, float("nan"), per_mille,
        float((expected - traffic.popular).sum() / gap) if gap > 0 else 0.0, float("nan"),
        _regret(traffic, expected, np.ones(len(expected), np.bool_)),
    )  # fmt: skip


def learner_figures(traffic: ScoredTraffic, predictions: F32) -> LearnerFigures:
    """Of predictions, float32 [N, k]."""
    labels, p = traffic.labels.ravel().astype(np.float32), predictions.ravel()
    clipped = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))
    users = np.repeat(traffic.user, traffic.labels.shape[1])
    truth = traffic.expected.mean() / traffic.labels.shape[1]
    return LearnerFigures(
        exact_auc(p, labels), group_auc(p, labels, users), float(losses.mean()), float(p.mean() / truth)
    )


def group_auc(predictions: F32, labels: F32, groups: I64) -> float:
    """Mean of the groups' AUCs, weighted by their examples; groups of one label only are left out. NaN: none is left.

    >>> group_auc(np.float32([0.1, 0.9, 0.9, 0.1]), np.float32([0, 1, 0, 1]), np.array([1, 1, 2, 2]))
    0.5
    """
    order = np.lexsort((predictions, groups))
    p, y, g = predictions[order], labels[order].astype(np.float64), groups[order]
    starts = np.flatnonzero(np.r_[True, g[1:] != g[:-1]])
    sizes = np.diff(np.r_[starts, len(g)])
    ranks = _mid_ranks(p, g) - np.repeat(starts, sizes)
    positives = np.add.reduceat(y, starts)
    rank_sums = np.add.reduceat(ranks * y, starts)
    mixed = (positives > 0) & (positives < sizes)
    if not mixed.any():
        return float("nan")
    positives, sizes = positives[mixed], sizes[mixed]
    aucs = (rank_sums[mixed] - positives * (positives + 1) / 2) / (positives * (sizes - positives))
    return float(np.average(aucs, weights=sizes))


def _mid_ranks(p: F32, g: I64) -> F64:
    """Rank from 1 of each of the sorted values; equal ones of a group share the mean of theirs."""
    first = np.flatnonzero(np.r_[True, (p[1:] != p[:-1]) | (g[1:] != g[:-1])])
    ends = np.r_[first[1:], len(p)]
    ranks: F64 = np.repeat((first + 1 + ends) / 2, ends - first)
    return ranks


def _regret(traffic: ScoredTraffic, expected: F64, rows: Bools) -> list[float]:
    below = 1_000 * (traffic.oracle - expected) / traffic.labels.shape[1]
    bounds = np.linspace(0, len(below), PERIODS + 1).astype(int)
    periods: Sequence[npt.NDArray[np.float64]] = [below[a:b][rows[a:b]] for a, b in pairwise(bounds)]
    return [float(period.mean()) if len(period) else float("nan") for period in periods]
