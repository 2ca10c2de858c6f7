"""A delta over a big table that never changes: it only grows, and a view sees what was there when it was taken.

`heads`, uint64 [capacity, 2]: key → number of its newest entry. `entries`, uint64 [room, width]: in column 0 the
number of the key's previous entry (shifted by one; the low bit: this entry is a tombstone), then the row's own columns.
`marks`: a bit for the leading bits of a key's hash, set when any such key was put. Few keys of a big table have an
entry; the marks, which stay in a core's own cache, rule most others out. `latest`, uint32 [at most LATEST_MAX]: by the
same leading bits, the newest entry that was put.
`vectors`, float32 [room, dim]: what belongs to an entry and isn't a row. Entry 0 is none.

A view is a count of entries: later ones are invisible to it. So the next version of a table costs what
changed, versions share the arrays, and threads read them without locks while one thread puts. Entries are written
before heads name them, and nothing that was written changes, except heads: an older view goes back from them. A fence
between the two keeps that order on every processor; a reader's second address depends on what it read first, so it
needs none. A key that has no number yet is one without an entry. A view itself is handed over under a lock.
"""

import math
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.runtime.fence import release_fence
from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.hash_kernels import find, find_hashed, find_or_insert, hash32
from stream.tables.jit import kernel

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]  # zeros of a shape and type, as `cache_aligned`
ROOM_MIN: Final = 1_024
GROWTH: Final = 4  # room for this many times the rows that there are
MARKS: Final = 4  # bits a slot of `heads`
LATEST_MAX: Final = 1 << 18  # what's looked at for every pair of a page stays in a core's own cache
MISSING: Final = -1  # what `lookup` returns for a key without an entry
TOMBSTONE: Final = -2  # and for one whose newest entry removes it


class TableView(NamedTuple):
    """A base table and a view of the delta over it, as kernels read them.

    Kernels unpack it before they loop: each access to a field counts references.
    """

    base: U64  # u64[capacity, width]: slots as in `HashTable`
    heads: U64  # u64[capacity, 2]
    entries: U64  # u64[room, width]
    limit: int  # entries that the view sees
    marks: U64  # u64[capacity · MARKS / 64]


