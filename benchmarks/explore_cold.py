"""Cold start: how many impressions until a new item's rank is about its true one, by what is retrieved and explored.

A world where only the item counts: log-odds of an install are normal, whoever asks and wherever the item stands. Two
hundred items are known from pages at random. Then twenty are launched, drawn alike, one after the other in the first
half of the run. The ranker retrieves fifty candidates, by default ten of them by the quota `new`, and shows ten. The
learner learns each page; a version is published every PUBLISHED pages.

An item is *known* from the first version from which its rank is within a tenth of all items of its true one, STEADY
versions in a row. New items that are known before they are shown say nothing and aren't counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import numpy as np

from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.explore.exploration import draw_of
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import rank_with
from ranker.ranking.score import Scorer
from ranker.retrieval.candidates import retrieve
from ranker.retrieval.pools import Query
from ranker.retrieval.sweep import PoolBuilder
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item
from stream.features.page_features import build_page
from stream.snapshots.memory_store import MemoryStore
from stream.spec.explore import Explore
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F64, I64, U64, Bools

SPEC: Final = """
name = "cold"
user = { id = "category" }
item = { id = "category" }
statistics.rate = { kind = "rate", by = ["item.id"] }
statistics.seen = { kind = "count", by = ["item.id"] }
wide = { features = ["item.id"], alpha = 0.5, l1 = 0.1 }
deep = { features = ["statistics.*"], hidden_units = [16], initial_accumulator = 0.1 }
retrieval = { count = 50, popular_half_life = "1000s" }
label = { base_rate = 0.05 }
publish = { gate = { holdout = 0.0 } }
"""
KNOWN, NEW, SHOWN = 200, 20, 10  # items, and those of a page
QUOTA: Final = 10  # of new items among the candidates
MEAN, SPREAD = -3.0, 0.8  # of the log-odds
WARM_PAGES, PAGES = 10_000, 6_000
PUBLISHED, STEADY = 20, 5
PAGE_MS: Final = 1_000
NEAR: Final = (KNOWN + NEW) / 10  # ranks


@dataclass(frozen=True)
class ColdStart:
    """`impressions` and `pages` until each new item was known, inf: it never was; those known at once are left out.

    `earned`: expected installs of all pages, % of the best pages'.
    """

    impressions: F64
    pages: F64
    earned: float


class ColdWorld:
    """The world, and its learner and ranker; a function of the seed. `quota`: of new items among the candidates."""

    def __init__(self, explore: Explore, quota: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.rates = 1 / (1 + np.exp(-self._random.normal(MEAN, SPREAD, KNOWN + NEW)))
        spec = parse_spec(SPEC)
        retrieval = msgspec.structs.replace(spec.retrieval, new=quota)
        spec = msgspec.structs.replace(spec, explore=explore, retrieval=retrieval)
        self._model, self._store, self._scorer = Model(spec, seed), MemoryStore(spec.name), Scorer(1)
        self._builder, self._loader = VersionBuilder(self._model), VersionLoader(self._store, spec.name)
        self._token, self._cache, self._pools = self._store.take_token(), EntityCache(), PoolBuilder()
        self._catalogue = self._cache.catalogue(self._model.layout)
        self._retrieval = retrieval
        self._names = [f"i{i}" for i in range(KNOWN + NEW)]
        self._version: Version | None = None
        self._shown = 0  # pages

    def launch(self, items: Sequence[int]) -> None:
        """Describe items: from now on they can be retrieved."""
        for item in items:
            self._cache.put(self._names[item], Item(self._names[item]))

    def warm_up(self, pages: int) -> None:
        """Learn pages of known items at random."""
        self.launch(range(KNOWN))
        for _ in range(pages):
            self._show(self._random.choice(KNOWN, SHOWN, replace=False))
        self.publish()

    def publish(self) -> None:
        """The next version is live, and all items are swept."""
        number = 1 if self._version is None else self._version.number + 1
        watermark_ms = self._now_ms
        built = self._builder.build(number, number - 1, self._token, self._shown, watermark_ms, {}, deep=True)
        self._store.put_blobs(built.blobs)
        self._store.publish(built.manifest)
        self._version = self._loader.load(number, self._version)
        self._store.retain(2)
        self._pools.rebuild(self._version, self._cache.columns, self._catalogue)

    def rank_errors(self) -> I64:
        """By how many ranks the live version has each item too low."""
        assert self._version is not None, "published after the warm-up"
        words = self._page(self._names)
        scores, _ = self._scorer.score(self._version, words, time_ms=self._now_ms)
        return _ranks(scores.astype(np.float64)) - _ranks(self.rates)

    def serve(self) -> I64:
        """Show a page of what the live version retrieves, as it ranks; its items, int64 [SHOWN]."""
        assert self._version is not None, "published after the warm-up"
        request_id = f"r{self._shown}"
        query = Query(request_id, (), self._retrieval, self._pools.pools, self._cache.columns, self._catalogue)
        names = retrieve(query, (), self._cache.is_deleted).names
        words, explorer = self._page(names), partial(draw_of, request_id)
        ranked = rank_with(self._version, words, self._now_ms, SHOWN, self._scorer, explorer=explorer)
        items = np.array([int(names[i][1:]) for i in ranked.order])
        self._show(items, ranked.features)
        return items

    @property
    def _now_ms(self) -> int:
        return PAGE_MS * (1 + self._shown)

    def _page(self, names: Sequence[str]) -> U64:
        user = self._model.layout.user("u", {}, [], {})
        rows, unknown = self._catalogue.lookup(names)
        return build_page(self._model.layout, user, self._catalogue, rows, self._now_ms, unknown)

    def _show(self, items: I64, features: bytes = b"") -> None:
        """Learn a page with what its user installs."""
        names = [self._names[i] for i in items]
        if not features:
            words = self._page(names)
            self._model.statistics.fill(words, self._now_ms)
            features = words.tobytes()
        labels = (self._random.random(SHOWN) < self.rates[items]).astype(int).tolist()
        page = Impression(f"r{self._shown}", self._now_ms, "u", names, features=features)
        ids = [1 + SHOWN * self._shown + k for k in range(SHOWN)]
        reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels]
        learned = Examples(page, ids, [*range(SHOWN)], labels, [1.0] * SHOWN, reasons, [self._now_ms] * SHOWN)
        self._model.learn([learned], self._shown)
        self._shown += 1


def cold_start(
    explore: Explore, seed: int, quota: int = QUOTA, pages: int = PAGES, warm_pages: int = WARM_PAGES
) -> ColdStart:
    """Play the world by this way to explore."""
    world = ColdWorld(explore, quota, seed)
    world.warm_up(warm_pages)
    launched = KNOWN + np.arange(NEW)
    launches = PUBLISHED * (launched - KNOWN) * (pages // (2 * NEW * PUBLISHED))  # pages
    shown, expected = np.zeros(len(world.rates)), 0.0
    impressions, near = [], []
    for n in range(pages):
        if n % PUBLISHED == 0:
            world.launch(launched[launches == n].tolist())
            impressions.append(shown.copy())
            near.append(abs(world.rank_errors()) <= NEAR)
        items = world.serve()
        shown[items] += 1
        expected += world.rates[items].sum()
        if n % PUBLISHED == PUBLISHED - 1:
            world.publish()
    until = [
        _until_known(np.array(impressions)[launch // PUBLISHED :, item], np.array(near)[launch // PUBLISHED :, item])
        for item, launch in zip(launched, launches, strict=True)
    ]
    counted = np.array([both for both in until if both[0]])
    best = np.sort(world.rates)[-SHOWN:].sum() * pages
    return ColdStart(counted[:, 0], counted[:, 1], 100 * expected / best)


def _until_known(impressions: F64, near: Bools) -> tuple[float, float]:
    """Impressions and pages until the first version of STEADY near ones in a row; inf: there is none."""
    found = np.flatnonzero(np.convolve(near, np.ones(STEADY), "valid") == STEADY)
    if not len(found):
        return np.inf, np.inf
    return float(impressions[found[0]]), float(PUBLISHED * found[0])


def _ranks(scores: F64) -> I64:
    """Of each, how many score higher."""
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
