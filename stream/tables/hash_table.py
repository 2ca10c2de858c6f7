"""Hash tables of 64-bit keys in numpy arrays, for numba kernels: open addressing, linear probing.

A table is `slots`, uint64 [capacity, width]: column 0 is the key (0: empty), the others are whatever its
owner views there (float32 pairs, float64). One row is in one cache line. Learner and ranker share it.

A key's home slot rises with its hash: so a larger table has the same order, growth reads and writes memory from
front to back, and a range of hashes is a range of slots. Growth goes in steps: `slots` is the new array at
once, `old` the one before, whose rows move over run by run; a key is in exactly one of them.
The top bit of column 1 says that a row changed since the last `take_changed`: owners that track changes
store a number there that is never negative. Beside it, for another reader at another pace: a *run* is the keys whose
hashes have the same leading bits, and `runs` has a bit for each run in which a key may have changed (`table_runs.py`).
"""

import math
from typing import Final

import numpy as np

from stream.tables.dtypes import U32, U64, Bools
from stream.tables.hash_kernels import (
    CHANGED,
    CHANGES,
    KEYS,
    MOVED,
    TableArrays,
    copy_rows,
    fill_rows,
    find_many,
    insert_rows,
    mark_runs,
    move_keys,
    move_run,
    move_sentinel,
    remove,
)

LOAD_MAX: Final = 0.6
STEP: Final = 1 << 19  # slots that one `reserve_for` moves at least: a few ms; smaller tables grow at once
STAGE: Final = 0.5  # load from which on the memory of the next, larger array is touched, bit by bit
STAGED_MIN: Final = 1 << 16  # slots; the next array of smaller tables is touched at once
PAGE: Final = 4_096  # bytes of memory that the system zeroes at once, at least
CHUNK: Final = 1 << 20  # changed keys in one array
NO_RUNS: Final[U64] = np.zeros(0, np.uint64)
ALL: Final = 2**64 - 1  # the runs of a word
LISTED_MIN: Final = 1 << 20  # changed keys that are always listed; above it at most twice as many as there are keys


def distinct(keys: U64) -> U64:
    """Each key once, rising. By sorting: np.unique hashes, and takes 30 times as long for a million keys."""
    ordered: U64 = np.sort(keys)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def capacity_for(keys: int) -> int:
    """The power of two that has room for `keys` keys within LOAD_MAX."""
    capacity = 1024
    while capacity * LOAD_MAX < keys:
        capacity *= 2
    return capacity


def _zeros(capacity: int, width: int) -> U64:
    """Zeroed rows that begin with a cache line. The system zeroes a page when it's first touched."""
    flat = np.zeros(capacity * width + 8, np.uint64)
    skip = -flat.ctypes.data % 64 // 8
    return flat[skip : skip + capacity * width].reshape(capacity, width)


