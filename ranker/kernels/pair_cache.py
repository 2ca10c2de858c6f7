"""What was read of pairs of items, kept for as long as it holds: a table of millions of pairs is far away in memory.

Items that requests bring get *places*, first come, first served. The cell of two places holds a number that was read
of the pair, and the *view* in which it was read (`delta_table.py`): it holds in any later view that has no newer entry
for the pair. The overlay's `latest` says so, by what the pair's hash begins with: at worst another pair of the same
beginning has one, and the cell is read anew.

Where a table is laid out anew, its views begin anew: that is an *epoch*. What was read in the epoch before still holds
when neither its overlay had a newer entry for the pair nor this one has since (`layers.Before`); cells of other epochs
don't. So the memory is taken once and never cleared, which would cost as much as thousands of rankings.
"""

import threading
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.layered_table import Layers
from stream.features.encoder import I64, list_at
from stream.runtime.prefetch import prefetch_to_read
from stream.tables.delta_table import latest_of, lines
from stream.tables.hash_kernels import find, hash32, place
from stream.tables.hash_table import U32, U64
from stream.tables.jit import kernel

ROOM: Final = 4_096  # places: a square of cells is 128 MiB, taken from the system as cells are used
NOWHERE: Final = -1  # the place of an item that has none
EPOCHS: Final = 256
VIEW_BITS: Final = 24  # of a count of entries: larger views keep nothing
VIEW_MASK: Final = (1 << VIEW_BITS) - 1


class Earlier(NamedTuple):
    """The epoch before, or −1, and what `layers.Before` says of its views."""

    epoch: int
    latest: U32
    limit: int
    settled: int


class Square(NamedTuple):
    """Cells as kernels read them, uint64 [squares, ROOM, ROOM], from the top: 8 bits of an epoch, 24 of the count of
    entries that the view had (0: never read), the float32's. `epoch`: the table's; `latest`: its overlay's.
    """

    cells: U64
    epoch: int
    latest: U32
    earlier: Earlier


class Places:
    """Which item has which place. `heads` uint64 [capacity, 2]: item → its place + 1. Threads share it."""

    def __init__(self) -> None:
        self.heads: U64 = lines((4 * ROOM, 2))
        self._taken, self._room = 0, ROOM
        self._lock = threading.Lock()

    @property
    def has_room(self) -> bool:
        """Whether more items can be admitted."""
        return self._taken < self._room

    def admit(self, items: U64) -> None:
        """Give items places, as far as there is room."""
        with self._lock:
            self._taken = int(_admit(self.heads, items, self._taken, self._room))


class Memory:
    """Room for squares, used by one table after the other. One thread."""

    def __init__(self, squares: int) -> None:
        self._squares = squares
        self._next = 0
        self._cells = self._room()

    def begin(self) -> tuple[U64, int]:
        """Cells, and an epoch in which nothing was written to them yet."""
        if self._next == EPOCHS:
            self._next, self._cells = 0, self._room()
        self._next += 1
        return self._cells, self._next - 1

    def _room(self) -> U64:
        return np.zeros((self._squares, ROOM, ROOM), np.uint64)


class Cells:
    """Squares of one table. Threads share them: a cell is read and written in one piece."""

    def __init__(self, memory: Memory, table: Layers, was: Square | None = None) -> None:
        self._memory = memory
        self._of = table.base, table.overlay
        cells, epoch = memory.begin()
        earlier, before = Earlier(NOWHERE, table.overlay.latest, 0, 0), table.before
        if (
            was is not None and was.cells is cells  # not those before the memory was taken anew
            and before is not None and before.latest is was.latest and before.settled <= VIEW_MASK
        ):  # fmt: skip
            earlier = Earlier(was.epoch, *before)
        self.square = Square(cells, epoch, table.overlay.latest, earlier)

    def follow(self, table: Layers) -> "Cells":
        """Those of a later version's table: these, unless the table was laid out anew."""
        base, overlay = self._of
        return self if table.base is base and table.overlay is overlay else Cells(self._memory, table, self.square)


class Pairs:
    """What a version keeps of pairs: `weights` of crosses, `likenesses` of statistics; places are the same for both."""

    def __init__(self, weights: Cells, likenesses: Cells, places: Places | None = None) -> None:
        self.weights, self.likenesses = weights, likenesses
        self.places = places or Places()
        self._used = len(weights.square.cells) + len(likenesses.square.cells) > 0

    @property
    def has_room(self) -> bool:
        """Whether items are to be admitted."""
        return self._used and self.places.has_room

    def follow(self, wide: Layers, statistics: Layers) -> "Pairs":
        """What a later version keeps."""
        return Pairs(self.weights.follow(wide), self.likenesses.follow(statistics), self.places)


