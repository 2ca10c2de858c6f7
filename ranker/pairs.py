"""What was read of pairs of items, kept for as long as it holds: a table of millions of pairs is far away in memory.

Items that requests bring get places in a square, first come, first served. A cell of two places holds how much their
labels go together, s / (n + prior), and the *view* in which that was read (`stream.overlay`): it holds in any later
view that has no newer entry for the pair. The overlay's `latest` says so, by what the pair's hash begins with: at worst
another pair of the same beginning has one, and the cell is read anew.
"""

import threading
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.layers import Layers
from stream.overlay import lines
from stream.table import U64, find, kernel, place

ROOM: Final = 4_096  # places: 128 MiB a statistic, taken from the system as cells are used
NOWHERE: Final = -1  # the place of an item that has none


class Square(NamedTuple):
    """As kernels read it: `places` uint64 [capacity, 2], item → its place + 1; `cells` uint64 [likenesses, ROOM, ROOM].

    A cell: the view's count of entries in the high half, 0: never read; the float32's bits in the low one.
    """

    places: U64
    cells: U64
    latest: "np.ndarray[tuple[int, ...], np.dtype[np.uint32]]"


class Pairs:
    """The square of one table of statistics. Threads share it: a cell is read and written in one piece."""

    def __init__(self, statistics: Layers, likenesses: int) -> None:
        self._of = statistics.base, statistics.overlay
        self.square = Square(
            lines(4 * ROOM, 2), np.zeros((likenesses, ROOM, ROOM), np.uint64), statistics.overlay.latest
        )
        self._room = ROOM if likenesses else 0
        self._lock = threading.Lock()

    @property
    def has_room(self) -> bool:
        """Whether more items can be admitted."""
        return self._room > 0

    def follow(self, statistics: Layers) -> "Pairs":
        """The square of a later version's table: this one, unless the table was laid out anew."""
        base, overlay = self._of
        if statistics.base is base and statistics.overlay is overlay:
            return self
        return Pairs(statistics, len(self.square.cells))

    def admit(self, items: U64) -> None:
        """Give items places, as far as there is room."""
        with self._lock:
            self._room -= int(_admit(self.square.places, items, self._room))


@kernel
def _admit(places: Any, items: Any, room: Any) -> Any:
    counts, added = np.zeros(2, np.int64), 0
    for i in range(items.shape[0]):
        if added < room and items[i] != np.uint64(0) and find(places, items[i]) < 0:
            row = place(places, items[i], counts)
            added += 1
            places[row, 1] = np.uint64(ROOM - room + added)
    return added


@kernel
def place_of(places: Any, item: Any) -> Any:
    """The item's place, or NOWHERE. One that is being admitted has none yet."""
    row = find(places, item)
    return np.int64(places[row, 1]) - 1 if row >= 0 else np.int64(NOWHERE)


@kernel
def holds(cell: Any, latest: Any, limit: Any) -> Any:
    """Whether a cell tells what a view of `limit` entries has; `latest`: the pair's newest entry, or a later one.

    One that was read in a later view doesn't: what came between isn't to be seen here.
    """
    read = np.int64(cell >> np.uint64(32))  # entries below this were seen
    return read <= limit and np.int64(latest) < read
