"""Caches what was read of pairs of items while it is valid: a table of millions of pairs is far away in memory.

Items of requests get *slots*, first come, first served. When none is left, and RENEW_PAGES pages had items without one,
all are evicted at once: a new *generation* begins, so items that nobody asks for any more keep none out.

The cell of two slots has a number that was read of the pair, and the *view* (`delta_table.py`) in which it was read: it
is valid in any later view that has no newer entry for the pair. The delta's `latest` says so, by the leading bits of
the pair's hash: at worst another pair with the same bits has a newer entry, and the cell is read again.

Where a table is rebuilt, its views begin again: that is an *epoch*. What was read in the previous epoch is still valid
when neither its delta had a newer entry for the pair nor this one has since (`layered_table.Predecessor`); cells of
other epochs don't. So the memory is allocated once and never cleared, which would cost as much as thousands of
rankings. A generation is an epoch, too, in which nothing of another one is valid. A page that began in an earlier
generation is scored as if its user's items had no slots.
"""

import threading
from typing import Final, NamedTuple

import numpy as np

from ranker.kernels.layered_table import LayeredTable, Predecessor
from ranker.kernels.scratch import Scratch
from stream.features.cross_products import list_at
from stream.features.page_kernels import Page
from stream.runtime.prefetch import prefetch_to_read
from stream.tables.delta_table import cache_aligned, latest_of
from stream.tables.dtypes import F64, I64, U32, U64
from stream.tables.hash_kernels import find, find_or_insert, hash32
from stream.tables.jit import kernel

ROOM: Final = 4_096  # slots: a matrix of cells is 128 MiB, taken from the system as cells are used
RENEW_PAGES: Final = 1_000
NO_SLOT: Final = -1
NO_EPOCH: Final = -1
EPOCHS: Final = 256
VIEW_BITS: Final = 24  # of a count of entries: larger views store nothing
VIEW_MASK: Final = (1 << VIEW_BITS) - 1


class Matrix(NamedTuple):
    """Cells as kernels read them, from the top: 8 bits of an epoch, 24 of the count of entries that the view had (0:
    never read), the float32's.
    """

    cells: U64  # u64[matrices, ROOM, ROOM]
    epoch: int  # the table's
    latest: U32  # its delta's
    previous_epoch: int  # or −1; its views as in `layered_table.Predecessor`
    previous_latest: U32
    previous_limit: int
    settled: int


class Slots:
    """Which item has which slot. `heads` uint64 [capacity, 2]: item → its slot + 1. Threads share it."""

    def __init__(self) -> None:
        self.heads: U64 = cache_aligned((4 * ROOM, 2))
        self._taken, self._room, self._pages = 0, ROOM, 0
        self._lock = threading.Lock()

    @property
    def is_exhausted(self) -> bool:
        """Whether RENEW_PAGES pages found no room."""
        return self._pages >= RENEW_PAGES

    def admit(self, items: U64) -> None:
        """Give a page's items slots, as far as there is room. A page that would wait for another one's is left out."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._taken = int(_admit(self.heads, items, self._taken, self._room))
            self._pages += self._taken == self._room
        finally:
            self._lock.release()


class CellPool:
    """Memory for matrices, used by one table after the other. Threads may share it."""

    def __init__(self, matrices: int) -> None:
        self._matrices = matrices
        self._next = 0
        self._cells = self._allocate()
        self._lock = threading.Lock()

    def begin(self) -> tuple[U64, int]:
        """Cells, and an epoch in which nothing was written to them yet."""
        with self._lock:
            if self._next == EPOCHS:
                self._next, self._cells = 0, self._allocate()
            self._next += 1
            return self._cells, self._next - 1

    def _allocate(self) -> U64:
        return np.zeros((self._matrices, ROOM, ROOM), np.uint64)


class TableCells:
    """Matrices of one table. Threads share them: a cell is read and written atomically."""

    def __init__(self, pool: CellPool, table: LayeredTable, last: Matrix | None = None) -> None:
        self._pool = pool
        self._table = table
        cells, epoch = pool.begin()
        previous_epoch, predecessor = NO_EPOCH, table.predecessor
        if (
            last is not None and last.cells is cells  # not those before the memory was allocated again
            and predecessor is not None and predecessor.latest is last.latest and predecessor.settled <= VIEW_MASK
        ):  # fmt: skip
            previous_epoch = last.epoch
        else:
            predecessor = Predecessor(table.delta.latest, 0, 0)
        self.matrix = Matrix(cells, epoch, table.delta.latest, previous_epoch, *predecessor)

    def follow(self, table: LayeredTable) -> "TableCells":
        """Those of a later version's table: these, unless the table was rebuilt."""
        if table.base is self._table.base and table.delta is self._table.delta:
            return self
        return TableCells(self._pool, table, self.matrix)

    def renewed(self) -> "TableCells":
        """Cells of the same table, none of them read yet."""
        return TableCells(self._pool, self._table)


class Generation(NamedTuple):
    """Slots, and the cells that belong to them: `weights` of crosses, `likenesses` of statistics."""

    number: int
    slots: Slots
    weights: TableCells
    likenesses: TableCells


class PairCache:
    """A version's cache. Threads share it: each reads `live` once for what belongs together."""

    def __init__(self, weights: TableCells, likenesses: TableCells, slots: Slots | None = None) -> None:
        self.live = Generation(0, slots or Slots(), weights, likenesses)
        self.is_used = len(weights.matrix.cells) + len(likenesses.matrix.cells) > 0
        self._lock = threading.Lock()

    def admit(self, items: U64) -> None:
        """Give a page's items slots, as far as there is room; begin a new generation when that is due."""
        live = self.live
        live.slots.admit(items)
        if live.slots.is_exhausted:
            with self._lock:
                if self.live is live:
                    self.live = Generation(live.number + 1, Slots(), live.weights.renewed(), live.likenesses.renewed())

    def follow(self, wide: LayeredTable, statistics: LayeredTable) -> "PairCache":
        """A later version's cache."""
        _, slots, weights, likenesses = self.live
        return PairCache(weights.follow(wide), likenesses.follow(statistics), slots)


