"""Hash tables of 64-bit keys in numpy arrays, for numba kernels: open addressing, linear probing.

A table is `slots`, uint64 [capacity, width]: column 0 is the key (0: empty), the rest is whatever its
owner views there (float32 pairs, float64). One row lies in one cache line. Learner and ranker share it.

A key's home rises with its hash: so a larger table has the same order, growth reads and writes memory from
front to back, and a range of hashes is a range of slots. Growth goes in steps: `slots` is the new array at
once, `old` the one before, whose rows move over run by run; a key lives in exactly one of them.
The top bit of column 1 says that a row changed since the last `take_fresh`: owners whose rows are `touch`ed
keep a number there that is never negative.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from stream.runtime.prefetch import prefetch

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]
F = TypeVar("F", bound=Callable[..., Any])

LOAD_MAX: Final = 0.6
KEYS, FRESH = 0, 1  # places in `counts`
STEP: Final = 1 << 19  # slots that one `reserve_for` moves at least: a few ms; smaller tables grow at once
STAGE: Final = 0.5  # load from which on the memory of the next, larger array is got hold of, bit by bit
CHUNK: Final = 1 << 20  # changed keys in one array
LISTED_MIN: Final = 1 << 20  # changed keys that are listed in any case; above it twice as many as there are keys
AHEAD: Final = 48  # keys between asking for a slot's cache line and reading it
CHANGED: Final = np.uint64(1 << 63)
GONE: Final = np.uint64(2**64 - 1)  # in place of a key in `old`: its row has moved, or was dropped


def edition(function: Callable[..., Any]) -> str:
    """A digest of a kernel's file, and of the editions of all kernels that the file imports, alone or as a module."""
    named = [*function.__globals__.values()]
    ours = function.__module__.partition(".")[0]
    for module in named.copy():
        if isinstance(module, ModuleType) and module.__name__.startswith((f"{ours}.", "stream.")):
            named += vars(module).values()
    imported = {
        value.py_func.__qualname__.rpartition("-")[2]
        for value in named
        if hasattr(value, "py_func") and value.py_func.__module__ != function.__module__
    }
    source = Path(function.__code__.co_filename).read_bytes()
    return hashlib.blake2b(source + ",".join(sorted(imported)).encode(), digest_size=4).hexdigest()


def kernel(function: F) -> F:
    """Compile with numba, cached on disk, without the GIL. Arrays are Any to the type checker: numba checks them.

    A division by zero is inf or nan, as in numpy. Kernels are compiled into kernels of other files, whose caches
    wouldn't notice that they changed: so the edition is part of their names.
    """
    function.__qualname__ += f"-{edition(function)}"
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(F, compiled)


