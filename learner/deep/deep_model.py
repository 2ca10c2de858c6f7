"""The deep part: embeddings of a growing vocabulary, a ReLU tower, AdaGrad. All state is in numpy; kernels step it.

`joint_step.py` trains it together with the wide part.
"""

from typing import Any, Final

import numpy as np

from learner.deep.joint_step import SAMPLE_SIZE, DeepState, Inputs, predict_batch
from learner.deep.tower import Tower
from learner.deep.vocabulary import Vocabulary
from learner.wide.forgetting import Forgetting
from stream.features.encoder import DeepInput
from stream.spec.parts import Deep
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, I64, U64

FIRST_FREEZE: Final = 64  # examples
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)


class DeepModel:
    """The deep part's state. It predicts by itself; kernels train what `prepare` returns."""

    def __init__(self, spec: Deep, lists: int, numbers: int, seed: int | None = 0, unseen: U64 | None = None) -> None:
        """`seed`: as `Tower` has it. `unseen`: as `Vocabulary` has it; None: lists share a row for ids without one."""
        self.spec, self.lists, self.numbers = spec, lists, numbers
        expire_ms = duration_ms(spec.expire) if spec.expire else 0
        self.forgetting = Forgetting(duration_ms(spec.half_life) if spec.half_life else 0)
        start, floor = spec.initial_accumulator, 0.0
        if spec.half_life:  # what sums start at doesn't fade
            start, floor = floor, start
        self.start, self.floor = start, np.float32(floor)
        keys = np.zeros(lists, np.uint64) if unseen is None else unseen
        self.vocabulary = Vocabulary(spec.embedding_dim, spec.min_count, spec.max_rows, expire_ms, start, keys)
        self.embedding_rate = spec.learning_rate if spec.embedding_rate is None else spec.embedding_rate
        self.boundaries: F32 = np.zeros((0, 0), np.float32)
        self.sample: F32 = np.full((SAMPLE_SIZE, numbers), np.nan, np.float32)
        self.sampled = np.zeros(SAMPLE_SIZE, np.uint8)
        pooled = lists * spec.embedding_dim
        self.tower = Tower([pooled + 2 * numbers, *spec.hidden_units], pooled, spec.learning_rate, seed,
                           start)  # fmt: skip

    def layers(self) -> list[tuple[F32, F32]]:
        """Copies of (weights [in, out], biases [out]) in order."""
        return [(weight.copy(), bias.copy()) for weight, bias in self.tower.layers()]

    def prepare(self, ids: U64) -> DeepState:
        """State for kernels, with slots reserved for a record's ids. Valid until the deep part changes otherwise."""
        return DeepState(self.tower.state, self.vocabulary.prepare(ids), self.lists, self.boundaries, self.sample,
                         self.sampled, self.spec.micro_batch, np.float32(self.embedding_rate), self.forgetting.clock,
                         self.forgetting.half_life_ms, self.floor)  # fmt: skip

    def begin_record(self) -> None:
        """Once a record, before it's learned: scale AdaGrad's sums down, if it's time."""
        self._scale_sums(self.forgetting.rescale())

    def restore_clock(self, state: I64) -> None:
        """Go on from a checkpoint's clock, after its sums. Raises ValueError."""
        self._scale_sums(self.forgetting.restore(state))

    def forget(self, share: float) -> None:
        """Keep this share of AdaGrad's sums, beyond what they start at; weights stay."""
        self._scale_sums(share, start=self.start)

    def _scale_sums(self, factor: float, *, start: float = 0.0) -> None:
        if factor != 1.0:
            for sums in (self.tower.state.squares, self.vocabulary.sums):
                sums[:] = start + (sums - start) * np.float32(factor)
            self.vocabulary.table.mark_all_runs()

    def score(self, batch: DeepInput) -> F32:
        """Logits, float32 [B]; nothing is learned."""
        logits = np.empty(len(batch.numbers), np.float32)
        inputs = Inputs(NO_KEYS, batch.offsets, batch.ids, batch.offsets, batch.numbers)
        predict_batch(self.prepare(batch.ids), inputs, 0, len(logits), logits)
        return logits

    def finite(self) -> bool:
        """Whether every dense parameter is finite, and every embedding that changed since the last publish."""
        changed = self.vocabulary.vectors[self.vocabulary.changed_rows()]
        return bool(self.tower.finite() and np.isfinite(changed).all())

    def freeze_quantiles(self) -> None:
        """Set the boundaries from the sample: float32 [numbers, quantiles − 1]."""
        sample = self.sample[self.sampled == 1]
        if not self.numbers or not len(sample):
            return
        shares = np.arange(1, self.spec.quantiles) / self.spec.quantiles
        self.boundaries = np.array([_quantiles(column, shares) for column in sample.T], np.float32)


def _quantiles(column: F32, shares: "np.ndarray[Any, np.dtype[np.float64]]") -> F32:
    """Quantiles of the values that aren't missing, interpolated linearly; zeros when all are missing."""
    values = np.sort(column[~np.isnan(column)])
    if not len(values):
        return np.zeros(len(shares), np.float32)
    quantiles: F32 = np.interp(shares * (len(values) - 1), np.arange(len(values)), values).astype(np.float32)
    return quantiles
