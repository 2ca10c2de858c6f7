"""The wide part: FTRL-Proximal per coordinate with L1 (McMahan et al. 2013, Algorithm 1), in numba.

A coordinate is one 16-byte row of a Table: key; z and n as float32. Its weight is computed when it's needed:

    w = 0                                            if |z| ≤ λ1
    w = −(z − sgn(z) λ1) / ((β + √n)/α + λ2)         otherwise
    σ = (√(n + g²) − √n)/α;  z += g − σ w;  n += g²
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from learner.wide.admission import U8, Admission, sightings
from stream.features.encoder import I64, WideKeys
from stream.features.page_features import F32
from stream.runtime.prefetch import prefetch
from stream.spec.spec import Spec, duration_ms
from stream.tables.eviction import Sweep
from stream.tables.hash_kernels import AHEAD, CHANGED, fetch, find, home, place, touch
from stream.tables.hash_table import U32, U64, Table
from stream.tables.jit import kernel

WIDTH: Final = 2  # key; z, n
LANES: Final = 16  # float32 numbers that a processor works on at once
BLOCK: Final = 8  # examples whose rows are located at once: they stay in the nearest cache
STAMPED: Final = 0.5  # share of the bound from which on it's noted when a key was last seen
TINY: Final = np.float32(1e-30)  # keeps 0/0 from being NaN, and changes nothing else


@dataclass(frozen=True)
class FtrlRates:
    """`alphas` float32 [crosses], by the low byte of a key − 1; the rest as in Vowpal Wabbit and River."""

    alphas: F32
    beta: float
    l1: float
    l2: float


@dataclass(frozen=True)
class Lives:
    """Which keys there are: `admits` uint8 and `lives_s` uint32 [crosses] (0: for ever), as `alphas`; and how many."""

    admits: U8
    lives_s: U32
    keys_max: int


FOR_EVER: Final = Lives(np.zeros(0, np.uint8), np.zeros(0, np.uint32), 1 << 62)


class FtrlState(NamedTuple):
    """What `learn_examples` works on: a table with room for the record's keys, rates, and who is let in and goes."""

    slots: U64
    fresh: U64
    counts: I64
    seen: U32
    now_s: int
    lives_s: U32
    tally: I64
    admits: U8
    young: U8
    old: U8
    added: I64
    inverse_alphas: F32
    beta: np.float32
    l1: np.float32
    l2: np.float32


