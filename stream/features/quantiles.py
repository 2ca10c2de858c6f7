"""The deep part's numbers as it reads them: quantiles. Shared by learner and ranker.

Numeric x becomes the number of boundaries below it, over their count: (i − 1)/(n_q − 1) in the i-th
quantile (Cheng et al. 2016, §4.1). Missing is a value of its own.
"""

import numpy as np

from stream.tables.dtypes import F32
from stream.tables.jit import kernel


@kernel
def quantile(x: np.float32, boundaries: F32, column: int) -> np.float32:
    """A number's quantile; 0.5 before the first freeze, 0 when it's missing."""
    if x != x:
        return np.float32(0.0)
    q = boundaries.shape[1]
    if q == 0:
        return np.float32(0.5)
    low, high = 0, q
    while low < high:
        middle = (low + high) >> 1
        if boundaries[column, middle] < x:
            low = middle + 1
        else:
            high = middle
    return np.float32(low) / np.float32(q)


@kernel
def quantise(numbers: F32, boundaries: F32) -> F32:
    """float32 [B, D] → float32 [B, 2D]: values, then flags of what is missing.

    `boundaries`: float32 [D, n_q − 1], rising; [0, 0] before the first freeze, when every value is 0.5.
    """
    b, d = numbers.shape
    out = np.zeros((b, 2 * d), np.float32)
    for r in range(b):
        for c in range(d):
            x = numbers[r, c]
            out[r, c] = quantile(x, boundaries, c)
            out[r, d + c] = np.float32(x != x)
    return out
