"""Kernels of the hash table: finding, inserting, moving and dropping rows."""

from typing import Any, Final

import numpy as np

from stream.runtime.prefetch import prefetch
from stream.tables.jit import kernel

KEYS, FRESH = 0, 1  # places in `counts`
AHEAD: Final = 48  # keys between asking for a slot's cache line and reading it
CHANGED: Final = np.uint64(1 << 63)
GONE: Final = np.uint64(2**64 - 1)  # in place of a key in `old`: its row has moved, or was dropped


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
def move_run(old: Any, old_seen: Any, first: Any, last: Any, slots: Any, seen: Any) -> None:
    """Move the rows of old[first:last]."""
    counts = np.zeros(2, np.int64)  # they were counted when they came
    for i in range(first, last):
        if old[i, 0] != np.uint64(0) and old[i, 0] != GONE:
            _move_row(old, old_seen, i, slots, seen, counts)


@kernel
def move_gone(old: Any, old_seen: Any, slots: Any, seen: Any) -> None:
    """Move the key that looks like GONE first: from then on it means that."""
    row = find(old, GONE)
    if row >= 0:
        _move_row(old, old_seen, row, slots, seen, np.zeros(2, np.int64))


@kernel
def move_keys(old: Any, old_seen: Any, keys: Any, slots: Any, seen: Any) -> None:
    """Move the rows of these keys, if `old` has them."""
    counts = np.zeros(2, np.int64)
    for k in range(keys.shape[0]):
        if k + AHEAD < keys.shape[0]:
            fetch(old, home(old, keys[k + AHEAD]))
        i = find(old, keys[k])
        if i >= 0 and keys[k] != GONE:
            _move_row(old, old_seen, i, slots, seen, counts)


@kernel
def copy_rows(slots: Any, old: Any, keys: Any, clear: Any) -> Any:
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
def drop(slots: Any, seen: Any, old: Any, keys: Any, fresh: Any, counts: Any) -> None:
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
