"""How far statistics are from what they estimate, in a made world whose label rates are known.

Users with histories, and items, have odds of their own; pages of ten items, on which lower positions get fewer labels,
and some items stand high for no merit. Labels are the rates themselves, so that what is left isn't chance but bias.
Statistics are read as rankers read them, for a user and an item each, and compared with the truth:

    rate      label rate of the item, over its exposures
    residual  0: items and users do as their two rates together say; as a share of the item's rate
    affinity  0, likewise: who has an item in the history likes no other one better for it
    coec      label rate of the item over that of the positions where it stood
"""

import math
from typing import Final

import numpy as np

from stream.events.types import WINDOW_CLOSED
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, statistics_of
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F64, U64

SPEC: Final = parse_spec("""
name = "bias"
user.id = "category"
user.history = { of = "item.id", last = 2 }
item.id = "category"
[statistics]
user_rate = { kind = "rate", by = ["user.id"] }
rate = { kind = "rate", by = ["item.id"] }
residual = { kind = "residual", by = ["item.id"] }
affinity = { kind = "affinity", of = "item.id", to = "user.history", neighbours = 2 }
coec = { kind = "coec", by = ["item.id"] }
[wide]
features = ["user.id"]
[deep]
features = ["statistics.*"]
""")
NAMES: Final = ("rate", "residual", "affinity", "coec")
USERS, ITEMS, SHOWN, HISTORY = 40, 50, 10, 2
PAGES: Final = {0.05: 40_000, 0.01: 40_000, 0.001: 100_000}  # of ten items, by rate
QUICK_PAGES: Final = 4_000


def biases(rate: float, pages: int, seed: int) -> dict[str, float]:
    """By statistic: the greatest error of an item as a share of the rate, but for the affinity of a pair of items: its
    mean size. After so many pages."""
    random, layout = np.random.default_rng((seed, 1)), Layout(SPEC)
    statistics, catalogue = Statistics(StatisticsProgram(SPEC, layout)), Catalogue(layout)
    rows = catalogue.rows([f"i{n}" for n in range(ITEMS)])
    histories = [random.choice(ITEMS, HISTORY, replace=False) for _ in range(USERS)]
    users = [layout.user(f"u{n}", {}, [f"i{i}" for i in of.tolist()], {}) for n, of in enumerate(histories)]
    of_user, of_item, height = random.uniform(-1, 1, USERS), random.uniform(-1, 1, ITEMS), random.normal(0, 1, ITEMS)
    of_position = -0.1 * np.arange(SHOWN)
    base = math.log(rate / (1 - rate)) - float(of_position.mean())
    shown, labels = np.zeros((ITEMS, SHOWN)), np.zeros((ITEMS, SHOWN))
    for n in range(pages):
        user, items = int(random.integers(USERS)), random.choice(ITEMS, SHOWN, replace=False)
        items = items[np.argsort(-height[items] + random.normal(0, 1, SHOWN))]
        words = build_page(layout, users[user], catalogue, rows[items])
        statistics.fill(words, 1_000_000 + 1_000 * n)
        truth = 1 / (1 + np.exp(-(base + of_user[user] + of_item[items] + of_position)))
        batch = Batch(words, np.zeros(1, np.int64), np.zeros(SHOWN, np.int64), np.arange(SHOWN))
        times = np.full(SHOWN, 1_000_000.0 + 1_000 * n)
        statistics.learn(batch, Outcomes(truth, np.ones(SHOWN), np.full(SHOWN, WINDOW_CLOSED), times))
        shown[items, range(SHOWN)] += 1
        labels[items, range(SHOWN)] += truth
    read = np.array([_read(statistics, build_page(layout, one, catalogue, rows), layout, pages) for one in users])
    return _errors(read, shown, labels)


def _read(statistics: Statistics, words: U64, layout: Layout, pages: int) -> F64:
    """What a page of all items shows, float64 [ITEMS, statistics]."""
    statistics.fill(words, 1_000_000 + 1_000 * pages)
    found: F64 = statistics_of(layout, words)[1:].reshape(ITEMS, -1).astype(np.float64)
    return found


def _errors(read: F64, shown: F64, labels: F64) -> dict[str, float]:
    """`read` [USERS, ITEMS, statistics]; exposures and labels by item and position."""
    rates, positions = labels.sum(axis=1) / shown.sum(axis=1), labels.sum(axis=0) / shown.sum(axis=0)
    lifts = labels.sum(axis=1) / (shown * positions).sum(axis=1)
    of = dict(zip(SPEC.statistics, np.moveaxis(read, 2, 0), strict=True))
    return {
        "rate": float(np.abs(of["rate"][0] / rates - 1).max()),
        "residual": float(np.abs(of["residual"][0] / rates).max()),
        "affinity": float(np.nanmean(np.abs(of["affinity"] / rates))),
        "coec": float(np.abs(of["coec"][0] / lifts - 1).max()),
    }
