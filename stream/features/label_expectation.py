"""What label rate the logged statistics of an item lead to expect: what residuals are taken from.

Rates by user and by item, r, say how far a page is above or below the base rate b. Together:

    expected = b + (Π (1 + c·(r − b)) − 1) / c        c = (1 − 2b) / (b·(1 − b))

At low rates that is the product of ratios, b · Π r/b; at a half, the sum of differences, b + Σ (r − b); between, the
same as adding log-odds, up to the second order. Averaged over users it is the item's rate, and the other way round:
so who does as their rates say has no residual, at any rate. What chance adds to rates averages out, too. Rates by the
same fields (over all time, and lately) count as one: their mean. It stays within [b/50, 1 − (1 − b)/50].
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stream.features.page_kernels import Sections
from stream.spec.spec import Statistic
from stream.spec.statistic_kinds import READ_RATE, kind_of
from stream.tables.dtypes import F32, I64
from stream.tables.jit import kernel

UNLEARNED: Final = 0.5  # the base rate before any label
UNKNOWN_LABEL: Final = 0.5  # what is expected by a page that has no base rate
BASE_MIN, BASE_MAX = 1e-9, 1 - 1e-6  # corrections may move it out of [0, 1]; float32 has nothing nearer to 1
STRAIGHT: Final = 1e-6  # a smaller c is 0
SHARE_MIN: Final = 0.02  # of the base rate, or of what it is short of 1, that is expected at least


def rate_groups(statistics: Sequence[Statistic]) -> I64:
    """For each statistic the first rate by the same fields; −1: it is no rate. int64 [S]."""
    fields = [frozenset(s.by) if kind_of(s.kind).read == READ_RATE else None for s in statistics]
    return np.array([-1 if by is None else fields.index(by) for by in fields], np.int64)


@kernel
def expected_label(f32: F32, at: Sections, position: int, groups: I64) -> Any:
    """The label rate to expect of the item at `position`, by its page's base rate and rates; `groups`: `rate_groups`.

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
    for k in range(groups.shape[0]):
        if groups[k] != k:
            continue
        rates, known = 0.0, 0
        for j in range(k, groups.shape[0]):
            value = np.float64(f32[first + j])
            if groups[j] == k and value == value:
                rates += value
                known += 1
        if known:
            above = rates / known - base
            product *= 1.0 + bend * above
            total += above
    expected = base + (total if abs(bend) < STRAIGHT else (product - 1.0) / bend)
    return min(1.0 - SHARE_MIN * (1.0 - base), max(SHARE_MIN * base, expected))
