"""Figures of ranking as the learner learns: within pages, and within users' sessions.

A page is counted when all of its items have a label, at the predictions they were learned with: the first labels, under
`fake_negative` those of when its window is over (corrections come until then). Its items join those of its user's
session, which is counted when it ends. Pages that wait for labels and sessions that go on have a slot each, by hash; if
it is taken they aren't counted. So memory is bounded, and what is counted is a sample by hash, of whole pages and whole
sessions. The same records give the same bits, however they are packed.

Predictions are those just before each item is learned. Where a page's own labels were learned before (`wait`, `eager`:
item by item), they tell which items come after a positive: there pages of one item are counted only.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from learner.training.ranking_figures import RankingFigures, of_sums, sums_of
from learner.training.ranking_kernels import (
    FIRST_UNCOUNTED,
    KEY,
    KINDS,
    PAGE_ITEMS,
    PAGES,
    RECENT,
    SESSION_ITEMS,
    SESSIONS,
    SIZE,
    UNCOUNTED,
    RankedExamples,
    RankingState,
    fill_identity,
    record_pages,
)
from stream.events.types import Impression
from stream.tables.dtypes import F32, F64, I64, Bools
from stream.tables.xxh3 import LENGTH_MAX

LATE_MS: Final = 60_000  # labels may come so much later than they should, by the event time of learned pages
BUFFERED: Final = 512  # examples that are counted at once
NONE_CORRECTED: Final[Bools] = np.zeros(BUFFERED, np.bool_)


class PageColumns(NamedTuple):
    """What examples [B] belong to."""

    identities: I64  # i64[pages, 3]: key, user and number of items of each page of a chunk; keys aren't 0
    page: I64  # i64[B], index of a page; examples of one page are adjacent
    position: I64  # i64[B]
    time_ms: F64  # f64[B], event time of the page

    def part(self, which: Any) -> "PageColumns":
        """Those of these examples."""
        return PageColumns(self.identities, self.page[which], self.position[which], self.time_ms[which])


def identities_of(pages: Sequence[Impression]) -> I64:
    """What `PageColumns` calls identities, as decoding fills them."""
    found = np.empty((len(pages), 3), np.int64)
    for identity, page in zip(found, pages, strict=True):
        request, user, item = (_hash(text) for text in (page.request_id, page.user, page.items[0]))
        fill_identity(identity, request, user, page.time_ms, item, len(page.items))
    return found


def _hash(text: str) -> np.uint64:
    return np.uint64(xxh3_64_intdigest(text.encode()[:LENGTH_MAX]) or 1)


class RankingProgress:
    """Figures of ranking, of all examples and of each slice. `window_ms`: how long labels of a page may come.

    `settles`: whether labels may change until then (`fake_negative`). `items_max`: larger pages aren't counted.
    """

    def __init__(self, slices: int, window_ms: int = 0, *, settles: bool = False, items_max: int = PAGE_ITEMS) -> None:
        words, rows = -(-slices // 64), 1 + slices
        self._life_ms, self._settles, self._items_max = window_ms + LATE_MS, settles, items_max
        self._state = RankingState(
            np.zeros((PAGES + 1, 5), np.int64), np.zeros((PAGES + 1, 2, PAGE_ITEMS), np.float32),
            np.zeros((PAGES + 1, PAGE_ITEMS, words), np.uint64),
            np.zeros((SESSIONS, 5), np.int64), np.zeros((SESSIONS, 2, SESSION_ITEMS), np.float32),
            np.zeros((SESSIONS, SESSION_ITEMS, words), np.uint64),
            np.zeros((2, rows, 6)), np.zeros((2, rows, RECENT, 4)), np.zeros((2, rows), np.int64),
            np.zeros(FIRST_UNCOUNTED + len(UNCOUNTED), np.int64),
        )  # fmt: skip
        self._buffer: list[tuple[Any, ...]] = []  # of the columns of RankedExamples
        self._buffered = 0
        self._identities = self._limited = np.zeros((0, 3), np.int64)  # of the buffer; of pages that are counted

    def add(self, predictions: F32, labels: F32, members: Bools, corrected: Bools | None, pages: PageColumns) -> None:
        """Examples, in order. `corrected` bool [B]: whose other label was added before; None: none's."""
        if pages.identities is not self._identities or self._buffered >= BUFFERED:
            self.flush()
            self._identities = self._limited = pages.identities
            too_large = self._identities[:, SIZE] > self._items_max
            if too_large.any():
                self._limited = self._identities.copy()
                self._limited[too_large, SIZE] = PAGE_ITEMS + 1
        n = len(labels)
        if corrected is None:
            corrected = NONE_CORRECTED[:n] if n <= BUFFERED else np.zeros(n, np.bool_)
        self._buffer.append((predictions, labels, members, corrected, *pages[1:]))  # a tuple: this is for every step
        self._buffered += n

    def flush(self, later: int = 0) -> None:
        """Count what was added, but for pages that end within the `later` newest examples."""
        if not self._buffer:
            return
        parts = self._buffer
        found = RankedExamples._make(parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True)))
        stop = len(found.page) - later
        done = record_pages(self._state, found, self._limited, stop, self._life_ms, self._settles)
        self._buffered = len(found.page) - done
        self._buffer = [tuple(column[done:] for column in found)] if self._buffered else []

    def lifetime(self, kind: str, row: int = 0) -> RankingFigures:
        """Over all pages or sessions. `row`: 0 for all examples, else of a slice, from 1."""
        self.flush()
        return of_sums(self._state.ranking_sums[KINDS.index(kind), row])

    def window(self, kind: str, row: int = 0, later: int = 0) -> RankingFigures:
        """Over the last RECENT. `later`: newest examples that don't count yet."""
        self.flush(later)
        k = KINDS.index(kind)
        count = min(int(self._state.ranking_counts[k, row]), RECENT)
        return of_sums(sums_of(self._state.ranking_recent[k, row, :count]).sum(0))

    def uncounted(self) -> dict[str, int]:
        """Pages that aren't counted, by reason; and those not counted in their session."""
        self.flush()
        return dict(zip(UNCOUNTED, self._state.ranking_clock[FIRST_UNCOUNTED:].tolist(), strict=True))

    def arrays(self) -> dict[str, Any]:
        """The state, copied; of slots those in use, with their indices."""
        self.flush()
        state = self._state
        found = {name: array.copy() for name, array in state._asdict().items() if name.startswith("ranking_")}
        for kind in KINDS:
            heads = getattr(state, f"{kind}_heads")
            slots = np.flatnonzero(heads[:, KEY])
            width = int(heads[slots, SIZE].max(initial=0))
            found[f"{kind}_slots"] = np.column_stack([slots, heads[slots]])
            found[f"{kind}_items"] = getattr(state, f"{kind}_items")[slots, :, :width]
            found[f"{kind}_members"] = getattr(state, f"{kind}_members")[slots, :width]
        return found

    def restore(self, arrays: Mapping[str, Any], rows: Sequence[int]) -> None:
        """Resume from what `arrays` gave. `rows`: of each row now, its index then; −1: it begins at zero.

        Where slices have changed, pages and sessions that weren't complete are dropped.
        """
        if "ranking_sums" not in arrays:  # of a build without them
            return
        state = self._state
        state.ranking_clock[:] = arrays["ranking_clock"]
        for row, source in enumerate(rows):
            if source >= 0:
                for name in ("ranking_sums", "ranking_recent", "ranking_counts"):
                    getattr(state, name)[:, row] = arrays[name][:, source]
        if list(rows) != list(range(arrays["ranking_counts"].shape[1])):
            return
        for kind in KINDS:
            slots, items = arrays[f"{kind}_slots"], arrays[f"{kind}_items"]
            where, width = slots[:, 0], items.shape[2]
            getattr(state, f"{kind}_heads")[where] = slots[:, 1:]
            getattr(state, f"{kind}_items")[where, :, :width] = items
            getattr(state, f"{kind}_members")[where, :width] = arrays[f"{kind}_members"]
