"""The deep part: embeddings, a ReLU tower, AdaGrad; torch operators into flat buffers, gradients by hand.

All dense parameters lie in one flat tensor, so that AdaGrad is three operators a step; embeddings are
numpy rows that kernels pool and update, so that a step's cost doesn't depend on the vocabulary's size.
torch's autograd is the oracle in the tests.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch

from stream.dense import pool_rows, quantise, rows_of
from stream.encoder import I64, DeepInput
from stream.features import F32
from stream.spec import Deep as DeepSpec
from stream.table import U64, Table, kernel, mix, place

torch.set_num_threads(
    1
)  # the matrices are small: a second thread costs more than it brings, and learning stays bit for bit
EPSILON: Final = 1e-10  # AdaGrad's, as torch.optim.Adagrad
EMBEDDING_INIT: Final = 0.02
SAMPLE: Final = 16_384  # examples whose numbers are remembered for quantiles
VOCABULARY_WIDTH: Final = 3  # key; row (0: none yet), sightings
FIRST_FREEZE: Final = 64


@dataclass
class Vocabulary:
    """Rows for ids: given at the `min_count`-th sighting.

    `vectors`, `squares` float32 [capacity, dim]; row 0 is unseen.
    """

    table: Table
    vectors: F32
    squares: F32
    rows: int = 1  # rows given, the unseen one included

    def __post_init__(self) -> None:
        self.touched = np.zeros(len(self.vectors), np.bool_)  # rows that changed since the last publish

    @classmethod
    def empty(cls, dim: int) -> "Vocabulary":
        """No ids yet."""
        return cls(Table(VOCABULARY_WIDTH), np.zeros((1024, dim), np.float32), np.zeros((1024, dim), np.float32))

    def count(self, ids: U64, min_count: int) -> None:
        """These ids were seen in the stream, in this order."""
        self.table.reserve(len(ids))
        while self.rows + len(ids) > len(self.vectors):
            self.vectors = np.concatenate([self.vectors, np.zeros_like(self.vectors)])
            self.squares = np.concatenate([self.squares, np.zeros_like(self.squares)])
            self.touched = np.concatenate([self.touched, np.zeros_like(self.touched)])
        before = self.rows
        self.rows = int(
            _count_sightings(
                self.table.slots, self.table.counts, ids, min_count, self.rows, self.vectors, EMBEDDING_INIT
            )
        )
        self.touched[before : self.rows] = True

    def keys(self) -> U64:
        """The id of each row, uint64 [rows]; 0 for row 0."""
        keys = np.zeros(self.rows, np.uint64)
        held = self.table.rows()
        held = held[held[:, 1] != 0]
        keys[held[:, 1].astype(np.int64)] = held[:, 0]
        return keys


class Deep:
    """Predicts with what it is, then learns one step per micro-batch."""

    def __init__(self, spec: DeepSpec, lists: int, numbers: int, seed: int = 0) -> None:
        self.spec, self.lists, self.numbers = spec, lists, numbers
        self.vocabulary = Vocabulary.empty(spec.embedding_dim)
        self.boundaries: F32 = np.zeros((0, 0), np.float32)
        self.sample: F32 = np.full((SAMPLE, numbers), np.nan, np.float32)
        self.sampled = np.zeros(SAMPLE, np.uint8)
        widths = [lists * spec.embedding_dim + 2 * numbers, *spec.hidden_units, 1]
        self.shapes = list(pairwise(widths))
        size = sum(i * o + o for i, o in self.shapes)
        self.flat = torch.zeros(size)
        self.flat_squares = torch.zeros(size)
        self._flat_gradient = torch.zeros(size)
        self._layers = self._views(self.flat)
        self._gradients = self._views(self._flat_gradient)
        generator = torch.Generator().manual_seed(seed)
        for weight, _ in self._layers:
            weight.copy_(torch.randn(weight.shape, generator=generator) * (2.0 / weight.shape[0]) ** 0.5)
        self._layers[-1][0].mul_(0.1)

    def _views(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        views, at = [], 0
        for i, o in self.shapes:
            views.append((flat[at : at + i * o].view(i, o), flat[at + i * o : at + i * o + o]))
            at += i * o + o
        return views

    def layers(self) -> list[tuple[F32, F32]]:
        """Copies of (weights [in, out], biases [out]) in order."""
        return [(w.numpy().copy(), b.numpy().copy()) for w, b in self._layers]

    def predict(self, given: DeepInput) -> F32:
        """Logits, float32 [B]; keeps what `learn` needs of this batch."""
        self._given = given
        self._rows, self._activations, logits = self._forward(given)
        return logits

    def score(self, given: DeepInput) -> F32:
        """Logits, float32 [B], without a thought of learning."""
        return self._forward(given)[2]

    def _forward(self, given: DeepInput) -> tuple[I64, list[torch.Tensor], F32]:
        """Embedding rows, the input of each layer, logits."""
        rows = rows_of(given.ids, self.vocabulary.table.slots)
        pooled = pool_rows(rows, given.offsets, len(given.numbers), self.lists, self.vocabulary.vectors)
        x = torch.from_numpy(np.concatenate([pooled, quantise(given.numbers, self.boundaries)], axis=1))
        inputs = [x]
        for weight, bias in self._layers[:-1]:
            x = torch.addmm(bias, x, weight).relu_()
            inputs.append(x)
        weight, bias = self._layers[-1]
        return rows, inputs, torch.addmm(bias, x, weight).numpy()[:, 0]

    def learn(self, gradients: F32, sample_ids: U64) -> None:
        """One AdaGrad step on what was predicted last.

        `gradients` of the logits [B] are divided by the constant micro-batch.
        `sample_ids`: the examples' ids; an example's numbers replace those that its id's hash points to.
        """
        self._learn_weights(gradients)
        self.vocabulary.count(self._given.ids, self.spec.min_count)
        places = (sample_ids % np.uint64(SAMPLE)).astype(np.int64)
        self.sample[places] = self._given.numbers
        self.sampled[places] = 1

    def _learn_weights(self, gradients: F32) -> None:
        pooled_gradient = self._backward(torch.from_numpy(gradients / np.float32(self.spec.micro_batch))[:, None])
        self.flat_squares.addcmul_(self._flat_gradient, self._flat_gradient)
        self.flat.addcdiv_(self._flat_gradient, self.flat_squares.sqrt().add_(EPSILON), value=-self.spec.learning_rate)
        if self.lists:
            vocabulary = self.vocabulary
            _update_rows(self._rows, self._given.offsets, self.lists, pooled_gradient, vocabulary.vectors,
                         vocabulary.squares, vocabulary.touched, self.spec.learning_rate, EPSILON)  # fmt: skip

    def _backward(self, gradient: torch.Tensor) -> F32:
        """Fills the flat gradient; returns that of the pooled embeddings, float32 [B, lists·dim]."""
        for i in range(len(self._layers) - 1, -1, -1):
            into_weight, into_bias = self._gradients[i]
            torch.mm(self._activations[i].t(), gradient, out=into_weight)
            torch.sum(gradient, 0, out=into_bias)
            if i:
                gradient = torch.mm(gradient, self._layers[i][0].t()).mul_(self._activations[i] > 0)
        pooled = self.lists * self.spec.embedding_dim
        result: F32 = torch.mm(gradient, self._layers[0][0][:pooled].t()).numpy()
        return result

    def finite(self) -> bool:
        """Is every dense parameter a number, and every embedding that changed since the last publish?"""
        vocabulary = self.vocabulary
        changed = vocabulary.vectors[np.flatnonzero(vocabulary.touched[: vocabulary.rows])]
        return bool(np.isfinite(self.flat.numpy()).all() and np.isfinite(changed).all())

    def freeze_quantiles(self) -> None:
        """Boundaries from the sample: float32 [numbers, quantiles − 1]."""
        held = self.sample[self.sampled == 1]
        if not self.numbers or not len(held):
            return
        shares = np.arange(1, self.spec.quantiles) / self.spec.quantiles
        self.boundaries = np.array([_quantiles(column, shares) for column in held.T], np.float32)

    def warm(self, batches: Iterable[tuple[DeepInput, F32, F32, F32]]) -> None:
        """Start anew from what is there: quantiles frozen again, one pass over the batches.

        A batch is (input, wide logits, labels, weights).
        """
        self.freeze_quantiles()
        for given, wide, labels, weights in batches:
            logits = self.predict(given)
            self._learn_weights((weights * (1 / (1 + np.exp(-(logits + wide))) - labels)).astype(np.float32))


def _quantiles(column: F32, shares: "np.ndarray[Any, np.dtype[np.float64]]") -> F32:
    """Quantiles of what isn't missing, between neighbours linearly; zeros when all is."""
    known = np.sort(column[~np.isnan(column)])
    if not len(known):
        return np.zeros(len(shares), np.float32)
    quantiles: F32 = np.interp(shares * (len(known) - 1), np.arange(len(known)), known).astype(np.float32)
    return quantiles


