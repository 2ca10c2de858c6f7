"""What label rate the logged statistics of an item lead to expect: what residuals are taken from.

Rates by user and by item, r, say how far a page is above or below the base rate b. Together:

    expected = b + (Π (1 + c·(r − b)) − 1) / c        c = (1 − 2b) / (b·(1 − b))

At low rates that is the product of ratios, b · Π r/b; at a half, the sum of differences, b + Σ (r − b); between, the
same as adding log-odds, up to the second order. Averaged over users it is the item's rate, and the other way round:
so who does as their rates say has no residual, at any rate. What chance adds to rates averages out, too. Of rates by
the same fields (over all time, and lately) one counts. It stays within [b/50, 1 − (1 − b)/50].
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stream.features.page_kernels import Sections
from stream.spec.columns import Statistic
from stream.spec.statistic_kinds import READ_RATE, kind_of
from stream.tables.dtypes import F32, I64
from stream.tables.jit import kernel

UNLEARNED: Final = 0.5  # the base rate before any label
UNKNOWN_LABEL: Final = 0.5  # what is expected by a page that has no base rate
BASE_MIN, BASE_MAX = 1e-9, 1 - 1e-6  # corrections may move it out of [0, 1]; float32 has nothing nearer to 1
STRAIGHT: Final = 1e-6  # a smaller c is 0
SHARE_MIN: Final = 0.02  # of the base rate, or of what it is short of 1, that is expected at least


def rates_of(statistics: Sequence[Statistic]) -> I64:
    """The rates that count, by index: of those by the same fields the one that fades least. int64 [R]."""
    found: dict[frozenset[str], int] = {}
    for k, one in enumerate(statistics):
        if kind_of(one.kind).read == READ_RATE:
            other = found.setdefault(frozenset(one.by), k)
            if _lasting(one) > _lasting(statistics[other]):
                found[frozenset(one.by)] = k
    return np.array(sorted(found.values()), np.int64)


def _lasting(rate: Statistic) -> float:
    """How long labels count in a rate, ms."""
    return abs(rate.fade_ms()) or math.inf


@kernel
def expected_label(f32: F32, at: Sections, position: int, rates: I64) -> Any:
    """The label rate to expect of the item at `position`, by its page's base rate and rates; `rates`: `rates_of`.

    NaN when the page was ranked before any label: nothing was to be expected then.
    """
    base = np.float64(f32[at.base_rate])
    if base != base:
        return UNKNOWN_LABEL
    if base == UNLEARNED:
        return np.nan
    base = np.float64(min(BASE_MAX, max(BASE_MIN, base)))
    bend = (1.0 - 2.0 * base) / (base * (1.0 - base))
    product, total, first = 1.0, 0.0, at.statistics + position * at.sizes.statistics
    for k in rates:
        value = np.float64(f32[first + k])
        if value == value:
            product *= 1.0 + bend * (value - base)
            total += value - base
    expected = base + (total if abs(bend) < STRAIGHT else (product - 1.0) / bend)
    return min(1.0 - SHARE_MIN * (1.0 - base), max(SHARE_MIN * base, expected))
