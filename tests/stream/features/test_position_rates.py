"""Clicks over expected clicks against a slow reference, and what they are for."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, statistics_of
from stream.features.position_rates import POSITIONS
from stream.features.statistics import WIDTH, StatisticKeys, Statistics, StatisticsProgram
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F32, F64, I64, U64
from stream.tables.hash_table import HashTable

TEXT = """
name = "positions"
user.id = "category"
item.id = "category"
[statistics]
rate = { kind = "rate", by = ["item.id"], prior = 20 }
good = { kind = "coec", by = ["item.id"], prior = 20 }
lately = { kind = "coec", by = ["item.id"], prior = 5, half_life = "1m" }
[wide]
features = ["user.id"]
[deep]
features = ["statistics.*"]
"""
SPEC = parse_spec(TEXT)
LAYOUT = Layout(SPEC)
PROGRAM = StatisticsProgram(SPEC, LAYOUT)
CATALOGUE = Catalogue(LAYOUT)
FADES = {"good": (20.0, 0.0), "lately": (5.0, 60_000.0)}  # prior, half-life


def page(items: list[int]) -> U64:
    """Items by their numbers, in the order shown."""
    return build_page(LAYOUT, LAYOUT.user("u", {}, [], {}), CATALOGUE, CATALOGUE.rows([f"i{n}" for n in items]))


def values_of(words: U64) -> F32:
    """A page's statistics, float32 [n, 3]."""
    return statistics_of(LAYOUT, words)[1:].reshape(-1, 3)


def batch_of(words: U64, positions: list[int]) -> Batch:
    """Examples of one page."""
    return Batch(words, np.zeros(1, np.int64), np.zeros(len(positions), np.int64), np.array(positions, np.int64))


class Slow:
    """The definition: [n, s, t] of each position and item, by statistic; and of everything."""

    def __init__(self) -> None:
        self.sums: dict[tuple[object, ...], list[float]] = {}
        self.everything = [0.0, 0.0]

    def _read(self, key: tuple[object, ...], now: float, half_life: float) -> tuple[float, float]:
        n, s, t = self.sums.get(key, [0.0, 0.0, 0.0])
        fade = 2 ** ((t - now) / half_life) if half_life and now > t else 1.0
        return n * fade, s * fade

    def _move(self, key: tuple[object, ...], n: float, s: float, t: float, half_life: float) -> None:
        row = self.sums.setdefault(key, [0.0, 0.0, 0.0])
        newest = max(row[2], t)
        old = 2 ** ((row[2] - newest) / half_life) if half_life else 1.0
        new = 2 ** ((t - newest) / half_life) if half_life else 1.0
        row[:] = row[0] * old + n * new, row[1] * old + s * new, newest

    @property
    def base(self) -> float:
        """The label rate over everything."""
        return (self.everything[1] + 1) / (self.everything[0] + 2)

    def learn(self, item: int, position: int, label: int, weight: float, reason: int, t: float) -> None:
        """One label."""
        corrects = reason in (LATE_POSITIVE, RETRACTION)
        n, s = (0.0, weight * (2 * label - 1)) if corrects else (weight, weight * label)
        base, place = self.base, min(position, POSITIONS - 1)
        for name, (prior, half_life) in FADES.items():
            rows_n, rows_s = self._read((name, "position", place), t, half_life)
            expected = n * max(0.0, (rows_s + prior * base) / (rows_n + prior))
            self._move((name, "position", place), n, s, t, half_life)
            self._move((name, "item", item), expected, s, t, half_life)
        self.everything = [self.everything[0] + n, self.everything[1] + s]

    def read(self, item: int, now: float) -> dict[str, float]:
        """Clicks over expected ones."""
        found = {}
        for name, (prior, half_life) in FADES.items():
            n, s = self._read((name, "item", item), now, half_life)
            usual = prior * max(1e-9, self.base)
            found[name] = (s + usual) / (n + usual)
        return found


examples = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([INSTALLED, WINDOW_CLOSED, WINDOW_CLOSED, LATE_POSITIVE, RETRACTION]),
        st.sampled_from([1.0, 0.5, 10.0]),
        st.integers(1_000_000, 1_300_000),
    ),
    max_size=25,
)


