"""The serving model: one version, whole and immutable, in numpy and numba. Must equal the learner's predictions.

    logit = Σ wide weights of the keys + tower([pooled embeddings, quantised numbers]);  p = σ(logit)

Nothing in a version ever changes, so threads read it without locks; what it keeps of items' parts
(`item_activation_cache.py`) is a function of the version and the item. A page is ranked in a `Run`: its user is taken
once, its items in batches.
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from ranker.kernels.crossing import Scratch, scratch
from ranker.kernels.item_activation_cache import NO_PARTS, ItemParts, Parts
from ranker.kernels.layered_table import Layers
from ranker.kernels.net import NO_EMBEDDINGS, NO_NET, Embeddings, Net, floats_for
from ranker.kernels.page import (
    Crossed,
    Tables,
    Taken,
    begin,
    fill_items,
    same_for_all,
    score_items,
)
from ranker.kernels.pair_cache import Pairs
from ranker.kernels.plan import Plan
from stream.features.page_features import F32, words_of
from stream.features.serve_as import as_served
from stream.runtime.errors import BadEvent
from stream.snapshots.manifest import Manifest
from stream.tables.hash_table import U64

BATCH_ITEMS: Final = 100  # scored at once, at most: few enough for a core's own caches, enough to use each weight often
BATCH_ITEMS_MAX: Final = 1_000

_thread = threading.local()


@dataclass(frozen=True)
class Tower:
    """The deep part: `rows` give ids their vectors; `net` is packed; `parts`: the items' parts of the first layer."""

    rows: Layers
    net: Net
    parts: ItemParts

    @cached_property
    def floats(self) -> int:
        """Floats that a batch needs per item."""
        return floats_for(self.net, self.parts.plan, 1)


@dataclass(frozen=True)
class Run:
    """A page that is being ranked by a version: `logits` float32 [n] get there batch by batch."""

    words: U64
    w32: "np.ndarray[tuple[int, ...], np.dtype[np.uint32]]"
    f32: F32
    taken: Taken
    user: F32
    logits: F32


