"""Cold start: how many impressions until a new item's rank is about its true one, by how pages explore.

A world where only the item counts: log-odds of an install are normal, whoever asks and wherever the item stands. A
hundred items are known from pages at random; then there are twenty new ones, drawn alike, among the candidates of each
page of ten. The learner learns each page, a version is published every PUBLISHED pages, the ranker ranks by it.

An item is *known* from the first version from which its rank is within a tenth of all items of its true one, STEADY
versions in a row. New items that are known before they are shown say nothing and aren't counted.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import numpy as np

from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.explore.exploration import draw_of
from ranker.ranking.rank import rank_with
from ranker.ranking.score import Scorer
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression
from stream.features.page_features import Catalogue, build_page
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
label = { base_rate = 0.05 }
publish = { gate = { holdout = 0.0 } }
"""
KNOWN, NEW, SHOWN = 100, 20, 10  # items, and those of a page
MEAN, SPREAD = -3.0, 0.8  # of the log-odds
WARM_PAGES, PAGES = 10_000, 4_000
PUBLISHED, STEADY = 20, 5
PAGE_MS: Final = 1_000
NEAR: Final = (KNOWN + NEW) / 10  # ranks


@dataclass(frozen=True)
class ColdStart:
    """`impressions` and `pages` until each new item was known, NaN: it never was; those known at once are left out.

    `earned`: expected installs of all pages, % of the best pages'.
    """

    impressions: F64
    pages: F64
    earned: float


class ColdWorld:
    """The world, and its learner and ranker; a function of the seed."""

    def __init__(self, explore: Explore, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.rates = 1 / (1 + np.exp(-self._random.normal(MEAN, SPREAD, KNOWN + NEW)))
        spec = msgspec.structs.replace(parse_spec(SPEC), explore=explore)
        self._model, self._store, self._scorer = Model(spec, seed), MemoryStore(spec.name), Scorer(1)
        self._builder, self._loader = VersionBuilder(self._model), VersionLoader(self._store, spec.name)
        self._token, self._catalogue = self._store.take_token(), Catalogue(self._model.layout)
        self._names = [f"i{i}" for i in range(KNOWN + NEW)]
        self._version: Version | None = None
        self._shown = 0  # pages

    def warm_up(self, pages: int) -> None:
        """Learn pages of known items at random."""
        for _ in range(pages):
            self._show(self._random.choice(KNOWN, SHOWN, replace=False))
        self.publish()

    def publish(self) -> None:
        """The next version is live."""
        number = 1 if self._version is None else self._version.number + 1
        built = self._builder.build(number, number - 1, self._token, self._shown, 0, {}, deep=True)
        self._store.put_blobs(built.blobs)
        self._store.publish(built.manifest)
        self._version = self._loader.load(number, self._version)
        self._store.retain(2)

    def rank_errors(self) -> I64:
        """By how many ranks the live version has each item too low."""
        assert self._version is not None, "published after the warm-up"
        words = self._page(np.arange(len(self.rates)))
        scores, _ = self._scorer.score(self._version, words, time_ms=self._now_ms)
        return _ranks(scores.astype(np.float64)) - _ranks(self.rates)

    def serve(self) -> I64:
        """Show a page by the live version; its items, int64 [SHOWN]."""
        assert self._version is not None, "published after the warm-up"
        explorer = partial(draw_of, f"r{self._shown}")
        words = self._page(np.arange(len(self.rates)))
        ranked = rank_with(self._version, words, self._now_ms, SHOWN, self._scorer, explorer=explorer)
        items = np.array(ranked.order)
        self._show(items, ranked.features)
        return items

    @property
    def _now_ms(self) -> int:
        return PAGE_MS * (1 + self._shown)

    def _page(self, items: I64) -> U64:
        user = self._model.layout.user("u", {}, [], {})
        rows = self._catalogue.rows([self._names[i] for i in items])
        return build_page(self._model.layout, user, self._catalogue, rows, self._now_ms)

    def _show(self, items: I64, features: bytes = b"") -> None:
        """Learn a page with what its user installs."""
        if not features:
            words = self._page(items)
            self._model.statistics.fill(words, self._now_ms)
            features = words.tobytes()
        labels = (self._random.random(SHOWN) < self.rates[items]).astype(int).tolist()
        page = Impression(f"r{self._shown}", self._now_ms, "u", [self._names[i] for i in items], features=features)
        ids = [1 + SHOWN * self._shown + k for k in range(SHOWN)]
        reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels]
        learned = Examples(page, ids, [*range(SHOWN)], labels, [1.0] * SHOWN, reasons, [self._now_ms] * SHOWN)
        self._model.learn([learned], self._shown)
        self._shown += 1


def cold_start(explore: Explore, seed: int, pages: int = PAGES, warm_pages: int = WARM_PAGES) -> ColdStart:
    """Play the world by this way to explore."""
    world = ColdWorld(explore, seed)
    world.warm_up(warm_pages)
    shown, expected = np.zeros(len(world.rates)), 0.0
    impressions, near = [shown.copy()], [abs(world.rank_errors()) <= NEAR]
    for n in range(1, pages + 1):
        items = world.serve()
        shown[items] += 1
        expected += world.rates[items].sum()
        if n % PUBLISHED == 0:
            world.publish()
            impressions.append(shown.copy())
            near.append(abs(world.rank_errors()) <= NEAR)
    best = np.sort(world.rates)[-SHOWN:].sum() * pages
    first = np.array([_steady_from(of_item) for of_item in np.array(near).T[KNOWN:]])
    counted = first != 0  # checkpoints
    at = np.maximum(first, 0)
    by_item = np.array(impressions).T[KNOWN:][np.arange(NEW), at]
    return ColdStart(
        np.where(first < 0, np.nan, by_item)[counted],
        np.where(first < 0, np.nan, PUBLISHED * at)[counted],
        100 * expected / best,
    )  # fmt: skip


def _steady_from(near: Bools) -> int:
    """The first index of STEADY true ones in a row; −1: there is none."""
    found = np.flatnonzero(np.convolve(near, np.ones(STEADY), "valid") == STEADY)
    return int(found[0]) if len(found) else -1


def _ranks(scores: F64) -> I64:
    """Of each, how many score higher."""
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
