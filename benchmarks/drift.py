"""What a long past costs when the world turns: examples until a model has recovered, with and without forgetting.

A made-up world at MovieLens' pace, 465 pages of one item a day: users of 6 segments, 100 items of 10 genres, tastes by
segment and genre. Wide & Deep learns it for 2,000 to 400,000 examples; then every taste turns into its opposite. A
model has recovered when its gain over a constant, by expected log loss over all segments and items, is three fifths of
what it was before, and stays so for a thousand examples.

Forgetting (`half_life` of both parts) has a price where nothing turns: what the same half-life costs on MovieLens, in
AUC at page time by backtest's protocol, with `specs/movielens.toml`. Figures are means of seeds.
"""

import statistics
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from msgspec import structs
from rich.console import Console
from rich.progress import track
from rich.table import Table

from learner.training.model import Model
from producers.movielens import fetch_movielens, read_movielens
from stream.events.codec import example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item
from stream.features.page_features import Catalogue, Layout, build_page
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec, parse_spec
from stream.tables.dtypes import F64, I64
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import ExampleLog, ModelEntrant

HALF_LIFE: Final = "15d"
SPEC: Final = """
name = "drift"
[user]
id = "category"
segment = "category"
[item]
id = "category"
genre = "category"
[wide]
alpha = 0.1
l1 = 0.1
l2 = 1.0
features = ["user.segment", "item.id"]
crosses = [["user.segment", "item.genre"], ["user.segment", "item.id"]]
[deep]
features = ["user.segment", "item.id", "item.genre"]
embedding_dim = 16
hidden_units = [64, 32]
learning_rate = 0.02
"""
SEGMENTS, GENRES, ITEMS = 6, 10, 100
PASTS: Final = (2_000, 10_000, 40_000, 400_000)
QUICK_PASTS: Final = (2_000, 10_000, 40_000)
AFTER, EVERY, STAYS = 60_000, 250, 1_000  # examples
RECOVERED: Final = 0.6
PAGE_MS: Final = 86_400_000 // 465
START_MS: Final = 874_724_710_000  # of MovieLens
RECORD: Final = 10  # pages
SEEDS, AUC_SEEDS = 5, 3
QUICK_PAGES: Final = 12_000  # of MovieLens


class World(NamedTuple):
    """Tastes, and pages in order of time."""

    genres: I64  # (ITEMS,)
    popularity: F64  # (ITEMS,)
    logits: F64  # (SEGMENTS, ITEMS), before the turn; after it their opposite
    segments: I64  # (N,) of the pages' users
    items: I64  # (N,)
    drawn: F64  # (N,), from 0 to 1: installed when below the probability


def world_of(seed: int, pages: int) -> World:
    """The same seed has the same tastes."""
    tastes, draw = np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))
    genres = tastes.integers(GENRES, size=ITEMS)
    logits = tastes.normal(0, 1.5, (SEGMENTS, GENRES))[:, genres] + tastes.normal(0, 0.5, ITEMS)
    popularity: F64 = (np.arange(1, ITEMS + 1) ** -0.5).astype(np.float64)
    popularity /= popularity.sum()
    items = draw.choice(ITEMS, pages, p=popularity)
    return World(genres, popularity, logits, draw.integers(SEGMENTS, size=pages), items, draw.random(pages))


