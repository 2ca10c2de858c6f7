"""Exact down-sampling of negatives: a share of them is learned, at a weight that makes up for the others.

Whether the negative label of an item on a page is learned is a hash of page and position, not of the example: so a
correction knows whether the label that it takes back was learned, and at which weight. Positives are always learned.
The expected gradient is that of all labels: predictions are calibrated without a correction of the bias.

What isn't learned isn't even predicted, which is most of the work. Statistics count every label nevertheless; figures
weigh labels as learning does. Ranking is judged by whole pages and sessions: those of the same share of users, by hash,
are predicted whole.
"""

from typing import Final, NamedTuple

import numpy as np

from learner.training.example_batch import ExampleBatch
from stream.tables.dtypes import F32, I64, U64, Bools
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

NEGATIVES: Final = np.uint64(0xA0761D6478BD642F)  # seeds of hashes
USERS: Final = np.uint64(0xE7037ED1A0B428DB)


class Multiplicities(NamedTuple):
    """How many labels each example stands for; arrays [B]."""

    now: F32  # 1; of a negative 1 / share; 0: it isn't learned
    earlier: F32  # the same of an earlier label that it takes back; 0: it takes none back
    is_ranked: Bools  # of a user whose pages are predicted whole

    def part(self, which: slice | Bools) -> "Multiplicities":
        """Those of these examples."""
        return Multiplicities(self.now[which], self.earlier[which], self.is_ranked[which])

    @property
    def is_predicted(self) -> Bools:
        """Which examples the model predicts."""
        predicted: Bools = (self.now > 0) | (self.earlier > 0) | self.is_ranked
        return predicted


def multiplicities(examples: ExampleBatch, share: float) -> Multiplicities:
    """How many labels these stand for, if this share of the negatives is learned."""
    corrects = examples.corrects
    if share == 1.0:
        ones = np.ones(len(examples), np.float32)
        return Multiplicities(ones, corrects.astype(np.float32), np.ones(len(examples), np.bool_))
    keys = examples.page_keys, examples.user_keys
    return Multiplicities(*_sampled(*keys, examples.pages.position, examples.labels, corrects, share))


@kernel
def _sampled(
    pages: U64, users: U64, positions: I64, labels: F32, corrects: Bools, share: float
) -> tuple[F32, F32, Bools]:
    n = labels.shape[0]
    now, earlier, is_ranked = np.ones(n, np.float32), np.zeros(n, np.float32), np.empty(n, np.bool_)
    for b in range(n):
        is_ranked[b] = _uniform(mix(USERS, users[b])) < share
        is_learned = _uniform(mix(NEGATIVES ^ pages[b], np.uint64(positions[b]))) < share
        negative = np.float32(1.0 / share if is_learned else 0.0)
        if labels[b] < 0.5:
            now[b] = negative
            earlier[b] = 1.0 if corrects[b] else 0.0
        elif corrects[b]:
            earlier[b] = negative
    return now, earlier, is_ranked


@kernel
def _uniform(h: np.uint64) -> float:
    """A hash as a number in [0, 1)."""
    return np.float64(h >> np.uint64(11)) / 9007199254740992.0


def micro_batches(is_predicted: Bools, ends: I64, size: int) -> I64:
    """Index of each example's micro-batch in its record: cut at fixed indices of those that are predicted. int64 [B].

    Record r has examples ends[r]:ends[r + 1].
    """
    before = np.append(0, np.cumsum(is_predicted))
    first = np.repeat(before[ends[:-1]], np.diff(ends))
    found: I64 = np.maximum(before[1:] - first - 1, 0) // size
    return found
