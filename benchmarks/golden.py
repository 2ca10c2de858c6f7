"""The golden pages of a random model: a ranker validates each version with them, as it does with a learner's.

The published values of their keys are recorded here, so that their scores are computed independently of the ranker.
"""

from collections.abc import Sequence

import numpy as np

from ranker.kernels.plan import Plan
from stream.features.encoder import one_page
from stream.features.page_features import statistics_of
from stream.features.quantiles import quantise
from stream.features.statistics import Statistics
from stream.snapshots.manifest import Golden
from stream.snapshots.payload import Array, Payload
from stream.tables.dtypes import F64, U64

PAGES, ITEMS = 4, 8  # as a learner has them


class Known:
    """Published values of these keys: `values` float64 [n, width], zeros before."""

    def __init__(self, keys: U64, width: int) -> None:
        self.keys = np.unique(keys)
        self.values: F64 = np.zeros((len(self.keys), width))
        self.there = np.zeros(len(self.keys), np.bool_)

    def take(self, keys: Array, values: Array) -> None:
        """Record the published rows of these keys."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        ours = self.keys[at] == keys
        self.values[at[ours]] = values[ours].reshape(-1, self.values.shape[1])
        self.there[at[ours]] = True

    def of(self, keys: U64) -> F64:
        """Values of these keys, float64 [k, width]; of an unpublished key, those of key 0, the first."""
        at = np.searchsorted(self.keys, keys)
        return self.values[np.where(self.there[at], at, 0)]


class GoldenPages:
    """Golden pages with statistics as of `time_ms`: `note` what is published, then `golden` returns them."""

    def __init__(self, plan: Plan, statistics: Statistics, pages: Sequence[U64], time_ms: int) -> None:
        self._statistics, self._layout = statistics, plan.layout
        self._pages = [words.copy() for words in pages]
        for words in self._pages:
            statistics.fill(words, time_ms)
        batches = [one_page(words) for words in self._pages]
        self._wide_keys = [plan.encoder.wide_keys(batch) for batch in batches]
        self._given = [plan.encoder.deep_input(batch, serving=True) for batch in batches]
        zero = np.zeros(1, np.uint64)
        self._weights = Known(np.concatenate([zero, *(keys.keys for keys in self._wide_keys)]), 1)
        self._vectors = Known(
            np.concatenate([zero, *(given.ids for given in self._given)]), plan.spec.deep.embedding_dim
        )
        self._dense: Payload = {}

    def note(self, contents: dict[str, Payload]) -> None:
        """Record contents of parts that are to be published."""
        if wide := contents.get("wide"):
            self._weights.take(wide["keys"], wide["weights"])
        if statistics := contents.get("statistics"):
            self._put(statistics["rows"].astype(np.uint64, copy=False))
        if deep := contents.get("deep"):
            self._vectors.take(deep["keys"], deep["vectors"])
            self._dense = {name: array for name, array in deep.items() if name not in ("keys", "vectors")}

    def _put(self, rows: U64) -> None:
        """Replace rows of the statistics in the table that has them."""
        likenesses = self._statistics.likenesses
        known = likenesses.rows_of(rows[:, 0].copy())[:, 3] != 0
        likenesses.put(rows[known])
        self._statistics.table.put(rows[~known])

    def golden(self, watermark_ms: int) -> list[Golden]:
        """The golden pages of a manifest."""
        found = []
        for n, words in enumerate(self._pages):
            now = words.copy()
            self._statistics.fill(now, watermark_ms)
            scores = 1.0 / (1.0 + np.exp(-self._logits(n)))
            found.append(Golden(words.tobytes(), scores.tolist(), statistics_of(self._layout, now).tobytes()))
        return found

    def _logits(self, n: int) -> F64:
        """Of page n's items, float64."""
        keys, given = self._wide_keys[n], self._given[n]
        wide = np.add.reduceat(self._weights.of(keys.keys)[:, 0], keys.offsets[:-1])  # each has a key: the bias
        sums = np.concatenate(
            [np.zeros((1, self._vectors.values.shape[1])), self._vectors.of(given.ids).cumsum(axis=0)]
        )
        counts = np.diff(given.offsets)
        pooled = np.diff(sums[given.offsets], axis=0) / np.sqrt(np.maximum(1, counts))[:, None]
        x: F64 = np.concatenate(
            [pooled.reshape(len(wide), -1), quantise(given.numbers, np.asarray(self._dense["boundaries"], np.float32))],
            axis=1,
        )
        last = sum(name.startswith("weight_") for name in self._dense) - 1
        for i in range(last + 1):
            x = x @ self._dense[f"weight_{i}"].astype(np.float64) + self._dense[f"bias_{i}"].astype(np.float64)
            x = np.maximum(x, 0) if i < last else x
        return wide + x[:, 0]