@kernel
def _admit(heads: Any, items: Any, taken: Any, room: Any) -> Any:
    counts = np.zeros(2, np.int64)
    for i in range(items.shape[0]):
        if taken < room and items[i] != np.uint64(0) and find(heads, items[i]) < 0:
            row = place(heads, items[i], counts)
            taken += 1
            heads[row, 1] = np.uint64(taken)
    return taken


@kernel
def place_of(heads: Any, item: Any) -> Any:
    """The item's place, or NOWHERE. One that is being admitted has none yet."""
    row = find(heads, item)
    return np.int64(heads[row, 1]) - 1 if row >= 0 else np.int64(NOWHERE)


@kernel
def places_of(heads: Any, items: Any) -> Any:
    """Places of items. int64 [len(items)]."""
    found = np.empty(items.shape[0], np.int64)
    for i in range(items.shape[0]):
        found[i] = place_of(heads, items[i])
    return found


@kernel
def shown_of(words: Any, w32: Any, place: Any, sizes: Any, side: Any, column: Any, first: Any, last: Any, heads: Any,
             shown: Any, homes: Any) -> None:  # fmt: skip
    """Items first:last of a page by their column of ids, 0: none; and their places."""
    for position in range(first, last):
        item, until = list_at(w32, place, side, column, position, sizes)
        shown[position - first] = words[item] if until > item else np.uint64(0)
        homes[position - first] = place_of(heads, shown[position - first])


@kernel
def _expect(cells: Any, home: Any, near: Any) -> None:
    """Ask for the cells of `home` and `near` before they are looked at."""
    if home >= 0:
        row = np.uintp(cells.ctypes.data) + np.uintp(home) * np.uintp(8 * cells.shape[1])
        for i in range(near.shape[0]):
            if near[i] >= 0:
                prefetch_to_read(row + np.uintp(8 * near[i]))


@kernel
def recall(cells: Any, square: Any, limit: Any, homes: Any, near: Any, keys: Any, hashes: Any, found: Any,
           lacking: Any) -> Any:  # fmt: skip
    """What cells hold, in a view of `limit` entries, of the pairs of each of `homes` and each of `near`, to `found`.

    `cells` are one of `square`'s; `keys`: the pairs', in the same order. Of those that have to be read, `lacking` gets
    the places in `found`, and the first of `keys` become theirs; returns how many.
    """
    one, lacks, known = np.empty(1, np.uint64), 0, near.shape[0]
    value = one.view(np.float32)
    _, epoch, latest, (was, latest_then, limit_then, settled) = square
    carried = np.uint64(epoch << VIEW_BITS | settled) << np.uint64(32)
    for i in range(min(1, homes.shape[0])):
        _expect(cells, homes[i], near)
    for i in range(homes.shape[0]):
        if i + 1 < homes.shape[0]:
            _expect(cells, homes[i + 1], near)
        for at in range(i * known, (i + 1) * known):
            hashes[at] = hash32(keys[at])
        for m in range(known):
            at = i * known + m
            if homes[i] >= 0 and near[m] >= 0:
                one[0] = cells[homes[i], near[m]]
                mark = np.int64(one[0] >> np.uint64(32))
                read, of = mark & VIEW_MASK, mark >> VIEW_BITS
                newest = np.int64(latest_of(latest, hashes[at]))
                if of == epoch and newest < read <= limit:  # entries below `read` were seen; above `limit`: too many
                    found[at] = value[0]
                    continue
                if of == was and newest < settled and np.int64(latest_of(latest_then, hashes[at])) < read <= limit_then:
                    found[at] = value[0]
                    cells[homes[i], near[m]] = carried | (one[0] & np.uint64(0xFFFFFFFF))
                    continue
            lacking[lacks] = at
            lacks += 1
    for i in range(lacks):  # none of them is before its place among those that lack
        keys[i] = keys[lacking[i]]
    return lacks


@kernel
def keep(cells: Any, epoch: Any, limit: Any, homes: Any, near: Any, lacking: Any, lacks: Any, numbers: Any,
         found: Any) -> None:  # fmt: skip
    """Keep what a view of `limit` entries has of the pairs that `recall` lacked; `found` gets it as cells have it."""
    one, known = np.empty(1, np.uint64), near.shape[0]
    value = one.view(np.float32)
    mark = np.uint64(epoch << VIEW_BITS | limit) << np.uint64(32) if limit <= VIEW_MASK else np.uint64(0)
    for i in range(lacks):
        home, other = homes[lacking[i] // known], near[lacking[i] % known]
        one[0] = mark
        value[0] = numbers[i]
        found[lacking[i]] = value[0]
        if home >= 0 and other >= 0:
            cells[home, other] = one[0]


def pairs_of(wide: Layers, crosses: I64, statistics: Layers, likenesses: int) -> Pairs:
    """What a first version keeps; `crosses`: the square of each cross, or NOWHERE."""
    squares = int(np.count_nonzero(crosses != NOWHERE))
    return Pairs(Cells(Memory(squares), wide), Cells(Memory(likenesses), statistics))
