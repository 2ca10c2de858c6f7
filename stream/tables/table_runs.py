"""Copying a hash table run by run, and putting copies together: what a checkpoint needs of a table.

A *run* is the keys whose hashes (`hash32`) have the same leading bits: as a key's home slot rises with its hash, its
rows are neighbours in memory, whatever the table's layout. Copies are *layers*: a layer has all rows of the runs that
it covers, so of several layers the newest that covers a run is right, and a run that it covers may have none.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.hash_kernels import AHEAD, CHANGED, MOVED, hash32, home_of, mark_run, prefetch_row, run_of
from stream.tables.hash_table import HashTable, capacity_for
from stream.tables.jit import kernel

BITS_MIN, BITS_MAX = 10, 24  # of a run's number
STRETCH: Final = 8  # slots whose reading takes as long as finding a stretch of runs
NO_VALUES: Final[F32] = np.zeros((0, 0), np.float32)


class Copied(NamedTuple):
    """Rows of some runs of a table."""

    rows: U64  # u64[n, width], without CHANGED; one column more, a row's `last_seen`, where it has one
    emptied: U32  # u32[m]: runs without a row
    next_run: int  # the first that wasn't looked at


def bits_for(keys: int) -> int:
    """How many bits a run's number has in a table of this many keys: about a run a slot."""
    return min(max(capacity_for(keys).bit_length() - 1, BITS_MIN), BITS_MAX)


def all_runs(bits: int) -> U64:
    """Every one of 2^`bits` runs, as `HashTable.runs`."""
    return np.full(1 << bits >> 6, 2**64 - 1, np.uint64)


def copy_runs(table: HashTable, runs: U64, first: int, slots: int) -> Copied:
    """Copy the rows of these runs from run `first` on, until about `slots` slots were read.

    `emptied` is for layers that lie over others: a copy of all runs has no use for it.
    """
    return Copied(*_copy_runs(table.slots, table.last_seen, table.old, table.old_last_seen, runs, first, slots))