class Life:
    """A model in a world."""

    def __init__(self, spec: Spec, world: World, seed: int) -> None:
        self.world, self.model, self.learned = world, Model(spec, seed), 0
        self._layout = Layout(spec)
        self._catalogue = Catalogue(self._layout)
        for item, genre in enumerate(world.genres.tolist()):
            self._catalogue.put(Item(f"i{item}", {"genre": f"g{genre}"}))
        self._features: dict[tuple[int, int], bytes] = {}
        everything = [self._words(segment, range(ITEMS)) for segment in range(SEGMENTS)]
        self._panel = self.model.encode_pages([np.frombuffer(words, np.uint64) for words in everything])

    def learn(self, examples: int, sign: int) -> None:
        """Learn the next examples, of the world as it is (1) or turned (−1)."""
        for _ in range(0, examples, RECORD):
            record = [self._page(self.learned + n, sign) for n in range(RECORD)]
            self.model.learn(record, self.learned)
            self.learned += RECORD

    def gain(self, sign: int) -> float:
        """By how much expected log loss is below that of always saying ½."""
        predicted = np.array([self.model.predict_encoded(*page) for page in self._panel], np.float64)
        p = 1 / (1 + np.exp(-sign * self.world.logits))
        gains = np.log(2) + p * np.log(predicted) + (1 - p) * np.log1p(-predicted)
        return float((gains * self.world.popularity).sum() / SEGMENTS)

    def _page(self, n: int, sign: int) -> Examples:
        world = self.world
        segment, item = int(world.segments[n]), int(world.items[n])
        features = self._features.get((segment, item))
        if features is None:
            features = self._features[segment, item] = self._words(segment, [item])
        label = int(world.drawn[n] < 1 / (1 + np.exp(-sign * world.logits[segment, item])))
        reason, name = INSTALLED if label else WINDOW_CLOSED, f"p{n}"
        page = Impression(name, START_MS + n * PAGE_MS, f"u{segment}", [f"i{item}"], features=features)
        return Examples(page, [example_id(name, 0, reason, "")], [0], [label], [1.0], [reason], [START_MS])

    def _words(self, segment: int, items: "range | list[int]") -> bytes:
        user = self._layout.user(f"u{segment}", {"segment": f"s{segment}"}, [], {})
        return build_page(self._layout, user, self._catalogue,
                          self._catalogue.rows([f"i{item}" for item in items])).tobytes()  # fmt: skip


def recovery(spec: Spec, past: int, seed: int) -> float:
    """Examples after the turn until the model has recovered; at most AFTER."""
    life = Life(spec, world_of(seed, past + AFTER), seed)
    life.learn(past, 1)
    wanted, since = RECOVERED * life.gain(1), 0
    for n in range(EVERY, AFTER + 1, EVERY):
        life.learn(EVERY, -1)
        if life.gain(-1) < wanted:
            since = 0
        elif not since:
            since = n
        if since and n - since >= STAYS:
            break
    return float(since or AFTER)


def forgetful(spec: Spec, half_life: str | None) -> Spec:
    """The spec with this half-life of both parts."""
    wide, deep = (structs.replace(part, half_life=half_life) for part in (spec.wide, spec.deep))
    return structs.replace(spec, wide=wide, deep=deep)


def aucs(half_lives: tuple[str | None, ...], pages: int | None, seeds: int) -> dict[str | None, float]:
    """AUC on MovieLens by half-life, means of seeds."""
    spec = load_spec(Path("specs/movielens.toml"))
    entrants = [
        ModelEntrant(forgetful(spec, half_life), ["wide", "deep"], seed)
        for half_life in half_lives
        for seed in range(seeds)
    ]
    source = read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print))
    scores = Backtest(spec, [*entrants], ExampleLog()).run(source, pages)
    found = np.array([scores.auc(i) for i in range(len(entrants))]).reshape(-1, seeds).mean(axis=1)
    return dict(zip(half_lives, found.tolist(), strict=True))


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    seeds, pasts = (1, QUICK_PASTS) if quick else (SEEDS, PASTS)
    arms = {"without forgetting": None, f"half_life = {HALF_LIFE}": HALF_LIFE}
    auc = aucs((None, HALF_LIFE), QUICK_PAGES if quick else None, 1 if quick else AUC_SEEDS)
    heads = [f"recovered after, past of {past:,}" for past in pasts]
    table = Table("", *heads, "auc, MovieLens", title=f"examples from the turn to recovery, {AFTER:,} at most")
    figures: dict[str, float] = {}
    for name, half_life in arms.items():
        spec, cells = forgetful(parse_spec(SPEC), half_life), []
        for past in pasts:
            todo = track(range(seeds), f"{name}, past of {past:,}", console=Console(stderr=True))
            found = [recovery(spec, past, seed) for seed in todo]
            mean = statistics.mean(found)
            cells.append(f"{mean:,.0f} ({min(found):,.0f} to {max(found):,.0f})")
            figures[f"recover_{past // 1_000}k{'' if half_life else '_without'}"] = mean
        table.add_row(name, *cells, f"{auc[half_life]:.4f}")
    figures |= {"cost_auc": auc[None] - auc[HALF_LIFE], "auc": auc[HALF_LIFE], "auc_without": auc[None]}
    return table, figures
