"""Arms are compared at any look: false alarms stay rare, whoever the users are, and real gains are found."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from stream.tables.dtypes import F64, I64
from thalweg.experiment.arm_counts import ArmCounts
from thalweg.experiment.sequential import (
    ALPHA,
    USERS_MIN,
    ArmComparison,
    Rate,
    RunningP,
    clustered_rate,
    compare,
    rate_of,
)

LOOKS: Final = 40
ITEMS: Final = 10  # of a page
RATE: Final = 0.01


@dataclass(frozen=True)
class Traffic:
    """Simulated users who return between looks, in runs: pages [runs, users] are Poisson by each user's activity."""

    runs: int = 1_000
    users: int = 600
    gain: float = 0.0  # of the second half of users, the arm
    activity: float = 1.0  # standard deviation of the logarithm of users' pages
    taste: float = 0.5  # coefficient of variation of users' rates of installs
    saturation: float = 1.0  # factor of a user's rate after the first install
    late_bots: float = 0.0  # share of users who come late, with 30 times the pages and 4 times the rate
    pages: float = 60.0  # mean of a user who is there all the time
    seed: int = 17

    def looks(self) -> Iterator[tuple[I64, F64]]:
        """Impressions and installs by user so far, at each look."""
        rng = np.random.default_rng(self.seed)
        shape = self.runs, self.users
        activity = rng.lognormal(-(self.activity**2) / 2, self.activity, shape)
        rates = rng.gamma(self.taste**-2, RATE * self.taste**2, shape)
        arrival = rng.uniform(-0.5, 0.9, shape)  # of looks that are at (0, 1]
        bots = rng.random(shape) < self.late_bots
        activity[bots] *= 30
        rates[bots] *= 4
        arrival[bots] = 0.6
        rates[:, self.users // 2 :] *= 1 + self.gain
        impressions, installs = np.zeros(shape, np.int64), np.zeros(shape)
        for look in range(LOOKS):
            present = np.clip(look + 1 - arrival * LOOKS, 0, 1)
            shown = rng.poisson(activity * present * self.pages / LOOKS) * ITEMS
            installs += rng.poisson(rates * np.where(installs > 0, self.saturation, 1.0) * shown)
            impressions += shown
            yield impressions, installs

    def rates(self) -> Iterator[tuple[Rate, Rate]]:
        """The control's and the arm's, at each look."""
        half = self.users // 2
        for impressions, installs in self.looks():
            yield (
                clustered_rate(impressions[:, :half], installs[:, :half]),
                clustered_rate(impressions[:, half:], installs[:, half:]),
            )

    def comparisons(self) -> Iterator[ArmComparison]:
        """At each look."""
        for control, arm in self.rates():
            yield compare(control, arm)


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(activity=0.5, taste=0.3, pages=300.0),
        Traffic(taste=1.0, users=300),
        Traffic(saturation=0.2),
        Traffic(late_bots=0.02, users=300),
        Traffic(gain=0.2, users=300),
    ],
    ids=["heterogeneous, many pages", "very heterogeneous", "saturating", "heavy users come late", "a true gain"],
)
def test_intervals_miss_the_truth_at_any_of_many_looks_in_at_most_a_twentieth_of_runs(traffic: Traffic) -> None:
    """1,000 runs of returning users; without a gain, to miss it is a false alarm."""
    missed = np.zeros(traffic.runs, np.bool_)
    alarmed = np.zeros(traffic.runs, np.bool_)
    for found in traffic.comparisons():
        missed |= (found.gain_low > traffic.gain) | (found.gain_high < traffic.gain)
        alarmed |= found.p <= ALPHA
    assert missed.mean() <= 0.05
    if not traffic.gain:
        np.testing.assert_array_equal(alarmed, missed)


def test_these_runs_do_tempt() -> None:
    """The usual interval, looked at as often, gives false alarms in more than a fifth of the same runs.

    So do always-valid intervals that take impressions for independent: users differ.
    """
    runs = Traffic(taste=1.0, users=300)
    fixed, by_item = np.zeros((2, runs.runs), np.bool_)
    for (control, arm), (impressions, _) in zip(runs.rates(), runs.looks(), strict=True):
        usual = compare(control, arm)
        fixed |= (usual.fixed_low > 0) | (usual.fixed_high < 0)
        shown = impressions.reshape(runs.runs, 2, -1).sum(-1)
        independent = [
            Rate(rate.value, rate.value * (1 - rate.value) / shown[:, k], rate.users)
            for k, rate in enumerate((control, arm))
        ]
        by_item |= compare(*independent).p <= ALPHA
    assert fixed.mean() > 0.2
    assert by_item.mean() > 0.2


