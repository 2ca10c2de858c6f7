"""Kernels of the hash table: finding, inserting, moving and removing rows."""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.runtime.prefetch import prefetch
from stream.tables.dtypes import I64, U32, U64
from stream.tables.jit import kernel

KEYS, CHANGES = 0, 1  # indices into `counts`
AHEAD: Final = 48  # keys between prefetching a slot's cache line and reading it
CHANGED: Final = np.uint64(1 << 63)
MOVED: Final = np.uint64(2**64 - 1)  # instead of a key in `old`: its row has moved, or was removed


class TableArrays(NamedTuple):
    """A `HashTable` as kernels write it."""

    slots: U64  # u64[capacity, width]
    old: U64  # u64[old capacity, width]: rows that have still to move to `slots`
    dirty: U64  # u64[room]: keys of rows that changed; empty when they aren't tracked
    counts: I64  # i64[2]: KEYS, CHANGES
    runs: U64  # u64[runs / 64]: a bit for each run of hashes in which a key changed; empty when they aren't tracked


@kernel
def mix(h: Any, value: Any) -> np.uint64:
    """Hash of a hash and a value, in either order the same: two rounds of multiply and xor-shift. uint64."""
    x = (np.uint64(h) ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(29)
    return x


@kernel
def noise_of(key: Any, component: Any) -> float:
    """What a component of a new vector has instead of chance: a hash of its key, uniform in [-1, 1). float64."""
    return np.float64(mix(key, np.uint64(component + 1)) >> np.uint64(11)) / 4503599627370496.0 - 1.0


@kernel
def hash32(key: np.uint64) -> np.uint64:
    """The hash that orders a table, uint64 below 2^32."""
    return mix(np.uint64(0x243F6A8885A308D3), key) >> np.uint64(32)


@kernel
def home_of(slots: U64, hashed: np.uint64) -> np.uint64:
    """The first slot in which a key of this `hash32` is looked for."""
    return (hashed * np.uint64(slots.shape[0])) >> np.uint64(32)


@kernel
def home(slots: U64, key: np.uint64) -> np.uint64:
    """The first slot in which a key is looked for."""
    return home_of(slots, hash32(key))


@kernel
def prefetch_row(slots: U64, row: Any) -> None:
    """Prefetch a row's cache line, AHEAD of reading it."""
    prefetch(np.uintp(slots.ctypes.data) + np.uintp(row) * np.uintp(slots.shape[1] * 8))


@kernel
def find_hashed(slots: U64, key: np.uint64, hashed: np.uint64) -> Any:
    """Row of key, or -1; for callers that look into several tables and hash once."""
    mask = np.uint64(slots.shape[0] - 1)
    i = home_of(slots, hashed)
    while True:
        found = slots[i, 0]
        if found == key:
            return np.int64(i)
        if found == np.uint64(0):
            return np.int64(-1)
        i = (i + np.uint64(1)) & mask


@kernel
def find(slots: U64, key: np.uint64) -> Any:
    """Row of key, or -1."""
    return find_hashed(slots, key, hash32(key))


@kernel
def find_or_insert(slots: U64, key: np.uint64, counts: I64) -> Any:
    """Row of key, which is added when new (its other columns are zero then). The caller has reserved room."""
    mask = np.uint64(slots.shape[0] - 1)
    i = home(slots, key)
    while True:
        found = slots[i, 0]
        if found == key:
            return np.int64(i)
        if found == np.uint64(0):
            slots[i, 0] = key
            counts[KEYS] += 1
            return np.int64(i)
        i = (i + np.uint64(1)) & mask


@kernel
def mark_changed(slots: U64, row: int, dirty: U64, counts: I64) -> None:
    """Record that this row changed since the last `take_changed`, if changes are tracked."""
    # `dirty` sorts after `counts`: numba drops references in the order of names, and in this one LLVM elides them. With
    # a name before `counts` each call takes 28 ns more.
    if dirty.shape[0] and not slots[row, 1] & CHANGED:
        slots[row, 1] |= CHANGED
        dirty[counts[CHANGES]] = slots[row, 0]
        counts[CHANGES] += 1


@kernel
def run_of(runs: U64, hashed: np.uint64) -> Any:
    """The run of a `hash32`: its leading bits. `runs` has a bit for each, and at least one."""
    return (hashed * np.uint64(64 * runs.shape[0])) >> np.uint64(32)


@kernel
def mark_run(runs: U64, key: np.uint64) -> None:
    """Record that the run of this key changes, if runs are tracked: for kernels that don't know keys beforehand."""
    if runs.shape[0]:
        run = run_of(runs, hash32(key))
        runs[run >> np.uint64(6)] |= np.uint64(1) << (run & np.uint64(63))


@kernel
def mark_runs(runs: U64, keys: U64) -> None:
    """Record that the runs of these keys change."""
    for k in range(keys.shape[0]):
        mark_run(runs, keys[k])


@kernel
def insert_rows(slots: U64, rows: U64, counts: I64) -> None:
    """Put whole rows (key first), replacing those with the same key."""
    for r in range(rows.shape[0]):
        i = find_or_insert(slots, rows[r, 0], counts)
        for c in range(1, rows.shape[1]):
            mark = slots[i, c] & CHANGED if c == 1 else np.uint64(0)
            slots[i, c] = rows[r, c] | mark


@kernel
def fill_rows(slots: U64, last_seen: U32, rows: U64, counts: I64) -> None:
    """Put whole rows, key first, into an empty table. `last_seen`, unless it has no slots, is their last column."""
    for r in range(rows.shape[0]):
        i = find_or_insert(slots, rows[r, 0], counts)
        for c in range(1, slots.shape[1]):
            slots[i, c] = rows[r, c]
        if last_seen.shape[0]:
            last_seen[i] = np.uint32(rows[r, slots.shape[1]])


@kernel
def find_many(slots: U64, keys: U64) -> I64:
    """Rows of keys; -1 for those that aren't there. int64 [len(keys)]."""
    found = np.empty(keys.shape[0], np.int64)
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            prefetch_row(slots, home(slots, keys[k + AHEAD]))
        found[k] = find(slots, keys[k])
    return found


@kernel
def find_or_insert_moved(slots: U64, old: U64, key: np.uint64, counts: I64) -> Any:
    """Row of key in `slots`; moved there first if it is in `old`, added when new. For tables without `last_seen`."""
    before = counts[KEYS]
    row = find_or_insert(slots, key, counts)
    if counts[KEYS] > before and key != MOVED:
        i = find(old, key)
        if i >= 0:
            counts[KEYS] = before  # it is counted already
            for c in range(1, old.shape[1]):
                slots[row, c] = old[i, c]
            old[i, 0] = MOVED
    return row


@kernel
def find_moved(slots: U64, old: U64, key: np.uint64, counts: I64) -> Any:
    """As `find_or_insert_moved`, but -1 for a new key, which isn't added."""
    row = find(slots, key)
    return row if row >= 0 or key == MOVED or find(old, key) < 0 else find_or_insert_moved(slots, old, key, counts)


@kernel
def move_run(old: U64, old_last_seen: U32, first: int, last: int, slots: U64, last_seen: U32) -> None:
    """Move the rows of old[first:last]. Written out: with a function call a row takes ten times as long."""
    mask = np.uint64(slots.shape[0] - 1)
    for i in range(first, last):
        key = old[i, 0]
        if key == np.uint64(0) or key == MOVED:
            continue
        row = home(slots, key)
        while slots[row, 0] != np.uint64(0):
            row = (row + np.uint64(1)) & mask
        for c in range(old.shape[1]):
            slots[row, c] = old[i, c]
        if last_seen.shape[0]:
            last_seen[row] = old_last_seen[i]
        old[i, 0] = MOVED


@kernel
def move_sentinel(old: U64, old_last_seen: U32, slots: U64, last_seen: U32) -> None:
    """Move the key that equals MOVED, if there is one, before any other: afterwards it means "moved"."""
    i = find(old, MOVED)
    if i >= 0:
        row = home(slots, MOVED)
        for c in range(old.shape[1]):
            slots[row, c] = old[i, c]
        if last_seen.shape[0]:
            last_seen[row] = old_last_seen[i]


@kernel
def move_keys(old: U64, old_last_seen: U32, keys: U64, slots: U64, last_seen: U32) -> None:
    """Move the rows of these keys, if `old` has them."""
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            hashed = hash32(keys[k + AHEAD])
            prefetch_row(old, home_of(old, hashed))
            prefetch_row(slots, home_of(slots, hashed))
        i = find(old, keys[k])
        if i >= 0 and keys[k] != MOVED:
            move_run(old, old_last_seen, i, i + 1, slots, last_seen)


@kernel
def copy_rows(slots: U64, old: U64, keys: U64, clear: bool) -> U64:
    """Rows of keys without CHANGED; zeros beside a key that isn't there. `clear` resets CHANGED in the table."""
    rows = np.zeros((keys.shape[0], slots.shape[1]), np.uint64)
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            prefetch_row(slots, home(slots, keys[k + AHEAD]))
        source, row = slots, find(slots, keys[k])
        if row < 0 and keys[k] != MOVED:
            source, row = old, find(old, keys[k])
        rows[k, 0] = keys[k]
        if row < 0:
            continue
        if clear:
            source[row, 1] &= ~CHANGED
        for c in range(1, rows.shape[1]):
            rows[k, c] = source[row, c]
        rows[k, 1] &= ~CHANGED
    return rows


@kernel
def _remove_row(slots: U64, last_seen: U32, row: Any) -> None:
    """Empty a row; those behind it that belong nearer to their home move up."""
    mask = np.int64(slots.shape[0] - 1)
    hole = row
    i = (row + 1) & mask
    while slots[i, 0] != np.uint64(0):
        if ((i - np.int64(home(slots, slots[i, 0]))) & mask) >= ((i - hole) & mask):
            for c in range(slots.shape[1]):
                slots[hole, c] = slots[i, c]
            if last_seen.shape[0]:
                last_seen[hole] = last_seen[i]
            hole = i
        i = (i + 1) & mask
    for c in range(slots.shape[1]):
        slots[hole, c] = 0
    if last_seen.shape[0]:
        last_seen[hole] = 0


@kernel
def remove(slots: U64, last_seen: U32, old: U64, keys: U64, dirty: U64, counts: I64) -> None:
    """Remove these keys; they are reported as changed."""
    for k in range(keys.shape[0]):
        row = find(slots, keys[k])
        if row >= 0:
            mark_changed(slots, row, dirty, counts)
            _remove_row(slots, last_seen, row)
            counts[KEYS] -= 1
            continue
        row = find(old, keys[k])
        if row >= 0 and keys[k] != MOVED:
            mark_changed(old, row, dirty, counts)
            old[row, 0] = MOVED
            counts[KEYS] -= 1
