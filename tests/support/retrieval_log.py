"""Installs for retrieval: what a learner keeps of them, and a plain reference of lists and memories."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from learner.retrieval.co_installs import LAST, NEAR, POPULARITY_POWER, PRIOR
from learner.retrieval.item_retrieval import MEMORY, Installs, ItemRetrieval
from stream.features.page_features import Layout
from stream.spec.retrieval import Kept, Retrieval
from stream.tables.dtypes import F32, U64
from tests.support.learner_world import small_spec

Install = tuple[int, int, float]  # user, item, 1 or −1


def retrieval(list_length: int = 50, vector_dim: int = 4, half_life: str | None = None, **bounds: int) -> ItemRetrieval:
    """What a learner keeps; bounds may be smaller than a spec may set."""
    kept = msgspec.structs.replace(Kept(list_length, max(2, vector_dim), half_life), **bounds)
    return ItemRetrieval(Retrieval(together=50, neighbours=50 if vector_dim else 0, kept=kept), Layout(small_spec()))


def learn(kept: ItemRetrieval, log: Sequence[Install], first_s: int = 0, at_once: int = 1) -> None:
    """Learn these, one a second, so many at once."""
    for n in range(0, len(log), at_once):
        users, items, signs = zip(*log[n : n + at_once], strict=True)
        times = 1_000.0 * (1_000 + first_s + n + np.arange(len(users)))
        ids = np.array(users, np.uint64), np.array(items, np.uint64)
        kept.learn_installs(Installs(*ids, np.array(signs, np.float64), times.astype(np.float64)))


def lists_of(kept: ItemRetrieval) -> dict[int, dict[int, float]]:
    """Weights by item and listed item; those of 0 are left out."""
    payload = kept.payload(None)
    rows = zip(payload["keys"].tolist(), payload["listed"].tolist(), payload["weights"].tolist(), strict=True)
    return {
        item: {other: weight for other, weight in zip(others, weights, strict=True) if other and weight}
        for item, others, weights in rows
    }


def vectors_of(kept: ItemRetrieval) -> tuple[U64, F32, F32, F32]:
    """Items, by id, with their input and output vectors and biases."""
    payload = kept.payload(None)
    order = np.argsort(payload["keys"])
    keys, inputs, outputs, biases = (payload[name][order] for name in ("keys", "inputs", "outputs", "biases"))
    return keys, inputs, outputs, biases  # type: ignore[return-value]  # of their types


@dataclass
class Reference:
    """Lists without a bound, in plain Python."""

    weights: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    installs: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    memories: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def learn(self, user: int, item: int, sign: float) -> None:
        """An install, or its retraction."""
        memory = self.memories[user]
        if (sign > 0) == (item in memory):
            return
        place = memory.index(item) if sign < 0 else -1
        if sign > 0:
            self.installs[item] += 1
        for i, other in enumerate(memory):
            if other != item and abs(i - place) <= LAST:
                weight = sign * NEAR ** (abs(i - place) - 1)
                self._add(other, item, weight)
                self._add(item, other, weight)
        if sign > 0:
            self.memories[user] = [item, *memory][:MEMORY]
        else:
            self.installs[item] -= 1
            memory.remove(item)

    def _add(self, item: int, listed: int, weight: float) -> None:
        more = weight * (self.installs[listed] + PRIOR) ** -POPULARITY_POWER
        self.weights[item][listed] = max(0.0, self.weights[item][listed] + more)
