"""How two versions' scores of the same items differ. Nothing here knows labels."""

import math
from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F64, I64
from stream.tables.jit import kernel

SPREAD_MIN: Final = 0.05  # log-odds: below it the older version ranks nobody, and its order means nothing


class ScoreComparison(NamedTuple):
    """`shift`: of the mean log-odds; `rate`: mean prediction / the older one's; `spread`: standard deviation of
    log-odds / the older one's; `agreement`: share of pairs of a page's items that both have in the same order, weighted
    by how far apart the older one has them. The last two are 1 where the older version has no spread."""

    shift: float
    rate: float
    spread: float
    agreement: float


def compared(older: F64, newer: F64, ends: I64) -> ScoreComparison:
    """Log-odds f64[N] by two versions. `ends`: i64[G + 1]: items ends[g]:ends[g + 1] are ranked among each other."""
    spread = float(older.std())
    shift = float(newer.mean() - older.mean())
    rate = float(probabilities(newer).mean() / probabilities(older).mean())
    if spread < SPREAD_MIN:
        return ScoreComparison(shift, rate, 1.0, 1.0)
    return ScoreComparison(shift, rate, float(newer.std()) / spread, float(_agreement(older, newer, ends)))


def in_proportion(found: ScoreComparison) -> ScoreComparison:
    """With the logarithm of `rate` as its shift, where that is less: half the labels are positive, or most.

    >>> in_proportion(ScoreComparison(0.5, 1.25, 1.0, 1.0)).shift
    0.22314355131420976
    >>> in_proportion(ScoreComparison(-0.5, 0.5, 1.0, 1.0)).shift
    -0.5
    """
    return found._replace(shift=min(found.shift, math.log(max(found.rate, 1e-9)), key=abs))


def probabilities(log_odds: F64) -> F64:
    """σ of log-odds, f64 [N]."""
    found: F64 = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -80.0, 80.0)))
    return found


@kernel
def _agreement(older: F64, newer: F64, ends: I64) -> Any:
    same, total = 0.0, 0.0
    for g in range(ends.shape[0] - 1):
        for i in range(ends[g], ends[g + 1]):
            for j in range(ends[g], i):
                weight, now = older[i] - older[j], newer[i] - newer[j]
                if weight < 0.0:
                    weight, now = -weight, -now
                total += weight
                same += weight if now > 0.0 else 0.5 * weight if now == 0.0 else 0.0
    return same / total if total > 0.0 else 1.0
