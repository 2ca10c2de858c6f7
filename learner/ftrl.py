"""The wide part: FTRL-Proximal per coordinate with L1 (McMahan et al. 2013, Algorithm 1), in numba.

A coordinate is one 16-byte row of a Table: key; z and n as float32. Its weight is computed when it's needed:

    w = 0                                            if |z| ≤ λ1
    w = −(z − sgn(z) λ1) / ((β + √n)/α + λ2)         otherwise
    σ = (√(n + g²) − √n)/α;  z += g − σ w;  n += g²
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stream.encoder import WideKeys
from stream.features import F32
from stream.table import U64, Table, kernel, place, touch

WIDTH = 2  # key; z, n


@dataclass(frozen=True)
class FtrlRates:
    """`alphas` float32 [crosses], by 1 + the low byte of a key; the rest as in Vowpal Wabbit and River."""

    alphas: F32
    beta: float
    l1: float
    l2: float


class FtrlState(NamedTuple):
    """What `learn_examples` works on: a table with room for the record's keys, and the rates."""

    slots: U64
    dirty: Any
    fresh: U64
    counts: Any
    alphas: F32
    beta: float
    l1: float
    l2: float


class Ftrl:
    """Wide weights that learn example by example."""

    def __init__(self, rates: FtrlRates, table: Table | None = None) -> None:
        self.rates = rates
        self.table = table or Table(WIDTH)

    def prepare(self, keys: WideKeys, time_ms: int) -> FtrlState:
        """Once a record, before `learn_examples`: room for its keys. `time_ms`: event time.

        What it returns is opaque, and holds until the next `prepare`.
        """
        self.table.reserve(len(keys.keys))
        table, rates = self.table, self.rates
        return FtrlState(
            table.slots, table.dirty, table.fresh, table.counts, rates.alphas, rates.beta, rates.l1, rates.l2
        )

    def predict_then_learn(
        self,
        keys: WideKeys,
        deep_logits: F32,
        labels: F32,
        weights: F32,
        *,
        time_ms: int = 0,
        fake_negative: bool = False,
    ) -> tuple[F32, F32]:
        """Each example is predicted after the one before was learned. Returns wide logits and gradients, float32 [B].

        See `learn_examples`.
        """
        state = self.prepare(keys, time_ms)
        wide = np.empty(len(labels), np.float32)
        gradients = np.empty(len(labels), np.float32)
        learn_examples(state, keys.keys, keys.offsets, 0, len(labels), deep_logits, labels, weights, fake_negative,
                       wide, gradients)  # fmt: skip
        return wide, gradients

    def weights(self, rows: U64) -> F32:
        """The weights of table rows [N, 2]. float32 [N]."""
        return _weights(np.ascontiguousarray(rows), self.rates.alphas, self.rates.beta, self.rates.l1, self.rates.l2)  # type: ignore[no-any-return]


@kernel
def weight_of(z: Any, n: Any, alpha: Any, beta: Any, l1: Any, l2: Any) -> Any:
    """A coordinate's weight from its z and n."""
    if abs(z) <= l1:
        return 0.0
    return -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / alpha + l2)


@kernel
def _weights(rows: Any, alphas: Any, beta: Any, l1: Any, l2: Any) -> Any:
    zn = rows.view(np.float32)
    out = np.empty(rows.shape[0], np.float32)
    for r in range(rows.shape[0]):
        alpha = np.float64(alphas[np.int64(rows[r, 0] & np.uint64(255)) - 1])
        out[r] = weight_of(np.float64(zn[r, 2]), np.float64(zn[r, 3]), alpha, beta, l1, l2)
    return out


@kernel
def learn_examples(state: Any, keys: Any, offsets: Any, first: Any, last: Any, deep_logits: Any, labels: Any,
                   weights: Any, fake_negative: Any, wide: Any, gradients: Any) -> None:  # fmt: skip
    """Predict and learn examples first:last of a record, one after the other.

    `keys`, `offsets`: the record's WideKeys; `deep_logits`, `labels`, `weights`, `wide`, `gradients`: float32 over
    the whole record, the last two are written. A gradient of the full logit is weight · (σ(wide + deep) − label).
    With `fake_negative` the weights are those of Ktena et al. 2019: 1+p for positives, (1−p)(1+p) for negatives,
    times the example's own.
    """
    slots, alphas, beta, l1, l2 = state.slots, state.alphas, state.beta, state.l1, state.l2
    zn = slots.view(np.float32)
    start, end = offsets[first], offsets[last]
    rows = np.empty(end - start, np.int64)
    for i in range(start, end):
        row = place(slots, keys[i], state.counts)
        touch(row, keys[i], state.dirty, state.fresh, state.counts)
        rows[i - start] = row
    held = np.empty(end - start, np.float64)
    for b in range(first, last):
        logit = 0.0
        for i in range(offsets[b], offsets[b + 1]):
            row = rows[i - start]
            alpha = np.float64(alphas[np.int64(keys[i] & np.uint64(255)) - 1])
            weight = weight_of(np.float64(zn[row, 2]), np.float64(zn[row, 3]), alpha, beta, l1, l2)
            held[i - start] = weight
            logit += weight
        wide[b] = logit
        p = 1.0 / (1.0 + np.exp(-(logit + np.float64(deep_logits[b]))))
        importance = np.float64(weights[b])
        if fake_negative:
            importance *= (1.0 + p) if labels[b] > 0.5 else (1.0 - p) * (1.0 + p)
        g = importance * (p - np.float64(labels[b]))
        gradients[b] = g
        for i in range(offsets[b], offsets[b + 1]):
            row = rows[i - start]
            alpha = np.float64(alphas[np.int64(keys[i] & np.uint64(255)) - 1])
            n = np.float64(zn[row, 3])
            sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / alpha
            zn[row, 2] += np.float32(g - sigma * held[i - start])
            zn[row, 3] = np.float32(n + g * g)
