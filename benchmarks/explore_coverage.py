"""How often 95 % intervals of off-policy estimates hold the truth, in simulated logs.

A world has 8 kinds of users and 8 items. A ranker that knows the items' rates roughly fills pages of two places, and
draws (epsilon .5); the target knows the rates better and draws less (epsilon .2). An item earns less at the lower
place, and below an item that is much wanted. The truth is the mean over pages that the target itself fills.
"""

from typing import Final

import numpy as np
from rich.progress import track
from rich.table import Table

from stream.tables.dtypes import F64, I64
from thalweg.backtest.off_policy import ESTIMATORS, LOGGED, EstimateOptions, LoggedPages, TargetPages, estimate
from thalweg.backtest.target_policy import free_places, greedy_with, page_chances

KINDS: Final = 8  # of users
ITEMS: Final = 8
BY_PLACE: Final = np.array([1.0, 0.7])  # what an item earns there
WANTED: Final = 0.15  # the rate from which an item takes installs from the one below it
LOG, TARGET = 0, 1
EPSILONS: Final = (0.5, 0.2)
NOISE: Final = (0.03, 0.01)
TRUTH_PAGES: Final = 400_000
SEEDS, PAGES = 100, 5_000


class World:
    """A log and what a target would have done on its pages; a function of the seed."""

    def __init__(self, seed: int, pages: int) -> None:
        self._random = np.random.default_rng(seed)
        self._rates = 0.3 * self._random.random((KINDS, ITEMS)) ** 2
        noise = np.array(NOISE)[:, None, None] * self._random.normal(size=(2, KINDS, ITEMS))
        self._scores = self._rates + noise  # f64[2, KINDS, ITEMS]: of the log's ranker and the target
        self._kinds, self._items, self._propensities = self._draw(LOG, pages)
        earned = self._earned(self._kinds, self._items)
        self._labels = (self._random.random(earned.shape) < earned).astype(np.float64)

    def logged(self) -> LoggedPages:
        """The log."""
        return LoggedPages(self._labels, self._propensities, np.ones(self._labels.shape, np.bool_))

    def target(self) -> TargetPages:
        """The target's part, by the code that judges real logs; it predicts its scores."""
        draw = greedy_with(EPSILONS[TARGET])
        found = []
        for kind, shown in zip(self._kinds, self._items.tolist(), strict=True):
            scores = self._scores[TARGET, kind]
            found.append((*page_chances(free_places(scores, ITEMS), draw, shown, scores), scores[shown]))
        chances, expected, predicted = np.array(found).transpose(1, 0, 2)
        return TargetPages(chances, predicted, expected)

    def truth(self) -> float:
        """What a page of the target earns."""
        kinds, items, _ = self._draw(TARGET, TRUTH_PAGES)
        return float(self._earned(kinds, items).sum(1).mean())

    def _draw(self, policy: int, pages: int) -> tuple[I64, I64, F64]:
        """Users' kinds [P], the items of their pages [P, K] and with what probability they were drawn [P, K]."""
        epsilon, rows = EPSILONS[policy], np.arange(pages)
        kinds = self._random.integers(0, KINDS, pages)
        keys = self._scores[policy, kinds]
        items, propensities = np.empty((pages, len(BY_PLACE)), np.int64), np.empty((pages, len(BY_PLACE)))
        for k in range(len(BY_PLACE)):
            best = keys.argmax(1)
            any_free = np.where(keys > -np.inf, self._random.random(keys.shape), -1.0).argmax(1)
            items[:, k] = np.where(self._random.random(pages) < epsilon, any_free, best)
            propensities[:, k] = (1 - epsilon) * (items[:, k] == best) + epsilon / (ITEMS - k)
            keys[rows, items[:, k]] = -np.inf
        return kinds, items, propensities

    def _earned(self, kinds: I64, items: I64) -> F64:
        """Each place's probability of an install, f64[P, K]."""
        rates = self._rates[kinds[:, None], items]
        taken = np.ones_like(rates)
        taken[:, 1:] = np.where(rates[:, :-1] > WANTED, 0.6, 1.0)
        found: F64 = rates * BY_PLACE * taken
        return found


def covered(seeds: int, pages: int, resamples: int) -> dict[str, int]:
    """Of how many seeds the interval holds the truth, by estimator, and for what the log itself earned."""
    found = dict.fromkeys((LOGGED, *ESTIMATORS), 0)
    for seed in track(range(seeds), "worlds", transient=True, disable=seeds < SEEDS):
        world = World(seed, pages)
        one = estimate(world.logged(), world.target(), EstimateOptions(resamples=resamples, seed=seed))
        truth = world.truth()
        for name in found:
            interval = one.of(name)
            found[name] += interval.low <= truth <= interval.high
    return found


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """Shares of seeds whose interval holds the truth."""
    seeds, pages = (SEEDS // 5, PAGES // 2) if quick else (SEEDS, PAGES)
    found = covered(seeds, pages, 1_000)
    table = Table("", "95 % intervals that hold the truth", title=f"off-policy: {seeds} worlds of {pages:,} pages")
    for name, count in found.items():
        table.add_row("as logged" if name == LOGGED else name, f"{count} of {seeds}")
    return table, {f"{name}_coverage": count / seeds for name, count in found.items()}
