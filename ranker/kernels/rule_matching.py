"""What rules ask of candidates' attributes, given as ids of texts by row."""

from typing import Any

import numpy as np

from stream.tables.jit import kernel

SLOT_STEP = np.uint64(0x9E3779B97F4A7C15)


@kernel
def has_any(starts: Any, counts: Any, ids: Any, rows: Any, slot: Any, wanted: Any) -> Any:
    """Whether rows [n] have one of the wanted ids in a column. `starts`, `counts` (rows, columns): where ids are."""
    found = np.zeros(len(rows), np.bool_)
    for i in range(len(rows)):
        first = starts[rows[i], slot]
        for at in range(first, first + counts[rows[i], slot]):
            for j in range(len(wanted)):
                if ids[at] == wanted[j]:
                    found[i] = True
    return found


@kernel
def gather(starts: Any, counts: Any, ids: Any, rows: Any, slots: Any) -> Any:
    """Ids of rows [n] in columns `slots` [s], end to end: where each row's column begins [n·s + 1], ids."""
    n, s = len(rows), len(slots)
    begins = np.zeros(n * s + 1, np.int64)
    for i in range(n):
        for j in range(s):
            begins[i * s + j + 1] = begins[i * s + j] + counts[rows[i], slots[j]]
    found = np.empty(begins[n * s], np.uint64)
    for i in range(n):
        for j in range(s):
            first = starts[rows[i], slots[j]]
            begin, end = begins[i * s + j], begins[i * s + j + 1]
            found[begin:end] = ids[first : first + end - begin]
    return begins, found


@kernel
def number_ids(begins: Any, ids: Any, slots: Any) -> Any:
    """Numbers from 0 for the distinct ids of each of `slots` columns: of each id [m], and the column of each number."""
    size = 16
    while size < 2 * len(ids):
        size *= 2
    table, keys = np.full(size, -1, np.int64), np.empty(len(ids), np.uint64)
    numbers, columns, used = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64), 0
    for part in range(len(begins) - 1):
        column = part % slots
        for at in range(begins[part], begins[part + 1]):
            key = ids[at] ^ (SLOT_STEP * np.uint64(column))
            slot = np.int64(key & np.uint64(size - 1))
            while table[slot] >= 0 and keys[table[slot]] != key:
                slot = (slot + 1) & (size - 1)
            if table[slot] < 0:
                table[slot] = used
                keys[used], columns[used] = key, column
                used += 1
            numbers[at] = table[slot]
    return numbers, columns[:used]