def new_cache(wide: LayeredTable, matrices: I64, statistics: LayeredTable, likenesses: int) -> PairCache:
    """A first version's cache; `matrices`: the matrix of each cross, or NO_SLOT."""
    crosses = int(np.count_nonzero(matrices != NO_SLOT))
    return PairCache(TableCells(CellPool(crosses), wide), TableCells(CellPool(likenesses), statistics))


@kernel
def _admit(heads: U64, items: U64, taken: int, room: int) -> int:
    counts = np.zeros(2, np.int64)
    for i in range(items.shape[0]):
        if taken < room and items[i] != np.uint64(0) and find(heads, items[i]) < 0:
            row = find_or_insert(heads, items[i], counts)
            taken += 1
            heads[row, 1] = np.uint64(taken)
    return taken


@kernel
def slot_of(heads: U64, item: np.uint64) -> int:
    """The item's slot, or NO_SLOT. One that is being admitted has none yet."""
    row = find(heads, item)
    return np.int64(heads[row, 1]) - 1 if row >= 0 else np.int64(NO_SLOT)  # type: ignore[return-value]


@kernel
def slots_of(heads: U64, items: U64) -> I64:
    """Slots of items. int64 [len(items)]."""
    found = np.empty(items.shape[0], np.int64)
    for i in range(items.shape[0]):
        found[i] = slot_of(heads, items[i])
    return found


@kernel
def read_shown(page: Page, side: int, index: int, first: int, last: int, heads: U64, shown: U64, slots: I64) -> None:
    """Items first:last of a page by this list of ids, 0: none; and their slots."""
    words, w32, at = page.words, page.w32, page.at
    for position in range(first, last):
        item, end = list_at(w32, at, side, index, position)
        shown[position - first] = words[item] if end > item else np.uint64(0)
        slots[position - first] = slot_of(heads, shown[position - first])


@kernel
def _prefetch_cells(cells: U64, slot: int, others: I64) -> None:
    """Prefetch the cells of `slot` and each of `others`."""
    if slot >= 0:
        row = np.uintp(cells.ctypes.data) + np.uintp(slot) * np.uintp(8 * cells.shape[1])
        for i in range(others.shape[0]):
            if others[i] >= 0:
                prefetch_to_read(row + np.uintp(8 * others[i]))


@kernel
def load_pairs(cells: U64, matrix: Matrix, limit: int, slots: I64, others: I64, scratch: Scratch) -> int:
    """Load the numbers of each of `slots` with each of `others`, as of a view of `limit` entries; returns the misses.

    `cells` are one of `matrix`'s. scratch.keys: the pairs', in the same order; scratch.values gets the numbers. Of the
    misses, scratch.ends gets the indices in `values`, and their keys become the first of scratch.keys.
    """
    keys, hashes, values, missing = scratch.keys, scratch.hashes, scratch.values, scratch.ends
    one, misses, width = np.empty(1, np.uint64), 0, others.shape[0]
    number = one.view(np.float32)
    _, epoch, latest, previous, previous_latest, previous_limit, settled = matrix
    carried = np.uint64(epoch << VIEW_BITS | settled) << np.uint64(32)
    for i in range(min(1, slots.shape[0])):
        _prefetch_cells(cells, slots[i], others)
    for i in range(slots.shape[0]):
        if i + 1 < slots.shape[0]:
            _prefetch_cells(cells, slots[i + 1], others)
        for at in range(i * width, (i + 1) * width):
            hashes[at] = hash32(keys[at])
        for m in range(width):
            at = i * width + m
            if slots[i] >= 0 and others[m] >= 0:
                one[0] = cells[slots[i], others[m]]
                mark = np.int64(one[0] >> np.uint64(32))
                read, of = mark & VIEW_MASK, mark >> VIEW_BITS
                newest = np.int64(latest_of(latest, hashes[at]))
                if of == epoch and newest < read <= limit:  # entries below `read` were seen; above `limit`: too many
                    values[at] = number[0]
                    continue
                if (
                    of == previous and newest < settled
                    and np.int64(latest_of(previous_latest, hashes[at])) < read <= previous_limit
                ):  # fmt: skip
                    values[at] = number[0]
                    cells[slots[i], others[m]] = carried | (one[0] & np.uint64(0xFFFFFFFF))
                    continue
            missing[misses] = at
            misses += 1
    for i in range(misses):  # none of them is before its index among the misses
        keys[i] = keys[missing[i]]
    return misses


@kernel
def store_pairs(
    cells: U64, epoch: int, limit: int, slots: I64, others: I64, scratch: Scratch, misses: int, numbers: F64
) -> None:
    """Store what a view of `limit` entries has of the pairs that `load_pairs` missed; scratch.values gets it rounded
    as cells have it.
    """
    values, missing = scratch.values, scratch.ends
    one, width = np.empty(1, np.uint64), others.shape[0]
    number = one.view(np.float32)
    mark = np.uint64(epoch << VIEW_BITS | limit) << np.uint64(32) if limit <= VIEW_MASK else np.uint64(0)
    for i in range(misses):
        slot, other = slots[missing[i] // width], others[missing[i] % width]
        one[0] = mark
        number[0] = numbers[i]
        values[missing[i]] = number[0]
        if slot >= 0 and other >= 0:
            cells[slot, other] = one[0]
