"""Embedding rows for ids: given at the `min_count`-th sighting in the stream, used again when their id is forgotten.

A row's vector and AdaGrad sums lie side by side, [vector | sums], so that a step waits for memory once. Arrays are
as long as `max_rows` from the start: the system gives memory to a page of them when it's first written, so growing
never copies. Row 0 is the vector of all ids that have no row.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.features.encoder import I64
from stream.features.page_features import F32
from stream.runtime.errors import SpecError
from stream.tables.hash_kernels import AHEAD, fetch, find, home, mix, place
from stream.tables.hash_table import U64, Table, distinct
from stream.tables.jit import kernel

WIDTH: Final = 4  # key; row (0: none yet), sightings, event time of the newest (ms)
EMBEDDING_INIT: Final = 0.02
SWEEP_EXAMPLES: Final = 4_096  # between two looks at what may be forgotten, at least
SWEEP_KEYS: Final = 16  # ... and one per so many keys, so that looking costs an example the same at any size
FULL, ROOMY = 15 / 16, 7 / 8  # shares of `max_rows`: over the one, rows are taken back until the other
ROWS, FREE, FRESH = 0, 1, 2  # places in `counts`
CHANGED, GIVEN = 1, 2  # in `touched`: since the last publish the row was trained, or another id got it


class VocabularyState(NamedTuple):
    """What kernels work on. `held` [max_rows + 1, 2·dim]; `keys` the id of each row; `free` and `fresh` are stacks."""

    slots: U64
    table_counts: I64
    counts: I64
    held: F32
    keys: U64
    touched: npt.NDArray[np.uint8]
    fresh: I64
    free: I64
    min_count: int


class Vocabulary:
    """Rows for ids. Raises SpecError when there's no address space for `max_rows`."""

    def __init__(self, dim: int, min_count: int, max_rows: int, expire_ms: int = 0) -> None:
        self.dim, self.min_count, self.max_rows, self.expire_ms = dim, min_count, max_rows, expire_ms
        self.table = Table(WIDTH, tracked=False)
        try:
            self.held: F32 = np.zeros((max_rows + 1, 2 * dim), np.float32)
            self.keys: U64 = np.zeros(max_rows + 1, np.uint64)
            self.touched = np.zeros(max_rows + 1, np.uint8)  # rows: CHANGED since the last publish, or GIVEN
            self.fresh: I64 = np.zeros(max_rows + 1, np.int64)  # those rows, in order
        except MemoryError:
            raise SpecError(
                f"no room for {max_rows} embedding rows of {dim}: set deep.max_rows to what this machine can hold"
            ) from None
        self.free: I64 = np.zeros(0, np.int64)  # rows to be used again, last first
        self.counts: I64 = np.array([1, 0, 0], np.int64)
        self.forgotten = self.forgotten_waiting = 0  # ids with a row, and without
        self.gone: list[U64] = []  # published ids that lost their row since: never more than rows

    @property
    def rows(self) -> int:
        """How many rows were ever given, that of unseen ids included."""
        return int(self.counts[ROWS])

    @property
    def vectors(self) -> F32:
        """The vectors of all rows, [rows, dim]: a view."""
        return self.held[: self.rows, : self.dim]

    @property
    def squares(self) -> F32:
        """AdaGrad's sums of all rows, [rows, dim]: a view."""
        return self.held[: self.rows, self.dim :]

    def __len__(self) -> int:
        """Rows in use."""
        return int(self.counts[ROWS] - self.counts[FREE])

    @property
    def used(self) -> int:
        """Ids with a row."""
        return len(self) - 1

    @property
    def waiting(self) -> int:
        """Ids without a row whose sightings are counted."""
        return len(self.table) - self.used

    @property
    def crowded(self) -> bool:
        """Do rows or waiting ids come near `max_rows`? A `sweep` makes room then."""
        return max(self.used, self.waiting) > FULL * self.max_rows

    def prepare(self, ids: U64) -> VocabularyState:
        """Room for these ids; what it returns holds until the next `prepare` or `sweep`."""
        self.table.reserve_for(ids)
        return VocabularyState(self.table.slots, self.table.counts, self.counts, self.held, self.keys, self.touched,
                               self.fresh, self.free, self.min_count)  # fmt: skip

    def rows_of(self, ids: U64) -> I64:
        """Row of each id; 0 for those without one."""
        return self.table.rows_of(ids)[:, 1].astype(np.int64)

    def count(self, ids: U64, time_ms: int = 0) -> None:
        """These ids were seen in the stream, in this order."""
        count_sightings(self.prepare(ids), ids, np.full(len(ids), -1, np.int64), time_ms)

    def sweep_every(self) -> int:
        """Examples between two looks at what has expired: a power of two, and a function of the state alone."""
        every = SWEEP_EXAMPLES
        while every * SWEEP_KEYS < len(self.table):
            every *= 2
        return every

    def sweep(self, now_ms: int) -> None:
        """Forget ids that weren't seen for `expire_ms`, and make room when rows or waiting ids come near `max_rows`.

        Then those go that were not seen for longest, of one time those of the least ids, which are hashes.
        """
        if not self.expire_ms and not self.crowded:
            return
        rows = self.table.rows()
        seen, has_row = rows[:, 3], rows[:, 1] != 0
        old = seen + np.uint64(self.expire_ms) < np.uint64(now_ms) if self.expire_ms else np.zeros(len(rows), np.bool_)
        for those in (has_row, ~has_row):
            if np.count_nonzero(those) > FULL * self.max_rows:
                left = np.flatnonzero(those & ~old)
                old[left[_oldest(rows[left], len(left) - int(ROOMY * self.max_rows))]] = True
        self._forget(rows[old])

    def _forget(self, rows: U64) -> None:
        """Take these rows of the table out, and their embedding rows back."""
        self.table.drop(rows[:, 0].copy())
        lost = rows[rows[:, 1] != 0]
        taken = np.sort(lost[:, 1].astype(np.int64))[::-1]
        self.keys[taken] = 0
        self.free = np.concatenate([self.free[: self.counts[FREE]], taken])
        self.counts[FREE] = len(self.free)
        self.forgotten += len(taken)
        self.forgotten_waiting += len(rows) - len(taken)
        known = self.touched[lost[:, 1].astype(np.int64)] != GIVEN  # of the others nobody was ever told
        self.gone.append(np.sort(lost[known, 0]))

    def free_rows(self) -> I64:
        """Rows to be used again, last first."""
        return self.free[: self.counts[FREE]].copy()

    def restore(self, rows: U64, held: F32, free: I64) -> None:
        """Be the vocabulary that had these rows of its table, embedding rows and free rows. Raises ValueError."""
        if rows.ndim != 2 or rows.shape[1] != WIDTH or held.ndim != 2 or held.shape[1] != 2 * self.dim:
            raise ValueError(f"a vocabulary of shapes {rows.shape} and {held.shape}")
        self.table = Table(WIDTH, len(rows), tracked=False)
        self.table.put(rows)
        self.held[: len(held)] = held
        given = rows[rows[:, 1] != 0]
        self.keys[given[:, 1].astype(np.int64)] = given[:, 0]
        self.free = free.copy()
        self.counts[:] = len(held), len(free), 0

    def take_changed(self) -> U64:
        """Ids whose rows changed, or are gone, since the last call; 0 stands for the row of unseen ids."""
        rows = self.changed_rows()
        self.touched[rows] = 0
        self.counts[FRESH] = 0
        keys = self.keys[rows]
        gone, self.gone = self.gone, []
        return distinct(np.concatenate([keys[(keys != 0) | (rows == 0)], *gone]))

    def changed_rows(self) -> I64:
        """Rows that changed since the last `take_changed`, in order of their first change."""
        return self.fresh[: self.counts[FRESH]].copy()

    def live(self) -> I64:
        """Rows in use, that of unseen ids first."""
        used = self.keys[: self.rows] != 0
        used[0] = True
        return np.flatnonzero(used)

    def mark(self, rows: I64) -> None:
        """These rows changed."""
        touch_rows(rows, self.touched, self.fresh, self.counts)


