"""Keeps an index of items' vectors near the live version, off the request path."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import numpy as np

from ranker import metrics
from ranker.kernels.retrieval import ItemVectors, RetrievalRows, changes_between, vectors_at, vectors_of
from ranker.retrieval.best import best_of
from ranker.retrieval.vector_index import VectorIndex, built
from ranker.retrieval.vector_search import VectorSearch
from ranker.versions.learned_items import LearnedRows
from stream.tables.dtypes import U64

EXACT_MAX: Final = 50_000  # items that are searched one by one
CHANGED_MAX: Final = 16_384  # since an index was made: over it a newer one is
GROWTH_MAX: Final = 2.0  # of the number of items: over it lists are chosen again
NICE: Final = 10  # as a builder process

MISFITS_MAX: Final = 1_024  # items that an index can't have: over it lists are chosen again
NO_ITEMS: Final[U64] = np.zeros(0, np.uint64)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """See EXACT_MAX, CHANGED_MAX."""

    exact: int = EXACT_MAX
    changed: int = CHANGED_MAX


NO_MORE_THAN: Final = Limits()


class VectorIndexer:
    """Makes the `VectorSearch` of each version. One thread calls it; another, of low priority, makes indices.

    A version of at most EXACT_MAX items is searched exactly. Of a larger one, what changed since the index was made is:
    so answers go by the version's own vectors, whichever index there is. While the first index is made, only the
    EXACT_MAX items with the greatest biases are found.
    """

    def __init__(self, limits: Limits = NO_MORE_THAN) -> None:
        self._limits = limits
        self._index: VectorIndex | None = None
        self._pending: Future[VectorIndex] | None = None
        self._has_failed = False
        self._likeliest = NO_ITEMS  # what is searched while there is no index
        self._last: tuple[LearnedRows, VectorSearch] | None = None

    @property
    def has_newer(self) -> bool:
        """Whether an index was finished since the last search was made."""
        return self._pending is not None and self._pending.done()

    def search_of(self, learned: LearnedRows) -> VectorSearch:
        """The search of a version. It takes the time of what changed since the index was made; of all items if there is
        none yet."""
        if self._last is None or self._last[0] is not learned or self.has_newer:
            self._take_finished()
            self._last = learned, self._search_of(learned)
        return self._last[1]

    def _search_of(self, learned: LearnedRows) -> VectorSearch:
        rows, index = learned.rows, self._index
        if len(rows.vectors) <= self._limits.exact:
            self._index, self._likeliest = None, NO_ITEMS
            return VectorSearch(learned.vectors)
        if index is None or (index.rows.length, index.rows.dim) != (rows.length, rows.dim):
            return VectorSearch(self._without_index(rows))
        self._likeliest = NO_ITEMS
        is_same_base = index.rows.base is rows.base
        changed, lost = changes_between(index.rows, rows, is_same_base)
        if not is_same_base or len(changed) + len(lost) > self._limits.changed:
            self._submit(lambda: _updated(index, rows, changed, lost))
        outside = np.union1d(changed, np.setdiff1d(index.misfits, lost))
        exact = _likeliest(vectors_at(rows, outside), self._limits.exact)
        return VectorSearch(exact, index.without(np.concatenate([changed, lost])))

    def _without_index(self, rows: RetrievalRows) -> ItemVectors:
        if not len(self._likeliest):
            self._likeliest = _likeliest(vectors_of(rows), self._limits.exact).ids
        self._submit(lambda: built(rows, vectors_of(rows)))
        return vectors_at(rows, self._likeliest)

    def _take_finished(self) -> None:
        if not self.has_newer:
            return
        pending, self._pending = self._pending, None
        try:
            assert pending is not None, "it has finished"
            self._index = pending.result()
        except Exception:  # whatever it is, requests are answered without
            self._has_failed = True
            log.exception("no further index of items' vectors is made until the ranker restarts: of what the last one "
                          "lacks, the %d likeliest items are found", self._limits.exact)  # fmt: skip

    def _submit(self, work: Callable[[], VectorIndex]) -> None:
        """Make an index in a thread of its own, unless one is being made, or couldn't be."""
        if self._pending is not None or self._has_failed:
            return
        pending = self._pending = Future[VectorIndex]()

        def run() -> None:
            if sys.platform == "linux":  # elsewhere it would be the process's priority
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            begun_s = time.monotonic()
            try:
                pending.set_result(work())
                metrics.INDEX.observe(time.monotonic() - begun_s)
            except BaseException as bad:  # noqa: BLE001  # whoever takes the result gets it
                pending.set_exception(bad)

        threading.Thread(target=run, name="vectors", daemon=True).start()  # a process that ends doesn't wait for it


def _updated(index: VectorIndex, rows: RetrievalRows, changed: U64, lost: U64) -> VectorIndex:
    """An index of `rows`: the same lists with what changed, or new ones when these no longer suit."""
    newer = index.updated(rows, vectors_at(rows, changed), lost)
    if newer.lists.ntotal <= GROWTH_MAX * newer.trained and len(newer.misfits) <= MISFITS_MAX:
        return newer
    del newer  # its memory is the new one's
    return built(rows, vectors_of(rows))


def _likeliest(vectors: ItemVectors, count: int) -> ItemVectors:
    """The `count` items with the greatest biases."""
    if len(vectors.ids) <= count:
        return vectors
    best = best_of(vectors.biases, vectors.ids, count)
    return ItemVectors(vectors.ids[best], np.ascontiguousarray(vectors.outputs[:, best]), vectors.biases[best])