@given(st.permutations([0, 1, 2, 3]), examples, st.integers(900_000, 1_500_000), st.data())
def test_a_coec_is_what_its_definition_says_in_any_packing(
    shown: list[int], labels: list[tuple[int, int, float, int]], now_ms: int, data: st.DataObject
) -> None:
    """Weights, corrections, times out of order; learned at once, one by one, or in parts: the same bits."""
    words, count = page(list(shown)), len(labels)
    positions = [one[0] for one in labels]
    values = np.array([float(one[1] in (INSTALLED, LATE_POSITIVE)) for one in labels])
    weights, times = (np.array([float(one[i]) for one in labels]) for i in (2, 3))
    reasons: I64 = np.array([one[1] for one in labels], np.int64)
    at_once, in_parts, slow = Statistics(PROGRAM), Statistics(PROGRAM), Slow()
    whole = batch_of(words, positions)
    at_once.learn(whole, Outcomes(values, weights, reasons, times))
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=count))})
    keys, kinds = PROGRAM.keys_of(whole), len(SPEC.statistics)
    for a, b in itertools.pairwise(cuts):
        part = StatisticKeys(keys.keys, keys.offsets[a * kinds : b * kinds + 1])
        outcomes = Outcomes(values[a:b], weights[a:b], reasons[a:b], times[a:b])
        in_parts.learn(batch_of(words, positions[a:b]), outcomes, part)
    for position, label, weight, reason, t in zip(positions, values, weights, reasons, times, strict=True):
        slow.learn(shown[position], position, int(label), float(weight), int(reason), float(t))
    read = page(list(shown))
    at_once.fill(read, now_ms)
    for position, (_, good, lately) in enumerate(values_of(read)):
        wanted = slow.read(shown[position], now_ms)
        assert (good, lately) == pytest.approx((wanted["good"], wanted["lately"]), rel=1e-5, abs=1e-6)
    one, other = (np.sort(each.table.rows().view("u8,u8,u8,u8"), axis=0) for each in (at_once, in_parts))
    assert one.tobytes() == other.tobytes()


def served(quality: F64, examination: F64, orders: list[list[int]], seed: int) -> tuple[F64, F64]:
    """Rates and coecs of items that were shown in these orders, to users who click by examination · quality."""
    random, statistics = np.random.default_rng(seed), Statistics(PROGRAM)
    count = len(orders[0])
    pages = [page(order) for order in orders]
    for n in range(4_000):
        which = int(random.integers(len(orders)))
        clicked = random.random(count) < examination * quality[orders[which]]
        reasons = np.where(clicked, INSTALLED, WINDOW_CLOSED)
        outcomes = Outcomes(clicked.astype(np.float64), np.ones(count), reasons, np.full(count, 1e6 + n))
        statistics.learn(batch_of(pages[which], list(range(count))), outcomes)
    read = page(list(range(count)))
    statistics.fill(read, 2_000_000)
    found = values_of(read).astype(np.float64)
    return found[:, 0], found[:, 1]


def test_a_coec_sees_through_positions_where_a_rate_does_not() -> None:
    """Two equal items, one always above the other among others that change places: their coecs agree, not their rates.

    The better item that stands low has the lower rate and the higher coec.
    """
    quality = np.array([0.2, 0.2, 0.3, *[0.2] * 5])
    examination = 1 / np.arange(1, 9)
    random = np.random.default_rng(0)
    orders = []
    for _ in range(200):  # item 0 in the upper half, 1 and 2 in the lower; the others fill what is left
        low = 4 + random.permutation(4)[:2]
        places = [int(random.integers(4)), *low.tolist()]
        rest = iter(random.permutation(np.arange(3, 8)).tolist())
        orders.append([places.index(p) if p in places else next(rest) for p in range(8)])
    rates, coecs = served(quality, examination, orders, 1)
    assert rates[0] > 1.8 * rates[1]
    assert rates[0] > 1.3 * rates[2]
    assert coecs[0] == pytest.approx(coecs[1], rel=0.15)
    assert coecs[2] > 1.2 * coecs[0]


def test_before_any_label_a_coec_is_one() -> None:
    """As many clicks as expected."""
    words = page([0, 1])
    Statistics(PROGRAM).fill(words, 1_000)
    assert values_of(words)[:, 1:].tolist() == [[1, 1], [1, 1]]


def test_positions_below_the_last_share_its_row() -> None:
    """A page of a thousand items moves POSITIONS rows for a statistic, and growth in steps changes nothing."""
    growing, roomy = Statistics(PROGRAM), Statistics(PROGRAM, HashTable(WIDTH, 100_000))
    words, count = page(list(range(200))), 200
    random = np.random.default_rng(2)
    for n in range(20):
        labels = (random.random(count) < 0.1).astype(np.float64)
        reasons = np.where(labels > 0, INSTALLED, WINDOW_CLOSED)
        outcomes = Outcomes(labels, np.ones(count), reasons, np.full(count, 1e6 + n))
        for statistics in (growing, roomy):
            statistics.learn(batch_of(words, list(range(count))), outcomes)
    assert len(growing.table) == 1 + 3 * count + 2 * POSITIONS
    one, other = (np.sort(each.table.rows().view("u8,u8,u8,u8"), axis=0) for each in (growing, roomy))
    assert one.tobytes() == other.tobytes()
    growing.fill(words, 2_000_000)
    assert math.isfinite(float(values_of(words).sum()))
