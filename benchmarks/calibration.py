"""Numbers that last: what a hundred million examples at 0.1 % labels make of a bias's prediction.

FTRL-Proximal on one coordinate, alpha 0.05, beta 1, that is in every example; labels are drawn from a seed, and all see
the same ones. Calibration is mean prediction over mean label in the second half. The wide part's own kernel is compared
with other ways to keep sums, as loops over one coordinate:

    z, n to the nearest     float32, as in the paper and in most implementations: what is too small for a sum is lost
    w, n to the nearest     the weight itself instead of z
    z, n compensated        what rounding lost is kept in a second float32 beside each sum (Kahan): 8 bytes more a key
    z, n stochastic         rounded up or down by chance, so that the mean is kept
    float64                 8 bytes more a key
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from learner.wide.ftrl import Ftrl, FtrlRates
from learner.wide.ftrl_kernels import TINY, WideExamples, WideOutput, learn_wide_examples
from learner.wide.stochastic_rounding import dithered, draw, noise
from stream.features.encoder import WideKeys
from stream.tables.dtypes import F32, F64
from stream.tables.jit import kernel

EXAMPLES, QUICK_EXAMPLES = 100_000_000, 1_000_000
RATE, ALPHA, BETA, SEED = 0.001, 0.05, 1.0, 18
CHUNK: Final = 100_000  # examples that are drawn at once
NEAREST, WEIGHT, COMPENSATED, STOCHASTIC, EXACT = range(5)
WAYS: Final = {
    "z, n to the nearest": (NEAREST, 16),
    "w, n to the nearest": (WEIGHT, 16),
    "z, n compensated": (COMPENSATED, 24),
    "z, n stochastic": (STOCHASTIC, 16),
    "float64": (EXACT, 24),
}
INVERSE, ADDED, NONE = np.float32(1 / ALPHA), np.float32(BETA), np.float32(0)


def labels_of(examples: int) -> Iterator[F32]:
    """Labels, CHUNK at a time; the same for all."""
    random = np.random.default_rng(SEED)
    for _ in range(examples // CHUNK):
        yield (random.random(CHUNK, np.float32) < RATE).astype(np.float32)


def kernel_predictions(examples: int) -> Iterator[F64]:
    """The wide part's kernel: predictions before each example is learned, CHUNK at a time."""
    ftrl = Ftrl(FtrlRates(np.array([ALPHA], np.float32), BETA, 0.0, 0.0))
    keys = WideKeys(np.full(CHUNK, 1 << 8 | 1, np.uint64), np.arange(CHUNK + 1))
    zeros, ones, pages = np.zeros(CHUNK, np.float32), np.ones(CHUNK, np.float32), np.zeros(CHUNK, np.uint64)
    output = WideOutput(np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32))
    for labels in labels_of(examples):
        state = ftrl.prepare(keys.keys, 0)
        known = WideExamples(zeros, labels, ones, np.zeros(CHUNK), pages)
        learn_wide_examples(state, keys, known, 0, CHUNK, zeros, output)
        yield 1 / (1 + np.exp(-output.logits.astype(np.float64)))


def loop_predictions(way: int, examples: int) -> Iterator[F64]:
    """One of WAYS."""
    sums, exact = np.zeros(5, np.float32), np.zeros(2)
    for chunk, labels in enumerate(labels_of(examples)):
        predictions = np.empty(CHUNK)
        learn_coordinate(way, labels, chunk * CHUNK, sums, exact, predictions)
        yield predictions


@kernel
def learn_coordinate(way: int, labels: F32, first: int, sums: F32, exact: F64, predictions: F64) -> None:
    """`sums` float32 [5]: z, n, what either lost, w; `exact` float64 [2]: z, n."""
    z, n, lost_z, lost_n, w = sums[0], sums[1], sums[2], sums[3], sums[4]
    for i in range(labels.shape[0]):
        if way == EXACT:
            w = np.float32(-exact[0] * ALPHA / (BETA + np.sqrt(exact[1])))
        elif way != WEIGHT:
            w = -z / ((ADDED + np.sqrt(n)) * INVERSE)
        p = 1.0 / (1.0 + np.exp(-np.float64(w)))
        predictions[i] = p
        g = np.float32(p - np.float64(labels[i]))
        square = g * g
        move = g - square * INVERSE / (np.sqrt(n + square) + np.sqrt(n) + TINY) * w
        if way == NEAREST:
            z, n = z + move, n + square
        elif way == WEIGHT:
            n = n + square
            w = w - g / ((ADDED + np.sqrt(n)) * INVERSE)
        elif way == COMPENSATED:
            term = move - lost_z
            total = z + term
            lost_z, z = (total - z) - term, total
            term = square - lost_n
            total = n + term
            lost_n, n = (total - n) - term, total
        elif way == STOCHASTIC:
            rounding = noise(draw(first + i), NONE)
            z, n = dithered(z, move, rounding), dithered(n, square, rounding)
        else:
            after = exact[1] + np.float64(g) * np.float64(g)
            exact[0] += np.float64(g) - (np.sqrt(after) - np.sqrt(exact[1])) / ALPHA * np.float64(w)
            exact[1] = after
    sums[:] = np.array([z, n, lost_z, lost_n, w], np.float32)


def calibration(predictions: Callable[[int], Iterator[F64]], examples: int) -> float:
    """Mean prediction over mean label in the second half."""
    predicted = happened = 0.0
    for chunk, (found, labels) in enumerate(zip(predictions(examples), labels_of(examples), strict=True)):
        if chunk * CHUNK >= examples // 2:
            predicted += float(found.sum())
            happened += float(labels.sum())
    return predicted / happened


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    examples = QUICK_EXAMPLES if quick else EXAMPLES
    table = Table("", "bytes a key", "calibration", title=f"{examples:,} examples, 0.1 % labels")
    figures: dict[str, float] = {}
    rows: dict[str, tuple[Callable[[int], Iterator[F64]], int]] = {"the wide part's kernel": (kernel_predictions, 16)}
    for name, (way, size) in WAYS.items():
        rows[name] = partial(loop_predictions, way), size
    for name, (predictions, size) in track(rows.items(), "ways to keep sums", console=Console(stderr=True)):
        found = calibration(predictions, examples)
        table.add_row(name, str(size), f"{found:.4f}")
        figures["calibration_1e8" if name == next(iter(rows)) else _figure(name)] = found
    return table, figures


def _figure(name: str) -> str:
    return "calibration_" + name.replace(", ", "").replace(" to the", "").replace(" ", "_")
