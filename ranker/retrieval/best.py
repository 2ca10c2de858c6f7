"""Orders of items by scores."""

import numpy as np

from stream.tables.dtypes import F32, I64, U64


def best_of(scores: F32, ids: U64, count: int) -> I64:
    """Indices of the `count` greatest scores, the greatest first; of equal ones the smaller id first.

    >>> best_of(np.array([1, 3, 3, 2], np.float32), np.array([4, 3, 2, 1], np.uint64), 3).tolist()
    [2, 1, 3]
    """
    if 0 < count < len(scores):
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        found = np.flatnonzero(scores >= least)
    else:
        found = np.arange(len(scores))
    order: I64 = found[np.lexsort((ids[found], -scores[found]))[:count]]
    return order
