"""Which keys of a table go: those that weren't seen for long, and over a bound those that weren't seen for longest.

A sweep goes along hashes, not slots, and its place is part of the checkpoint: so a table that was restored with
another layout loses the same keys at the same record. When a key was last seen is a number of the table's
`seen` (seconds of event time), or, in a table without, float64 column 3 (ms), as statistics have it.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.tables.hash_kernels import GONE, hash32
from stream.tables.hash_table import U32, U64, Table
from stream.tables.jit import kernel

I64 = npt.NDArray[np.int64]
RANGE: Final = 1 << 32  # of hashes
SAMPLE: Final = 1 << 26  # hashes below it are a fair sample of a table with more than
SAMPLE_KEYS_MIN: Final = 65_536
FULL, KEPT = 7 / 8, 3 / 4  # shares of the bound: where a round begins, what it leaves
ROUND: Final = 1 - FULL  # share of the bound by which a table may grow while a round lasts
LAZY: Final = 4  # a table that only expires is swept once while it's asked for so many times its keys
EXPIRED, EVICTED = 0, 1  # places in `tally`
NO_LIVES: Final[U32] = np.zeros(0, np.uint32)


class Sweep:
    """Takes keys out of a table. `lives_s`: how long a key outlives its last sighting, by its low byte − 1; 0: ever.

    `tally` int64 [2]: how many expired, how many the bound took.
    """

    def __init__(self, keys_max: int, lives_s: U32 = NO_LIVES) -> None:
        self.keys_max = keys_max
        self.lives_s = lives_s if lives_s.any() else NO_LIVES
        self.now_s = 0  # greatest event time so far
        self.tally: I64 = np.zeros(2, np.int64)
        self._at = 0  # hashes below were swept last
        self._left = 0  # hashes that the bound's round has still to sweep
        self._floor = 0  # what was seen before goes in this round: seconds · 2^32 + hash

    def state(self) -> U64:
        """All but the table, to be kept. uint64 [6]."""
        return np.array([self.now_s, self._at, self._left, self._floor, *self.tally], np.uint64)

    def restore(self, state: U64) -> None:
        """Go on as the one whose `state` this was."""
        self.now_s, self._at, self._left, self._floor, *tally = state.tolist()
        self.tally[:] = tally

    def step(self, table: Table, keys: int, time_ms: int) -> None:
        """Before a record with so many keys is learned: event time, and a part of the sweep in proportion.

        The table ends within `keys_max`, or a single record's keys above it.
        """
        self.now_s = max(self.now_s, time_ms // 1_000)
        if not self._left and len(table) + keys > FULL * self.keys_max:
            self._floor, self._left = self._floor_now(table), RANGE
        span = RANGE * keys // (LAZY * max(1, len(table))) if len(self.lives_s) else 0
        if self._left:
            span = min(self._left, max(span, RANGE * keys // max(1, round(ROUND * self.keys_max))))
            self._left -= span
        span = min(RANGE, span)
        for first, last in ((self._at, min(RANGE, self._at + span)), (0, max(0, self._at + span - RANGE))):
            if last > first:
                self._sweep(table, first, last)
        self._at = (self._at + span) % RANGE
        if not self._left:
            self._floor = 0

    def _sweep(self, table: Table, first: int, last: int) -> None:
        for slots, seen in ((table.slots, table.seen), (table.old, table.old_seen)):
            dead, expired = _dead(slots, seen, first, last, self.now_s, self.lives_s, np.uint64(self._floor))
            if len(dead):
                table.drop(dead)
                self.tally += expired, len(dead) - expired

    def _floor_now(self, table: Table) -> int:
        """Below it are as many as have to go."""
        last = SAMPLE if len(table) * SAMPLE > SAMPLE_KEYS_MIN * RANGE else RANGE
        layers = ((table.slots, table.seen), (table.old, table.old_seen))
        orders = np.concatenate([_orders(slots, seen, last) for slots, seen in layers])
        rank = len(orders) - int(len(orders) * KEPT * self.keys_max / max(1, len(table)))
        return int(np.partition(orders, rank)[rank]) if 0 < rank < len(orders) else 0


@kernel
def _order(slots: Any, values: Any, seen: Any, row: Any) -> Any:
    """Keys in the order of their last sighting, those of one second by hash. uint64."""
    second = np.uint64(seen[row]) if seen.shape[0] else np.uint64(values[row, 3] / 1000.0)
    return (second << np.uint64(32)) | hash32(slots[row, 0])


@kernel
def _reach(slots: Any, first: Any, last: Any) -> Any:
    """Where rows of hashes first:last lie: from a slot to before another (past the end: around it)."""
    capacity = slots.shape[0]
    start = (first * capacity) >> 32
    stop = (((last - 1) * capacity) >> 32) + 1
    while stop < start + capacity and slots[stop & (capacity - 1), 0] != np.uint64(0):
        stop += 1
    return start, stop


@kernel
def _dead(slots: Any, seen: Any, first: Any, last: Any, now_s: Any, lives_s: Any, floor: Any) -> Any:
    """Keys of hashes first:last that have to go, and how many of them because they expired."""
    values = slots.view(np.float64)
    start, stop = _reach(slots, first, last)
    dead = np.empty(stop - start, np.uint64)
    count = expired = 0
    for i in range(start, stop):
        row = i & (slots.shape[0] - 1)
        key = slots[row, 0]
        if key == np.uint64(0) or key == GONE or not first <= np.int64(hash32(key)) < last:
            continue
        life = np.int64(lives_s[np.int64(key & np.uint64(255)) - 1]) if lives_s.shape[0] else 0
        old = life > 0 and now_s - np.int64(seen[row]) > life
        if old or _order(slots, values, seen, row) < floor:
            dead[count] = key
            count += 1
            if old:
                expired += 1
    return dead[:count], expired


@kernel
def _orders(slots: Any, seen: Any, last: Any) -> Any:
    """Orders of the keys whose hash is below `last`."""
    values = slots.view(np.float64)
    start, stop = _reach(slots, 0, last)
    orders = np.empty(stop - start, np.uint64)
    count = 0
    for i in range(start, stop):
        row = i & (slots.shape[0] - 1)
        key = slots[row, 0]
        if key != np.uint64(0) and key != GONE and np.int64(hash32(key)) < last:
            orders[count] = _order(slots, values, seen, row)
            count += 1
    return orders[:count]