class HashTable:
    """A growing table that knows which keys changed since the last `take_changed`, if it is `tracked`.

    Kernels get `arrays` after `reserve` or `reserve_for`. The width counts the key's column.
    `last_seen` uint32 [capacity] is beside the rows from the first `stamp` on.
    """

    def __init__(self, width: int, keys: int = 0, *, tracked: bool = True) -> None:
        self.slots = _zeros(capacity_for(keys), width)
        self.last_seen: U32 = np.zeros(0, np.uint32)
        self.old, self.old_last_seen = _zeros(1, width), self.last_seen
        self.moved = 1  # slots of `old` that were moved
        self._next, self._next_last_seen, self._staged = (
            self.old,
            self.last_seen,
            0,
        )  # the next arrays, and slots of them that were touched
        self.tracked = tracked
        self._full_chunks: list[U64] = []  # arrays of changed keys before `dirty`
        self.dirty: U64 = np.zeros(1024 if tracked else 0, np.uint64)
        self.counts = np.zeros(2, np.int64)
        self.overflowed = False  # too many keys changed, or came and went, to be listed: only `rows` is complete
        self.runs = NO_RUNS  # uint64 [runs / 64]: a bit for each run that changed since `take_runs`; empty: not tracked
        self._all_changed = False  # before runs were tracked
        self._removed = False  # since the last `take_changed`: a key that came back is in `dirty` twice

    @classmethod
    def of_rows(cls, width: int, rows: U64, *, tracked: bool = True) -> "HashTable":
        """A table of these whole rows, key first; one column more is their `last_seen`. Raises ValueError.

        It's as large as it soon would be: nearly full, it would touch the memory of two arrays, its own and the next.
        """
        if rows.ndim != 2 or rows.shape[1] not in (width, width + 1):
            raise ValueError(f"rows of shape {rows.shape}, wanted width {width}")
        table = cls(width, math.ceil(len(rows) * LOAD_MAX / STAGE), tracked=tracked)
        if rows.shape[1] > width:
            table.last_seen = np.zeros(len(table.slots), np.uint32)
        fill_rows(table.slots, table.last_seen, np.ascontiguousarray(rows), table.counts)
        return table

    def __len__(self) -> int:
        return int(self.counts[KEYS])

    @property
    def arrays(self) -> TableArrays:
        """As kernels write it, until the next `reserve…`."""
        return TableArrays(self.slots, self.old, self.dirty, self.counts, self.runs)

    def stamp(self, keys: U64 | None = None, stamps: U32 | None = None) -> None:
        """Give each row a number in `last_seen` from now on: 0, or `stamps` for these keys, which the table has."""
        if not len(self.last_seen):
            self.last_seen = np.zeros(len(self.slots), np.uint32)
            if self.moved < len(self.old):
                self.old_last_seen = np.zeros(len(self.old), np.uint32)
        if keys is not None and stamps is not None:
            self.last_seen[find_many(self.slots, keys)] = stamps

    def stamps(self) -> U32:
        """Of all rows, in the order of `rows`; empty when they have none."""
        stamps: U32 = self.last_seen[self.slots[:, 0] != 0] if len(self.last_seen) else self.last_seen
        return np.concatenate([stamps, self.old_last_seen[self._unmoved()]]) if len(self.old_last_seen) else stamps

    def reserve(self, extra: int) -> None:
        """Make room for `extra` new keys, with all rows in `slots`: kernels never grow a table."""
        self._grow(extra)
        self.finish()

    def reserve_for(self, keys: U64, unknown: int = 0) -> None:
        """Make room for these keys, with their rows in `slots`, and move another step of the other rows.

        And for `unknown` keys whose rows may still be in `old`: kernels that don't know their keys beforehand use
        `find_moved` and `find_or_insert_moved`, and `mark_run` for what they change.
        """
        self.mark_runs(keys)
        extra = len(keys) + unknown
        self._grow(extra)
        if self.moved < len(self.old):
            move_keys(self.old, self.old_last_seen, keys, self.slots, self.last_seen)
            self._move(max(STEP, 4 * extra))

    def _grow(self, extra: int) -> None:
        """Begin a larger array when this one is too small."""
        keys, changes = self.counts.tolist()
        if self.tracked and changes + extra > len(self.dirty):
            self._make_room_for_changes(extra)
        needed = keys + extra
        if needed <= len(self.slots) * STAGE:
            return
        if needed <= len(self.slots) * LOAD_MAX:
            self._stage(needed)
            return
        self.finish()
        self.old, self.old_last_seen, self.moved = self.slots, self.last_seen, 0
        capacity = capacity_for(max(needed, 2 * keys))
        self.slots, self.last_seen = self._next, self._next_last_seen
        if len(self.slots) != capacity or bool(len(self.last_seen)) != bool(len(self.old_last_seen)):
            self.slots = _zeros(capacity, self.old.shape[1])
            self.last_seen = np.zeros(capacity if len(self.old_last_seen) else 0, np.uint32)
        self._next, self._next_last_seen, self._staged = _zeros(1, self.old.shape[1]), np.zeros(0, np.uint32), 0
        move_sentinel(self.old, self.old_last_seen, self.slots, self.last_seen)

    def _stage(self, needed: int) -> None:
        """Touch the next array's memory as keys are added: else the system zeroes it all at once."""
        capacity, width = self.slots.shape
        if capacity < STAGED_MIN or self.moved < len(self.old):
            return
        if len(self._next) != 2 * capacity:
            self._next, self._staged = _zeros(2 * capacity, width), 0
            self._next_last_seen = np.zeros(2 * capacity if len(self.last_seen) else 0, np.uint32)
        ready = int(2 * capacity * (needed / capacity - STAGE) / (LOAD_MAX - STAGE))
        if ready > self._staged:
            self._next[self._staged : ready : PAGE // (8 * width), 0] = 0
            self._next_last_seen[self._staged : ready : PAGE // 4] = 0
            self._staged = ready

    def _make_room_for_changes(self, extra: int) -> None:
        """Begin another array of changed keys."""
        self._full_chunks.append(self.dirty[: self.counts[CHANGES]])
        self.dirty = np.zeros(max(extra, min(CHUNK, 2 * len(self.dirty))), np.uint64)
        self.counts[CHANGES] = 0
        if sum(map(len, self._full_chunks)) > max(LISTED_MIN, 2 * len(self)):
            self._full_chunks, self.overflowed = [], True

    def _move(self, count: int) -> None:
        first, self.moved = self.moved, min(len(self.old), self.moved + count)
        move_run(self.old, self.old_last_seen, first, self.moved, self.slots, self.last_seen)
        if self.moved == len(self.old):
            self.old, self.old_last_seen = _zeros(1, self.slots.shape[1]), np.zeros(0, np.uint32)
            self.moved = 1

    def finish(self) -> None:
        """All rows are in `slots` afterwards."""
        if self.moved < len(self.old):
            self._move(len(self.old))

    def rows(self) -> U64:
        """All rows without CHANGED, in table order; in the middle of growth those that have still to move come last."""
        used: U64 = self.slots[self.slots[:, 0] != 0]
        if self.moved < len(self.old):
            used = np.concatenate([used, self.old[self._unmoved()]])
        if used.shape[1] > 1:
            used[:, 1] &= ~CHANGED
        return used

    def _unmoved(self) -> Bools:
        """Which slots of `old` have a row."""
        unmoved: Bools = (self.old[:, 0] != 0) & (self.old[:, 0] != MOVED)
        return unmoved

    def rows_of(self, keys: U64) -> U64:
        """Rows of these keys; zeros beside a key that isn't there."""
        rows: U64 = copy_rows(self.slots, self.old, keys, False)
        return rows

    def contains(self, keys: U64) -> Bools:
        """Which of these keys have a row."""
        self.finish()
        found: Bools = find_many(self.slots, keys) >= 0
        return found

    def put(self, rows: U64) -> None:
        """Insert or replace whole rows, key first."""
        self.reserve(len(rows))
        self.mark_runs(rows[:, 0])
        insert_rows(self.slots, np.ascontiguousarray(rows), self.counts)

    def remove(self, keys: U64) -> None:
        """Remove these keys; they are reported as changed, with zeros."""
        if self.tracked and self.counts[CHANGES] + len(keys) > len(self.dirty):
            self._make_room_for_changes(len(keys))
        self._removed = True
        self.mark_runs(keys)
        remove(self.slots, self.last_seen, self.old, keys, self.dirty, self.counts)

    def take_changed(self) -> U64:
        """Rows that changed since the last call, in order of their first change, and reset the list.

        A key that was removed has zeros beside it. Some are missing when the list has `overflowed`.
        """
        rows: U64 = copy_rows(self.slots, self.old, self.changed_keys(), True)
        if self.overflowed:
            for slots in (self.slots, self.old):
                slots[:, 1] &= ~CHANGED
        self.counts[CHANGES], self._removed, self._full_chunks, self.overflowed = 0, False, [], False
        return rows

    def changed_keys(self) -> U64:
        """Keys that changed since the last `take_changed`, in order."""
        keys: U64 = np.concatenate([*self._full_chunks, self.dirty[: self.counts[CHANGES]]])
        return keys[np.sort(np.unique(keys, return_index=True)[1])] if self._removed else keys

    def track_runs(self, bits: int) -> None:
        """Note from now on in which of 2^`bits` runs, at least 64, keys change; none has so far, unless all did."""
        self.runs = np.full(1 << bits >> 6, ALL if self._all_changed else 0, np.uint64)
        self._all_changed = False

    def mark_runs(self, keys: U64) -> None:
        """The rows of these keys change; nothing, if runs aren't tracked."""
        if len(self.runs):
            mark_runs(self.runs, keys)

    def mark_all_runs(self) -> None:
        """All rows change; if runs aren't tracked yet, they are changed once they are."""
        self.runs[:] = ALL
        self._all_changed = not len(self.runs)

    def take_runs(self) -> U64:
        """The runs that changed since the last call, as `runs`, and reset them."""
        runs, self.runs = self.runs, np.zeros_like(self.runs)
        return runs
