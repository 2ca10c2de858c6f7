"""Compares two arms at any time, as often as one likes: installs per impression, clustered by user."""

from typing import Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F64, I64
from thalweg.experiment.arm_counts import ArmCounts

ALPHA: Final = 0.05  # chance that an interval is ever wrong, at any look
SCALE: Final = 0.1
USERS_MIN: Final = 30
Z_FIXED: Final = 1.959964  # of a fixed-sample 95 % interval


class Rate(NamedTuple):
    value: F64
    variance: F64
    users: I64


class Comparison(NamedTuple):
    difference: F64
    difference_low: F64
    difference_high: F64
    gain: F64
    gain_low: F64
    gain_high: F64
    fixed_low: F64
    fixed_high: F64
    p: F64


def clustered_rate(impressions, installs) -> Rate:
    total = impressions.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = installs.sum(-1) / total
        residuals = installs - rate[..., None] * impressions
        residuals /= total[..., None] - impressions  # the estimate's change when this user is left out
        variance = np.square(residuals).sum(-1)
    return Rate(rate, np.where(np.isfinite(variance), variance, np.inf), (impressions > 0).sum(-1))
