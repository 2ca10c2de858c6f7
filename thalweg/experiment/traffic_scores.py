"""What an experiment measures of every page: who served it, what was to be expected of it, how models predicted it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from producers.store.storefront import ShownPages
from stream.tables.dtypes import F32, F64, I64, Bools

REFERENCES: Final = ("popular", "oracle", "random")  # rankings that are worked out on every page


@dataclass
class TrafficScores:
    """Columns of N pages of k items, collected batch by batch. `learners`: whose predictions are collected."""

    learners: Collection[str]
    _batches: list[dict[str, npt.NDArray[Any]]] = field(default_factory=list)
    _ranked: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, shown: ShownPages, predictions: Mapping[str, F32]) -> None:
        """Add pages. `predictions`: float32 [B, k] of each learner, at page time."""
        self._batches.append(
            {
                "arm": shown.arms,
                "user": shown.pages.users,
                "time_ms": shown.pages.times_ms,
                "items": np.take_along_axis(shown.pages.candidates, shown.shown, 1),
                "labels": shown.outcomes.lasting,
                "expected": shown.expected,
                **{name: getattr(shown, name) for name in REFERENCES},
                **{f"by_{name}": predictions[name] for name in self.learners},
            }
        )

    def add_ranked(self, expected: Mapping[str, float]) -> None:
        """Add a page that all learners ranked: the installs to be expected of what each would have shown."""
        self._ranked.append(expected)

    def table(self) -> "ScoredTraffic":
        """All pages so far."""
        names = self._batches[0]
        columns = {name: np.concatenate([batch[name] for batch in self._batches]) for name in names}
        predictions = {name: columns.pop(f"by_{name}") for name in self.learners}
        ranked = {name: np.array([page[name] for page in self._ranked]) for name in (*self.learners, *REFERENCES)}
        return ScoredTraffic(**columns, predictions=predictions, ranked=ranked)


@dataclass(frozen=True)
class ScoredTraffic:
    """N pages of k items, in the order in which they were shown."""

    arm: I64  # int64 [N]
    user: I64  # int64 [N]
    time_ms: I64  # int64 [N]
    items: I64  # int64 [N, k]
    labels: Bools  # bool [N, k]: installed, and not retracted later
    expected: F64  # float64 [N]: installs to be expected of what was shown, by the world's truth
    oracle: F64  # float64 [N]: of the best page of the same candidates
    popular: F64  # float64 [N]: of the most popular of the same candidates
    random: F64  # float64 [N]: of random items of the same candidates
    predictions: Mapping[str, F32]  # float32 [N, k] of each learner, at page time
    ranked: Mapping[str, F64] = field(default_factory=dict)  # float64 [R] of learners and references: as `expected`, on
    # the pages that all have ranked