def copy_all(table: HashTable) -> U64:
    """All rows, as a layer has them."""
    runs, room, pieces, run = all_runs(BITS_MIN), len(table.slots) + len(table.old), list[U64](), 0
    while run < 1 << BITS_MIN:
        rows, _, run = copy_runs(table, runs, run, room + room // 8)
        pieces.append(rows)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Layer(NamedTuple):
    """Where a layer lies in arrays of all layers' rows and values: first and past-last; and its runs without a row."""

    rows: tuple[int, int]
    values: tuple[int, int]
    emptied: U32


def merge(rows: U64, values: F32, layers: Sequence[Layer], bits: int) -> tuple[U64, F32]:
    """The rows that count, and their values, moved to the front of these arrays. `layers`: the newest first.

    `values` float32 [m, v]: as `values_of`; empty for a table without.
    """
    if len(layers) == 1:
        return rows, values
    covered, count, valued = np.zeros(1 << bits >> 6, np.uint64), 0, 0
    for layer in layers:
        begin = count
        count, valued = _keep_uncovered(rows, values, layer.rows, layer.values, covered, (count, valued))
        if layer is not layers[-1]:
            _cover(covered, rows[begin:count], layer.emptied)
    return rows[:count], values[:valued]


def values_of(rows: U64, array: F32) -> F32:
    """The rows of `array` that column 1 of these names; none for a 0."""
    indices = rows[:, 1]
    values: F32 = array[indices[indices != 0].astype(np.int64)]
    return values


@kernel
def _copy_runs(
    slots: U64, last_seen: U32, old: U64, old_last_seen: U32, runs: U64, first: int, room: int
) -> tuple[U64, U32, int]:
    width, stamped = slots.shape[1], 1 if last_seen.shape[0] else 0
    rows = np.empty((room, width + stamped), np.uint64)
    emptied = np.empty(room + 64, np.uint32)
    stretches = np.empty((AHEAD, 2), np.int64)
    count = lost = seen = 0
    run, stop = first, 64 * runs.shape[0]
    while run < stop:
        located, run = _next_stretches(slots, old, runs, run, stretches)
        for s in range(located):
            begin, end = stretches[s]
            begin_new, end_new = _slots_of(slots, begin, end, stop)
            begin_old, end_old = _slots_of(old, begin, end, stop)
            seen += end_new - begin_new + end_old - begin_old + STRETCH
            if seen > room or lost > room:
                if count or lost:
                    return rows[:count], emptied[:lost], begin
                rows, room = np.empty((seen, width + stamped), np.uint64), seen  # one stretch alone is larger
            wanted, found = (np.uint64(begin), np.uint64(end), False), np.uint64(0)
            count, found = _copy_slots(slots, last_seen, begin_new, end_new, wanted, runs, rows, count, found)
            if old.shape[0] > 1:
                wanted = np.uint64(begin), np.uint64(end), True
                count, found = _copy_slots(old, old_last_seen, begin_old, end_old, wanted, runs, rows, count, found)
            for r in range(begin, end):
                if not (found >> np.uint64(r & 63)) & np.uint64(1):
                    emptied[lost] = r
                    lost += 1
    return rows[:count], emptied[:lost], stop


@kernel
def _next_stretches(slots: U64, old: U64, runs: U64, run: int, stretches: I64) -> tuple[int, int]:
    """Stretches of marked runs from this one on, each within a word; their first slots are prefetched.

    Returns how many there are, and the run after the last.
    """
    count, stop = 0, 64 * runs.shape[0]
    while run < stop and count < stretches.shape[0]:
        word = runs[run >> 6] >> np.uint64(run & 63)
        if word == np.uint64(0):
            run = ((run >> 6) + 1) << 6
            continue
        while not word & np.uint64(1):
            word >>= np.uint64(1)
            run += 1
        end = run
        while word & np.uint64(1):
            word >>= np.uint64(1)
            end += 1
        stretches[count, 0], stretches[count, 1] = run, end
        hashed = np.uint64(run * ((1 << 32) // stop))
        prefetch_row(slots, home_of(slots, hashed))
        prefetch_row(old, home_of(old, hashed))
        count, run = count + 1, end
    return count, run


@kernel
def _slots_of(slots: U64, run: int, end: int, runs: int) -> tuple[int, int]:
    """First and past-last slot of the rows of runs run:end; slots past the table's end wrap around."""
    capacity = slots.shape[0]
    span = (1 << 32) // runs  # hashes of a run
    start = (run * span * capacity) >> 32
    stop = (((end * span - 1) * capacity) >> 32) + 1
    while stop < start + capacity and slots[stop & (capacity - 1), 0] != np.uint64(0):
        stop += 1
    return start, stop


@kernel
def _copy_slots(
    slots: U64, last_seen: U32, begin: int, end: int, wanted: Any, runs: U64, rows: U64, count: int, found: np.uint64
) -> Any:
    """Copy rows among slots begin:end to rows[count:]. `wanted`: first and past-last run, within a word of `runs`; and
    whether MOVED is no key. Returns count and, as bits of that word, the runs that were found.
    """
    first, stop, has_moved = wanted
    width = slots.shape[1]
    for i in range(begin, end):
        s = i & (slots.shape[0] - 1)
        key = slots[s, 0]
        if key == np.uint64(0) or (has_moved and key == MOVED):
            continue
        run = run_of(runs, hash32(key))
        if run < first or run >= stop:
            continue
        rows[count, 0] = key
        for c in range(1, width):
            rows[count, c] = slots[s, c]
        if width > 1:
            rows[count, 1] &= ~CHANGED
        if last_seen.shape[0]:
            rows[count, width] = last_seen[s]
        count += 1
        found |= np.uint64(1) << (run & np.uint64(63))
    return count, found


@kernel
def _keep_uncovered(rows: U64, values: F32, of_rows: Any, of_values: Any, covered: U64, to: Any) -> tuple[int, int]:
    """Move the rows of a layer that no newer one covers, and their values; returns where they end."""
    count, valued = to
    v = of_values[0]
    for r in range(of_rows[0], of_rows[1]):
        has_value = values.shape[0] > 0 and rows[r, 1] != np.uint64(0)
        run = run_of(covered, hash32(rows[r, 0]))
        if not (covered[run >> np.uint64(6)] >> (run & np.uint64(63))) & np.uint64(1):
            for c in range(rows.shape[1]):
                rows[count, c] = rows[r, c]
            count += 1
            if has_value:
                for c in range(values.shape[1]):
                    values[valued, c] = values[v, c]
                valued += 1
        if has_value:
            v += 1
    return count, valued


@kernel
def _cover(covered: U64, rows: U64, emptied: U32) -> None:
    """Add the runs of a layer to those that are covered."""
    for r in range(rows.shape[0]):
        mark_run(covered, rows[r, 0])
    for run in emptied:
        covered[run >> 6] |= np.uint64(1) << np.uint64(run & 63)
