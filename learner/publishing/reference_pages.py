"""Reference pages: recent pages as they would be served, with the log-odds that a version gave them.

The live version itself needn't be kept: its scores are, and a later version scores the same pages. The deep part that
is served may be older than the wide part (`publish.deep_every`): its log-odds are kept, too, so that a version without
a deep part of its own is judged as the pair that rankers serve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from learner.training.model import Model
from stream.features.encoder import STATISTIC, Batch, DeepInput, WideKeys
from stream.features.page_features import select
from stream.features.serve_as import as_served
from stream.tables.dtypes import F32, F64, I64, U64, Bools
from stream.tables.hash_table import distinct

ITEMS_MAX: Final = 512  # of all pages: a few ms to score
PAGE_ITEMS_MAX: Final = 16  # a longer page's first
GROUP: Final = 16  # items of pages of one item that are ranked among each other


@dataclass(frozen=True)
class ReferencePages:
    """N items of recent pages, encoded as rankers read them. Statistics are as of `watermark_ms`."""

    words: U64
    starts: I64  # i64[P], into `words`
    page: I64  # i64[N]
    position: I64  # i64[N]
    ends: I64  # i64[G + 1]: items ends[g]:ends[g + 1] are ranked among each other
    keys: WideKeys
    ids: U64  # distinct ones of the deep part
    members: Bools  # bool[N, S]: which is in which slice
    watermark_ms: int
    coverage: F64  # f64[C]: share of items for which a column has a value: lists and numbers of both parts

    def __len__(self) -> int:
        return len(self.page)

    def batch(self) -> Batch:
        """All items."""
        return Batch(self.words, self.starts, self.page, self.position)

    def wide_logits(self, model: Model) -> F32:
        """The wide part's log-odds, float32 [N]."""
        weights = model.wide.weights(model.wide.table.rows_of(self.keys.keys))
        logits: F32 = np.add.reduceat(weights, self.keys.offsets[:-1])  # every example has a key: the bias
        return logits

    def deep_input(self, model: Model) -> DeepInput:
        """What the deep part reads, with the statistics that the model has now."""
        if not model.learns_statistics:
            return model.encoder.deep_input(self.batch(), serving=True)
        words = self.words.copy()
        for first, last in pairwise([*self.starts.tolist(), len(words)]):
            model.statistics.fill(words[first:last], self.watermark_ms)
        return model.encoder.deep_input(self.batch()._replace(words=words), serving=True)

    def deep_logits(self, model: Model) -> F32:
        """The deep part's log-odds, float32 [N]; zeros without one."""
        return model.deep.score(self.deep_input(model)) if model.deep else np.zeros(len(self), np.float32)

    def norms(self, model: Model) -> F64:
        """Of each layer's weights, and the root mean square of these items' embeddings; empty without a deep part."""
        if not model.deep:
            return np.zeros(0)
        vectors = model.deep.vocabulary.vectors[model.deep.vocabulary.rows_of(self.ids)]
        layers = [float(np.linalg.norm(weight)) for weight, _ in model.deep.tower.layers()]
        return np.array([*layers, float(np.sqrt(np.square(vectors, dtype=np.float64).mean())) if len(vectors) else 1.0])


def reference_pages(model: Model) -> ReferencePages | None:
    """The model's most recent pages; None when there are none."""
    chosen: list[U64] = []
    items = 0
    for raw in reversed(model.recent_pages):
        words = np.frombuffer(raw, np.uint64).copy()  # kernels are compiled for writable arrays
        if words[1] > PAGE_ITEMS_MAX:
            words = select(model.layout, words, range(PAGE_ITEMS_MAX))
        items += int(words[1])
        if items > ITEMS_MAX:
            break
        chosen.append(as_served(model.layout, words))
    return _encoded(model, chosen, model.watermark_ms) if chosen else None


def without_users(pages: ReferencePages, model: Model, users: U64) -> tuple[ReferencePages | None, Bools]:
    """The pages that have none of these ids, None when there is none left; and which items are theirs, bool [N]."""
    words = np.split(pages.words, pages.starts[1:])
    kept = np.array([not np.isin(page, users).any() for page in words])
    if kept.all():
        return pages, kept[pages.page]
    left = [page for page, is_kept in zip(words, kept, strict=True) if is_kept]
    return _encoded(model, left, pages.watermark_ms) if left else None, kept[pages.page]


def _encoded(model: Model, chosen: Sequence[U64], watermark_ms: int) -> ReferencePages:
    counts = [int(words[1]) for words in chosen]
    starts, ends = np.cumsum([0, *map(len, chosen)]), np.cumsum([0, *counts])
    page = np.repeat(np.arange(len(chosen)), counts)
    batch = Batch(np.concatenate(chosen), starts[:-1], page, np.arange(ends[-1]) - ends[page])
    keys = model.encoder.wide_keys(batch)
    given = model.encoder.deep_input(batch, serving=True)
    return ReferencePages(
        *batch,
        _groups(counts),
        keys,
        distinct(given.ids),
        model.batch_encoder.slices.members(batch),
        watermark_ms,
        _coverage(model, keys, given),
    )


def column_names(model: Model) -> list[str]:
    """Names of what `ReferencePages.coverage` counts, in its order."""
    encoder = model.encoder
    numbers = [name for name, kind in zip(encoder.deep_numbers, encoder.deep.kinds, strict=True) if kind < STATISTIC]
    return [*encoder.cross_names, *encoder.deep_lists, *numbers]


def _coverage(model: Model, keys: WideKeys, given: DeepInput) -> F64:
    """Which share of items has a key of each cross, an id in each list, each number of user and item."""
    n, encoder = len(given.numbers), model.encoder
    crosses = len(encoder.cross_names)
    cross = (keys.keys & np.uint64(255)).astype(np.int64) - 1
    item = np.repeat(np.arange(n), np.diff(keys.offsets))
    present = np.zeros((n, crosses), np.bool_)
    present[item, cross] = True
    lists = np.diff(given.offsets).reshape(n, -1) > 0
    numbers = ~np.isnan(given.numbers[:, encoder.deep.kinds < STATISTIC])
    return np.concatenate([of.mean(axis=0) for of in (present, lists, numbers)])


def _groups(counts: list[int]) -> I64:
    """Ends of pages; pages of one item that follow each other are one group, of GROUP at most."""
    ends, singles = [0], 0
    for before, count in pairwise([2, *counts]):
        singles = singles + 1 if count == 1 and before == 1 and singles < GROUP else 1
        if count == 1 and singles > 1:
            ends[-1] += 1
        else:
            ends.append(ends[-1] + count)
    return np.array(ends, np.int64)
