"""The deep part's inputs as numbers: quantiles and pooled embeddings. Shared by learner and ranker.

Numeric x becomes the number of boundaries below it, over their count: (i − 1)/(n_q − 1) in the i-th
quantile (Cheng et al. 2016, §4.1). Missing is a value of its own. Lists are pooled as sum/√n.
"""

from typing import Any

import numpy as np

from stream.table import find, kernel


@kernel
def quantile(x: Any, boundaries: Any, column: Any) -> Any:
    """What a number is read as, float32: its quantile; 0.5 before the first freeze, 0 when it's missing."""
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
def quantise(numbers: Any, boundaries: Any) -> Any:
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


@kernel
def rows_of(ids: Any, slots: Any) -> Any:
    """Embedding row of each id, int64; 0 (unseen) for ids without one. `slots`: uint64 [capacity, 2], key → row."""
    rows = np.zeros(ids.shape[0], np.int64)
    for i in range(ids.shape[0]):
        at = find(slots, ids[i])
        if at >= 0:
            rows[i] = np.int64(slots[at, 1])
    return rows


@kernel
def pool_rows(rows: Any, offsets: Any, b: Any, lists: Any, vectors: Any) -> Any:
    """Pooled embeddings of `b` times `lists` lists of rows. `offsets`: [b·lists + 1]. Returns float32 [b, lists·E]."""
    e = vectors.shape[1]
    out = np.zeros((b, lists * e), np.float32)
    for r in range(b):
        for f in range(lists):
            first, last = offsets[r * lists + f], offsets[r * lists + f + 1]
            if last == first:
                continue
            for i in range(first, last):
                row = rows[i]
                for c in range(e):
                    out[r, f * e + c] += vectors[row, c]
            if last - first > 1:
                scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
                for c in range(e):
                    out[r, f * e + c] *= scale
    return out
