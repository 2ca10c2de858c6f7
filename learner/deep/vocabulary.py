"""Embedding rows for ids: assigned at the `min_count`-th sighting in the stream, reused when their id is evicted.

A row's vector and AdaGrad sums lie side by side, [vector | sums], so a step waits for memory once. Arrays have
`max_rows` rows from the start: the system allocates a page when it's first written, so growing never copies. Row 0 is
the vector of all ids without a row.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.runtime.errors import SpecError
from stream.tables.dtypes import F32, I64, U64
from stream.tables.hash_kernels import AHEAD, find, find_or_insert, home, mix, prefetch_row
from stream.tables.hash_table import HashTable, distinct
from stream.tables.jit import kernel

WIDTH: Final = 4  # key; row (0: none yet), sightings, event time of the newest (ms)
EMBEDDING_INIT: Final = 0.02
EVICT_EXAMPLES: Final = 4_096  # between two evictions, at least
EVICT_KEYS: Final = 16  # ... and one example per this many keys: the cost per example is the same at any size
HIGH_WATER, LOW_WATER = 15 / 16, 7 / 8  # shares of `max_rows`: above the one, rows are evicted down to the other
ROWS, FREE, CHANGED = 0, 1, 2  # indices of `counts`
TRAINED, ASSIGNED = 1, 2  # values of `marks`: since the last publish the row was trained, or assigned to another id


class VocabularyState(NamedTuple):
    """The vocabulary as kernels see it."""

    slots: U64
    table_counts: I64
    counts: I64  # (3,): rows ever assigned, free rows, changed rows
    embeddings: F32  # (max_rows + 1, 2 · dim)
    keys: U64  # (max_rows + 1,): each row's id
    marks: npt.NDArray[np.uint8]  # (max_rows + 1,)
    changed: I64  # stack of marked rows
    free: I64  # stack of rows to reuse
    min_count: int
    initial: np.float32  # AdaGrad's sums of a new row


class Vocabulary:
    """Rows for ids. Raises SpecError when there's no address space for `max_rows`."""

    def __init__(
        self, dim: int, min_count: int, max_rows: int, expire_ms: int = 0, initial_accumulator: float = 0.0
    ) -> None:
        self.dim, self.min_count, self.max_rows, self.expire_ms = dim, min_count, max_rows, expire_ms
        self.initial = np.float32(initial_accumulator)
        self.table = HashTable(WIDTH, tracked=False)
        try:
            self.embeddings: F32 = np.zeros((max_rows + 1, 2 * dim), np.float32)
            self.keys: U64 = np.zeros(max_rows + 1, np.uint64)
            self.marks = np.zeros(max_rows + 1, np.uint8)
            self._changed: I64 = np.zeros(max_rows + 1, np.int64)
        except MemoryError:
            raise SpecError(
                f"no room for {max_rows} embedding rows of {dim}: set deep.max_rows to what this machine has memory for"
            ) from None
        self.embeddings[0, dim:] = self.initial
        self._free: I64 = np.zeros(0, np.int64)
        self.counts: I64 = np.array([1, 0, 0], np.int64)
        self.evicted = self.evicted_pending = 0  # ids with a row, and without
        self.tombstones: list[U64] = []  # published ids that lost their row since the last publish; at most `max_rows`

    @property
    def rows(self) -> int:
        """Rows ever assigned, including that of unseen ids."""
        return int(self.counts[ROWS])

    @property
    def vectors(self) -> F32:
        """The vectors of all rows, [rows, dim]: a view."""
        return self.embeddings[: self.rows, : self.dim]

    @property
    def sums(self) -> F32:
        """AdaGrad's sums of all rows, [rows, dim]: a view."""
        return self.embeddings[: self.rows, self.dim :]

    def __len__(self) -> int:
        """Rows in use."""
        return int(self.counts[ROWS] - self.counts[FREE])

    @property
    def assigned(self) -> int:
        """Ids with a row."""
        return len(self) - 1

    @property
    def pending(self) -> int:
        """Ids without a row whose sightings are counted."""
        return len(self.table) - self.assigned

    @property
    def over_high_water(self) -> bool:
        """Whether rows or pending ids come near `max_rows`; `evict` makes room."""
        return max(self.assigned, self.pending) > HIGH_WATER * self.max_rows

    def is_quiet(self, ids: int) -> bool:
        """Whether `ids` more ids leave rows and pending ids below HIGH_WATER, in whatever steps they are counted."""
        return max(self.assigned, self.pending) + ids <= HIGH_WATER * self.max_rows

    def prepare(self, ids: U64) -> VocabularyState:
        """Reserve table slots for these ids. The state is valid until the next `prepare` or `evict`."""
        self.table.reserve_for(ids)
        return VocabularyState(self.table.slots, self.table.counts, self.counts, self.embeddings, self.keys,
                               self.marks, self._changed, self._free, self.min_count, self.initial)  # fmt: skip

    def rows_of(self, ids: U64) -> I64:
        """Row of each id; 0 for those without one."""
        return self.table.rows_of(ids)[:, 1].astype(np.int64)

    def count(self, ids: U64, time_ms: int = 0) -> None:
        """Count a sighting of each id, in this order."""
        count_sightings(self.prepare(ids), ids, np.full(len(ids), -1, np.int64), np.full(len(ids), time_ms, np.int64))

    def evict_every(self) -> int:
        """Examples between two evictions: a power of two, and a function of the state alone."""
        every = EVICT_EXAMPLES
        while every * EVICT_KEYS < len(self.table):
            every *= 2
        return every

    def evict(self, now_ms: int) -> None:
        """Evict ids not seen for `expire_ms`; above HIGH_WATER also the least recently seen, down to LOW_WATER.

        Of ids last seen at the same time the smallest go first: ids are hashes.
        """
        if not self.expire_ms and not self.over_high_water:
            return
        rows = self.table.rows()
        seen, has_row = rows[:, 3], rows[:, 1] != 0
        old = seen + np.uint64(self.expire_ms) < np.uint64(now_ms) if self.expire_ms else np.zeros(len(rows), np.bool_)
        for group in (has_row, ~has_row):
            if np.count_nonzero(group) > HIGH_WATER * self.max_rows:
                left = np.flatnonzero(group & ~old)
                old[left[_oldest(rows[left], len(left) - int(LOW_WATER * self.max_rows))]] = True
        self._remove(rows[old])

    def _remove(self, rows: U64) -> None:
        """Drop these rows of the table and free their embedding rows."""
        self.table.remove(rows[:, 0].copy())
        lost = rows[rows[:, 1] != 0]
        freed = np.sort(lost[:, 1].astype(np.int64))[::-1]
        self.keys[freed] = 0
        self.embeddings[freed] = 0.0  # what a row had before is no state
        self._free = np.concatenate([self.free_rows(), freed])
        self.counts[FREE] = len(self._free)
        self.evicted += len(freed)
        self.evicted_pending += len(rows) - len(freed)
        published = self.marks[lost[:, 1].astype(np.int64)] != ASSIGNED
        self.tombstones.append(np.sort(lost[published, 0]))

    def free_rows(self) -> I64:
        """Rows to reuse, the next one last."""
        return self._free[: self.counts[FREE]].copy()

    def restore(self, rows: U64, embeddings: F32, unseen: F32, free: I64) -> None:
        """Restore the table's rows; the embeddings of those ids that have one, in the same order; row 0; and free rows.

        Raises ValueError.
        """
        assigned = rows[rows[:, 1] != 0] if rows.ndim == 2 and rows.shape[1] == WIDTH else None
        if assigned is None or embeddings.shape != (len(assigned), 2 * self.dim) or unseen.shape != (2 * self.dim,):
            raise ValueError(f"a vocabulary of shapes {rows.shape}, {embeddings.shape} and {unseen.shape}")
        indices = assigned[:, 1].astype(np.int64)
        count = 1 + len(assigned) + len(free)  # rows ever assigned, and that of unseen ids
        if max(indices.max(initial=0), free.max(initial=0)) >= min(count, len(self.embeddings)):
            raise ValueError(f"embedding rows beyond the {count} that there are, or over deep.max_rows")
        self.table = HashTable.of_rows(WIDTH, rows, tracked=False)
        self.embeddings[0], self.embeddings[indices] = unseen, embeddings
        self.keys[indices] = assigned[:, 0]
        self._free = free.copy()
        self.counts[:] = count, len(free), 0

    def take_changed(self) -> U64:
        """Ids whose rows changed, or were evicted, since the last call; 0 is the row of unseen ids."""
        rows = self.changed_rows()
        self.marks[rows] = 0
        self.counts[CHANGED] = 0
        keys = self.keys[rows]
        tombstones, self.tombstones = self.tombstones, []
        return distinct(np.concatenate([keys[(keys != 0) | (rows == 0)], *tombstones]))

    def changed_rows(self) -> I64:
        """Rows that changed since the last `take_changed`, in order of their first change."""
        return self._changed[: self.counts[CHANGED]].copy()

    def live(self) -> I64:
        """Rows in use, that of unseen ids first."""
        used = self.keys[: self.rows] != 0
        used[0] = True
        return np.flatnonzero(used)

    def mark(self, rows: I64) -> None:
        """Mark these distinct rows as changed."""
        self.table.mark_runs(self.keys[rows])
        new = rows[self.marks[rows] == 0]
        self.marks[new] = TRAINED
        self._changed[self.counts[CHANGED] : self.counts[CHANGED] + len(new)] = new
        self.counts[CHANGED] += len(new)


