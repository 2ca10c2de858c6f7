"""Lists of items that are installed together: by the same users, soon after one another.

An install adds to the pairs of its item with the user's last ones, in both items' lists: the k-th last one's pair
(from 0) gains NEAR^k over the listed item's installs, to a power below 1, so that popular items aren't in every list. A
full list replaces its lightest item. Weights fade by event time.
"""

from typing import Any, Final

import numpy as np

from learner.retrieval.item_rows import ItemRows, count_pairs, touch
from stream.tables.dtypes import F32, U64
from stream.tables.hash_kernels import find
from stream.tables.jit import kernel

LAST: Final = 20  # items of a user, from one that is installed, whose pairs with it are counted
NEAR: Final = 0.9
POPULARITY_POWER: Final = 0.4
PRIOR: Final = 5.0  # installs


@kernel
def move_pairs(rows: ItemRows, slot: Any, items: U64, place: int, time_ms: float, sign: float) -> None:
    """Add an install's pairs, or take them away (`sign` −1). `items`: the user's, newest first. The item
    in `slot` is at `place` among them; −1: it's the next one.
    """
    slots, installs = rows.slots, rows.slots.view(np.float64)
    row, item = touch(rows, slot, time_ms), slots[slot, 0]
    if sign > 0.0:
        installs[slot, 2] += 1.0
    own = (installs[slot, 2] + PRIOR) ** -POPULARITY_POWER
    for i in range(items.shape[0]):
        if items[i] == item or abs(i - place) > LAST:
            continue
        other = find(slots, items[i])
        if other < 0:
            continue
        weight = sign * NEAR ** (abs(i - place) - 1)
        _add(rows, touch(rows, other, time_ms), item, np.float32(weight * own))
        _add(rows, row, items[i], np.float32(weight * (installs[other, 2] + PRIOR) ** -POPULARITY_POWER))
        count_pairs(rows, other, 1.0)
    if sign < 0.0:
        installs[slot, 2] = max(0.0, installs[slot, 2] - 1.0)
    count_pairs(rows, slot, 1.0 + min(items.shape[0], LAST))


@kernel
def _add(rows: ItemRows, row: int, listed: np.uint64, weight: np.float32) -> None:
    """Add to the weight of a listed item, which stays above 0. A new one replaces the lightest of a full list."""
    ids, weights = list_of(rows, row)
    lightest = 0
    for k in range(ids.shape[0]):
        if ids[k] == listed:
            weights[k] = max(np.float32(0.0), weights[k] + weight)
            return
        if ids[k] == np.uint64(0):
            lightest = k
            break
        if weights[k] < weights[lightest]:
            lightest = k
    if weight > 0.0 and ids.shape[0]:
        ids[lightest], weights[lightest] = listed, weight


@kernel
def list_of(rows: ItemRows, row: int) -> tuple[U64, F32]:
    """A row's list: ids uint64 [K], 0: none; weights float32 [K]. Views."""
    values, columns = rows.values[row], rows.columns
    return values[: columns.weights].view(np.uint64), values[columns.weights : columns.inputs]
