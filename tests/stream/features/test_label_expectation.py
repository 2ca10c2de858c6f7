"""What residuals are taken from: right at every label rate, for every item and user."""

import math

import numpy as np
import pytest

from stream.events.types import WINDOW_CLOSED
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import open_page
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F64

SPEC = parse_spec("""
name = "rates"
user.id = "category"
item.id = "category"
[statistics]
user_rate = { kind = "rate", by = ["user.id"] }
item_rate = { kind = "rate", by = ["item.id"] }
item_now = { kind = "rate", by = ["item.id"], half_life = "5s" }
of_item = { kind = "residual", by = ["item.id"] }
of_user = { kind = "residual", by = ["user.id"] }
[wide]
features = ["user.id"]
[deep]
features = ["statistics.*"]
""")
LAYOUT = Layout(SPEC)
USERS, ITEMS = 40, 250
RATES = [0.001, 0.003, 0.01, 0.05, 0.5]


def truth_of(rate: float, random: np.random.Generator) -> F64:
    """Label rates by user and item: odds by factors of theirs, up to 2.7 either way. float64 [USERS, ITEMS]."""
    factors = [random.uniform(-1, 1, count) for count in (USERS, ITEMS)]
    log_odds = math.log(rate / (1 - rate)) + factors[0][:, None] + factors[1]
    return 1 / (1 + np.exp(-log_odds))


class World:
    """Pages of all items, for users in turn by chance, and the statistics of what they do."""

    def __init__(self, truth: F64, random: np.random.Generator, *, drawn: bool) -> None:
        self.truth, self.random, self.drawn = truth, random, drawn
        self.statistics, catalogue = Statistics(StatisticsProgram(SPEC, LAYOUT)), Catalogue(LAYOUT)
        rows = catalogue.rows([f"i{n}" for n in range(ITEMS)])
        self.pages = [build_page(LAYOUT, LAYOUT.user(f"u{n}", {}, [], {}), catalogue, rows) for n in range(USERS)]
        self.seen, self.chance = np.zeros(USERS), np.zeros((USERS, ITEMS))
        self.skipped = np.zeros(USERS)  # pages of before any label

    def play(self, pages: int) -> None:
        """Show and learn these. Labels that aren't drawn are the truth itself."""
        for _ in range(pages):
            user, time_ms = int(self.random.integers(USERS)), 1_000_000 + 1_000 * int(self.seen.sum())
            words, truth = self.pages[user], self.truth[user]
            self.statistics.fill(words, time_ms)
            labels = (self.random.random(ITEMS) < truth).astype(np.float64) if self.drawn else truth
            batch = Batch(words, np.zeros(1, np.int64), np.zeros(ITEMS, np.int64), np.arange(ITEMS))
            times = np.full(ITEMS, float(time_ms))
            self.statistics.learn(batch, Outcomes(labels, np.ones(ITEMS), np.full(ITEMS, WINDOW_CLOSED), times))
            is_first = self.seen.sum() == 0
            self.skipped[user] += is_first
            self.chance[user] += 0 if is_first else labels - truth
            self.seen[user] += 1

    def residuals(self) -> tuple[F64, F64]:
        """Sums of residuals of items and users, without what chance made of the labels: Σ truth − expected."""
        of_item, of_user = np.empty(ITEMS), np.empty(USERS)
        counted = self.seen - self.skipped
        for user, words in enumerate(self.pages):
            self.statistics.fill(words, 1)
            _, _, f32, at = open_page(words, LAYOUT.size_array)
            values = f32[at.statistics : at.statistics + 5 * ITEMS].reshape(ITEMS, 5).astype(np.float64)
            of_item, of_user[user] = values[:, 3] * (counted.sum() + 10), values[0, 4] * (counted[user] * ITEMS + 10)
        return of_item - self.chance.sum(axis=0), of_user - self.chance.sum(axis=1)


def biases(world: World, pages: int) -> tuple[F64, F64]:
    """Mean residual an exposure over the true rate, in the pages to come, of each item and user."""
    items, users = world.residuals()
    seen = world.seen.copy()
    world.play(pages)
    later = world.residuals()
    wanted = (world.seen - seen)[:, None] * world.truth
    return (later[0] - items) / wanted.sum(axis=0), (later[1] - users) / wanted.sum(axis=1)


@pytest.mark.parametrize("rate", RATES)
def test_who_does_as_expected_has_no_residual(rate: float) -> None:
    """At 0.1 to 50 %: items and users whose label rates are what user and item say together, |residual| ≤ 5 %."""
    random = np.random.default_rng(1)
    world = World(truth_of(rate, random), random, drawn=False)
    world.play(600)  # rates are known, and no longer shrunk to the base rate
    items, users = biases(world, 1_000)
    assert np.abs(items).max() <= 0.05
    assert np.abs(users).max() <= 0.05


@pytest.mark.parametrize("rate", RATES)
def test_chance_adds_no_bias(rate: float) -> None:
    """With labels as they fall, from the first page on, a few for each item at the lowest rates: of all exposures."""
    random = np.random.default_rng(2)
    pages = max(400, round(2_000 / rate / ITEMS))
    world = World(truth_of(rate, random), random, drawn=True)
    world.play(pages)
    bias = world.residuals()[0].sum() / (world.seen[:, None] * world.truth).sum()
    assert abs(bias) <= 0.05


def test_rates_by_the_same_fields_are_one() -> None:
    """Of all time, and lately: an item that is twice as good as others is expected to be so once."""
    random = np.random.default_rng(3)
    truth = np.full((USERS, ITEMS), 0.01)
    truth[:, 0] = 0.04
    world = World(truth, random, drawn=False)
    world.play(600)
    assert abs(biases(world, 400)[0][0]) < 0.05
