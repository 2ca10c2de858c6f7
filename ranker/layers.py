"""A version's table: a big base that all versions of a chain share, and over it what changed since.

Laying a content over what is there costs what that content holds. An overlay whose room runs out is folded in a
thread of its own: the next version that comes takes the folded one and lays over it what came meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from stream.errors import BadSnapshot
from stream.features import F32
from stream.overlay import PIECE, Overlay, Rows, lines, pieces, stand_back
from stream.table import KEYS, U64, capacity_for, distinct, insert_rows

Name = tuple[str, ...]  # a content, by the digests of its blobs
FOLD_SHARE: Final = 0.75  # of the room
BASE_REST: Final = 1.0  # as `overlay.REST`: a new base is rare, and takes seconds
TWICE: Final = "a key stands twice in a content: which of the two rows counts?"
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)
NO_VECTORS: Final[F32] = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Change:
    """What a content holds: `keys` uint64 [n], `columns` uint64 [n, width − 1] or `vectors` [n, dim]; `dead` keys."""

    keys: U64
    columns: U64
    vectors: F32 = field(default_factory=lambda: NO_VECTORS)
    dead: U64 = field(default_factory=lambda: NO_KEYS)


@dataclass(frozen=True)
class Layers:
    """`names` are the contents that were laid over each other. `vectors` are the base's; the overlay has its own."""

    names: tuple[Name, ...]
    base: U64
    vectors: F32
    overlay: Overlay
    count: int

    @property
    def rows(self) -> Rows:
        """The table as kernels read it."""
        return Rows(self.base, self.overlay.heads, self.overlay.entries, self.count, self.overlay.marks)

    def laid_over(self, name: Name, change: Change) -> "Layers":
        """These layers with one more content. Raises BadSnapshot when a key stands twice in it."""
        check_once(change)
        overlay, count = _put(self.overlay, self.count, change.keys, change.columns, change.vectors, gone=False)
        if len(change.dead):
            nothing = np.zeros((len(change.dead), overlay.width - 1), np.uint64)
            vectors = np.zeros((len(change.dead), overlay.dim), np.float32)
            overlay, count = _put(overlay, count, change.dead, nothing, vectors, gone=True)
        return Layers((*self.names, name), self.base, self.vectors, overlay, count)

    def folded(self) -> "Layers":
        """The same, with room again."""
        overlay = self.overlay.folded(self.count)
        return Layers(self.names, self.base, self.vectors, overlay, overlay.count)


def check_once(change: Change) -> None:
    """Raises BadSnapshot when a key stands twice among all that a content names."""
    keys = np.concatenate([change.keys, change.dead])
    if len(distinct(keys)) != len(keys):
        raise BadSnapshot(TWICE)


def based_on(name: Name, change: Change) -> Layers:
    """A base of its own: a table of the content's rows; key → row in `vectors` where it has vectors.

    Raises BadSnapshot when a key stands twice in it: that's told by how many rows there are then, without sorting them.
    """
    dim = change.vectors.shape[1]
    columns = np.arange(len(change.keys), dtype=np.uint64)[:, None] if dim else change.columns
    rows = np.concatenate([change.keys[:, None], columns], axis=1)
    slots = lines(capacity_for(len(rows)), rows.shape[1])
    counts = np.zeros(2, np.int64)
    for first, last in pieces(len(rows), 4 * PIECE, BASE_REST):
        insert_rows(slots, rows[first:last], counts)
    if counts[KEYS] != len(rows):
        raise BadSnapshot(TWICE)
    overlay = Overlay(1 if dim else rows.shape[1], dim=dim)
    return Layers((name,), slots, change.vectors, overlay, overlay.count)


def _put(overlay: Overlay, count: int, keys: U64, columns: U64, vectors: F32, *, gone: bool) -> tuple[Overlay, int]:
    """Lay rows over a view, piece by piece; in another overlay when this one has no room for all."""
    if count != overlay.count or count + len(keys) > overlay.room:  # or a version that was refused went on from there
        overlay = overlay.folded(count, len(keys))
        count = overlay.count
    for first, last in pieces(len(keys), PIECE):
        given = vectors[first:last] if overlay.dim else None
        more = overlay.put(count, keys[first:last], columns[first:last], given, gone=gone)
        assert more is not None, "there is room, and nobody else goes on from there"
        count = more
    return overlay, count


class Stack:
    """Lays the contents of one part, version by version, each over the one before. One thread."""

    def __init__(self) -> None:
        self._folding: Future[Layers] | None = None
        self._folder: ThreadPoolExecutor | None = None

    def lay(self, names: tuple[Name, ...], previous: Layers | None, read: Callable[[Name], Change]) -> Layers:
        """The layers of these contents, taking over from `previous` what it has of them. `read` reads one."""
        layers = self._start(names, previous)
        if layers is not None and layers.names == names:
            return layers
        if layers is None:
            layers = based_on(names[0], read(names[0]))
        for name in names[len(layers.names) :]:
            layers = layers.laid_over(name, read(name))
        self._fold(layers)
        return layers

    def _start(self, names: tuple[Name, ...], previous: Layers | None) -> Layers | None:
        """What can be gone on from: what was folded meanwhile, all of `previous`, its base alone, or nothing."""
        if previous is not None and previous.names == names:
            return previous
        if self._folding is not None and self._folding.done():
            folded, self._folding = self._folding.result(), None
            if names[: len(folded.names)] == folded.names:
                return folded
        if previous is None or names[0] != previous.names[0]:
            return None
        if names[: len(previous.names)] == previous.names:
            return previous
        overlay = Overlay(previous.overlay.width, dim=previous.overlay.dim)
        return Layers(names[:1], previous.base, previous.vectors, overlay, overlay.count)

    def _fold(self, layers: Layers) -> None:
        if self._folding is None and layers.count > FOLD_SHARE * layers.overlay.room:
            self._folder = self._folder or ThreadPoolExecutor(1, "fold", stand_back)
            self._folding = self._folder.submit(layers.folded)
