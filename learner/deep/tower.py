"""The ReLU tower as numba kernels: a forward pass, and a backward pass that takes AdaGrad's step as it goes.

For micro-batches of a few examples, where a library call costs more than its arithmetic: see `dense_layer.py`. All
parameters lie in one array, layer by layer: weight [out, in], then bias [out]. Widths are rounded up to whole cache
lines; the last layer has one output.

torch's autograd is the oracle in the tests.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.deep.dense_layer import GROUPS, LINE, activate, input_gradient, live_units, step_units
from stream.tables.dtypes import F32
from stream.tables.jit import kernel

PACKED_INPUT: Final = 4  # `Tower.flat` rounds the input's width up to a multiple of it; hidden ones to LINE


class TowerState(NamedTuple):
    """The tower as kernels see it."""

    widths: npt.NDArray[np.int64]  # (layers,), rounded up
    weights: F32  # all parameters
    squares: F32  # AdaGrad's sums of squared gradients, beside `weights`
    rate: np.float32
    pooled: int  # width of the embeddings: they are the first inputs, and the only ones that need a gradient


class Tower:
    """Dense parameters. `widths`: inputs, hidden units; one output follows.

    `seed`: of the first weights; None: zeros, where others take their place, or nothing is predicted.
    """

    def __init__(
        self, widths: Sequence[int], pooled: int, rate: float, seed: int | None, initial_accumulator: float = 0.0
    ) -> None:
        self.widths = list(widths)
        padded = self._padded(LINE)
        weights, squares = zeros(_length(padded)), zeros(_length(padded))
        squares[:] = initial_accumulator
        self.state = TowerState(np.array(padded, np.int64), weights, squares, np.float32(rate), pooled)
        if seed is not None:
            self._draw(seed)

    def _draw(self, seed: int) -> None:
        """Draw the first weights. torch is imported here: its import takes longer than a learner's whole start."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        layers = self.layers()
        for weight, _ in layers:
            weight[:] = torch.randn(weight.shape, generator=generator).numpy() * (2.0 / weight.shape[0]) ** 0.5
        layers[-1][0][:] *= 0.1

    def layers(self, flat: F32 | None = None) -> list[tuple[F32, F32]]:
        """(weight [in, out], bias [out]) in order, without padding: views of the tower, or of an array like `flat`."""
        return self._views(self.state.weights, own=True) if flat is None else self._views(flat, own=False)

    @property
    def flat(self) -> F32:
        """A copy of all parameters as checkpoints have them: layer by layer, weight [in, out] then bias [out]."""
        return self._packed(self.state.weights)

    @property
    def squares(self) -> F32:
        """A copy of AdaGrad's sums in the order of `flat`."""
        return self._packed(self.state.squares)

    def restore(self, flat: F32, squares: F32) -> None:
        """Set what `flat` and `squares` return. Raises ValueError when their length is another."""
        length = _length(self._padded(PACKED_INPUT))
        for packed, array in ((flat, self.state.weights), (squares, self.state.squares)):
            if packed.shape != (length,):
                raise ValueError(f"dense parameters of shape {packed.shape}, wanted ({length},)")
            _copy(self._views(packed, own=False), self._views(array, own=True))

    def finite(self) -> bool:
        """Whether every parameter is finite."""
        return bool(np.isfinite(self.state.weights).all())

    def _packed(self, array: F32) -> F32:
        packed = np.zeros(_length(self._padded(PACKED_INPUT)), np.float32)
        _copy(self._views(array, own=True), self._views(packed, own=False))
        return packed

    def _views(self, array: F32, own: bool) -> list[tuple[F32, F32]]:
        at, views = 0, []
        padded = [*self._padded(LINE if own else PACKED_INPUT), 1]
        for (i, o), (n_in, n_out) in zip(pairwise([*self.widths, 1]), pairwise(padded), strict=True):
            end = at + n_in * n_out
            weight = array[at:end].reshape(n_out, n_in).T if own else array[at:end].reshape(n_in, n_out)
            views.append((weight[:i, :o], array[end : end + o]))
            at = end + n_out
        return views

    def _padded(self, input_multiple: int) -> list[int]:
        return [round_up(self.widths[0], input_multiple), *(round_up(w, LINE) for w in self.widths[1:])]