@kernel
def _count_sightings(slots: Any, counts: Any, ids: Any, min_count: Any, rows: Any, vectors: Any, init: Any) -> Any:
    """Count ids; an id's row starts at a hash of its key: uniform in ±init. Returns how many rows there are."""
    for i in range(ids.shape[0]):
        at = place(slots, ids[i], counts)
        slots[at, 2] += np.uint64(1)
        if slots[at, 1] == 0 and slots[at, 2] >= np.uint64(min_count):
            slots[at, 1] = np.uint64(rows)
            for c in range(vectors.shape[1]):
                h = mix(ids[i], np.uint64(c + 1))
                vectors[rows, c] = np.float32((np.float64(h >> np.uint64(11)) / 4503599627370496.0 - 1.0) * init)
            rows += 1
    return rows


@kernel
def _update_rows(
    rows: Any,
    offsets: Any,
    lists: Any,
    gradient: Any,
    vectors: Any,
    squares: Any,
    touched: Any,
    rate: Any,
    epsilon: Any,
) -> Any:
    """AdaGrad on the embedding rows of a batch: gradients of one row are summed first."""
    unique = np.unique(rows)
    dim = vectors.shape[1]
    total = np.zeros((unique.shape[0], dim), np.float32)
    b = (offsets.shape[0] - 1) // lists
    for r in range(b):
        for f in range(lists):
            first, last = offsets[r * lists + f], offsets[r * lists + f + 1]
            if last == first:
                continue
            scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
            for i in range(first, last):
                u = np.searchsorted(unique, rows[i])
                for c in range(dim):
                    total[u, c] += gradient[r, f * dim + c] * scale
    for u in range(unique.shape[0]):
        touched[unique[u]] = True
        for c in range(dim):
            g = total[u, c]
            if g != 0.0:
                squares[unique[u], c] += g * g
                vectors[unique[u], c] -= np.float32(rate) * g / (np.sqrt(squares[unique[u], c]) + np.float32(epsilon))
