"""Rows laid over a big table that never changes: it only grows, and whoever holds a view sees what was there then.

`heads`, uint64 [capacity, 2]: key → number of its newest entry. `entries`, uint64 [room, width]: in column 0 the
number of the key's entry before it (shifted by one; the low bit: the row is gone), then the row's own columns.
`marks`: a bit for what a key's hash begins with, set when any such key was put: few keys of a big table have an entry,
and the others are told from these by what stays in a core's own cache. `latest`, uint32 [capacity]: by the same
beginning, the newest entry that was put.
`vectors`, float32 [room, dim]: what belongs to an entry and isn't a row. Entry 0 is none.

A view is a count of entries: what was put later is invisible to it. So the next version of a table costs what
changed, versions share the arrays, and threads read them without locks while one thread puts. Entries are written
before heads name them, and nothing that was written changes, but for heads: an older view goes back from them.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.table import U64, find, find_hashed, hash32, kernel, place

F32 = npt.NDArray[np.float32]
ROOM_MIN: Final = 1_024
PIECE: Final = 2_048  # rows laid down at once: a fraction of a millisecond
HEADS: Final = 8_192  # heads looked at in one piece
BREATH_S: Final = 1e-4
REST: Final = 4.0  # after a piece, times what it took: a fifth of a core is taken
NICE: Final = 10  # a tenth of the weight of other threads
GROWTH: Final = 4  # room for so many times the rows that there are
MARKS: Final = 4  # bits a slot of `heads`
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
def _visible(heads: Any, entries: Any, count: Any, first: Any, last: Any) -> Any:
    """Keys of heads[first:last] that a view has, and the entries that it has them in; negative: gone."""
    keys = np.empty(last - first, np.uint64)
    held = np.empty(last - first, np.int64)
    found = 0
    for h in range(first, last):
        key = heads[h, 0]
        if key == np.uint64(0):
            continue
        entry = seen(heads, entries, count, key)
        if entry != -1:
            keys[found], held[found] = key, entry
            found += 1
    return keys[:found], held[:found]


def lines(rows: int, width: int) -> U64:
    """Zeros, uint64 [rows, width], from the start of a cache line: so no row of 2, 4 or 8 lies in two of them."""
    flat = np.zeros(rows * width + 8, np.uint64)  # a page of memory is taken when it's first written to
    skip = -flat.ctypes.data % 64 // 8
    return flat[skip : skip + rows * width].reshape(rows, width)


def pieces(count: int, most: int, rest: float = REST) -> Iterator[tuple[int, int]]:
    """Spans of at most `most` that make up `count`, and after each a rest, `rest` times as long as it took to compute.

    Whoever lays down many rows takes a core from threads that answer somebody: so it takes a small share of one.
    """
    begun_s = 0.0
    for first in range(0, count, most):
        if first:
            time.sleep(max(BREATH_S, rest * (time.thread_time() - begun_s)))
        begun_s = time.thread_time()
        yield first, min(first + most, count)


def stand_back() -> None:
    """Let this thread go behind others, where the system can tell threads apart: they answer somebody."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Overlay:
    """Room for so many rows of `width` columns (the link among them), and vectors of `dim` numbers."""

    def __init__(self, width: int, rows: int = 0, dim: int = 0) -> None:
        self.width, self.dim = width, dim
        self.room = max(ROOM_MIN, GROWTH * rows)
        capacity = 1 << (2 * self.room - 1).bit_length()
        self.heads, self.entries = lines(capacity, 2), lines(self.room, width)
        self.marks: U64 = np.zeros(capacity * MARKS // 64, np.uint64)
        self.latest: npt.NDArray[np.uint32] = np.zeros(capacity, np.uint32)
        self.vectors: F32 = np.empty((self.room, dim), np.float32)
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
        spans = pieces(len(self.heads), HEADS)
        found = [_visible(self.heads, self.entries, count, first, last) for first, last in spans]
        fresh = Overlay(self.width, sum(len(keys) for keys, _ in found) + extra, self.dim)
        for at, _ in pieces(len(found), 1):
            keys, entries = found[at]
            for gone in (False, True):
                those = (entries < 0) == gone
                chosen = np.where(those, entries, 0)[those]
                vectors = self.vectors[chosen] if self.dim else None
                put = fresh.put(fresh.count, keys[those], self.entries[chosen, 1:], vectors, gone=gone)
                assert put is not None, "there is room"
        return fresh