def _oldest(rows: U64, count: int) -> I64:
    """Which `count` rows of the table go first; none when it isn't positive."""
    if count <= 0:
        return np.zeros(0, np.int64)
    seen = rows[:, 3]
    last = np.partition(seen, count - 1)[count - 1]
    older, same = np.flatnonzero(seen < last), np.flatnonzero(seen == last)
    places: I64 = np.concatenate([older, same[np.argsort(rows[same, 0])[: count - len(older)]]])
    return places


@kernel
def touch_row(row: Any, touched: Any, fresh: Any, counts: Any) -> None:
    """Note that a row changed since the last publish."""
    if touched[row] == 0:
        touched[row] = CHANGED
        fresh[counts[2]] = row
        counts[2] += 1


@kernel
def touch_rows(rows: Any, touched: Any, fresh: Any, counts: Any) -> None:
    """Note that these rows changed since the last publish."""
    for i in range(rows.shape[0]):
        touch_row(rows[i], touched, fresh, counts)


@kernel
def look_up(slots: Any, ids: Any, places: Any, rows: Any) -> None:
    """Each id's place in the table (−1: none) and its embedding row (0: none)."""
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            fetch(slots, home(slots, ids[i + AHEAD]))
        places[i] = find(slots, ids[i])
    for i in range(ids.shape[0]):
        rows[i] = np.int64(slots[places[i], 1]) if places[i] >= 0 else 0


@kernel
def count_sightings(vocabulary: Any, ids: Any, places: Any, time_ms: Any) -> None:
    """Count ids, seen at this event time; `places` as `look_up` found them.

    A new row starts at a hash of its id: uniform in ±EMBEDDING_INIT. While no row is left, ids wait for one.
    """
    slots, counts, held = vocabulary.slots, vocabulary.counts, vocabulary.held
    dim = held.shape[1] // 2
    time = np.uint64(max(0, time_ms))
    for i in range(ids.shape[0]):
        at = places[i] if places[i] >= 0 else place(slots, ids[i], vocabulary.table_counts)
        slots[at, 2] += np.uint64(1)
        slots[at, 3] = max(slots[at, 3], time)
        if slots[at, 1] != 0 or slots[at, 2] < np.uint64(vocabulary.min_count):
            continue
        if counts[1] > 0:
            counts[1] -= 1
            row = vocabulary.free[counts[1]]
        elif counts[0] < held.shape[0]:
            row = counts[0]
            counts[0] += 1
        else:
            continue
        slots[at, 1] = np.uint64(row)
        vocabulary.keys[row] = ids[i]
        touch_row(row, vocabulary.touched, vocabulary.fresh, counts)
        vocabulary.touched[row] = GIVEN
        for c in range(dim):
            h = mix(ids[i], np.uint64(c + 1))
            held[row, c] = np.float32((np.float64(h >> np.uint64(11)) / 4503599627370496.0 - 1.0) * EMBEDDING_INIT)
            held[row, dim + c] = np.float32(0.0)
