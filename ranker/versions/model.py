"""The serving model: one version, whole and immutable, in numpy and numba. Must equal the learner's predictions.

    logit = Σ wide weights of the keys + tower([pooled embeddings, quantised numbers]);  p = σ(logit)

A version never changes, so threads read it without locks; what it caches of items' parts
(`item_activation_cache.py`) is a function of the version and the item. A page is ranked in a `Run`: its user's part is
computed once, its items in batches.
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from msgspec import UNSET

from ranker.kernels.item_activation_cache import NO_ACTIVATIONS, ActivationCache, ActivationTable
from ranker.kernels.layered_table import LayeredTable
from ranker.kernels.net import NO_EMBEDDINGS, NO_NET, Embeddings, Net, floats_for, vectors_of
from ranker.kernels.page import Model, Run, UserLayer, begin, fill_items, same_for_all, score_items, without_slots
from ranker.kernels.pair_cache import Generation, PairCache
from ranker.kernels.plan import Plan
from ranker.kernels.request import Tables, UserContext
from ranker.kernels.scratch import Scratch, new_scratch
from ranker.kernels.uncertainty import add_variances
from ranker.versions.learned_items import LearnedItems
from stream.features.page_features import words_of
from stream.features.serve_as import as_served
from stream.runtime.errors import BadEvent
from stream.snapshots.manifest import Manifest
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.tables.dtypes import F32, F64, I64, U64

BATCH_ITEMS: Final = 100  # scored at once, at most: few enough for a core's own caches, enough to use each weight often
BATCH_ITEMS_MAX: Final = 1_000

_thread = threading.local()


@dataclass(frozen=True)
class ServingTower:
    """The deep part: `embeddings` of ids; `net` is packed; `items`: the items' parts of the first layer."""

    embeddings: LayeredTable
    net: Net
    items: ActivationCache

    @cached_property
    def floats(self) -> int:
        """Floats that a batch needs per item."""
        return floats_for(self.net, self.items.plan, 1)


