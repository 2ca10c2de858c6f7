"""The ReLU tower as numba kernels: a forward pass, and a backward pass that takes AdaGrad's step as it goes.

For micro-batches of a few examples, where a library call costs more than its arithmetic. Products are computed in
blocks of 4 × 4 with a long inner loop that compiles to vector instructions, so all widths are padded: the input's to a
multiple of 4, hidden ones to one of 16, a micro-batch to one of 4. Padding weights are 0 and stay 0.
All parameters lie in `flat`, layer by layer, weight [in, out] then bias [out]; the last layer's weight is [in, 1].

torch's autograd is the oracle in the tests, and trains warm starts.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt
import torch

from stream.tables.dtypes import F32
from stream.tables.jit import F, edition, kernel

BLOCK: Final = 4
LANES: Final = 16
EPSILON: Final = np.float32(1e-10)  # AdaGrad's, as torch.optim.Adagrad


class TowerState(NamedTuple):
    """The tower as kernels see it."""

    widths: npt.NDArray[np.int64]  # (layers,), padded
    flat: F32  # all parameters, padded
    squares: F32  # AdaGrad's sums of squared gradients, beside `flat`
    rate: np.float32
    pooled: int  # width of the embeddings: they are the first inputs, and the only ones that need a gradient


class Tower:
    """Dense parameters. `widths`: inputs, hidden units; one output follows."""

    def __init__(self, widths: Sequence[int], pooled: int, rate: float, seed: int) -> None:
        self.widths = list(widths)
        padded = np.array([round_up(widths[0], BLOCK), *(round_up(w, LANES) for w in widths[1:])], np.int64)
        size = sum(int((i + 1) * o) for i, o in pairwise([*padded, 1]))
        self.flat: F32 = np.zeros(size, np.float32)
        self.squares: F32 = np.zeros(size, np.float32)
        self.state = TowerState(padded, self.flat, self.squares, np.float32(rate), pooled)
        generator = torch.Generator().manual_seed(seed)
        layers = self.layers()
        for weight, _ in layers:
            weight[:] = torch.randn(weight.shape, generator=generator).numpy() * (2.0 / weight.shape[0]) ** 0.5
        layers[-1][0][:] *= 0.1

    def layers(self, flat: F32 | None = None) -> list[tuple[F32, F32]]:
        """(weight [in, out], bias [out]) in order, without padding: views into `flat`, or into an array like it."""
        flat, at, views = self.flat if flat is None else flat, 0, []
        padded = [*self.state.widths.tolist(), 1]
        for (i, o), (n_in, n_out) in zip(pairwise([*self.widths, 1]), pairwise(padded), strict=True):
            end = at + n_in * n_out
            views.append((flat[at:end].reshape(n_in, n_out)[:i, :o], flat[end : end + o]))
            at = end + n_out
        return views


def round_up(width: int, multiple: int) -> int:
    """The next multiple."""
    return -(-width // multiple) * multiple


def _reassociating_kernel(function: F) -> F:
    """A kernel whose sums the compiler may reorder, so that they vectorise.

    The order is fixed at compilation, and loop lengths are a model's widths: each call gives the same bits.
    """
    function.__qualname__ += f"-{edition(function)}"
    compiled: Any = numba.njit(
        cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
    )(function)  # fmt: skip
    return cast(F, compiled)


@kernel
def forward(tower: Any, activations: Any, examples: Any, logits: Any) -> None:
    """Write logits [examples]; the first block of `activations` is the padded input (see `allocate_activations`).

    Writes each layer's input into `activations`, for `backward`.
    """
    widths, flat = tower.widths, tower.flat
    rows = activations.shape[0] // widths.sum()
    at, x_at = 0, 0
    for layer in range(widths.shape[0] - 1):
        n_in, n_out = widths[layer], widths[layer + 1]
        x = activations[x_at : x_at + rows * n_in].reshape(rows, n_in)
        x_at += rows * n_in
        y = activations[x_at : x_at + rows * n_out].reshape(rows, n_out)
        weight = flat[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        y[:] = flat[at : at + n_out]
        at += n_out
        add_product(x, weight, y)
        for r in range(rows):
            for o in range(n_out):
                y[r, o] = max(y[r, o], np.float32(0.0))
    n = widths[-1]
    x = activations[x_at : x_at + rows * n].reshape(rows, n)
    for r in range(examples):
        logit = flat[at + n]
        for i in range(n):
            logit += x[r, i] * flat[at + i]
        logits[r] = logit


@kernel
def backward(tower: Any, activations: Any, gradients: Any) -> Any:
    """One AdaGrad step by `gradients` of the logits, float32 [rows] (0 for padding), after `forward`.

    Returns the gradient of the input, float32 [rows, width]; only its embeddings' columns are valid.
    """
    widths, flat, squares, rate = tower.widths, tower.flat, tower.squares, tower.rate
    rows = gradients.shape[0]
    last = widths.shape[0] - 1
    n = widths[last]
    at, x_at = flat.shape[0] - n - 1, activations.shape[0] - rows * n
    x = activations[x_at : x_at + rows * n].reshape(rows, n)
    d = np.empty((rows, n), np.float32)
    for r in range(rows):
        for i in range(n):
            d[r, i] = gradients[r] * flat[at + i]
    gradient = np.zeros(n + 1, np.float32)
    for r in range(rows):
        for i in range(n):
            gradient[i] += gradients[r] * x[r, i]
        gradient[n] += gradients[r]
    adagrad(flat[at:], squares[at:], gradient, rate)
    for layer in range(last - 1, -1, -1):
        n_in, n_out = widths[layer], widths[layer + 1]
        for r in range(rows):
            for o in range(n_out):
                d[r, o] = d[r, o] if x[r, o] > 0 else np.float32(0.0)
        at -= (n_in + 1) * n_out
        x_at -= rows * n_in
        x = activations[x_at : x_at + rows * n_in].reshape(rows, n_in)
        end = at + n_in * n_out
        weight = flat[at:end].reshape(n_in, n_out)
        below = np.empty((rows, n_in), np.float32)
        products(d, weight, n_in if layer else (tower.pooled + 3) // 4 * 4, below)
        step(x, d, weight, squares[at:end].reshape(n_in, n_out), rate)
        gradient = np.zeros(n_out, np.float32)
        for r in range(rows):
            for o in range(n_out):
                gradient[o] += d[r, o]
        adagrad(flat[end : end + n_out], squares[end : end + n_out], gradient, rate)
        d = below
    return d


@kernel
def allocate_activations(tower: Any, examples: Any) -> Any:
    """Zeros for each layer's input, one block [rows, width] after the other; rows are padded."""
    return np.zeros((examples + 3) // 4 * 4 * tower.widths.sum(), np.float32)


@kernel
def adagrad(weights: Any, squares: Any, gradient: Any, rate: Any) -> None:
    """One AdaGrad step, as torch.optim.Adagrad takes it. Arrays are float32 [n]."""
    for o in range(weights.shape[0]):
        g = gradient[o]
        s = squares[o] + g * g
        squares[o] = s
        weights[o] -= rate * g / (np.sqrt(s) + EPSILON)


@kernel
def add_product(a: Any, b: Any, out: Any) -> None:
    """out += a · b, float32 [m, k] · [k, n]; m and k are multiples of 4."""
    n = b.shape[1]
    for r in range(0, a.shape[0], 4):
        out0, out1, out2, out3 = out[r], out[r + 1], out[r + 2], out[r + 3]
        for i in range(0, a.shape[1], 4):
            b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
            a00, a01, a02, a03 = a[r, i], a[r, i + 1], a[r, i + 2], a[r, i + 3]
            a10, a11, a12, a13 = a[r + 1, i], a[r + 1, i + 1], a[r + 1, i + 2], a[r + 1, i + 3]
            a20, a21, a22, a23 = a[r + 2, i], a[r + 2, i + 1], a[r + 2, i + 2], a[r + 2, i + 3]
            a30, a31, a32, a33 = a[r + 3, i], a[r + 3, i + 1], a[r + 3, i + 2], a[r + 3, i + 3]
            for o in range(n):
                w0, w1, w2, w3 = b0[o], b1[o], b2[o], b3[o]
                out0[o] = (((out0[o] + a00 * w0) + a01 * w1) + a02 * w2) + a03 * w3
                out1[o] = (((out1[o] + a10 * w0) + a11 * w1) + a12 * w2) + a13 * w3
                out2[o] = (((out2[o] + a20 * w0) + a21 * w1) + a22 * w2) + a23 * w3
                out3[o] = (((out3[o] + a30 * w0) + a31 * w1) + a32 * w2) + a33 * w3


@_reassociating_kernel
def products(a: Any, b: Any, rows: Any, out: Any) -> None:
    """out[m, i] = Σ a[m, o] · b[i, o] for i < rows, float32; m and rows are multiples of 4."""
    zero = np.float32(0.0)
    for i in range(0, rows, 4):
        b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
        for r in range(0, a.shape[0], 4):
            a0, a1, a2, a3 = a[r], a[r + 1], a[r + 2], a[r + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
            for o in range(b.shape[1]):
                w0, w1, w2, w3 = b0[o], b1[o], b2[o], b3[o]
                s00, s01, s02, s03 = s00 + a0[o] * w0, s01 + a0[o] * w1, s02 + a0[o] * w2, s03 + a0[o] * w3
                s10, s11, s12, s13 = s10 + a1[o] * w0, s11 + a1[o] * w1, s12 + a1[o] * w2, s13 + a1[o] * w3
                s20, s21, s22, s23 = s20 + a2[o] * w0, s21 + a2[o] * w1, s22 + a2[o] * w2, s23 + a2[o] * w3
                s30, s31, s32, s33 = s30 + a3[o] * w0, s31 + a3[o] * w1, s32 + a3[o] * w2, s33 + a3[o] * w3
            out[r, i], out[r, i + 1], out[r, i + 2], out[r, i + 3] = s00, s01, s02, s03
            out[r + 1, i], out[r + 1, i + 1], out[r + 1, i + 2], out[r + 1, i + 3] = s10, s11, s12, s13
            out[r + 2, i], out[r + 2, i + 1], out[r + 2, i + 2], out[r + 2, i + 3] = s20, s21, s22, s23
            out[r + 3, i], out[r + 3, i + 1], out[r + 3, i + 2], out[r + 3, i + 3] = s30, s31, s32, s33


@kernel
def step(x: Any, d: Any, weight: Any, squares: Any, rate: Any) -> None:
    """AdaGrad on a layer's weight [in, out] by the gradient xᵀ · d, four rows at a time."""
    gradient = np.empty((4, d.shape[1]), np.float32)
    xt = x.T
    for i in range(0, x.shape[1], 4):
        gradient[:] = np.float32(0.0)
        add_product(xt[i : i + 4], d, gradient)
        for j in range(4):
            adagrad(weight[i + j], squares[i + j], gradient[j], rate)
