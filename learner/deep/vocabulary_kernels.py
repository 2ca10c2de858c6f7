"""Kernels of the vocabulary: looking ids up, counting their pages, giving them rows."""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.tables.dtypes import F32, I64, U64
from stream.tables.hash_kernels import AHEAD, find, find_or_insert, home, mix, noise_of, prefetch_row
from stream.tables.jit import kernel

PAGES_BITS: Final = 16  # of the count of pages, and of the hash of each of the last three, newest first
PAGES_MASK: Final = np.uint64((1 << PAGES_BITS) - 1)
EMBEDDING_INIT: Final = 0.02
ROWS, FREE, CHANGED = 0, 1, 2  # indices of `counts`
TRAINED, ASSIGNED = 1, 2  # values of `marks`: since the last publish the row was trained, or assigned to another id


class VocabularyState(NamedTuple):
    """The vocabulary as kernels see it."""

    slots: U64
    table_counts: I64
    counts: I64  # (3,): rows ever assigned, free rows, changed rows
    embeddings: F32  # (max_rows + 1, 2 · dim)
    keys: U64  # (max_rows + 1,): each row's id
    marks: npt.NDArray[np.uint8]  # (max_rows + 1,)
    changed: I64  # stack of marked rows
    free: I64  # stack of rows to reuse
    min_count: int
    initial: np.float32  # AdaGrad's sums of a new row
    unseen: I64  # (lists,): the row of each list's ids that have none


@kernel
def mark_row(row: Any, marks: Any, changed: Any, counts: Any) -> None:
    """Mark a row as changed since the last publish."""
    if marks[row] == 0:
        marks[row] = TRAINED
        changed[counts[CHANGED]] = row
        counts[CHANGED] += 1


@kernel
def look_up(vocabulary: Any, ids: Any, offsets: Any, slots: Any, rows: Any) -> None:
    """Write the slot of each id of some lists in the table (−1: none), and its embedding row or that of its list's
    unseen ids. `offsets` as in `DeepInput`, of a whole number of examples."""
    table, unseen, k = vocabulary.slots, vocabulary.unseen, 0
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            prefetch_row(table, home(table, ids[i + AHEAD]))
        slots[i] = find(table, ids[i])
    for i in range(ids.shape[0]):
        while offsets[k + 1] - offsets[0] <= i:
            k += 1
        row = np.int64(table[slots[i], 1]) if slots[i] >= 0 else 0
        rows[i] = row if row != 0 else unseen[k % unseen.shape[0]]


@kernel
def count_sightings(vocabulary: Any, ids: Any, slots: Any, rows: Any, times_ms: Any, pages: Any) -> None:
    """Count a sighting of each id at its event time, on a page by its hash (0: it doesn't count).

    `slots` and `rows` as `look_up` found them: a new row starts at the vector that was read instead of it, plus a hash
    of its id, uniform in ±EMBEDDING_INIT. While no row is free, ids stay pending.
    """
    table, counts, embeddings = vocabulary.slots, vocabulary.counts, vocabulary.embeddings
    dim = embeddings.shape[1] // 2
    for i in range(ids.shape[0]):
        time = np.uint64(max(0, times_ms[i]))
        slot = slots[i] if slots[i] >= 0 else find_or_insert(table, ids[i], vocabulary.table_counts)
        table[slot, 3] = max(table[slot, 3], time)
        if table[slot, 1] != 0:
            continue
        if pages[i] != 0:
            table[slot, 2] = _with_page(table[slot, 2], ids[i], pages[i])
        if table[slot, 2] & PAGES_MASK < np.uint64(vocabulary.min_count):
            continue
        if counts[FREE] > 0:
            counts[FREE] -= 1
            row = vocabulary.free[counts[FREE]]
        elif counts[ROWS] < embeddings.shape[0]:
            row = counts[ROWS]
            counts[ROWS] += 1
        else:
            continue
        table[slot, 1] = np.uint64(row)
        vocabulary.keys[row] = ids[i]
        mark_row(row, vocabulary.marks, vocabulary.changed, counts)
        vocabulary.marks[row] = ASSIGNED
        for c in range(dim):
            embeddings[row, c] = embeddings[rows[i], c] + np.float32(noise_of(ids[i], c) * EMBEDDING_INIT)
            embeddings[row, dim + c] = vocabulary.initial


@kernel
def _with_page(pages: Any, key: Any, page: Any) -> Any:
    """An id's word of pages after a sighting on this one: unchanged if it is among the last three."""
    mark = mix(key, page) >> np.uint64(64 - PAGES_BITS) | np.uint64(1)  # 0: none
    for i in range(1, 4):
        if pages >> np.uint64(i * PAGES_BITS) & PAGES_MASK == mark:
            return pages
    count = min(pages & PAGES_MASK, PAGES_MASK - np.uint64(1)) + np.uint64(1)
    marks = (pages & ~PAGES_MASK) << np.uint64(PAGES_BITS) | mark << np.uint64(PAGES_BITS)
    return marks | count