def test_a_gain_of_a_fifth_is_found_in_most_runs() -> None:
    """And the interval is then on the right side."""
    traffic = Traffic(runs=100, users=3_000, gain=0.2, pages=100.0)
    found_at = np.full(traffic.runs, LOOKS)
    for look, found in enumerate(traffic.comparisons()):
        found_at = np.where((found.gain_low > 0) & (found_at == LOOKS), look, found_at)
        assert not (found.gain_high < 0).any()
    assert (found_at < LOOKS).mean() > 0.8
    assert len(set(found_at.tolist())) > 5  # early in some, late in others


def test_the_variance_is_that_of_users_not_of_impressions() -> None:
    """Over runs the rates vary as the jackknife says, several times as much as independent impressions would."""
    traffic = Traffic(taste=1.0, runs=500, users=400)
    *_, (impressions, installs) = traffic.looks()
    rate = clustered_rate(impressions, installs)
    truth = rate.value.var()
    assert np.mean(rate.variance) == pytest.approx(truth, rel=0.25)
    assert truth > 3 * np.mean(rate.value / impressions.sum(-1))


def test_the_jackknife_leaves_out_one_user_at_a_time() -> None:
    """Each user's part is the square of what the rate changes by without that user; idle users have no part."""
    impressions, installs = np.array([10, 30, 20, 0]), np.array([1.0, 0.0, 3.0, 0.0])
    rate = rate_of(ArmCounts("a", impressions // 10, impressions, installs))
    without = np.array([3 / 50, 4 / 30, 1 / 40])
    assert rate.value == pytest.approx(4 / 60)
    assert rate.variance == pytest.approx(np.square(without - 4 / 60).sum())
    assert rate.users == 3


def one(value: float, variance: float, users: int = 1_000) -> Rate:
    """A rate of one run."""
    return Rate(np.float64(value), np.float64(variance), np.int64(users))  # type: ignore[arg-type]  # arrays without axes


@pytest.mark.parametrize("gain", [-0.3, -0.1, 0.05, 0.13, 0.2])
def test_the_interval_is_of_what_p_does_not_reject(gain: float) -> None:
    """p is 0.05 or less just where the interval excludes 0, and the usual interval is inside."""
    for variance in np.geomspace(1e-10, 1e-6, 30):
        found = compare(one(0.01, variance), one(0.01 * (1 + gain), variance))
        assert (found.p <= ALPHA) == (found.gain_low > 0 or found.gain_high < 0)
        assert found.gain_low < found.fixed_low < found.gain < found.fixed_high < found.gain_high
        assert found.difference_low < found.difference < found.difference_high
        assert found.difference == pytest.approx(0.01 * gain)


@pytest.mark.parametrize(
    ("control", "arm"),
    [
        (one(0.01, 1e-8, USERS_MIN - 1), one(0.02, 1e-8)),
        (one(0.01, 1e-8), one(0.02, 1e-8, USERS_MIN - 1)),
        (one(0.0, 0.0), one(0.02, 1e-8)),
        (one(0.01, 1e-8), one(0.0, 0.0)),
        (one(0.01, np.inf), one(0.02, 1e-8)),
        (one(np.nan, np.inf, 0), one(0.02, 1e-8)),
        (one(1.0, 0.0), one(1.0, 0.0)),
    ],
)
def test_too_little_data_concludes_nothing(control: Rate, arm: Rate) -> None:
    """Too few users, no installs, one user alone, nobody, no variance."""
    found = compare(control, arm)
    assert found.p == 1
    assert [*map(float, (found.gain_low, found.gain_high))] == [-1, np.inf]
    assert [*map(float, (found.fixed_low, found.fixed_high))] == [-1, np.inf]
    assert [*map(float, (found.difference_low, found.difference_high))] == [-np.inf, np.inf]


def test_one_user_with_all_impressions_has_unknown_variance() -> None:
    """Without that user there's no rate."""
    assert clustered_rate(np.array([50, 0]), np.array([2.0, 0.0])).variance == np.inf


def test_p_never_rises_again() -> None:
    """The running p of an arm is the least of its looks, and each arm has its own."""
    running = RunningP()
    looks = [compare(one(0.01, 1e-8), one(0.01 * (1 + gain), 1e-8)) for gain in (0.01, 0.2, 0.02)]
    ps = [running.add("arm", found) for found in looks]
    assert ps == [looks[0].p, looks[1].p, looks[1].p]
    assert running.add("other", looks[2]) == looks[2].p > ps[-1]
