"""A row of numbers for each item: the list of items installed with it, and its vectors.

Rows have a bound; arrays have their size from the start, and the system allocates a page when it's first written. A
table says which row is an item's; its own columns are installs (they fade) and the event time of the last change.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F32, I64, U64
from stream.tables.hash_kernels import CHANGED, find, find_or_insert, mark_changed, mark_run, mix
from stream.tables.jit import kernel

ROWS, FREE = 0, 1  # indices of `used`: rows ever assigned, with row 0, which nobody has; free ones
INPUT_INIT, OUTPUT_INIT = 0.17, 0.017  # a new vector is uniform within ±
SUMS_INIT: Final = 0.1  # AdaGrad's
GROWTH: Final = 1.0 / 16.0  # of a row's pairs since it was last published: then it is again
AGEING: Final = 1.0 / 64.0  # of a half-life: a row ages in steps, since float32 forgets smaller ones
BIAS, PAIRS, PUBLISHED = 0, 1, 2  # of a row's last columns
AGED_MS: Final = 4  # of these, as float64
LAST_COLUMNS: Final = 6


class Columns(NamedTuple):
    """Where a row's parts begin. The list's ids are first, two columns each."""

    length: int  # K, of the list; even
    dim: int  # D
    weights: int  # of the list
    inputs: int  # the item's vector as one of the user's items, then AdaGrad's sums
    outputs: int  # its vector as the one that is installed next, then AdaGrad's sums
    last: int
    width: int


def columns_for(length: int, dim: int) -> Columns:
    """The columns of rows with a list of this length, and vectors of `dim`."""
    assert length % 2 == 0, "ids are 64-bit words among 32-bit columns"
    weights = 2 * length
    inputs = weights + length
    outputs = inputs + 2 * dim
    last = outputs + 2 * dim
    return Columns(length, dim, weights, inputs, outputs, last, last + LAST_COLUMNS)


class ItemRows(NamedTuple):
    """All items' rows, as kernels write them."""

    slots: U64  # u64[capacity, 4]: item; row; installs, event time in ms (both float64)
    dirty: U64
    counts: I64
    runs: U64
    values: F32  # f32[rows, width]
    used: I64  # i64[2]: ROWS, FREE
    free: I64  # stack of rows to reuse
    columns: Columns
    half_life_ms: float  # 0: nothing fades


@kernel
def index_of(item: np.uint64, items: U64) -> int:
    """Where an item is among these; −1: it isn't."""
    for k in range(items.shape[0]):
        if items[k] == item:
            return k
    return -1


@kernel
def row_at(slots: U64, slot: Any) -> Any:
    """The row of the item in this slot."""
    return np.int64(slots[slot, 1] & ~CHANGED)


@kernel
def slot_for(rows: ItemRows, item: np.uint64, time_ms: float) -> Any:
    """The slot of an item, which gets a row if it has none and one is left; −1 if none is."""
    slots, values, used = rows.slots, rows.values, rows.used
    slot = find(slots, item)
    if slot >= 0:
        return slot
    if used[FREE] > 0:
        used[FREE] -= 1
        row = rows.free[used[FREE]]
    elif used[ROWS] < values.shape[0]:
        row = used[ROWS]
        used[ROWS] += 1
    else:
        return np.int64(-1)
    slot = find_or_insert(slots, item, rows.counts)
    slots[slot, 1] |= np.uint64(row)
    begin_row(values[row], item, rows.columns, time_ms)
    return slot


@kernel
def begin_row(row: F32, item: np.uint64, columns: Columns, time_ms: float) -> None:
    """Vectors that are a hash of the item, and nothing else."""
    row[:] = 0.0
    begin_vectors(row, item, columns)
    row[columns.last :].view(np.float64)[AGED_MS // 2] = time_ms


@kernel
def begin_vectors(row: F32, item: np.uint64, columns: Columns) -> None:
    """Vectors that are a hash of the item."""
    dim = columns.dim
    for c in range(2 * dim):
        at, scale = (columns.inputs + c, INPUT_INIT) if c < dim else (columns.outputs + c - dim, OUTPUT_INIT)
        h = mix(item, np.uint64(c + 1))
        row[at] = np.float32((np.float64(h >> np.uint64(11)) / 4503599627370496.0 - 1.0) * scale)
        row[at + dim] = SUMS_INIT


@kernel
def touch(rows: ItemRows, slot: Any, time_ms: float) -> Any:
    """The row in this slot, which changes: faded up to this event time. Returns its number."""
    slots, _, _, runs, values, _, _, columns, half_life_ms = rows
    mark_run(runs, slots[slot, 0])
    numbers, row = slots.view(np.float64), row_at(slots, slot)
    numbers[slot, 3] = max(numbers[slot, 3], time_ms)
    last = values[row, columns.last :]
    passed_ms = time_ms - last.view(np.float64)[AGED_MS // 2]
    if half_life_ms > 0.0 and passed_ms > AGEING * half_life_ms:
        keeps = 2.0 ** (-passed_ms / half_life_ms)
        numbers[slot, 2] *= keeps
        values[row, columns.weights : columns.inputs] *= np.float32(keeps)
        last[PAIRS] *= np.float32(keeps)
        last[PUBLISHED] *= np.float32(keeps)
        last.view(np.float64)[AGED_MS // 2] = time_ms
    return row


@kernel
def count_pairs(rows: ItemRows, slot: Any, pairs: float) -> None:
    """Note that pairs of the item were counted: when they are more by GROWTH, its row is due to be published."""
    last = rows.values[row_at(rows.slots, slot), rows.columns.last :]
    last[PAIRS] += np.float32(pairs)
    if last[PAIRS] >= last[PUBLISHED] * (1.0 + GROWTH):
        last[PUBLISHED] = last[PAIRS]
        mark_changed(rows.slots, slot, rows.dirty, rows.counts)
