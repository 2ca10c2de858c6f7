"""Two worlds for `learn`: MovieLens' spec, and a shop of ten category columns; pages of 1 or 10 items, rare labels.

Pages have the features that a ranker would have logged: statistics as of the page, learned from the labels before it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from stream.events.codec import encode_record, example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item, Value
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec, parse_spec

BASE_RATE: Final = 0.01
USERS: Final = 20_000
ITEMS: Final = 5_000
HISTORY: Final = 25  # items in a user's history, where the spec has one

TEN_COLUMNS = """
name = "shop"
[user]
id = "category"
country = "category"
device = "category"
language = "category"
segment = "category"
[item]
id = "category"
kind = "category"
maker = "category"
price = "category"
stars = "category"
[statistics]
item_rate = { kind = "rate", by = ["item.id"], prior = 100 }
kind_taste = { kind = "residual", by = ["user.id", "item.kind"], prior = 100 }
item_seen = { kind = "count", by = ["item.id"] }
user_last = { kind = "since", by = ["user.id"] }
[wide]
alpha = 0.05
l1 = 0.1
l2 = 1.0
features = ["user.id", "user.country", "user.device", "user.language", "user.segment",
            "item.id", "item.kind", "item.maker", "item.price", "item.stars"]
crosses = [["user.id", "item.kind"], ["user.country", "item.id"], ["user.segment", "item.id"],
           ["user.device", "item.kind"], ["user.segment", "item.maker"]]
[deep]
features = ["user.id", "user.country", "user.device", "user.language", "user.segment",
            "item.id", "item.kind", "item.maker", "item.price", "item.stars", "statistics.*"]
"""
USER_VALUES: Final = {"country": 40, "device": 15, "language": 20, "segment": 12}
ITEM_VALUES: Final = {"kind": 40, "maker": 300, "price": 20, "stars": 10}


def world_spec(name: str) -> Spec:
    """`shop`: ten category columns, the default tower; `movielens`: the spec that ships."""
    return parse_spec(TEN_COLUMNS) if name == "shop" else load_spec(Path("specs/movielens.toml"))


def items_of(spec: Spec) -> Iterator[Item]:
    """Items with the attributes that the spec declares."""
    random = np.random.default_rng(3)
    for i in range(ITEMS):
        attributes: dict[str, Value]
        if spec.name == "shop":
            attributes = {name: f"{name}{random.integers(count)}" for name, count in ITEM_VALUES.items()}
        else:
            genres = random.choice(18, random.integers(1, 5), replace=False)
            attributes = {"genres": [f"g{g}" for g in genres], "year": float(1920 + i % 80)}
        yield Item(f"i{i}", attributes)


def catalogue_of(spec: Spec, layout: Layout) -> Catalogue:
    """The same as a ranker has them."""
    catalogue = Catalogue(layout)
    for item in items_of(spec):
        catalogue.put(item)
    return catalogue


def users_of(spec: Spec) -> tuple[list[dict[str, Value]], list[list[str]]]:
    """Attributes and histories of users."""
    random = np.random.default_rng(4)
    attributes: list[dict[str, Value]] = []
    for u in range(USERS):
        if spec.name == "shop":
            attributes.append({name: f"{name}{random.integers(count)}" for name, count in USER_VALUES.items()})
        else:
            attributes.append({"age": float(15 + u % 50), "gender": "MF"[u % 2], "occupation": f"o{u % 20}"})
    histories = random.integers(0, ITEMS, (USERS, HISTORY if spec.name == "movielens" else 0))
    return attributes, [[f"i{i}" for i in history] for history in histories.tolist()]


def labelled_pages(spec: Spec, pages: int, items: int, seed: int = 7) -> Iterator[Examples]:
    """Labelled pages of `items` items: users uniform, items by a power law, BASE_RATE of them installed."""
    layout = Layout(spec)
    catalogue, (attributes, histories) = catalogue_of(spec, layout), users_of(spec)
    statistics, random = Statistics(StatisticsProgram(spec, layout)), np.random.default_rng(seed)
    positions = np.arange(items)
    for n in range(pages):
        user = int(random.integers(USERS))
        shown = np.unique((ITEMS * random.random(4 * items) ** 2).astype(np.int64))
        names = [f"i{i}" for i in random.permutation(shown)[:items].tolist()]
        time_ms = 1_000_000 + 10 * n
        columns = layout.user(f"u{user}", attributes[user], histories[user], {})
        words = build_page(layout, columns, catalogue, catalogue.rows(names), time_ms)
        statistics.fill(words, time_ms)
        labels = (random.random(items) < BASE_RATE).astype(np.int64)
        reasons = np.where(labels, INSTALLED, WINDOW_CLOSED)
        page = Impression(f"r{seed}-{n}", time_ms, f"u{user}", names, features=words.tobytes())
        ids = [example_id(page.request_id, p, int(reason), "") for p, reason in enumerate(reasons)]
        batch = Batch(words, np.zeros(1, np.int64), np.zeros(items, np.int64), positions)
        times = np.full(items, float(time_ms))
        statistics.learn(batch, Outcomes(labels.astype(np.float64), np.ones(items), reasons, times))
        ingest = [time_ms + 2_000] * items
        yield Examples(page, ids, positions.tolist(), labels.tolist(), [1.0] * items, reasons.tolist(), ingest)


def records_of(pages: list[Examples], pack: int) -> list[bytes]:
    """Records of `pack` pages, as a joiner writes them."""
    return [encode_record(pages[i : i + pack]) for i in range(0, len(pages) - pack + 1, pack)]
