"""What a policy would have earned on pages that another one filled: estimates from logged propensities.

A page's places are filled from the top, each with a probability given the items above it. So a label at place k is
weighted by the product of (target's probability / logged propensity) over places 1 to k, which is unbiased as long as
a label depends on nothing below its place (McInerney et al. 2020). Pages of one item are a contextual bandit.

IPS (Horvitz and Thompson 1952), SNIPS (Swaminathan and Joachims 2015), doubly robust (Dudík et al. 2014).
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from stream.runtime.errors import DataError
from stream.tables.dtypes import F64, Bools
from thalweg.backtest.judgement import Interval, interval_of, resamples_of

ESTIMATORS: Final = ("ips", "snips", "dr")
LOGGED: Final = "logged"  # what the logged pages themselves earned
MEAN_WEIGHT: Final = "mean_weight"
REMEDY: Final = (
    'let rankers draw ([explore] kind = "epsilon" or "thompson") and copy the reply\'s propensities into the impression'
)
FIGURES: Final = (LOGGED, *ESTIMATORS, MEAN_WEIGHT)
RESAMPLES: Final = 1_000

Weighting = Literal["cascade", "independent"]


class LoggedPages(NamedTuple):
    """P pages of at most K places."""

    labels: F64  # f64[P, K]: 1 for an install
    propensities: F64  # f64[P, K]: of the item at its place, given those above it; in (0, 1]
    shown: Bools  # bool[P, K]: False behind a page's last place


class TargetPages(NamedTuple):
    """What the target policy would have done on the same pages."""

    chances: F64  # f64[P, K]: its probability of the logged item at its place, given those above it
    predicted: F64  # f64[P, K]: a model's P(label = 1) of the logged item
    expected: F64  # f64[P, K]: mean of such predictions over what the target shows at the place, given those above it


@dataclass(frozen=True)
class EstimateOptions:
    """How weights are made and intervals drawn.

    `weighting`: "cascade" multiplies the ratios of a place and of those above it; "independent" takes each place's own
    ratio: its weights vary less, but it estimates what the target earns at a place below items of the log's policy.
    """

    clip: float = np.inf  # greatest weight; a smaller one has less variance, and a bias
    weighting: Weighting = "cascade"
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """Estimates of what a page earns. `values`: f64[F], in the order of FIGURES; `resampled`: f64[resamples, F]."""

    values: F64
    resampled: F64
    pages: int
    effective_pages: float  # Kish: (Σw)² / Σw², of the place where it is least
    weight_max: float
    matched: float  # share of shown items that the target could have shown there
    installs: int  # whose weight isn't 0: all that the estimate stands on
    clipped: int  # weights

    def of(self, name: str) -> Interval:
        """A figure with its 95 % interval, by bootstrap over pages; NaN where it isn't defined."""
        f = FIGURES.index(name)
        return interval_of(float(self.values[f]), self.resampled[:, f])

    def gain(self, name: str) -> Interval:
        """By how much an estimate is above what the logged pages earned, resampled together."""
        f, logged = FIGURES.index(name), FIGURES.index(LOGGED)
        return interval_of(
            float(self.values[f] - self.values[logged]), self.resampled[:, f] - self.resampled[:, logged]
        )


def estimate(logged: LoggedPages, target: TargetPages, options: EstimateOptions) -> Estimate:
    """Estimate what a page of the target policy earns. Raises DataError when nothing was drawn for the logged pages."""
    check_drawn(logged)
    weights, above, clipped = _weights(logged, target, options)
    sums = _page_sums(logged, target, weights, above)
    pages = len(sums)
    resampled = np.empty((options.resamples, len(FIGURES)))
    for row, counts in zip(resampled, resamples_of(pages, options.resamples, options.seed), strict=True):
        row[:] = _figures(counts @ sums, pages)
    return Estimate(
        _figures(sums.sum(0), pages), resampled, pages, float(effective(weights).min()), float(weights.max()),
        float((target.chances[logged.shown] > 0).mean()), int((weights * logged.labels > 0).sum()), clipped,
    )  # fmt: skip


def check_drawn(logged: LoggedPages) -> None:
    """Raises DataError when every item was shown with certainty: there is nothing to weigh."""
    if (logged.propensities[logged.shown] == 1).all():
        raise DataError(
            "every logged propensity is 1: pages were filled without drawing (no exploration, or `ucb`), so what other "
            f"policies show was never tried; {REMEDY}"
        )


def effective(weights: F64) -> F64:
    """How many pages of weight 1 would be worth as much, by place; weights f64[P, K] → f64[K].

    >>> effective(np.array([[1.0, 4.0], [1.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    squares = (weights**2).sum(0)
    found: F64 = np.divide(weights.sum(0) ** 2, squares, out=np.zeros(len(squares)), where=squares > 0)
    return found


def _weights(logged: LoggedPages, target: TargetPages, options: EstimateOptions) -> tuple[F64, F64, int]:
    """Each place's weight, and that of the items above it, f64[P, K], 0 behind a page's end; how many were clipped."""
    ratios = np.where(logged.shown, target.chances / logged.propensities, 1.0)
    above = np.ones_like(ratios)
    if options.weighting == "cascade":
        above[:, 1:] = np.cumprod(ratios, 1)[:, :-1]
    weights = ratios * above * logged.shown
    clipped = int((weights > options.clip).sum())
    return np.minimum(weights, options.clip), np.minimum(above, options.clip) * logged.shown, clipped


def _page_sums(logged: LoggedPages, target: TargetPages, weights: F64, above: F64) -> F64:
    """Of each page what adds up, f64[P, 3 + 3K]: labels, IPS, DR; then by place weight, weighted label, shown."""
    weighted = weights * logged.labels
    corrected = above * target.expected + weights * (logged.labels - target.predicted)
    per_page = [(logged.labels * logged.shown).sum(1), weighted.sum(1), np.where(logged.shown, corrected, 0.0).sum(1)]
    return np.concatenate([np.stack(per_page, 1), weights, weighted, logged.shown], 1)


def _figures(sums: F64, pages: int) -> F64:
    """FIGURES of sums over pages. SNIPS divides by the weights of a place, not by the pages that have it."""
    weight, weighted, shown = sums[3:].reshape(3, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        snips = np.where(shown > 0, shown * weighted / weight, 0.0).sum() / pages
    return np.array([sums[0] / pages, sums[1] / pages, snips, sums[2] / pages, weight.sum() / shown.sum()])
