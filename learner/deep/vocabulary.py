"""Embedding rows for ids: assigned on the `min_count`-th page in the stream, reused when their id is evicted.

A row's vector and AdaGrad sums lie side by side, [vector | sums], so a step waits for memory once. Arrays have
`max_rows` rows from the start: the system allocates a page when it's first written, so growing never copies.

Each column has a row for its ids that have none: an ordinary row under a key of the column's, which never expires. A
new id's vector starts there, plus noise. In a model of an earlier build all columns shared row 0: theirs start as that.

A page counts once, however many of its items have the id and in whatever records their examples come: an id without a
row remembers its last three pages, by hash. Another page counts again after three others in between.
"""

from typing import Final

import numpy as np

from learner.deep.vocabulary_kernels import ASSIGNED, CHANGED, FREE, ROWS, TRAINED, VocabularyState, count_sightings
from stream.runtime.errors import SpecError
from stream.tables.dtypes import F32, I64, U64
from stream.tables.hash_table import HashTable, distinct

WIDTH: Final = 4  # key; row (0: none yet), pages, event time of the newest (ms)
FOREVER: Final = np.uint64(1 << 62)  # event time of rows that never expire
EVICT_EXAMPLES: Final = 4_096  # between two evictions, at least
EVICT_KEYS: Final = 16  # ... and one example per this many keys: the cost per example is the same at any size
HIGH_WATER, LOW_WATER = 15 / 16, 7 / 8  # shares of `max_rows`: above the one, rows are evicted down to the other
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)


class Vocabulary:
    """Rows for ids. Raises SpecError when there's no address space for `max_rows`."""

    def __init__(
        self, dim: int, min_count: int, max_rows: int, expire_ms: int = 0, initial_accumulator: float = 0.0,
        unseen: U64 = NO_KEYS,
    ) -> None:  # fmt: skip
        """`unseen` uint64 [lists]: the key of each list's row for ids that have none, or 0."""
        self.dim, self.min_count, self.max_rows, self.expire_ms = dim, min_count, max_rows, expire_ms
        self.initial = np.float32(initial_accumulator)
        self.table = HashTable(WIDTH, tracked=False)
        try:
            rows_max = max_rows + 1 + len(unseen)
            self.embeddings: F32 = np.zeros((rows_max, 2 * dim), np.float32)
            self.keys: U64 = np.zeros(rows_max, np.uint64)
            self.marks = np.zeros(rows_max, np.uint8)
            self._changed: I64 = np.zeros(rows_max, np.int64)
        except MemoryError:
            raise SpecError(
                f"no room for {max_rows} embedding rows of {dim}: set deep.max_rows to what this machine has memory for"
            ) from None
        self.embeddings[0, dim:] = self.initial
        self._free: I64 = np.zeros(0, np.int64)
        self.counts: I64 = np.array([1, 0, 0], np.int64)
        self.evicted = self.evicted_pending = 0  # ids with a row, and without
        self._counted = 1  # pages that `count` made up
        self.tombstones: list[U64] = []  # published ids that lost their row since the last publish; at most `max_rows`
        self.unseen_keys, self._unseen = unseen, np.zeros(len(unseen), np.int64)
        self._assign_unseen()

    def _assign_unseen(self) -> None:
        """Give columns that have no row for unseen ids one, which starts as row 0."""
        for key in self.unseen_keys[self.unseen_keys != 0]:
            if not self.table.rows_of(np.array([key]))[0, 1]:
                row = self.counts[ROWS]
                self.counts[ROWS] += 1
                self.table.put(np.array([[key, row, 0, FOREVER]], np.uint64))
                self.embeddings[row], self.keys[row] = self.embeddings[0], key
                self.mark(np.array([row]))
        self._unseen = self.rows_of(self.unseen_keys)

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
        return len(self) - 1 - int(np.count_nonzero(self._unseen))

    @property
    def pending(self) -> int:
        """Ids without a row whose sightings are counted."""
        return len(self.table) - len(self) + 1

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
        self.table.mark_runs(self.unseen_keys)
        return VocabularyState(self.table.slots, self.table.counts, self.counts, self.embeddings, self.keys,
                               self.marks, self._changed, self._free, self.min_count, self.initial,
                               self._unseen)  # fmt: skip

    def rows_of(self, ids: U64) -> I64:
        """Row of each id; 0 for those without one."""
        return self.table.rows_of(ids)[:, 1].astype(np.int64)

    def unseen_vectors(self) -> F32:
        """The vector of each list's ids that have no row, [lists, dim], copied."""
        found: F32 = self.vectors[self._unseen]
        return found

    def count(self, ids: U64, time_ms: int = 0) -> None:
        """Count a sighting of each id, in this order, each on a page of its own; new rows start at row 0."""
        state, n = self.prepare(ids), len(ids)
        slots, rows, pages = np.full(n, -1, np.int64), np.zeros(n, np.int64), np.arange(n, dtype=np.uint64)
        pages += np.uint64(self._counted)
        self._counted += n
        count_sightings(state, ids, slots, rows, np.full(n, time_ms, np.int64), pages)

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
        rows = rows[rows[:, 3] != FOREVER]
        seen, has_row = rows[:, 3], rows[:, 1] != 0
        old = seen + np.uint64(self.expire_ms) < np.uint64(now_ms) if self.expire_ms else np.zeros(len(rows), np.bool_)
        for group in (has_row, ~has_row):
            if np.count_nonzero(group) > HIGH_WATER * self.max_rows:
                left = np.flatnonzero(group & ~old)
                old[left[_oldest(rows[left], len(left) - int(LOW_WATER * self.max_rows))]] = True
        self._remove(rows[old])

    def remove(self, ids: U64) -> int:
        """Drop these ids; returns how many there were."""
        rows = self.table.rows_of(ids)
        rows = np.column_stack([ids, rows[:, 1:]])[rows[:, 1:].any(axis=1)]
        if len(rows):
            self._remove(rows)
        return len(rows)

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
        self.keys[: self.rows], self.marks[: self.rows] = 0, 0
        self.embeddings[0], self.embeddings[indices] = unseen, embeddings
        self.keys[indices] = assigned[:, 0]
        self._free = free.copy()
        self.counts[:] = count, len(free), 0
        self._assign_unseen()

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