@dataclass(frozen=True)
class Version:
    """One version of a model, ready to serve."""

    manifest: Manifest
    plan: Plan
    wide: Layers
    statistics: Layers
    pairs: Pairs
    tower: Tower | None
    shown: tuple[str, ...]  # names of items on pages that were learned

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.version

    def event_time_ms(self, now_ms: int) -> int:
        """Event time now: the watermark when the version was cut, and the wall time since."""
        return self.manifest.watermark_ms + max(0, now_ms - self.manifest.created_ms)

    def staleness_ms(self, now_ms: int) -> int:
        """Age of the newest label learned; 0 when nothing was learned yet."""
        return max(0, now_ms - self.manifest.learned_ms) if self.manifest.learned_ms else 0

    def begin(self, words: U64, time_ms: int | None = None) -> Run:
        """Take what is the user's of a page, which is as it's served.

        With `time_ms` its statistics are written, as of then, while items are scored; without, they stay as logged.
        """
        admits = time_ms is not None and self.pairs.has_room
        taken, user, lacking = self._begin(words, time_ms, deep=self.tower is not None, admits=admits)
        if len(lacking):
            self.pairs.places.admit(lacking)
        w32, f32 = words.view(np.uint32), words.view(np.float32)
        return Run(words, w32, f32, taken, user, np.zeros(int(words[1]), np.float32))

    def _begin(self, words: U64, time_ms: int | None, *, deep: bool, admits: bool) -> tuple[Taken, F32, U64]:
        now = np.nan if time_ms is None else float(time_ms)
        net, embeddings = (self.tower.net, self._embeddings) if self.tower else (NO_NET, NO_EMBEDDINGS)
        return begin(  # type: ignore[no-any-return]  # a kernel
            words, words.view(np.uint32), words.view(np.float32), now, self._crossed, self._tables,
            self.plan.program.base_key, self.plan.user, embeddings, net, deep, admits, self._scratch(),
        )  # fmt: skip

    def score(self, run: Run, first: int, last: int) -> None:
        """Write the logits of items first:last, not over BATCH_ITEMS_MAX; other threads may score others meanwhile."""
        if not self._score(run, run.taken, first, last, self._parts):
            assert self.tower is not None, "there is nothing else to lack"
            admitted = self.tower.parts.admit(run.words, first, last)
            logged = run.taken._replace(now=np.nan)  # statistics are written by now
            assert self._score(run, logged, first, last, admitted), "the parts were just admitted"

    def _score(self, run: Run, taken: Taken, first: int, last: int, parts: Parts) -> bool:
        plan, net = self.plan, self.tower.net if self.tower else NO_NET
        return bool(score_items(
            run.words, run.w32, run.f32, first, last, taken, self._crossed, self._tables, self.tower is not None,
            plan.item, plan.pair, net, run.user, parts.table.heads, parts.table.vectors, parts.uses,
            self._scratch(last - first), run.logits,
        ))  # fmt: skip

    @property
    def _parts(self) -> Parts:
        """Items' parts, as far as they're there."""
        return self.tower.parts.live if self.tower else NO_PARTS

    def fill(self, words: U64, time_ms: int) -> None:
        """Write the page's statistics, as of `time_ms`, into its words."""
        taken, _, _ = self._begin(words, time_ms, deep=False, admits=False)
        w32, f32 = words.view(np.uint32), words.view(np.float32)
        fill_items(words, w32, f32, 0, int(words[1]), taken, self._crossed, self._tables, self._scratch())

    def logits(self, words: U64) -> F32:
        """Logits of the items of a page as logged, whose statistics are filled. float32 [n]."""
        run = self.begin(as_served(self.plan.layout, words))
        for first in range(0, len(run.logits), BATCH_ITEMS):
            self.score(run, first, min(first + BATCH_ITEMS, len(run.logits)))
        return run.logits

    def probabilities(self, words: U64) -> F32:
        """σ of the logits: what items score. float32 [n]."""
        return sigmoid(self.logits(words))

    def like_for_all(self, words: U64) -> bool:
        """Whether the page's statistics of the user alone are the same for all items, as they are in every page."""
        return bool(same_for_all(words, words.view(np.uint32), self._crossed))

    def _scratch(self, items: int = 0) -> Scratch:
        """This thread's own memory, for a batch of so many items."""
        floats = self.tower.floats * items if self.tower else 0
        held: Scratch | None = getattr(_thread, "scratch", None)
        if held is None or len(held.floats) < floats:
            held = _thread.scratch = scratch(floats)
        return held

    @cached_property
    def _crossed(self) -> Crossed:
        plan = self.plan
        return Crossed(plan.sizes, plan.wide, plan.squares, plan.statistics, plan.measures, plan.history, plan.item_id)

    @cached_property
    def _tables(self) -> Tables:
        pairs = self.pairs
        return Tables(
            self.wide.rows, self.statistics.rows, pairs.places.heads, pairs.weights.square, pairs.likenesses.square
        )

    @cached_property
    def _embeddings(self) -> Embeddings:
        assert self.tower is not None
        return embeddings_of(self.tower.rows)


def embeddings_of(layers: Layers) -> Embeddings:
    """Vectors by id, as kernels read them."""
    base, heads, entries, limit, _ = layers.rows
    return Embeddings(base, heads, entries, limit, layers.vectors, layers.overlay.vectors, layers.unseen)


def score_features(version: Version, features: bytes, n: int) -> F32:
    """What a page's n items score by a version, from its features as logged. float32 [n]. Raises BadEvent.

    A reply's scores are these, recomputed: `score_features(version, reply.features, len(reply.items))`.
    """
    words = words_of(features, version.plan.layout, n).copy()  # kernels are compiled for writable arrays
    if not version.like_for_all(words):
        raise BadEvent("a page has one user, but its statistics of the user differ by item")
    scores = version.probabilities(words)
    if not np.isfinite(scores).all():
        raise BadEvent("a score isn't finite")
    return scores


def sigmoid(logits: F32) -> F32:
    """1 / (1 + e^−x), computed in float64. float32."""
    p: F32 = (1.0 / (1.0 + np.exp(-logits.astype(np.float64).clip(-700, 700)))).astype(np.float32)
    return p
