"""The deep part: embeddings of a growing vocabulary, a ReLU tower, AdaGrad; all state in numpy, stepped by kernels.

`joint_step.py` learns with it, jointly with the wide part; here is what it is, and what happens to it in between.
"""

from typing import Any, Final

import numpy as np

from learner.deep.joint_step import SAMPLE, DeepState, Given, predict_part
from learner.deep.tower import Tower
from learner.deep.vocabulary import Vocabulary
from stream.features.encoder import DeepInput
from stream.features.page_features import F32
from stream.spec.spec import Deep as DeepSpec
from stream.spec.spec import duration_ms
from stream.tables.hash_table import U64

FIRST_FREEZE: Final = 64
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)


class Deep:
    """Predicts with what it is; kernels learn on what `prepare` returns."""

    def __init__(self, spec: DeepSpec, lists: int, numbers: int, seed: int = 0) -> None:
        self.spec, self.lists, self.numbers = spec, lists, numbers
        expire_ms = duration_ms(spec.expire) if spec.expire else 0
        self.vocabulary = Vocabulary(spec.embedding_dim, spec.min_count, spec.max_rows, expire_ms)
        self.boundaries: F32 = np.zeros((0, 0), np.float32)
        self.sample: F32 = np.full((SAMPLE, numbers), np.nan, np.float32)
        self.sampled = np.zeros(SAMPLE, np.uint8)
        pooled = lists * spec.embedding_dim
        self.tower = Tower([pooled + 2 * numbers, *spec.hidden_units], pooled, spec.learning_rate, seed)

    @property
    def flat(self) -> F32:
        """All dense parameters, padded."""
        return self.tower.flat

    def layers(self) -> list[tuple[F32, F32]]:
        """Copies of (weights [in, out], biases [out]) in order."""
        return [(weight.copy(), bias.copy()) for weight, bias in self.tower.layers()]

    def prepare(self, ids: U64) -> DeepState:
        """Once a record, before it's learned: room for its ids. Holds until something else changes the deep part."""
        return DeepState(self.tower.state, self.vocabulary.prepare(ids), self.lists, self.boundaries, self.sample,
                         self.sampled, self.spec.micro_batch)  # fmt: skip

    def score(self, given: DeepInput) -> F32:
        """Logits, float32 [B], without a thought of learning."""
        logits = np.empty(len(given.numbers), np.float32)
        known = Given(NO_KEYS, given.offsets, given.ids, given.offsets, given.numbers)
        predict_part(self.prepare(given.ids), known, 0, len(logits), logits)
        return logits

    def finite(self) -> bool:
        """Is every dense parameter a number, and every embedding that changed since the last publish?"""
        changed = self.vocabulary.vectors[self.vocabulary.changed_rows()]
        return bool(np.isfinite(self.flat).all() and np.isfinite(changed).all())

    def freeze_quantiles(self) -> None:
        """Boundaries from the sample: float32 [numbers, quantiles − 1]."""
        held = self.sample[self.sampled == 1]
        if not self.numbers or not len(held):
            return
        shares = np.arange(1, self.spec.quantiles) / self.spec.quantiles
        self.boundaries = np.array([_quantiles(column, shares) for column in held.T], np.float32)


def _quantiles(column: F32, shares: "np.ndarray[Any, np.dtype[np.float64]]") -> F32:
    """Quantiles of what isn't missing, between neighbours linearly; zeros when all is."""
    known = np.sort(column[~np.isnan(column)])
    if not len(known):
        return np.zeros(len(shares), np.float32)
    quantiles: F32 = np.interp(shares * (len(known) - 1), np.arange(len(known)), known).astype(np.float32)
    return quantiles