@kernel
def may_have_entry(marks: U64, hashed: np.uint64) -> bool:
    """False: no key of this `hash32` has an entry. True: perhaps one has."""
    bit = (hashed * np.uint64(64 * marks.shape[0])) >> np.uint64(32)
    return (marks[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1) != 0  # type: ignore[no-any-return]


@kernel
def _mark(marks: U64, keys: U64) -> None:
    for k in range(keys.shape[0]):
        bit = (hash32(keys[k]) * np.uint64(64 * marks.shape[0])) >> np.uint64(32)
        marks[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@kernel
def latest_of(latest: U32, hashed: np.uint64) -> Any:
    """The newest entry of any key with the same leading bits of `hash32`; 0: there is none."""
    return latest[(hashed * np.uint64(latest.shape[0])) >> np.uint64(32)]


@kernel
def _set_latest(latest: U32, keys: U64, count: int) -> None:
    for k in range(keys.shape[0]):
        latest[(hash32(keys[k]) * np.uint64(latest.shape[0])) >> np.uint64(32)] = np.uint32(count + k)


@kernel
def lookup_hashed(heads: U64, entries: U64, count: int, key: np.uint64, hashed: np.uint64) -> Any:
    """`lookup` of a key whose `hash32` is known."""
    head = find_hashed(heads, key, hashed)
    if head < 0:
        return np.int64(-1)
    entry = np.int64(heads[head, 1])
    while entry >= count:
        entry = np.int64(entries[entry, 0] >> np.uint64(1))
    if entry == 0:
        return np.int64(-1)
    return np.int64(-2) if entries[entry, 0] & np.uint64(1) else entry


@kernel
def lookup(heads: U64, entries: U64, count: int, key: np.uint64) -> Any:
    """Number of the key's newest entry in a view of `count` entries; MISSING or TOMBSTONE."""
    return lookup_hashed(heads, entries, count, key, hash32(key))


@kernel
def _write(heads: U64, entries: U64, count: int, keys: U64, columns: U64, tombstones: bool) -> None:
    for r in range(keys.shape[0]):
        head = find(heads, keys[r])
        before = heads[head, 1] if head >= 0 else np.uint64(0)
        entries[count + r, 0] = (before << np.uint64(1)) | np.uint64(tombstones)
        for c in range(columns.shape[1]):
            entries[count + r, 1 + c] = columns[r, c]


@kernel
def _set_heads(heads: U64, count: int, keys: U64, counts: I64) -> None:
    release_fence()  # entries and vectors were written
    for r in range(keys.shape[0]):
        heads[find_or_insert(heads, keys[r], counts), 1] = np.uint64(count + r)


@kernel
def _visible(heads: U64, entries: U64, count: int) -> tuple[U64, I64]:
    """Keys that a view has, and their entries; negative: a tombstone."""
    keys = np.empty(heads.shape[0], np.uint64)
    found = np.empty(heads.shape[0], np.int64)
    n = 0
    for h in range(heads.shape[0]):
        key = heads[h, 0]
        if key == np.uint64(0):
            continue
        entry = lookup(heads, entries, count, key)
        if entry != -1:
            keys[n], found[n] = key, entry
            n += 1
    return keys[:n], found[:n]


def cache_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint64) -> npt.NDArray[Any]:
    """Zeros from the start of a cache line: so no row of 2, 4 or 8 words spans two of them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    flat = np.zeros(size + 64, np.uint8)  # a page of memory is allocated when it's first written to
    skip = -flat.ctypes.data % 64
    return flat[skip : skip + size].view(dtype).reshape(shape)


class DeltaArrays(NamedTuple):
    """What a delta table consists of."""

    heads: U64
    entries: U64
    marks: U64
    latest: U32
    vectors: F32


def empty_delta(width: int, rows: int = 0, dim: int = 0, allocate: Allocate = cache_aligned) -> "DeltaTable":
    """A delta with room for more than `rows` rows of `width` columns (the link among them), and vectors of `dim`."""
    room = max(ROOM_MIN, GROWTH * rows)
    capacity = 1 << (2 * room - 1).bit_length()
    return DeltaTable(
        DeltaArrays(
            allocate((capacity, 2), np.uint64),
            allocate((room, width), np.uint64),
            allocate((capacity * MARKS // 64,), np.uint64),
            allocate((min(capacity, LATEST_MAX),), np.uint32),
            # Vectors are written before they're read: they needn't be zeros, where those cost time.
            np.empty((room, dim), np.float32) if allocate is cache_aligned else allocate((room, dim), np.float32),
        ),
        allocate,
    )


class DeltaTable:
    """Room for rows and vectors, in arrays of zeros from `allocate`, which compaction uses as well."""

    def __init__(self, arrays: DeltaArrays, allocate: Allocate = cache_aligned) -> None:
        self.arrays, self.allocate = arrays, allocate
        self.heads, self.entries, self.marks, self.latest, self.vectors = arrays
        (self.room, self.width), self.dim = self.entries.shape, self.vectors.shape[1]
        self.count = 1  # entries, the one that is none included
        self._counts = np.zeros(2, np.int64)
        self._lock = threading.Lock()

    def put(
        self, count: int, keys: U64, columns: U64, vectors: F32 | None = None, *, tombstones: bool = False
    ) -> int | None:
        """Put rows over those that a view of `count` entries sees; returns the count of a view that has them, too.

        None when there is no room, or when another put followed that view: then `compacted` makes a new delta.
        `keys` uint64 [n] without 0, `columns` uint64 [n, width − 1], `vectors` float32 [n, dim]; of equal keys the
        last one counts.
        """
        with self._lock:
            if count != self.count or count + len(keys) > self.room:
                return None
            if vectors is not None:
                self.vectors[count : count + len(keys)] = vectors
            _mark(self.marks, keys)
            _set_latest(self.latest, keys, count)
            _write(self.heads, self.entries, count, keys, columns, tombstones)
            _set_heads(self.heads, count, keys, self._counts)
            self.count = count + len(keys)
            return self.count

    def compacted(self, count: int, extra: int = 0) -> "DeltaTable":
        """A new delta with what a view of `count` entries sees, one row a key, and room for `extra` more and growth."""
        keys, entries = _visible(self.heads, self.entries, count)
        compact = empty_delta(self.width, len(keys) + extra, self.dim, self.allocate)
        for tombstones in (False, True):
            those = (entries < 0) == tombstones
            chosen = np.where(those, entries, 0)[those]
            vectors = self.vectors[chosen] if self.dim else None
            put = compact.put(compact.count, keys[those], self.entries[chosen, 1:], vectors, tombstones=tombstones)
            assert put is not None, "there is room"
        return compact