def _oldest(rows: U64, count: int) -> I64:
    """Indices of the `count` least recently seen rows; none when it isn't positive."""
    if count <= 0:
        return np.zeros(0, np.int64)
    seen = rows[:, 3]
    last = np.partition(seen, count - 1)[count - 1]
    older, same = np.flatnonzero(seen < last), np.flatnonzero(seen == last)
    indices: I64 = np.concatenate([older, same[np.argsort(rows[same, 0])[: count - len(older)]]])
    return indices


@kernel
def mark_row(row: Any, marks: Any, changed: Any, counts: Any) -> None:
    """Mark a row as changed since the last publish."""
    if marks[row] == 0:
        marks[row] = TRAINED
        changed[counts[CHANGED]] = row
        counts[CHANGED] += 1


@kernel
def look_up(table: Any, ids: Any, slots: Any, rows: Any) -> None:
    """Write each id's slot in the table (−1: none) and its embedding row (0: none)."""
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            prefetch_row(table, home(table, ids[i + AHEAD]))
        slots[i] = find(table, ids[i])
    for i in range(ids.shape[0]):
        rows[i] = np.int64(table[slots[i], 1]) if slots[i] >= 0 else 0


@kernel
def count_sightings(vocabulary: Any, ids: Any, slots: Any, times_ms: Any) -> None:
    """Count a sighting of each id at its event time; `slots` as `look_up` found them.

    A new row starts at a hash of its id: uniform in ±EMBEDDING_INIT. While no row is free, ids stay pending.
    """
    table, counts, embeddings = vocabulary.slots, vocabulary.counts, vocabulary.embeddings
    dim = embeddings.shape[1] // 2
    for i in range(ids.shape[0]):
        time = np.uint64(max(0, times_ms[i]))
        slot = slots[i] if slots[i] >= 0 else find_or_insert(table, ids[i], vocabulary.table_counts)
        table[slot, 2] += np.uint64(1)
        table[slot, 3] = max(table[slot, 3], time)
        if table[slot, 1] != 0 or table[slot, 2] < np.uint64(vocabulary.min_count):
            continue
        if counts[FREE] > 0:
            counts[FREE] -= 1
            row = vocabulary.free[counts[FREE]]
        elif counts[ROWS] < embeddings.shape[0]:
            row = counts[ROWS]
            counts[ROWS] += 1
        else:
            continue
        table[slot, 1] = np.uint64(row)
        vocabulary.keys[row] = ids[i]
        mark_row(row, vocabulary.marks, vocabulary.changed, counts)
        vocabulary.marks[row] = ASSIGNED
        for c in range(dim):
            h = mix(ids[i], np.uint64(c + 1))
            embeddings[row, c] = np.float32(
                (np.float64(h >> np.uint64(11)) / 4503599627370496.0 - 1.0) * EMBEDDING_INIT
            )
            embeddings[row, dim + c] = vocabulary.initial
