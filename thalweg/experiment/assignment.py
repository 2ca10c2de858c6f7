"""Users are assigned to arms by a keyed hash; the check that the arms' numbers of users are as declared."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Final, NamedTuple

import xxhash

from stream.runtime.errors import SettingsError

# Kohavi, Tang, Xu: Trustworthy Online Controlled Experiments (2020), ch. 21. So low since it is looked at often.
MISMATCH_P: Final = 0.001


class Assignment:
    """Each user's arm: a hash of the experiment's key and the user, so that experiments split users independently.

    `shares`: the arms' weights, in any unit; an arm with 0 gets no user. A user's arm depends on nothing else: not on
    the order of requests, nor on the process. Raises SettingsError when a weight is invalid or all are 0.

    >>> assignment = Assignment("ranker-2026", {"popular": 1, "wide_deep": 3})
    >>> [assignment.arm_of(user) for user in ("u1", "u2", "u3", "u4", "u5")]
    ['wide_deep', 'popular', 'wide_deep', 'wide_deep', 'wide_deep']
    """

    def __init__(self, key: str, shares: Mapping[str, float]) -> None:
        self.key = key
        self.shares = normalised(shares)
        self._arms = list(self.shares)
        self._ends = list(accumulate(self.shares.values()))[:-1]

    def arm_of(self, user: str) -> str:
        """The arm of this user."""
        hashed = xxhash.xxh3_64_intdigest(f"{self.key}\x00{user}".encode())
        return self._arms[bisect_right(self._ends, hashed / 2**64)]


def normalised(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1, of arms that have one. Raises SettingsError when a weight is invalid or all are 0."""
    total = sum(shares.values())
    if not all(0 <= share < math.inf for share in shares.values()) or not 0 < total < math.inf:
        text = ", ".join(f"{arm}={share:g}" for arm, share in shares.items()) or "none"
        raise SettingsError(f"shares of arms must be 0 or more, and one above 0; these are {text}")
    return {arm: share / total for arm, share in shares.items() if share}


def parse_shares(text: str) -> dict[str, float]:
    """Weights by arm; none of an empty text. Raises SettingsError.

    >>> parse_shares("popular=90, wide_deep=10")
    {'popular': 90.0, 'wide_deep': 10.0}
    """
    found: dict[str, float] = {}
    for one in filter(None, text.split(",")):
        arm, _, weight = (part.strip() for part in one.rpartition("="))
        try:
            if not arm or arm in found:
                raise ValueError
            found[arm] = float(weight)
        except ValueError:
            raise SettingsError(f"shares are written as popular=90,wide_deep=10, each arm once; not {text!r}") from None
    if found:
        normalised(found)  # raises
    return found


class SampleRatio(NamedTuple):
    """Whether users are divided among the arms as declared."""

    p: float  # of the chi-square test; nan when there is nothing to compare
    text: str  # the verdict, for a person

    @property
    def is_mismatch(self) -> bool:
        """The arms can't be compared: something gains or loses users of one arm."""
        return self.p < MISMATCH_P


def sample_ratio(users: Mapping[str, int], shares: Mapping[str, float]) -> SampleRatio:
    """Chi-square test of the arms' numbers of users against their declared shares (any unit).

    An arm without a declared share that has users is a mismatch. Raises SettingsError when a share is invalid.
    """
    declared = normalised(shares) if shares else {}
    strangers = [arm for arm, count in users.items() if count and arm not in declared]
    total = sum(users.values())
    if strangers:
        return SampleRatio(0.0, f"SAMPLE RATIO MISMATCH: users in arms without a share: {', '.join(strangers)}")
    if len(declared) < 2 or not total:
        return SampleRatio(math.nan, "sample ratio: fewer than two arms, nothing to check")
    p = sample_ratio_p(users, declared)
    split = ", ".join(
        f"{arm} {users.get(arm, 0):,} users ({users.get(arm, 0) / total:.2%}, declared {share:.2%})"
        for arm, share in declared.items()
    )
    if p < MISMATCH_P:
        remedy = "don't compare the arms before it is found where users are lost, doubled or moved"
        return SampleRatio(p, f"SAMPLE RATIO MISMATCH (p {p:.2g}): {split}; {remedy}")
    return SampleRatio(p, f"sample ratio as declared (p {p:.2g}): {split}")


def sample_ratio_p(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """p-value of the chi-square test of the numbers of users against shares that sum to 1.

    >>> round(sample_ratio_p({"a": 500, "b": 500}, {"a": 0.5, "b": 0.5}), 3)
    1.0
    >>> sample_ratio_p({"a": 5200, "b": 4800}, {"a": 0.5, "b": 0.5}) < MISMATCH_P
    True
    """
    from scipy.stats import chisquare

    total = sum(users.values())
    observed = [users.get(arm, 0) for arm in shares]
    return float(chisquare(observed, [share * total for share in shares.values()]).pvalue)