@dataclass(frozen=True)
class Version:
    """One version of a model, ready to serve."""

    manifest: Manifest
    plan: Plan
    wide: LayeredTable
    statistics: LayeredTable
    pairs: PairCache
    tower: ServingTower | None
    shown: tuple[str, ...]  # names of items on pages that were learned
    learned_items: LearnedItems | None  # if the spec retrieves by them

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.version

    @property
    def retrieval_version(self) -> int:
        """The version up to whose examples the items' vectors have learned; 0: there are none."""
        part = self.manifest.parts.get(RETRIEVAL_PART)
        return 0 if part is None or part.version is UNSET else part.version

    @cached_property
    def item_weights(self) -> int:
        """How many weights of the deep part are multiplied for each item of a page."""
        return self._net.pair.size + self._net.weights.size + self._net.last.size

    def event_time_ms(self, now_ms: int) -> int:
        """Event time now: the watermark when the version was made, and the wall time since."""
        return self.manifest.watermark_ms + max(0, now_ms - self.manifest.created_ms)

    def staleness_ms(self, now_ms: int) -> int:
        """Age of the newest label learned; 0 when nothing was learned yet."""
        return max(0, now_ms - self.manifest.learned_ms) if self.manifest.learned_ms else 0

    def begin(self, words: U64, time_ms: int | None = None) -> Run:
        """Compute the user's part of a page, which is as it's served.

        With `time_ms` its statistics are written, as of then, while items are scored; without, they stay as logged.
        """
        live, admits = self.pairs.live, time_ms is not None and self.pairs.is_used
        user, part, without_slot = self._begin(words, time_ms, live, deep=self.tower is not None, admits=admits)
        if len(without_slot):
            self.pairs.admit(without_slot)
        return Run(words, user, part, np.zeros(int(words[1]), np.float32), live.number)

    def _begin(
        self, words: U64, time_ms: int | None, live: Generation, *, deep: bool, admits: bool
    ) -> tuple[UserContext, F32, U64]:
        now = np.nan if time_ms is None else float(time_ms)
        model = self._model(live)
        return begin(  # type: ignore[no-any-return]  # a kernel
            words, now, model.plan, model.tables, self._user_layer, self.plan.program.base_key, (deep, admits),
            self._scratch(),
        )  # fmt: skip

    def score(self, run: Run, first: int, last: int) -> None:
        """Write the logits of items first:last, not over BATCH_ITEMS_MAX; other threads may score others meanwhile."""
        if not self._score(run, first, last, self._live):
            assert self.tower is not None, "only items' parts can be missing"
            admitted = self.tower.items.admit(run.words, first, last)
            logged = run._replace(user=run.user._replace(now=np.nan))  # statistics are written by now
            is_complete = self._score(logged, first, last, admitted)
            assert is_complete, "the parts were just admitted"

    def _score(self, run: Run, first: int, last: int, items: ActivationTable) -> bool:
        live = self.pairs.live
        if run.generation != live.number:
            run = run._replace(user=without_slots(run.user), generation=live.number)
        return score_items(run, first, last, self._model(live), items.arrays, self._scratch(last - first))

    @property
    def _live(self) -> ActivationTable:
        """Items' parts, as far as they're there."""
        return self.tower.items.live if self.tower else NO_ACTIVATIONS

    def uncertainty(self, words: U64, positions: I64, prior: float | None = None) -> F64:
        """How much the model doesn't know of the items at these positions of a page as it's served, in log-odds.

        float64 [n], u of `Explore`; zeros of a spec under which versions don't say so. `prior`: in place of the spec's.
        """
        explored, variances, scratch = self.plan.explored, np.zeros(len(positions)), self._scratch()
        prior = self.plan.spec.explore.prior if prior is None else prior
        crosses, sizes = self.plan.arrays.wide, self.plan.layout.size_array
        add_variances(words, sizes, positions, crosses, explored, self.wide.view, prior, scratch, variances)
        return np.sqrt(variances)

    def fill(self, words: U64, time_ms: int) -> None:
        """Write the page's statistics, as of `time_ms`, into its words."""
        live = self.pairs.live
        user, _, _ = self._begin(words, time_ms, live, deep=False, admits=False)
        model = self._model(live)
        fill_items(words, user, 0, int(words[1]), model.plan, model.tables, self._scratch())

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
        return same_for_all(words, self.plan.arrays)

    def _scratch(self, items: int = 0) -> Scratch:
        """This thread's own buffers, for a batch of `items` items."""
        floats = self.tower.floats * items if self.tower else 0
        scratch: Scratch | None = getattr(_thread, "scratch", None)
        if scratch is None or len(scratch.floats) < floats:
            scratch = _thread.scratch = new_scratch(floats)
        return scratch

    def _model(self, pairs: Generation) -> Model:
        """The version as kernels read it, with the live generation of slots; kept until the next one begins."""
        built: tuple[Generation, Model] | None = self.__dict__.get("_built")
        if built is None or built[0] is not pairs:
            tables = Tables(
                self.wide.view, self.statistics.view, pairs.slots.heads, pairs.weights.matrix, pairs.likenesses.matrix
            )
            model = Model(self.plan.arrays, tables, self.tower is not None, self._net.for_items(self.plan))
            built = self.__dict__["_built"] = pairs, model
        return built[1]

    @cached_property
    def _user_layer(self) -> UserLayer:
        net, unseen = self._net, self.plan.user.deep.unseen
        embeddings = embeddings_of(self.tower.embeddings, unseen) if self.tower else NO_EMBEDDINGS
        return UserLayer(net.layer(self.plan.user, net.user), net.bias, embeddings)

    @property
    def _net(self) -> Net:
        return self.tower.net if self.tower else NO_NET


def embeddings_of(table: LayeredTable, unseen: U64) -> Embeddings:
    """Vectors by id, as kernels read them. `unseen` uint64 [F]: the keys of each list's row for ids that have none.

    Where an earlier build published none, that is the vector of key 0.
    """
    base, heads, entries, limit, _ = table.view
    shared = np.repeat(table.unseen[None], len(unseen), axis=0)
    embeddings = Embeddings(base, heads, entries, limit, table.vectors, table.delta.vectors, shared)
    return embeddings._replace(unseen=vectors_of(unseen, embeddings))


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
