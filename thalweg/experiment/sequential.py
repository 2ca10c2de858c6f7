"""Compares two arms at any time, as often as one likes: installs per impression, clustered by user.

Users come back and differ, so the impressions of one user aren't independent: the variance is that of the users'
totals (delta method: Deng, Knoblich, Lu, KDD 2018; here as a jackknife that leaves out one user at a time).

A test that is repeated at every look needs wider intervals than one that is made once. Those here hold at all looks
together: Robbins' normal mixture for the logarithm of the relative gain, the form of both Johari et al., "Always Valid
Inference" (arXiv 1512.04922, mSPRT) and Waudby-Smith et al., "Time-uniform central limit theory and asymptotic
confidence sequences" (arXiv 2103.06476). Its clock is the information 1 / variance of the gain so far, not the number
of impressions.

What is assumed:

* Users are independent of each other and enough for the central limit theorem, in each arm: hence USERS_MIN. The
  jackknife widens the interval where few users make up most of an arm.
* For looks s < t, cov(gain_s, gain_t) >= var(gain_t). With equality the gain is a Brownian motion in information time.
  Users who keep their tastes only add correlation: Slepian's inequality then says that false alarms become rarer, not
  more frequent. It fails when later data is worse than earlier data, as when heavy users come late and the variance
  grows; simulated runs of this kind, and of users who want less after an install, alarm no more often.
* When to look doesn't depend on anything but the data seen so far.

The gain is that of all impressions so far. If the true gain changes over time, so does what is estimated.
"""

from typing import Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F64, I64
from thalweg.experiment.arm_counts import ArmCounts

ALPHA: Final = 0.05  # chance that an interval is wrong at any look
# Standard deviation of the mixture over logarithms of gains: the intervals are narrowest for gains about as large as
# this. It is fixed beforehand and valid whatever it is. In simulated tests of gains of 5 to 20 %, 0.2 alarms in 4 %
# more to 6 % less of the runs, 0.05 in 4 % more to 30 % less.
SCALE: Final = 0.1
USERS_MIN: Final = 30  # in each arm; with fewer nothing is concluded
Z_FIXED: Final = 1.959964  # of a 95 % interval that is looked at once


class Rate(NamedTuple):
    """Installs per impression of an arm, or of the same arm in several runs: each [...]."""

    value: F64
    variance: F64  # of `value`, over users; inf with fewer than two users
    users: I64


class ArmComparison(NamedTuple):
    """An arm against the control, each [...]. `low` and `high`: 95 % intervals that are valid at all looks together.

    Gains are relative: 0.1 is 10 % more installs per impression. Without a conclusion yet p is 1 and intervals are
    infinite (a gain's lower end is -1); where the control has no installs the gain is inf or nan.
    """

    difference: F64  # installs per impression: arm - control
    difference_low: F64
    difference_high: F64
    gain: F64
    gain_low: F64
    gain_high: F64
    fixed_low: F64  # of the gain: the usual 95 % interval, valid only at one look that was fixed beforehand
    fixed_high: F64
    p: F64  # always valid: the chance that it is ever 0.05 or less is at most 5 % where there's no difference


def clustered_rate(impressions: I64, installs: F64) -> Rate:
    """The rate of one arm of totals by user, [..., users]. Users without impressions don't count.

    The variance is the jackknife's: the sum over users of (rate without the user - rate)².
    """
    total = impressions.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = installs.sum(-1) / total
        changes = (value[..., None] * impressions - installs) / (total[..., None] - impressions)
        variance = np.square(changes).sum(-1)
    return Rate(value, np.where(np.isfinite(variance), variance, np.inf), (impressions > 0).sum(-1))


def rate_of(counts: ArmCounts) -> Rate:
    """The rate of an arm, scalars."""
    return clustered_rate(counts.impressions, counts.installs)


def compare(control: Rate, arm: Rate) -> ArmComparison:
    """The arm against the control, at one look."""
    difference, difference_variance = arm.value - control.value, arm.variance + control.variance
    with np.errstate(divide="ignore", invalid="ignore"):
        log_gain = np.log(arm.value / control.value)
        variance = arm.variance / arm.value**2 + control.variance / control.value**2
    ready = np.isfinite(log_gain) & np.isfinite(variance) & (variance > 0)
    ready &= (control.users >= USERS_MIN) & (arm.users >= USERS_MIN)
    variance = np.where(ready, variance, np.inf)
    low, high = _interval(log_gain, half_width(variance, SCALE))
    fixed_low, fixed_high = _interval(log_gain, Z_FIXED * np.sqrt(variance))
    scale = SCALE * (arm.value + control.value) / 2
    width = half_width(np.where(ready, difference_variance, np.inf), np.where(ready, scale, 1.0))
    return ArmComparison(
        difference,
        *_interval(difference, width),
        np.expm1(log_gain),
        *(np.expm1(low), np.expm1(high)),
        *(np.expm1(fixed_low), np.expm1(fixed_high)),
        always_valid_p(log_gain, variance, SCALE),
    )


def always_valid_p(estimate: F64, variance: F64, scale: F64 | float) -> F64:
    """1 / the likelihood ratio of "the truth is drawn from N(0, scale²)" to "the truth is 0", at most 1.

    1 where the variance is infinite.
    """
    ratio = np.where(np.isfinite(variance), scale**2 / variance, 0.0)  # of the mixture's variance to the estimate's
    with np.errstate(invalid="ignore"):
        evidence = np.square(estimate) / variance * ratio / (1 + ratio)
    log_p = 0.5 * np.log1p(ratio) - 0.5 * np.where(ratio > 0, evidence, 0.0)
    p: F64 = np.exp(np.minimum(log_p, 0.0))
    return p


def half_width(variance: F64, scale: F64 | float) -> F64:
    """Half the width of the interval of all truths that `always_valid_p` doesn't reject at ALPHA; inf if unknown."""
    ratio = scale**2 / variance
    with np.errstate(divide="ignore"):
        half: F64 = np.sqrt(variance * (1 + 1 / ratio) * (np.log1p(ratio) - 2 * np.log(ALPHA)))
    return half


def _interval(middle: F64, half: F64) -> tuple[F64, F64]:
    middle = np.where(np.isfinite(half), middle, 0.0)
    return middle - half, middle + half


class RunningP:
    """The least p of each arm over all looks so far: as valid as that of one look, and never rises again.

    So it may stay below 0.05 while the interval of a later look includes 0: the alarm has been given.
    """

    def __init__(self) -> None:
        self._least: dict[str, float] = {}

    def add(self, arm: str, found: ArmComparison) -> float:
        """The least p, this look's included."""
        self._least[arm] = min(float(found.p), self._least.get(arm, 1.0))
        return self._least[arm]
