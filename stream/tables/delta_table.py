"""Rows laid over a big table that never changes: it only grows, and whoever holds a view sees what was there then.

`heads`, uint64 [capacity, 2]: key → number of its newest entry. `entries`, uint64 [room, width]: in column 0 the
number of the key's entry before it (shifted by one; the low bit: the row is gone), then the row's own columns.
`marks`: a bit for what a key's hash begins with, set when any such key was put: few keys of a big table have an entry,
and the others are told from these by what stays in a core's own cache. `latest`, uint32 [at most LATEST_MAX]:
by the same beginning, the newest entry that was put.
`vectors`, float32 [room, dim]: what belongs to an entry and isn't a row. Entry 0 is none.

A view is a count of entries: what was put later is invisible to it. So the next version of a table costs what
changed, versions share the arrays, and threads read them without locks while one thread puts. Entries are written
before heads name them, and nothing that was written changes, but for heads: an older view goes back from them.
"""

import math
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.tables.hash_kernels import find, find_hashed, hash32, place
from stream.tables.hash_table import U32, U64
from stream.tables.jit import kernel

F32 = npt.NDArray[np.float32]
Take = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]  # zeros of a shape and type, as `lines`
ROOM_MIN: Final = 1_024
GROWTH: Final = 4  # room for so many times the rows that there are
MARKS: Final = 4  # bits a slot of `heads`
LATEST_MAX: Final = 1 << 18  # what's looked at for every pair of a page stays in a core's own cache
NONE: Final = -1  # what `seen` says of a key that isn't there
GONE: Final = -2  # and of one whose row is gone


class Rows(NamedTuple):
    """A table as kernels read it: `base` slots as in `Table`, and a view of what lies over them.

    Kernels take it apart before they loop: each look at a field counts references.
    """

    base: U64
    heads: U64
    entries: U64
    limit: int  # entries that the view sees
    marks: U64


