"""How a row (n, s, t) of the statistics moves: by a label, or by an organic install. See `statistics.py`."""

from typing import Any

import numpy as np

from stream.events.types import CORRECTIONS
from stream.features.cross_products import CrossProducts
from stream.features.window_sums import add_to_window
from stream.spec.statistic_kinds import LEARN_INSTALLS, LEARN_LABELS, LEARN_RATIO, LEARN_RESIDUALS
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import CHANGED, TableArrays, find_or_insert, mark_changed, mix
from stream.tables.jit import kernel


@kernel
def counted(label: float, weight: float, reason: int) -> Any:
    """(n, s) that an example adds: a late positive or a retraction turns a label over that was counted before."""
    if reason in CORRECTIONS:
        return 0.0, weight * (2.0 * label - 1.0)
    return weight, weight * label


@kernel
def label_sum(learn: int, label: float, expected: float) -> Any:
    """What a label adds to s; both are weighted. Raises ValueError for an unknown LEARN_…."""
    if learn in (LEARN_LABELS, LEARN_INSTALLS, LEARN_RATIO):
        return label
    if learn == LEARN_RESIDUALS:
        return label - expected
    raise ValueError("a statistic learns by an unknown branch: see statistic_kinds.py")


@kernel
def move(slots: U64, values: F64, row: int, added: Any, fade: float) -> None:
    """Add (n, s), as of t, to a changed row; both as of the newer time. `added`: n, s, t. `values`: the slots."""
    n, s, t = added
    mark = slots[row, 1] & CHANGED
    total, newest = abs(values[row, 1]), values[row, 3]
    if fade < 0.0:
        values[row, 1], values[row, 2] = add_to_window((total, values[row, 2], newest), added, -fade)
    else:
        if fade > 0.0:
            if t > newest:
                decay = 2.0 ** ((newest - t) / fade)
                total *= decay
                values[row, 2] *= decay
            else:
                decay = 2.0 ** ((t - newest) / fade)
                n, s = n * decay, s * decay
        values[row, 1] = max(0.0, total + n)  # a retracted install takes 1 away; the sign is the table's
        values[row, 2] += s
    slots[row, 1] |= mark
    values[row, 3] = max(newest, t)


@kernel
def organic_keys(ids: U64, organic: I64, crosses: CrossProducts) -> U64:
    """Keys u64[B·O] of installs by user and item, ids u64[B, 2], as `fill_product` makes them.

    `organic` i64[O]: which crosses. In each of their columns a page has one id.
    """
    keys = np.empty(ids.shape[0] * organic.shape[0], np.uint64)
    for b in range(ids.shape[0]):
        for j in range(organic.shape[0]):
            k = organic[j]
            key = crosses.salts[k]
            for r in range(crosses.offsets[k], crosses.offsets[k + 1]):
                key = mix(key, ids[b, crosses.sides[r]])
            keys[b * organic.shape[0] + j] = key
    return keys


@kernel
def move_organic(table: TableArrays, keys: U64, times: F64, fades: F64) -> None:
    """Move each key's row by one install. There is room for the keys."""
    slots, _, dirty, counts, _ = table
    values = slots.view(np.float64)
    for i in range(keys.shape[0]):
        row = find_or_insert(slots, keys[i], counts)
        mark_changed(slots, row, dirty, counts)
        move(slots, values, row, (1.0, 1.0, times[i]), fades[i])
