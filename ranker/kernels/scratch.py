"""A thread's own buffers for scoring, allocated once."""

from typing import Final, NamedTuple

import numpy as np

from stream.features.cross_products import KEYS_MAX
from stream.tables.dtypes import F32, F64, I64, U64

BUFFER: Final = KEYS_MAX  # keys that are gathered before they're looked up: at least one cross of one item


class Scratch(NamedTuple):
    """Buffers for one batch after the other; all but `floats` have BUFFER elements."""

    keys: U64
    hashes: U64
    ends: I64
    n: F64  # rows of statistics
    s: F64
    t: F64
    values: F64
    totals: F64
    floats: F32  # as the tower needs them


def new_scratch(floats: int) -> Scratch:
    """Buffers for one thread."""
    n, s, t, values, totals = np.empty((5, BUFFER), np.float64)
    keys, hashes = np.empty((2, BUFFER), np.uint64)
    room = np.empty(max(1, floats), np.float32)
    return Scratch(keys, hashes, np.empty(BUFFER, np.int64), n, s, t, values, totals, room)