@kernel
def marked(marks: Any, hashed: Any) -> Any:
    """False: no key of this `hash32` has an entry. True: perhaps one has."""
    bit = (hashed * np.uint64(64 * marks.shape[0])) >> np.uint64(32)
    return (marks[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1) != 0


@kernel
def _mark(marks: Any, keys: Any) -> None:
    for k in range(keys.shape[0]):
        bit = (hash32(keys[k]) * np.uint64(64 * marks.shape[0])) >> np.uint64(32)
        marks[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@kernel
def latest_of(latest: Any, hashed: Any) -> Any:
    """The newest entry of any key whose `hash32` begins as this one; 0: there is none."""
    return latest[(hashed * np.uint64(latest.shape[0])) >> np.uint64(32)]


@kernel
def _note(latest: Any, keys: Any, count: Any) -> None:
    for k in range(keys.shape[0]):
        latest[(hash32(keys[k]) * np.uint64(latest.shape[0])) >> np.uint64(32)] = np.uint32(count + k)


@kernel
def seen_hashed(heads: Any, entries: Any, count: Any, key: Any, hashed: Any) -> Any:
    """`seen` of a key whose `hash32` is known."""
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
def seen(heads: Any, entries: Any, count: Any, key: Any) -> Any:
    """Number of the entry in which a view of `count` entries has the key; NONE or GONE."""
    return seen_hashed(heads, entries, count, key, hash32(key))


@kernel
def _write(heads: Any, entries: Any, count: Any, keys: Any, columns: Any, gone: Any) -> None:
    for r in range(keys.shape[0]):
        head = find(heads, keys[r])
        before = heads[head, 1] if head >= 0 else np.uint64(0)
        entries[count + r, 0] = (before << np.uint64(1)) | np.uint64(gone)
        for c in range(columns.shape[1]):
            entries[count + r, 1 + c] = columns[r, c]


@kernel
def _name(heads: Any, count: Any, keys: Any, counts: Any) -> None:
    for r in range(keys.shape[0]):
        heads[place(heads, keys[r], counts), 1] = np.uint64(count + r)


@kernel
def _visible(heads: Any, entries: Any, count: Any) -> Any:
    """Keys that a view has, and the entries that it has them in; negative: gone."""
    keys = np.empty(heads.shape[0], np.uint64)
    held = np.empty(heads.shape[0], np.int64)
    found = 0
    for h in range(heads.shape[0]):
        key = heads[h, 0]
        if key == np.uint64(0):
            continue
        entry = seen(heads, entries, count, key)
        if entry != -1:
            keys[found], held[found] = key, entry
            found += 1
    return keys[:found], held[:found]


def lines(shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint64) -> npt.NDArray[Any]:
    """Zeros from the start of a cache line: so no row of 2, 4 or 8 words lies in two of them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    flat = np.zeros(size + 64, np.uint8)  # a page of memory is taken when it's first written to
    skip = -flat.ctypes.data % 64
    return flat[skip : skip + size].view(dtype).reshape(shape)


class Arrays(NamedTuple):
    """What an overlay consists of."""

    heads: U64
    entries: U64
    marks: U64
    latest: U32
    vectors: F32


def room_for(width: int, rows: int = 0, dim: int = 0, take: Take = lines) -> "Overlay":
    """An empty overlay for more than so many rows of `width` columns (the link among them), and vectors of `dim`."""
    room = max(ROOM_MIN, GROWTH * rows)
    capacity = 1 << (2 * room - 1).bit_length()
    return Overlay(
        Arrays(
            take((capacity, 2), np.uint64),
            take((room, width), np.uint64),
            take((capacity * MARKS // 64,), np.uint64),
            take((min(capacity, LATEST_MAX),), np.uint32),
            # What isn't written isn't read: it needn't be zeros, where those cost time.
            np.empty((room, dim), np.float32) if take is lines else take((room, dim), np.float32),
        ),
        take,
    )


class Overlay:
    """Room for rows and vectors, in arrays of zeros that `take` gave, which folds ask for others, too."""

    def __init__(self, arrays: Arrays, take: Take = lines) -> None:
        self.arrays, self.take = arrays, take
        self.heads, self.entries, self.marks, self.latest, self.vectors = arrays
        (self.room, self.width), self.dim = self.entries.shape, self.vectors.shape[1]
        self.count = 1  # entries, the one that is none included
        self._counts = np.zeros(2, np.int64)
        self._lock = threading.Lock()

    def put(self, count: int, keys: U64, columns: U64, vectors: F32 | None = None, *, gone: bool = False) -> int | None:
        """Lay rows over those that a view of `count` entries sees; returns the count of a view that has them, too.

        None when there is no room, or when someone else went on from that view: then `folded` makes another.
        `keys` uint64 [n] without 0, `columns` uint64 [n, width − 1], `vectors` float32 [n, dim]; a later one of
        equal keys counts.
        """
        with self._lock:
            if count != self.count or count + len(keys) > self.room:
                return None
            if vectors is not None:
                self.vectors[count : count + len(keys)] = vectors
            _mark(self.marks, keys)
            _note(self.latest, keys, count)
            _write(self.heads, self.entries, count, keys, columns, gone)
            _name(self.heads, count, keys, self._counts)
            self.count = count + len(keys)
            return self.count

    def folded(self, count: int, extra: int = 0) -> "Overlay":
        """Another with what a view of `count` entries sees, a row a key, and room for `extra` and as many again."""
        keys, entries = _visible(self.heads, self.entries, count)
        fresh = room_for(self.width, len(keys) + extra, self.dim, self.take)
        for gone in (False, True):
            those = (entries < 0) == gone
            chosen = np.where(those, entries, 0)[those]
            vectors = self.vectors[chosen] if self.dim else None
            put = fresh.put(fresh.count, keys[those], self.entries[chosen, 1:], vectors, gone=gone)
            assert put is not None, "there is room"
        return fresh