class Ftrl:
    """Wide weights that learn example by example."""

    def __init__(self, rates: FtrlRates, table: Table | None = None, lives: Lives = FOR_EVER) -> None:
        self.table = table or Table(WIDTH)
        self.sweep = Sweep(lives.keys_max, lives.lives_s)
        self.admission = Admission(lives.admits, lives.keys_max)
        inverse = (1.0 / rates.alphas.astype(np.float64)).astype(np.float32)
        self._rates = inverse, np.float32(rates.beta), np.float32(rates.l1), np.float32(rates.l2)

    @classmethod
    def of(cls, spec: Spec, alphas: F32) -> "Ftrl":
        """The wide part of a spec, `alphas` as its encoder has them; the bias is let in at once and stays."""
        wide, crosses = spec.wide, spec.crosses() if "wide" in spec.parts else []
        admits = np.array([*(c.admit or wide.admit for c in crosses), 1], np.uint8)
        lives = [c.expire or wide.expire for c in crosses]
        lives_s = np.array([*(math.ceil(duration_ms(life) / 1_000) if life else 0 for life in lives), 0], np.uint32)
        return cls(FtrlRates(alphas, wide.beta, wide.l1, wide.l2), lives=Lives(admits, lives_s, wide.max_keys))

    def prepare(self, keys: WideKeys, time_ms: int) -> FtrlState:
        """Once a record, before `learn_examples`: room for its keys; some of the others go. `time_ms`: event time.

        What it returns is opaque, and holds until the next `prepare`.
        """
        table, sweep, admission = self.table, self.sweep, self.admission
        if len(sweep.lives_s) or len(table) > STAMPED * sweep.keys_max:
            table.stamp()
        sweep.step(table, len(keys.keys), time_ms)
        admission.turn()
        table.reserve_for(keys.keys)
        return FtrlState(table.slots, table.fresh, table.counts, table.seen, sweep.now_s, sweep.lives_s, sweep.tally,
                         admission.admits, admission.young, admission.old, admission.added, *self._rates)  # fmt: skip

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

        See `learn_examples`. Raises ValueError, with nothing learned, for weights that aren't positive and finite.
        """
        if not ((weights > 0) & (weights < np.inf)).all():
            raise ValueError("a weight must be positive and finite: leave out what isn't to be learned")
        state = self.prepare(keys, time_ms)
        wide = np.empty(len(labels), np.float32)
        gradients = np.empty(len(labels), np.float32)
        learn_examples(state, keys.keys, keys.offsets, 0, len(labels), deep_logits, labels, weights, fake_negative,
                       wide, gradients)  # fmt: skip
        return wide, gradients

    def weights(self, rows: U64) -> F32:
        """The weights of table rows [N, 2]. float32 [N]."""
        weights: F32 = _weights(np.ascontiguousarray(rows), *self._rates)
        return weights


@kernel
def _weights(rows: Any, inverse_alphas: Any, beta: Any, l1: Any, l2: Any) -> Any:
    count = rows.shape[0]
    padded = (count + LANES - 1) // LANES * LANES
    zn = rows.view(np.float32)
    buffers = np.zeros((5, padded), np.float32)
    for r in range(count):
        buffers[0, r], buffers[1, r] = zn[r, 2], zn[r, 3]
        buffers[2, r] = inverse_alphas[_cross(rows[r, 0])]
    _weigh(buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], padded, beta, l1, l2)
    return buffers[4, :count].copy()


@kernel
def _weigh(z: Any, n: Any, inverse: Any, roots: Any, weights: Any, count: Any, beta: Any, l1: Any, l2: Any) -> Any:
    """Weights and √n of `count` coordinates, a multiple of LANES; returns the sum of weights, added lane by lane."""
    for j in range(count):
        roots[j] = np.sqrt(n[j])
        beyond = z[j] - min(max(z[j], -l1), l1)  # exactly 0 within λ1
        weights[j] = -beyond / ((beta + roots[j]) * inverse[j] + l2 + TINY)
    a = b = c = d = 0.0
    for j in range(0, count, 4):
        a += weights[j]
        b += weights[j + 1]
        c += weights[j + 2]
        d += weights[j + 3]
    return (a + b) + (c + d)


@kernel
def _step(n: Any, inverse: Any, roots: Any, weights: Any, count: Any, g: Any, moves: Any) -> None:
    """What each z moves by: g − σ w, with σ = g²/(√(n+g²) + √n)/α, which loses no digits when g² is small."""
    square = g * g
    for j in range(count):
        sigma = square * inverse[j] / (np.sqrt(n[j] + square) + roots[j] + TINY)
        moves[j] = g - sigma * weights[j]


@kernel
def learn_examples(state: Any, keys: Any, offsets: Any, first: Any, last: Any, deep_logits: Any, labels: Any,
                   weights: Any, fake_negative: Any, wide: Any, gradients: Any) -> None:  # fmt: skip
    """Predict and learn examples first:last of a record, one after the other.

    `keys`, `offsets`: the record's WideKeys; `deep_logits`, `labels`, `weights`, `wide`, `gradients`: float32 over
    the whole record, the last two are written. A gradient of the full logit is weight · (σ(wide + deep) − label).
    With `fake_negative` the weights are those of Ktena et al. 2019: 1+p for positives, (1−p)(1+p) for negatives,
    times the example's own. Memory is waited for in `_locate`, for many keys at once; then all is in the cache.
    """
    slots, inverse_alphas, beta, l1, l2 = state.slots, state.inverse_alphas, state.beta, state.l1, state.l2
    zn = slots.view(np.float32)
    sign = np.float32(-1.0 if state.fresh.shape[0] else 1.0)  # n's sign is the table's mark
    most = 0
    for b in range(first, last):
        most = max(most, offsets[b + 1] - offsets[b])
    most = (most + LANES - 1) // LANES * LANES
    rows = np.empty(BLOCK * most, np.int64)
    ends = np.empty(BLOCK + 1, np.int64)
    buffers = np.zeros((6, most), np.float32)
    z, n, inverse, roots, held, moves = buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], buffers[5]
    for block in range(first, last, BLOCK):
        _locate(state, keys, offsets, block, min(block + BLOCK, last), rows, ends)
        for b in range(block, min(block + BLOCK, last)):
            start = ends[b - block]
            count = ends[b - block + 1] - start
            for j in range(count):
                row = rows[start + j]
                z[j], n[j] = zn[row, 2], abs(zn[row, 3])
                inverse[j] = inverse_alphas[_cross(slots[row, 0])]
            padded = (count + LANES - 1) // LANES * LANES
            for j in range(count, padded):
                z[j] = 0.0
            logit = _weigh(z, n, inverse, roots, held, padded, beta, l1, l2)
            wide[b] = logit
            p = 1.0 / (1.0 + np.exp(-(logit + np.float64(deep_logits[b]))))
            importance = np.float64(weights[b])
            if fake_negative:
                importance *= (1.0 + p) if labels[b] > 0.5 else (1.0 - p) * (1.0 + p)
            g = np.float32(importance * (p - np.float64(labels[b])))
            gradients[b] = g
            if not np.isfinite(g):
                continue
            _step(n, inverse, roots, held, padded, g, moves)
            for j in range(count):
                row = rows[start + j]
                zn[row, 2] += moves[j]
                zn[row, 3] += sign * (g * g)


@kernel
def _locate(state: Any, keys: Any, offsets: Any, first: Any, last: Any, rows: Any, ends: Any) -> None:
    """The rows of some examples' keys; example first + i has rows[ends[i]:ends[i+1]]."""
    slots, fresh, counts, seen = state.slots, state.fresh, state.counts, state.seen
    admits, lives_s, tally = state.admits, state.lives_s, state.tally
    young, old, added = state.young, state.old, state.added
    at, stop = 0, offsets[last]
    ends[0] = 0
    for i in range(offsets[first], min(offsets[first] + AHEAD, stop)):
        _ask(slots, seen, keys[i])
    for b in range(first, last):
        for i in range(offsets[b], offsets[b + 1]):
            if i + AHEAD < stop:
                _ask(slots, seen, keys[i + AHEAD])
            key = keys[i]
            few = np.int64(admits[_cross(key)]) if admits.shape[0] else 1
            if few > 1 and find(slots, key) < 0 and sightings(key, young, old, added) < few:
                continue
            row = place(slots, key, counts)
            touch(slots, row, fresh, counts)
            if seen.shape[0]:
                if lives_s.shape[0] and 0 < lives_s[_cross(key)] < state.now_s - np.int64(seen[row]) and seen[row] > 0:
                    slots[row, 1] &= CHANGED  # it begins anew
                    tally[0] += 1
                seen[row] = state.now_s
            rows[at] = row
            at += 1
        ends[b - first + 1] = at


@kernel
def _ask(slots: Any, seen: Any, key: Any) -> None:
    """Ask for the memory of a key."""
    row = home(slots, key)
    fetch(slots, row)
    if seen.shape[0]:
        prefetch(np.uintp(seen.ctypes.data) + np.uintp(row) * np.uintp(4))


@kernel
def _cross(key: Any) -> Any:
    """The index of a key's cross."""
    return np.int64(key & np.uint64(255)) - 1