@kernel
def mix(h: Any, value: Any) -> Any:
    """Hash of a hash and a value, in either order the same: two rounds of multiply and xor-shift. uint64."""
    x = (np.uint64(h) ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(29)
    return x


@kernel
def hash32(key: Any) -> Any:
    """The hash that orders a table, uint64 below 2^32."""
    return mix(np.uint64(0x243F6A8885A308D3), key) >> np.uint64(32)


@kernel
def home_of(slots: Any, hashed: Any) -> Any:
    """Where a key of this `hash32` is looked for first. uint64."""
    return (hashed * np.uint64(slots.shape[0])) >> np.uint64(32)


@kernel
def home(slots: Any, key: Any) -> Any:
    """Where a key is looked for first. uint64."""
    return home_of(slots, hash32(key))


@kernel
def fetch(slots: Any, row: Any) -> None:
    """Ask for a row's cache line, AHEAD of reading it."""
    prefetch(np.uintp(slots.ctypes.data) + np.uintp(row) * np.uintp(slots.shape[1] * 8))


@kernel
def find_hashed(slots: Any, key: Any, hashed: Any) -> Any:
    """Row of key, or -1: for whoever looks into several tables, and hashes once."""
    mask = np.uint64(slots.shape[0] - 1)
    i = home_of(slots, hashed)
    while True:
        held = slots[i, 0]
        if held == key:
            return np.int64(i)
        if held == np.uint64(0):
            return np.int64(-1)
        i = (i + np.uint64(1)) & mask


@kernel
def find(slots: Any, key: Any) -> Any:
    """Row of key, or -1."""
    return find_hashed(slots, key, hash32(key))


@kernel
def place(slots: Any, key: Any, counts: Any) -> Any:
    """Row of key, which is added when new (its other columns are zero then). The caller has reserved room."""
    mask = np.uint64(slots.shape[0] - 1)
    i = home(slots, key)
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
def touch(slots: Any, row: Any, fresh: Any, counts: Any) -> None:
    """Note that this row changed since the last `take_fresh`, unless nobody asks."""
    if fresh.shape[0] and not slots[row, 1] & CHANGED:
        slots[row, 1] |= CHANGED
        fresh[counts[1]] = slots[row, 0]
        counts[1] += 1


@kernel
def insert_rows(slots: Any, rows: Any, counts: Any) -> None:
    """Put whole rows (key first), replacing those with the same key."""
    for r in range(rows.shape[0]):
        i = place(slots, rows[r, 0], counts)
        for c in range(1, rows.shape[1]):
            mark = slots[i, c] & CHANGED if c == 1 else np.uint64(0)
            slots[i, c] = rows[r, c] | mark


@kernel
def find_many(slots: Any, keys: Any) -> Any:
    """Rows of keys; -1 for those that aren't there. int64 [len(keys)]."""
    found = np.empty(keys.shape[0], np.int64)
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            fetch(slots, home(slots, keys[k + AHEAD]))
        found[k] = find(slots, keys[k])
    return found


@kernel
def _move_row(old: Any, old_seen: Any, i: Any, slots: Any, seen: Any, counts: Any) -> None:
    row = place(slots, old[i, 0], counts)
    for c in range(1, old.shape[1]):
        slots[row, c] = old[i, c]
    if seen.shape[0]:
        seen[row] = old_seen[i]
    old[i, 0] = GONE


@kernel
def place_moved(slots: Any, old: Any, key: Any, counts: Any) -> Any:
    """Row of key in `slots`, whither it moves when it lies in `old` yet; added when new. Of tables without stamps."""
    before = counts[0]
    row = place(slots, key, counts)
    if counts[0] > before and key != GONE:
        i = find(old, key)
        if i >= 0:
            counts[0] = before  # it was counted when it came
            for c in range(1, old.shape[1]):
                slots[row, c] = old[i, c]
            old[i, 0] = GONE
    return row


@kernel
def find_moved(slots: Any, old: Any, key: Any, counts: Any) -> Any:
    """As `place_moved`, but a key that is new isn't added: -1."""
    row = find(slots, key)
    return row if row >= 0 or key == GONE or find(old, key) < 0 else place_moved(slots, old, key, counts)


@kernel
def _move_run(old: Any, old_seen: Any, first: Any, last: Any, slots: Any, seen: Any) -> None:
    """Move the rows of old[first:last]."""
    counts = np.zeros(2, np.int64)  # they were counted when they came
    for i in range(first, last):
        if old[i, 0] != np.uint64(0) and old[i, 0] != GONE:
            _move_row(old, old_seen, i, slots, seen, counts)


@kernel
def _move_gone(old: Any, old_seen: Any, slots: Any, seen: Any) -> None:
    """Move the key that looks like GONE first: from then on it means that."""
    row = find(old, GONE)
    if row >= 0:
        _move_row(old, old_seen, row, slots, seen, np.zeros(2, np.int64))


@kernel
def _move_keys(old: Any, old_seen: Any, keys: Any, slots: Any, seen: Any) -> None:
    """Move the rows of these keys, if `old` has them."""
    counts = np.zeros(2, np.int64)
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            fetch(old, home(old, keys[k + AHEAD]))
        i = find(old, keys[k])
        if i >= 0 and keys[k] != GONE:
            _move_row(old, old_seen, i, slots, seen, counts)


@kernel
def _copy_rows(slots: Any, old: Any, keys: Any, clear: Any) -> Any:
    """Rows of keys without their marks; zeros beside a key that isn't there. `clear` takes the marks off."""
    rows = np.zeros((keys.shape[0], slots.shape[1]), np.uint64)
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            fetch(slots, home(slots, keys[k + AHEAD]))
        held, row = slots, find(slots, keys[k])
        if row < 0 and keys[k] != GONE:
            held, row = old, find(old, keys[k])
        rows[k, 0] = keys[k]
        if row < 0:
            continue
        if clear:
            held[row, 1] &= ~CHANGED
        for c in range(1, rows.shape[1]):
            rows[k, c] = held[row, c]
        rows[k, 1] &= ~CHANGED
    return rows


@kernel
def _close(slots: Any, seen: Any, row: Any) -> None:
    """Empty a row; those behind it that would rather stand there move up."""
    mask = np.int64(slots.shape[0] - 1)
    hole = row
    i = (row + 1) & mask
    while slots[i, 0] != np.uint64(0):
        if ((i - np.int64(home(slots, slots[i, 0]))) & mask) >= ((i - hole) & mask):
            for c in range(slots.shape[1]):
                slots[hole, c] = slots[i, c]
            if seen.shape[0]:
                seen[hole] = seen[i]
            hole = i
        i = (i + 1) & mask
    for c in range(slots.shape[1]):
        slots[hole, c] = 0
    if seen.shape[0]:
        seen[hole] = 0


@kernel
def _drop(slots: Any, seen: Any, old: Any, keys: Any, fresh: Any, counts: Any) -> None:
    """Take these keys out, wherever they are; they are told as changed."""
    for k in range(keys.shape[0]):
        row = find(slots, keys[k])
        if row >= 0:
            touch(slots, row, fresh, counts)
            _close(slots, seen, row)
            counts[0] -= 1
            continue
        row = find(old, keys[k])
        if row >= 0 and keys[k] != GONE:
            touch(old, row, fresh, counts)
            old[row, 0] = GONE
            counts[0] -= 1


def distinct(keys: U64) -> U64:
    """Each key once, rising. By sorting: np.unique hashes, and takes 30 times as long for a million keys."""
    ordered: U64 = np.sort(keys)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def capacity_for(keys: int) -> int:
    """The power of two that holds so many keys within LOAD_MAX."""
    capacity = 1024
    while capacity * LOAD_MAX < keys:
        capacity *= 2
    return capacity


def _zeros(capacity: int, width: int) -> U64:
    """Zeroed rows that begin with a cache line. The system zeroes a page when it's first touched."""
    flat = np.zeros(capacity * width + 8, np.uint64)
    skip = -flat.ctypes.data % 64 // 8
    return flat[skip : skip + capacity * width].reshape(capacity, width)


class Table:
    """A growing table that knows which keys changed since the last `take_fresh`, unless it's not `tracked`.

    Kernels get `slots`, `fresh`, `counts` after `reserve` or `reserve_for`, `old` too after `reserve_step`. The width
    counts the key's column. `seen` uint32 [capacity] goes along with the rows once it was asked for by `stamp`.
    """

    def __init__(self, width: int, keys: int = 0, *, tracked: bool = True) -> None:
        self.slots = _zeros(capacity_for(keys), width)
        self.seen: U32 = np.zeros(0, np.uint32)
        self.old, self.old_seen = _zeros(1, width), self.seen
        self.moved = 1  # slots of `old` that were moved
        self._next, self._next_seen, self._staged = self.old, self.seen, 0  # the next arrays, and how far they're ready
        self.tracked = tracked
        self._full: list[U64] = []  # arrays of changed keys before `fresh`
        self.fresh: U64 = np.zeros(1024 if tracked else 0, np.uint64)
        self.counts = np.zeros(2, np.int64)
        self.lost = False  # so many keys changed, or came and went, that they aren't listed: only all rows tell
        self._dropped = False  # since the last `take_fresh`: a key that came back is in `fresh` twice

    def __len__(self) -> int:
        return int(self.counts[KEYS])

    def stamp(self, keys: U64 | None = None, stamps: U32 | None = None) -> None:
        """From now on each row has a number in `seen`: 0, but `stamps` for these keys, which are there."""
        if not len(self.seen):
            self.seen = np.zeros(len(self.slots), np.uint32)
            if self.moved < len(self.old):
                self.old_seen = np.zeros(len(self.old), np.uint32)
        if keys is not None and stamps is not None:
            self.seen[find_many(self.slots, keys)] = stamps

    def stamps(self) -> U32:
        """Of all rows, in the order of `rows`; empty when they have none."""
        stamps: U32 = self.seen[self.slots[:, 0] != 0] if len(self.seen) else self.seen
        return np.concatenate([stamps, self.old_seen[self._unmoved()]]) if len(self.old_seen) else stamps

    def reserve(self, extra: int) -> None:
        """Make room for so many new keys, with all rows in `slots`: kernels never grow a table."""
        self._grow(extra)
        self.finish()

    def reserve_for(self, keys: U64) -> None:
        """Make room for these keys, with their rows in `slots`, and go on a step with what else has to move."""
        self._grow(len(keys))
        if self.moved < len(self.old):
            _move_keys(self.old, self.old_seen, keys, self.slots, self.seen)
            self._move(max(STEP, 4 * len(keys)))

    def reserve_step(self, extra: int) -> None:
        """Make room for so many new keys, and go on a step with what has to move; any row may lie in `old` yet.

        For kernels that don't know their keys beforehand: they ask by `find_moved` and `place_moved`.
        """
        self._grow(extra)
        if self.moved < len(self.old):
            self._move(max(STEP, 4 * extra))

    def _grow(self, extra: int) -> None:
        """Begin with a larger array when this one is too small."""
        self._make_fresh_room(extra)
        needed = len(self) + extra
        if needed <= len(self.slots) * LOAD_MAX:
            self._stage(needed)
            return
        self.finish()
        self.old, self.old_seen, self.moved = self.slots, self.seen, 0
        capacity = capacity_for(max(needed, 2 * len(self)))
        self.slots, self.seen = self._next, self._next_seen
        if len(self.slots) != capacity or bool(len(self.seen)) != bool(len(self.old_seen)):
            self.slots = _zeros(capacity, self.old.shape[1])
            self.seen = np.zeros(capacity if len(self.old_seen) else 0, np.uint32)
        self._next, self._next_seen, self._staged = _zeros(1, self.old.shape[1]), np.zeros(0, np.uint32), 0
        _move_gone(self.old, self.old_seen, self.slots, self.seen)

    def _stage(self, needed: int) -> None:
        """Touch the next array's memory, in step with the keys that come: the system would else zero it all at once."""
        capacity = len(self.slots)
        if capacity < STEP or needed <= STAGE * capacity or self.moved < len(self.old):
            return
        if len(self._next) != 2 * capacity:
            self._next, self._staged = _zeros(2 * capacity, self.slots.shape[1]), 0
            self._next_seen = np.zeros(2 * capacity if len(self.seen) else 0, np.uint32)
        ready = int(2 * capacity * (needed / capacity - STAGE) / (LOAD_MAX - STAGE))
        if ready > self._staged:
            self._next[self._staged : ready] = 0
            self._next_seen[self._staged : ready] = 0
            self._staged = ready

    def _make_fresh_room(self, extra: int) -> None:
        if self.tracked and self.counts[FRESH] + extra > len(self.fresh):
            self._full.append(self.fresh[: self.counts[FRESH]])
            self.fresh = np.zeros(max(extra, min(CHUNK, 2 * len(self.fresh))), np.uint64)
            self.counts[FRESH] = 0
            if sum(map(len, self._full)) > max(LISTED_MIN, 2 * len(self)):
                self._full, self.lost = [], True

    def _move(self, count: int) -> None:
        first, self.moved = self.moved, min(len(self.old), self.moved + count)
        _move_run(self.old, self.old_seen, first, self.moved, self.slots, self.seen)
        if self.moved == len(self.old):
            self.old, self.old_seen = _zeros(1, self.slots.shape[1]), np.zeros(0, np.uint32)
            self.moved = 1

    def finish(self) -> None:
        """All rows are in `slots` afterwards."""
        if self.moved < len(self.old):
            self._move(len(self.old))

    def rows(self) -> U64:
        """All rows without their marks, in table order; in the middle of growth those that have to move come last."""
        used: U64 = self.slots[self.slots[:, 0] != 0]
        if self.moved < len(self.old):
            used = np.concatenate([used, self.old[self._unmoved()]])
        if used.shape[1] > 1:
            used[:, 1] &= ~CHANGED
        return used

    def _unmoved(self) -> Bools:
        """Which slots of `old` hold a row."""
        unmoved: Bools = (self.old[:, 0] != 0) & (self.old[:, 0] != GONE)
        return unmoved

    def rows_of(self, keys: U64) -> U64:
        """Rows of these keys; zeros beside a key that isn't there."""
        rows: U64 = _copy_rows(self.slots, self.old, keys, False)
        return rows

    def put(self, rows: U64) -> None:
        """Insert or replace whole rows, key first."""
        self.reserve(len(rows))
        insert_rows(self.slots, np.ascontiguousarray(rows), self.counts)

    def drop(self, keys: U64) -> None:
        """Take these keys out; they are told as changed, with zeros."""
        self._make_fresh_room(len(keys))
        self._dropped = True
        _drop(self.slots, self.seen, self.old, keys, self.fresh, self.counts)

    def take_fresh(self) -> U64:
        """Rows that changed since the last call, in order of their first change; then none are fresh.

        A key that was dropped has zeros beside it. Some are missing when the table has `lost` the list.
        """
        rows: U64 = _copy_rows(self.slots, self.old, self.fresh_keys(), True)
        if self.lost:
            for slots in (self.slots, self.old):
                slots[:, 1] &= ~CHANGED
        self.counts[FRESH], self._dropped, self._full, self.lost = 0, False, [], False
        return rows

    def fresh_keys(self) -> U64:
        """Keys that changed since the last `take_fresh`, in order."""
        keys: U64 = np.concatenate([*self._full, self.fresh[: self.counts[FRESH]]])
        return keys[np.sort(np.unique(keys, return_index=True)[1])] if self._dropped else keys
