"""One seed's figures: what each arm served, and how each learner predicted all traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stream.tables.dtypes import F32, F64, Bools
from thalweg.backtest.judgement import JudgedRows, judge
from thalweg.experiment.traffic_scores import ScoredTraffic
from thalweg.experiment.user_adjustment import Adjustment

PERIODS = 20  # of regret over time
RESAMPLES = 200
ERRORS = {"auc": "auc", "group_auc": "session_auc", "page_auc": "page_auc", "page_ndcg": "page_ndcg"}
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
    page_auc: float  # mean of pages' AUCs, weighted by their items
    page_ndcg: float  # NDCG@10 of pages
    errors: Mapping[str, float]  # standard errors of the figures that are named in ERRORS, by bootstrap over users


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
    return ArmFigures(
        len(np.unique(traffic.user[rows])),
        int(rows.sum()),
        1_000 / items * adjustment.mean(installs, rows),
        1_000 / items * adjustment.mean(traffic.expected, rows),
        float(1_000 / items * installs[rows].mean()),
        float(1_000 / items * traffic.expected[rows].mean()),
        _gap_closed(traffic, traffic.expected, rows),
        len(np.unique(traffic.items[rows])) / apps,
        _regret(traffic, traffic.expected, rows),
    )


def shadow_figures(traffic: ScoredTraffic, expected: F64) -> ArmFigures:
    """Of an arm that would have shown pages of these expected installs, float64 [N]."""
    items = traffic.labels.shape[1]
    everywhere = np.ones(len(expected), np.bool_)
    per_mille = float(1_000 * expected.mean() / items)
    return ArmFigures(
        0, len(expected), float("nan"), per_mille, float("nan"), per_mille,
        _gap_closed(traffic, expected, everywhere), float("nan"), _regret(traffic, expected, everywhere),
    )  # fmt: skip


def learner_figures(traffic: ScoredTraffic, predictions: F32) -> LearnerFigures:
    """Of predictions, float32 [N, k]."""
    labels, p = traffic.labels.ravel().astype(np.float32), predictions.ravel()
    pages, items = traffic.labels.shape
    _, codes = np.unique(traffic.user, return_inverse=True)
    users = np.repeat(codes, items)
    rows = JudgedRows(labels, users, np.repeat(np.arange(pages), items), users)  # a user's items are one group
    judged = judge(p, rows, int(codes.max()) + 1, resamples=RESAMPLES)
    truth = traffic.expected.mean() / items
    return LearnerFigures(
        **{name: judged.of(figure).value for name, figure in ERRORS.items()},
        log_loss=judged.of("log_loss").value,
        calibration=float(p.mean() / truth),
        errors={name: judged.error(figure) for name, figure in ERRORS.items()},
    )


def _gap_closed(traffic: ScoredTraffic, expected: F64, rows: Bools) -> float:
    gap = (traffic.oracle[rows] - traffic.popular[rows]).sum()
    return float((expected[rows] - traffic.popular[rows]).sum() / gap) if gap > 0 else 0.0


def _regret(traffic: ScoredTraffic, expected: F64, rows: Bools) -> list[float]:
    below = 1_000 * (traffic.oracle - expected) / traffic.labels.shape[1]
    bounds = np.linspace(0, len(below), PERIODS + 1).astype(int)
    periods: Sequence[npt.NDArray[np.float64]] = [below[a:b][rows[a:b]] for a, b in pairwise(bounds)]
    return [float(period.mean()) if len(period) else float("nan") for period in periods]
