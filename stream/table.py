"""Hash tables of 64-bit keys in numpy arrays, for numba kernels: open addressing, linear probing.

A table is `slots`, uint64 [capacity, width]: column 0 is the key (0: empty), the rest is whatever its
owner views there (float32 pairs, float64). One row lies in one cache line. Learner and ranker share it.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
F = TypeVar("F", bound=Callable[..., Any])

LOAD_MAX: Final = 0.6
KEYS, FRESH = 0, 1  # places in `counts`


def kernel(function: F) -> F:
    """Compile with numba, cached on disk, without the GIL. Arrays are Any to the type checker: numba checks them."""
    compiled: Any = numba.njit(cache=True, nogil=True)(function)
    return cast(F, compiled)


@kernel
def mix(h: Any, value: Any) -> Any:
    """Hash of hash and value, order matters: two rounds of multiply and xor-shift. uint64."""
    x = (np.uint64(h) ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(29)
    return x


@kernel
def find(slots: Any, key: Any) -> Any:
    """Row of key, or -1."""
    mask = np.uint64(slots.shape[0] - 1)
    i = mix(np.uint64(0x243F6A8885A308D3), key) & mask
    while True:
        held = slots[i, 0]
        if held == key:
            return np.int64(i)
        if held == np.uint64(0):
            return np.int64(-1)
        i = (i + np.uint64(1)) & mask


@kernel
def place(slots: Any, key: Any, counts: Any) -> Any:
    """Row of key, which is added when new (its other columns are zero then). The caller has reserved room."""
    mask = np.uint64(slots.shape[0] - 1)
    i = mix(np.uint64(0x243F6A8885A308D3), key) & mask
    while True:
        held = slots[i, 0]
        if held == key:
            return np.int64(i)
        if held == np.uint64(0):
            slots[i, 0] = key
            counts[0] += 1
            return np.int64(i)
        i = (i + np.uint64(1)) & mask


@kernel
def touch(row: Any, key: Any, dirty: Any, fresh: Any, counts: Any) -> None:
    """Note that key's row changed since the last `take_fresh`."""
    if dirty[row] == 0:
        dirty[row] = 1
        fresh[counts[1]] = key
        counts[1] += 1


@kernel
def insert_rows(slots: Any, rows: Any, counts: Any) -> None:
    """Put whole rows (key first), replacing those with the same key."""
    for r in range(rows.shape[0]):
        i = place(slots, rows[r, 0], counts)
        for c in range(1, rows.shape[1]):
            slots[i, c] = rows[r, c]


@kernel
def find_many(slots: Any, keys: Any) -> Any:
    """Rows of keys; -1 for those that aren't there. int64 [len(keys)]."""
    found = np.empty(keys.shape[0], np.int64)
    for k in range(keys.shape[0]):
        found[k] = find(slots, keys[k])
    return found


@kernel
def _mark(slots: Any, dirty: Any, fresh: Any, count: Any) -> None:
    for k in range(count):
        dirty[find(slots, fresh[k])] = 1


def capacity_for(keys: int) -> int:
    """The power of two that holds so many keys within LOAD_MAX."""
    capacity = 1024
    while capacity * LOAD_MAX < keys:
        capacity *= 2
    return capacity


class Table:
    """A growing table that knows which keys changed since the last `take_fresh`.

    Kernels get `slots`, `dirty`, `fresh`, `counts` after `reserve`; width counts the key's column.
    """

    def __init__(self, width: int, keys: int = 0) -> None:
        capacity = capacity_for(keys)
        self.slots: U64 = np.zeros((capacity, width), np.uint64)
        self.dirty = np.zeros(capacity, np.uint8)
        self.fresh: U64 = np.zeros(capacity, np.uint64)
        self.counts = np.zeros(2, np.int64)

    def __len__(self) -> int:
        return int(self.counts[KEYS])

    def reserve(self, extra: int) -> None:
        """Make room for so many new keys: kernels never grow a table."""
        needed = len(self) + extra
        if needed <= self.slots.shape[0] * LOAD_MAX:
            return
        rows = self.rows()
        capacity = capacity_for(max(needed, 2 * len(self)))
        self.slots = np.zeros((capacity, rows.shape[1]), np.uint64)
        self.counts[KEYS] = 0
        insert_rows(self.slots, rows, self.counts)
        self.dirty = np.zeros(capacity, np.uint8)
        self.fresh = np.concatenate([self.fresh, np.zeros(capacity - len(self.fresh), np.uint64)])
        _mark(self.slots, self.dirty, self.fresh, self.counts[FRESH])

    def rows(self) -> U64:
        """All rows, in table order: a function of the keys' history only."""
        used: U64 = self.slots[self.slots[:, 0] != 0]
        return used

    def put(self, rows: U64) -> None:
        """Insert or replace whole rows, key first."""
        self.reserve(len(rows))
        insert_rows(self.slots, np.ascontiguousarray(rows), self.counts)

    def take_fresh(self) -> U64:
        """Rows that changed since the last call, in order of their first change; then none are fresh."""
        keys = self.fresh[: self.counts[FRESH]].copy()
        found = find_many(self.slots, keys)
        self.dirty[found] = 0
        self.counts[FRESH] = 0
        rows: U64 = self.slots[found]
        return rows

    def fresh_keys(self) -> U64:
        """Keys that changed since the last `take_fresh`, in order."""
        return self.fresh[: self.counts[FRESH]].copy()

    @classmethod
    def restored(cls, slots: U64, fresh: U64) -> "Table":
        """The very table that had these slots and fresh keys: the same layout, so the same order ever after."""
        table = cls(slots.shape[1])
        table.slots = np.ascontiguousarray(slots).copy()
        capacity = len(slots)
        table.dirty = np.zeros(capacity, np.uint8)
        table.fresh = np.zeros(capacity, np.uint64)
        table.fresh[: len(fresh)] = fresh
        table.counts = np.array([np.count_nonzero(slots[:, 0]), len(fresh)], np.int64)
        _mark(table.slots, table.dirty, table.fresh, table.counts[FRESH])
        return table
