"""A version's table: a big base that all versions of a chain share, and over it what changed since.

Laying a content over what is there costs what that content holds. An overlay whose room runs out is folded in a
thread of its own: the next version that comes takes the folded one and lays over it what came meanwhile.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from stream.features.page_features import F32
from stream.runtime.errors import BadSnapshot, StoreUnavailable
from stream.tables.delta_table import Overlay, Rows, Take, lines, room_for
from stream.tables.hash_kernels import KEYS, insert_rows
from stream.tables.hash_table import U32, U64, capacity_for, distinct

log = logging.getLogger(__name__)

Name = tuple[str, ...]  # a content, by the digests of its blobs
FOLD_SHARE: Final = 0.75  # of the room
TWICE: Final = "a key stands twice in a content: which of the two rows counts?"
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)
NO_VECTORS: Final[F32] = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Change:
    """What a content holds: `keys` uint64 [n], `columns` uint64 [n, width − 1] or `vectors` [n, dim]; `dead` keys.

    `unseen`: the vector of ids that have none, float32 [dim], if the content has it.
    """

    keys: U64
    columns: U64
    vectors: F32 = field(default_factory=lambda: NO_VECTORS)
    dead: U64 = field(default_factory=lambda: NO_KEYS)
    unseen: F32 | None = None


class Before(NamedTuple):
    """What is laid out anew goes on from what it was: views of up to `limit` entries of the overlay with this `latest`
    see what is seen in the first `settled` entries here, but for what the overlay there has newer entries for.
    """

    latest: U32
    limit: int
    settled: int


@dataclass(frozen=True)
class Layers:
    """`names` are the contents that were laid over each other, or that others are called by now.

    `origin`: the content that `base` was made of. `vectors` are the base's; the overlay has its own. `unseen`: the
    vector of ids that have none, float32 [dim], zeros where nothing says it; `unseen_of_base`: what it was in the base.
    """

    names: tuple[Name, ...]
    origin: Name
    base: U64
    vectors: F32
    unseen_of_base: F32
    overlay: Overlay
    count: int
    unseen: F32
    before: Before | None = None

    @property
    def rows(self) -> Rows:
        """The table as kernels read it."""
        return Rows(self.base, self.overlay.heads, self.overlay.entries, self.count, self.overlay.marks)

    def laid_over(self, name: Name, change: Change) -> "Layers":
        """These layers with one more content. Raises BadSnapshot when a key stands twice in it."""
        check_once(change)
        laid = _put(self, change.keys, change.columns, change.vectors, gone=False)
        if len(change.dead):
            nothing = np.zeros((len(change.dead), self.overlay.width - 1), np.uint64)
            laid = _put(laid, change.dead, nothing, np.zeros((len(nothing), self.overlay.dim), np.float32), gone=True)
        unseen = self.unseen if change.unseen is None else change.unseen
        return replace(laid, names=(*self.names, name), unseen=unseen)

    def bare(self) -> "Layers":
        """The base alone."""
        overlay = room_for(self.overlay.width, dim=self.overlay.dim, take=self.overlay.take)
        return _on(self.origin, self.base, self.vectors, self.unseen_of_base, overlay)

    def folded(self, extra: int = 0) -> "Layers":
        """The same, with room again, for `extra` rows at least."""
        overlay = self.overlay.folded(self.count, extra)
        return replace(self, overlay=overlay, count=overlay.count).going_on(self)

    def going_on(self, before: "Layers") -> "Layers":
        """These, which hold what `before` does, laid out anew."""
        return replace(self, before=Before(before.overlay.latest, before.count, self.count))


def check_once(change: Change) -> None:
    """Raises BadSnapshot when a key stands twice among all that a content names."""
    keys = np.concatenate([change.keys, change.dead])
    if len(distinct(keys)) != len(keys):
        raise BadSnapshot(TWICE)


def based_on(name: Name, change: Change, take: Take = lines) -> Layers:
    """A base of its own: a table of the content's rows; key → row in `vectors` where it has vectors.

    Raises BadSnapshot when a key stands twice in it: that's told by how many rows there are then, without sorting them.
    """
    dim = change.vectors.shape[1]
    columns = np.arange(len(change.keys), dtype=np.uint64)[:, None] if dim else change.columns
    rows = np.concatenate([change.keys[:, None], columns], axis=1)
    slots, counts = take((capacity_for(len(rows)), rows.shape[1]), np.uint64), np.zeros(2, np.int64)
    insert_rows(slots, rows, counts)
    if counts[KEYS] != len(rows):
        raise BadSnapshot(TWICE)
    vectors = take(change.vectors.shape, np.float32)
    vectors[:] = change.vectors
    unseen = np.zeros(dim, np.float32) if change.unseen is None else change.unseen
    return _on(name, slots, vectors, unseen, room_for(1 if dim else rows.shape[1], dim=dim, take=take))


def _on(name: Name, base: U64, vectors: F32, unseen: F32, overlay: Overlay) -> Layers:
    """A base with nothing over it yet."""
    return Layers((name,), name, base, vectors, unseen, overlay, overlay.count, unseen)


def _put(layers: Layers, keys: U64, columns: U64, vectors: F32, *, gone: bool) -> Layers:
    """Lay rows over layers; in another overlay when theirs has no room for all."""
    overlay, count = layers.overlay, layers.count
    if count != overlay.count or count + len(keys) > overlay.room:  # or a version that was refused went on from there
        layers = layers.folded(len(keys))
        overlay, count = layers.overlay, layers.count
    more = overlay.put(count, keys, columns, vectors if overlay.dim else None, gone=gone)
    assert more is not None, "there is room, and nobody else goes on from there"
    return replace(layers, count=more)


def _laid(names: tuple[Name, ...], layers: Layers | None, read: Callable[[Name], Change], take: Take) -> Layers:
    """The layers of these contents, going on from `layers`, which have the first of them, or from nothing."""
    if layers is None:
        layers = based_on(names[0], read(names[0]), take)
    for name in names[len(layers.names) :]:
        layers = layers.laid_over(name, read(name))
    return layers


class Stack:
    """Lays the contents of one part, version by version, each over the one before, in arrays of `take`. One thread."""

    def __init__(self, take: Take = lines) -> None:
        self._take = take
        self._making: Future[Layers] | None = None
        self._tried: Name | None = None  # the base that was made last, or that couldn't be
        self._spare: Layers | None = None  # one that was made, and what lay over it was merged meanwhile

    def lay(self, names: tuple[Name, ...], previous: Layers | None, read: Callable[[Name], Change]) -> Layers:
        """The layers of these contents, taking over from `previous` what it has of them. `read` reads one.

        It may be called in another thread, for a base that is held otherwise already.
        """
        layers = self._start(names, previous)
        if layers is not None and layers.names == names:
            return layers
        layers = _laid(names, layers, read, self._take)
        self._make(layers, read)
        return layers

    def _start(self, names: tuple[Name, ...], previous: Layers | None) -> Layers | None:
        """What can be gone on from: what was made meanwhile, all of `previous`, its base alone, or nothing."""
        if previous is not None and previous.names == names:
            return previous
        made = self._made()
        if made is not None:
            if names[: len(made.names)] == made.names:
                return made
            self._spare = made.bare() if made.origin == names[0] else None
        if previous is None:
            return None
        if names[: len(previous.names)] == previous.names:
            return previous
        if names[0] != previous.origin:
            return None
        return previous.bare()

    def _made(self) -> Layers | None:
        if self._making is None or not self._making.done():
            return None
        making, self._making = self._making, None
        try:
            return making.result()
        except StoreUnavailable as bad:
            self._tried = None
            log.warning("a new base can't be had yet, ranking goes on with the one there is: %s", bad)
        except Exception:  # whatever it is, no version waits for it
            log.exception("a new base can't be had, ranking goes on with the one there is")
        return None

    def _make(self, layers: Layers, read: Callable[[Name], Change]) -> None:
        """In another thread: these layers on the base that others have by now, or else with room again."""
        if self._making is not None:
            return
        base, spare, self._spare = layers.names[0], self._spare, None
        if spare is not None and spare.origin != base:
            spare = None
        if base != layers.origin and (spare is not None or base != self._tried):
            self._tried = base
            self._submit(lambda: _laid(layers.names, spare, read, self._take).going_on(layers))
        elif layers.count > FOLD_SHARE * layers.overlay.room:
            self._submit(layers.folded)

    def _submit(self, work: Callable[[], Layers]) -> None:
        making = self._making = Future[Layers]()

        def run() -> None:
            try:
                making.set_result(work())
            except BaseException as bad:  # noqa: BLE001  # whoever takes the result is told
                making.set_exception(bad)

        threading.Thread(target=run, name="layers", daemon=True).start()  # a process that ends doesn't wait for it
