"""Users are assigned to arms by a keyed hash; the sample ratio is checked."""

import math

import numpy as np
import pytest

from stream.runtime.errors import SettingsError
from thalweg.experiment.assignment import MISMATCH_P, Assignment, sample_ratio, sample_ratio_p

USERS = [f"user-{n:05d}" for n in range(20_000)]


def test_shares_are_as_declared() -> None:
    """Each arm gets its share of users, within four standard errors of the binomial; an arm with 0 gets none."""
    assignment = Assignment("k", {"a": 1, "b": 3, "none": 0, "c": 6})
    arms = [assignment.arm_of(user) for user in USERS]
    assert set(arms) == {"a", "b", "c"}
    for arm, share in (("a", 0.1), ("b", 0.3), ("c", 0.6)):
        assert assignment.shares[arm] == pytest.approx(share)
        assert abs(arms.count(arm) / len(USERS) - share) < 4 * math.sqrt(share * (1 - share) / len(USERS))


def test_an_arm_depends_on_key_and_user_only() -> None:
    """Same key, same arms; with another key the split is independent of the first."""
    first, same, other = (Assignment(key, {"a": 1, "b": 1}) for key in ("one", "one", "two"))
    arms = [first.arm_of(user) for user in USERS]
    assert [same.arm_of(user) for user in reversed(USERS)] == arms[::-1]
    both = sum(arm == other.arm_of(user) for arm, user in zip(arms, USERS, strict=True))
    assert abs(both / len(USERS) - 0.5) < 4 * 0.5 / math.sqrt(len(USERS))


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": math.nan}, {"a": math.inf, "b": 1}])
def test_invalid_shares_are_rejected(shares: dict[str, float]) -> None:
    """Shares are finite, not negative, and not all 0."""
    with pytest.raises(SettingsError, match="shares of arms must be"):
        Assignment("k", shares)


def test_p_is_that_of_the_chi_square_test() -> None:
    """One degree of freedom: p is that of the squared normal deviate."""
    deviate = (5_100 - 5_000) / math.sqrt(10_000 / 4)
    assert sample_ratio_p({"a": 5_100, "b": 4_900}, {"a": 0.5, "b": 0.5}) == pytest.approx(
        math.erfc(deviate / math.sqrt(2))
    )


def test_a_mismatch_is_reported() -> None:
    """A tenth of an arm's users lost is a mismatch; a split as declared isn't, whatever its shares are."""
    lost = sample_ratio({"a": 4_500, "b": 5_000}, {"a": 1, "b": 1})
    assert lost.is_mismatch
    assert lost.text.startswith("SAMPLE RATIO MISMATCH (p")
    fine = sample_ratio({"a": 1_010, "b": 8_990}, {"a": 0.1, "b": 0.9})
    assert not fine.is_mismatch
    assert "a 1,010 users (10.10%, declared 10.00%)" in fine.text


def test_users_in_an_undeclared_arm_are_a_mismatch() -> None:
    """Whoever assigned them didn't assign by these shares. A declared arm without users counts as 0 of its share."""
    assert sample_ratio({"a": 10, "x": 10}, {"a": 1, "b": 1}).is_mismatch
    assert sample_ratio({"a": 100}, {"a": 1, "b": 1}).is_mismatch


def test_nothing_to_check() -> None:
    """One arm, or no users: no verdict, no mismatch."""
    for users, shares in (({"a": 10}, {"a": 1.0}), ({}, {"a": 1.0, "b": 1.0})):
        found = sample_ratio(users, shares)
        assert math.isnan(found.p)
        assert not found.is_mismatch


def test_repeated_checks_of_a_fair_split_seldom_alarm() -> None:
    """At a threshold of MISMATCH_P, 200 looks at a growing fair split give few false mismatches over 1,000 runs."""
    rng = np.random.default_rng(7)
    totals = np.arange(1, 201) * 50
    in_a = rng.binomial(50, 0.5, (1_000, 200)).cumsum(1)
    ps = np.array(
        [[math.erfc(abs(2 * a - n) / math.sqrt(2 * n)) for a, n in zip(run, totals, strict=True)] for run in in_a]
    )
    assert ps[0, 9] == pytest.approx(sample_ratio_p({"a": in_a[0, 9], "b": 500 - in_a[0, 9]}, {"a": 0.5, "b": 0.5}))
    assert (ps.min(1) < MISMATCH_P).mean() < 0.03
