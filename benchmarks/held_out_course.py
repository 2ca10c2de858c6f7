"""A made-up course of held-out pages whose truth is known, and models that err by known amounts."""

from typing import Final

import numpy as np

from learner.training.paired_comparison import Pairs
from stream.tables.dtypes import F64, I64, Bools

ITEMS: Final = 10  # of a page
USERS: Final = 4_000


class Course:
    """Held-out pages of which the truth is known: `truth` float64 [pages, ITEMS], log-odds."""

    def __init__(self, rate: float, positives: int, seed: int = 0) -> None:
        self.rate, self.random = rate, np.random.default_rng(seed)
        pages = int(positives / rate / ITEMS)
        self.users: I64 = self.random.integers(USERS, size=pages)
        tastes = 0.5 * self.random.normal(size=USERS)[self.users]
        self.column: F64 = self.random.normal(0, 0.6, (pages, ITEMS))  # what one column tells
        items = self.random.normal(0, 0.8, (pages, ITEMS)) + self.column
        self.truth: F64 = np.log(rate / (1 - rate)) - 0.6 + items + tastes[:, None]
        self.labels: Bools = self.random.random(self.truth.shape) < probability(self.truth)
        self.anchor = self.model()

    def model(self, noise: float = 0.25) -> F64:
        """Log-odds of a model that has learned most of the truth, and is calibrated."""
        mean = float(self.truth.mean())
        found: F64 = mean + 0.7 * (self.truth - mean) + self.random.normal(0, noise, self.truth.shape)
        return found + float(np.log(probability(self.truth).mean() / probability(found).mean()))

    def pairs(self, live: F64) -> Pairs:
        """What the judge is given."""
        pages = np.repeat(np.arange(len(self.users)), ITEMS)
        columns = (self.labels, np.ones_like(live), probability(live), probability(self.anchor))
        return Pairs(pages, np.repeat(self.users, ITEMS), *(c.astype(np.float32).ravel() for c in columns))


def probability(log_odds: F64) -> F64:
    """P(Y=1) of log-odds."""
    odds: F64 = 1.0 / (1.0 + np.exp(-log_odds))
    return odds
