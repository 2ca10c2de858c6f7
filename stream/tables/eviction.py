"""Which keys of a table are evicted: expired ones, and over a bound the least recently seen.

Eviction goes along hashes, not slots, and its position is part of the checkpoint: so a table that was restored with
another layout loses the same keys at the same record. When a key was last seen is in the table's `last_seen`
(seconds of event time), or, in a table without it, in float64 column 3 (ms), as for statistics.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from stream.tables.dtypes import I64, U32, U64
from stream.tables.hash_kernels import MOVED, hash32
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

RANGE: Final = 1 << 32  # of hashes
SAMPLE: Final = 1 << 26  # hashes below it are a fair sample of a table with more than
SAMPLE_KEYS_MIN: Final = 65_536
FULL, TARGET = 7 / 8, 3 / 4  # shares of the bound: at which a round begins, which it leaves
ROUND: Final = 1 - FULL  # share of the bound by which a table may grow while a round lasts
EXPIRY_PACE: Final = 4  # a table that only expires is scanned once while learning looks up this many times its keys
EXPIRED, EVICTED = 0, 1  # indices into `tally`
NO_LIFETIMES: Final[U32] = np.zeros(0, np.uint32)


class Evictor:
    """Evicts keys from a table. `lifetimes_s`: time from a key's last sighting to its expiry, by its low byte − 1;
    0: it never expires.

    `tally` int64 [2]: how many expired, how many were evicted over the bound.
    """

    def __init__(self, keys_max: int, lifetimes_s: U32 = NO_LIFETIMES) -> None:
        self.keys_max = keys_max
        self.lifetimes_s = lifetimes_s if lifetimes_s.any() else NO_LIFETIMES
        self.now_s = 0  # greatest event time so far
        self.tally: I64 = np.zeros(2, np.int64)
        self._next_hash = 0  # hashes below were scanned last
        self._remaining = 0  # hashes that the bound's round has still to scan
        self._floor = 0  # what was last seen before is evicted in this round: seconds · 2^32 + hash

    def state(self) -> U64:
        """All but the table, for a checkpoint. uint64 [6]."""
        return np.array([self.now_s, self._next_hash, self._remaining, self._floor, *self.tally], np.uint64)

    def restore(self, state: U64) -> None:
        """Go on as the one whose `state` this was."""
        self.now_s, self._next_hash, self._remaining, self._floor, *tally = state.tolist()
        self.tally[:] = tally

    def is_quiet(self, table: HashTable, keys: int) -> bool:
        """Whether `keys` more keys, in whatever steps, are added without a scan."""
        return not (self._remaining or len(self.lifetimes_s) or len(table) + keys > FULL * self.keys_max)

    def step(self, table: HashTable, keys: int, time_ms: int) -> None:
        """Before a record of `keys` keys is learned: advance event time, and scan a share of the table in proportion.

        The table ends within `keys_max`, or a single record's keys above it.
        """
        self.now_s = max(self.now_s, time_ms // 1_000)
        if not self._remaining and len(table) + keys > FULL * self.keys_max:
            self._floor, self._remaining = self._floor_now(table), RANGE
        if not self._remaining and not len(self.lifetimes_s):
            return
        span = RANGE * keys // (EXPIRY_PACE * max(1, len(table))) if len(self.lifetimes_s) else 0
        if self._remaining:
            span = min(self._remaining, max(span, RANGE * keys // max(1, round(ROUND * self.keys_max))))
            self._remaining -= span
        span = min(RANGE, span)
        end = self._next_hash + span
        for first, last in ((self._next_hash, min(RANGE, end)), (0, max(0, end - RANGE))):
            if last > first:
                self._evict_range(table, first, last)
        self._next_hash = end % RANGE
        if not self._remaining:
            self._floor = 0

    def _evict_range(self, table: HashTable, first: int, last: int) -> None:
        layers = ((table.slots, table.last_seen), (table.old, table.old_last_seen))
        for slots, last_seen in layers if table.moved < len(table.old) else layers[:1]:
            evicted, expired = _to_evict(
                slots, last_seen, first, last, self.now_s, self.lifetimes_s, np.uint64(self._floor)
            )
            if len(evicted):
                table.remove(evicted)
                self.tally += expired, len(evicted) - expired

    def _floor_now(self, table: HashTable) -> int:
        """The cutoff recency: keys below it are evicted."""
        last = SAMPLE if len(table) * SAMPLE > SAMPLE_KEYS_MIN * RANGE else RANGE
        layers = ((table.slots, table.last_seen), (table.old, table.old_last_seen))
        recencies = np.concatenate([_recencies(slots, last_seen, last) for slots, last_seen in layers])
        rank = len(recencies) - int(len(recencies) * TARGET * self.keys_max / max(1, len(table)))
        return int(np.partition(recencies, rank)[rank]) if 0 < rank < len(recencies) else 0


@kernel
def _recency(slots: U64, values: npt.NDArray[np.float64], last_seen: U32, row: int) -> np.uint64:
    """Orders keys by their last sighting, those of one second by hash."""
    second = np.uint64(last_seen[row]) if last_seen.shape[0] else np.uint64(values[row, 3] / 1000.0)
    return (second << np.uint64(32)) | hash32(slots[row, 0])


@kernel
def _slots_of(slots: U64, first: int, last: int) -> tuple[int, int]:
    """First and past-last slot of the rows of hashes first:last; slots past the table's end wrap around."""
    capacity = slots.shape[0]
    start = (first * capacity) >> 32
    stop = (((last - 1) * capacity) >> 32) + 1
    while stop < start + capacity and slots[stop & (capacity - 1), 0] != np.uint64(0):
        stop += 1
    return start, stop


@kernel
def _to_evict(
    slots: U64, last_seen: U32, first: int, last: int, now_s: int, lifetimes_s: U32, floor: np.uint64
) -> tuple[U64, int]:
    """Keys of hashes first:last that have to be evicted, and how many of them because they expired."""
    values = slots.view(np.float64)
    start, stop = _slots_of(slots, first, last)
    evicted = np.empty(stop - start, np.uint64)
    count = expired = 0
    for i in range(start, stop):
        row = i & (slots.shape[0] - 1)
        key = slots[row, 0]
        if key == np.uint64(0) or key == MOVED or not first <= np.int64(hash32(key)) < last:
            continue
        lifetime = np.int64(lifetimes_s[np.int64(key & np.uint64(255)) - 1]) if lifetimes_s.shape[0] else 0
        old = lifetime > 0 and now_s - np.int64(last_seen[row]) > lifetime
        if old or _recency(slots, values, last_seen, row) < floor:
            evicted[count] = key
            count += 1
            if old:
                expired += 1
    return evicted[:count], expired


@kernel
def _recencies(slots: U64, last_seen: U32, last: int) -> U64:
    """Recencies u64[n] of the keys whose hash is below `last`."""
    values = slots.view(np.float64)
    start, stop = _slots_of(slots, 0, last)
    recencies = np.empty(stop - start, np.uint64)
    count = 0
    for i in range(start, stop):
        row = i & (slots.shape[0] - 1)
        key = slots[row, 0]
        if key != np.uint64(0) and key != MOVED and np.int64(hash32(key)) < last:
            recencies[count] = _recency(slots, values, last_seen, row)
            count += 1
    return recencies[:count]