def round_up(width: int, multiple: int) -> int:
    """The next multiple."""
    return -(-width // multiple) * multiple


def _length(widths: list[int]) -> int:
    return sum((i + 1) * o for i, o in pairwise([*widths, 1]))


def _copy(source: list[tuple[F32, F32]], target: list[tuple[F32, F32]]) -> None:
    for (weight, bias), (to_weight, to_bias) in zip(source, target, strict=True):
        to_weight[:], to_bias[:] = weight, bias


@kernel
def zeros(count: Any) -> Any:
    """Zeros, float32 [count], from the start of a cache line."""
    raw = np.zeros(count + LINE, np.float32)
    at = np.int64((np.uintp(0) - np.uintp(raw.ctypes.data)) % np.uintp(4 * LINE)) // 4
    return raw[at : at + count]


@kernel
def allocate_activations(tower: Any, rows: Any) -> Any:
    """Zeros for each layer's input, one block [rows, width] after the other."""
    return zeros(rows * tower.widths.sum())


@kernel
def forward(tower: Any, activations: Any, logits: Any) -> None:
    """Write logits [rows]; the first block of `activations` is the input (see `allocate_activations`).

    Writes each layer's input into `activations`, for `backward`.
    """
    widths, weights = tower.widths, tower.weights
    rows = logits.shape[0]
    at, x_at = 0, 0
    for layer in range(widths.shape[0] - 1):
        n_in, n_out = widths[layer], widths[layer + 1]
        x = activations[x_at : x_at + rows * n_in].reshape(rows, n_in)
        x_at += rows * n_in
        end = at + n_in * n_out
        out = activations[x_at : x_at + rows * n_out].reshape(rows, n_out)
        activate(x, weights[at:end].reshape(n_out, n_in), weights[end : end + n_out], out)
        at = end + n_out
    n = widths[-1]
    x = activations[x_at : x_at + rows * n].reshape(rows, n)
    logits[:] = weights[at + n]
    for i in range(n):
        for r in range(rows):
            logits[r] += x[r, i] * weights[at + i]


@kernel
def backward(tower: Any, activations: Any, gradients: Any, step: Any) -> Any:
    """One AdaGrad step by `gradients` of the logits, float32 [rows], after `forward`.

    Returns the gradient of the input, float32 [rows, width]; only its embeddings' columns are valid.
    """
    widths, weights, squares = tower.widths, tower.weights, tower.squares
    rows = gradients.shape[0]
    last = widths.shape[0] - 1
    n = widths[last]
    at, x_at = weights.shape[0] - n - 1, activations.shape[0] - rows * n
    x = activations[x_at : x_at + rows * n].reshape(rows, n)
    d = np.empty((rows, n), np.float32)
    gradient = np.zeros(n + 1, np.float32)
    for r in range(rows):
        for i in range(n):
            d[r, i] = gradients[r] * weights[at + i]
            gradient[i] += gradients[r] * x[r, i]
        gradient[n] += gradients[r]
    adagrad(weights[at:], squares[at:], gradient, step)
    units, ends = np.empty(widths.max() + 1, np.int64), np.zeros(GROUPS + 1, np.int64)
    for layer in range(last - 1, -1, -1):
        n_in, n_out = widths[layer], widths[layer + 1]
        gradient = np.zeros(n_out, np.float32)
        for r in range(rows):
            for o in range(n_out):
                d[r, o] = d[r, o] if x[r, o] > 0 else np.float32(0.0)
                gradient[o] += d[r, o]
        at -= (n_in + 1) * n_out
        x_at -= rows * n_in
        x = activations[x_at : x_at + rows * n_in].reshape(rows, n_in)
        end = at + n_in * n_out
        weight = weights[at:end].reshape(n_out, n_in)
        columns = live_units(d, units, ends)
        d = np.empty((rows, n_in), np.float32)
        input_gradient(columns, units, ends, weight, n_in if layer else tower.pooled, d)
        step_units(columns, units, x, weight, squares[at:end].reshape(n_out, n_in), step)
        adagrad(weights[end : end + n_out], squares[end : end + n_out], gradient, step)
    return d


@kernel
def adagrad(weights: Any, squares: Any, gradient: Any, step: Any) -> None:
    """One AdaGrad step, as torch.optim.Adagrad takes it; where the sum wouldn't be finite none. Float32 [n]."""
    rate, floor, epsilon = step
    for o in range(weights.shape[0]):
        g = gradient[o]
        s = squares[o] + g * g
        if not np.isfinite(s):
            continue
        squares[o] = s
        weights[o] -= rate * g / (np.sqrt(s + floor) + epsilon)
