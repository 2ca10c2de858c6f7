"""The wide part: FTRL-Proximal per coordinate with L1 (McMahan et al. 2013, Algorithm 1), in numba.

A coordinate is one 16-byte row of a hash table: key; z and n as float32. Its weight is computed when it's needed:

    w = 0                                            if |z| ≤ λ1
    w = −(z − sgn(z) λ1) / ((β + √n)/α + λ2)         otherwise
    σ = (√(n + g²) − √n)/α;  z += g − σ w;  n += g²
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from learner.wide.admission import Admission, count_sighting
from stream.features.encoder import WideKeys
from stream.runtime.prefetch import prefetch
from stream.spec.spec import Spec, duration_ms
from stream.tables.dtypes import F32, I64, U8, U16, U32, U64
from stream.tables.eviction import EXPIRED, Evictor
from stream.tables.hash_kernels import (
    AHEAD,
    CHANGED,
    find,
    find_or_insert,
    home,
    mark_changed,
    prefetch_row,
)
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

WIDTH: Final = 2  # key; z, n
LANES: Final = 16  # float32 numbers that a processor works on at once
BLOCK: Final = 8  # examples whose rows are located at once: they stay in the nearest cache
STAMPED: Final = 0.5  # share of the bound from which on `last_seen` is recorded
TINY: Final = np.float32(1e-30)  # keeps 0/0 from being NaN, and changes nothing else


@dataclass(frozen=True)
class FtrlRates:
    """`alphas` float32 [crosses], by the low byte of a key − 1; the rest as in Vowpal Wabbit and River."""

    alphas: F32
    beta: float
    l1: float
    l2: float


@dataclass(frozen=True)
class KeyBounds:
    """Which keys get and keep a weight: `admits` uint8 and `lifetimes_s` uint32 [crosses] (0: for ever), as `alphas`;
    and at most `keys_max`.
    """

    admits: U8
    lifetimes_s: U32
    keys_max: int


UNBOUNDED: Final = KeyBounds(np.zeros(0, np.uint8), np.zeros(0, np.uint32), 1 << 62)


class Rates(NamedTuple):
    """What is the same for all coordinates."""

    beta: np.float32
    l1: np.float32
    l2: np.float32


class FtrlState(NamedTuple):
    """State of `learn_wide_examples`: a table with room for the record's keys. Nested tuples would cost 1 µs a call."""

    slots: U64  # as in `TableArrays`
    dirty: U64
    counts: I64
    last_seen: U32  # u32[capacity], event time in seconds; or empty
    now_s: int
    lifetimes_s: U32  # u32[crosses]; or empty
    tally: I64  # i64[2], of the evictor
    admits: U8  # as in `Admission`
    young: U8
    old: U8
    pages: U16
    added: I64
    inverse_alphas: F32  # f32[crosses]
    beta: np.float32
    l1: np.float32
    l2: np.float32


class WideExamples(NamedTuple):
    """What a record's examples bring besides their keys."""

    deep_logits: F32  # f32[B]
    labels: F32  # f32[B]
    weights: F32  # f32[B]; 0 where none was earlier: it's predicted only
    pages: U64  # u64[B], hash of each one's page


class WideOutput(NamedTuple):
    """What `learn_wide_examples` writes."""

    logits: F32  # f32[B], of the wide part
    gradients: F32  # f32[B], of the full logit: weight · (σ(wide + deep) − label), or weight · (1 − 2 label)


class Ftrl:
    """Wide weights that learn example by example."""

    def __init__(self, rates: FtrlRates, table: HashTable | None = None, bounds: KeyBounds = UNBOUNDED) -> None:
        self.table = table or HashTable(WIDTH)
        self.evictor = Evictor(bounds.keys_max, bounds.lifetimes_s)
        self.admission = Admission(bounds.admits, bounds.keys_max)
        inverse = (1.0 / rates.alphas.astype(np.float64)).astype(np.float32)
        self._rates = inverse, Rates(np.float32(rates.beta), np.float32(rates.l1), np.float32(rates.l2))

    @classmethod
    def of(cls, spec: Spec, alphas: F32) -> "Ftrl":
        """The wide part of a spec, `alphas` as its encoder has them; the bias is admitted at once and stays."""
        wide, crosses = spec.wide, spec.crosses() if "wide" in spec.parts else []
        admits = np.array([*(c.admit or wide.admit for c in crosses), 1], np.uint8)
        expiries = [c.expire or wide.expire for c in crosses]
        lifetimes_s = [*(math.ceil(duration_ms(expiry) / 1_000) if expiry else 0 for expiry in expiries), 0]
        bounds = KeyBounds(admits, np.array(lifetimes_s, np.uint32), wide.max_keys)
        return cls(FtrlRates(alphas, wide.beta, wide.l1, wide.l2), bounds=bounds)

    def set_initial_weight(self, key: int, weight: float) -> None:
        """Let a new key start at this weight, towards which β and λ2 pull it, and not at 0 as in Algorithm 1.

        β or λ2 is above 0: else nothing would keep it there.
        """
        inverse_alphas, (beta, l1, l2) = self._rates
        pull = float(beta) * float(inverse_alphas[(key & 255) - 1]) + float(l2)
        assert pull > 0.0
        row = np.array([[key, 0]], np.uint64)
        row.view(np.float32)[0, 2] = -(weight * pull + math.copysign(float(l1), weight))
        self.table.put(row)

    def is_quiet(self, keys: int) -> bool:
        """Whether `keys` keys can be learned in one step as in several: nothing is evicted, stamped or rotated."""
        table, evictor = self.table, self.evictor
        return (
            not len(table.last_seen)
            and len(table) + keys <= STAMPED * evictor.keys_max
            and evictor.is_quiet(table, keys)
            and self.admission.is_quiet(keys)
        )

    def prepare(self, keys: U64, time_ms: int) -> FtrlState:
        """Once a record, before `learn_wide_examples`: make room for its keys, evict others. `time_ms`: event time.

        What it returns is valid until the next `prepare`.
        """
        table, evictor, admission = self.table, self.evictor, self.admission
        if len(evictor.lifetimes_s) or len(table) > STAMPED * evictor.keys_max:
            table.stamp()
        evictor.step(table, len(keys), time_ms)
        admission.rotate()
        table.reserve_for(keys)
        inverse_alphas, rates = self._rates
        return FtrlState(table.slots, table.dirty, table.counts, table.last_seen, evictor.now_s, evictor.lifetimes_s,
                         evictor.tally, admission.admits, admission.young, admission.old, admission.pages,
                         admission.added, inverse_alphas, *rates)  # fmt: skip

    def weights(self, rows: U64) -> F32:
        """The weights of table rows [N, 2]. float32 [N]."""
        return _weights(np.ascontiguousarray(rows), *self._rates)


@kernel
def _weights(rows: U64, inverse_alphas: F32, rates: Rates) -> F32:
    count = rows.shape[0]
    padded = (count + LANES - 1) // LANES * LANES
    zn = rows.view(np.float32)
    buffers = np.zeros((5, padded), np.float32)
    for r in range(count):
        buffers[0, r], buffers[1, r] = zn[r, 2], zn[r, 3]
        buffers[2, r] = inverse_alphas[_cross(rows[r, 0])]
    _weigh(buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], padded, rates)
    return buffers[4, :count].copy()


@kernel
def _weigh(z: F32, n: F32, inverse: F32, roots: F32, weights: F32, count: int, rates: Rates) -> float:
    """Weights and √n of `count` coordinates, a multiple of LANES; returns the sum of weights, added lane by lane."""
    beta, l1, l2 = rates.beta, rates.l1, rates.l2
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
def _step(
    n: F32, inverse: F32, roots: F32, weights: F32, count: int, g: np.float32, square: np.float32, moves: F32
) -> None:
    """What each z moves by: g − σ w, with σ = s/(√(n+s) + √n)/α, which loses no digits when s = `square` is small."""
    for j in range(count):
        s = max(square, -n[j])
        sigma = s * inverse[j] / (np.sqrt(n[j] + s) + roots[j] + TINY)
        moves[j] = g - sigma * weights[j]


@kernel
def learn_wide_examples(
    state: FtrlState, keys: WideKeys, examples: WideExamples, first: int, last: int, earlier: F32,
    output: WideOutput,
) -> None:  # fmt: skip
    """Predict and learn examples first:last of a record, one after the other.

    `earlier` float32 [B]: the weight at which the other label of this example was learned before, or 0. Such a step is
    taken back, as of now: where both weigh 1, their g and g² differ by 1 and by 1 − 2p. `_locate` waits for memory,
    for many keys at once; then all is in the cache.
    """
    slots, inverse_alphas, offsets = state.slots, state.inverse_alphas, keys.offsets
    rates = Rates(state.beta, state.l1, state.l2)
    deep_logits, labels, importances, _ = examples
    logits, gradients = output
    zn = slots.view(np.float32)
    sign = np.float32(-1.0 if state.dirty.shape[0] else 1.0)  # n's sign bit is the table's CHANGED
    most = 0
    for b in range(first, last):
        most = max(most, offsets[b + 1] - offsets[b])
    most = (most + LANES - 1) // LANES * LANES
    rows = np.empty(BLOCK * most, np.int64)
    ends = np.empty(BLOCK + 1, np.int64)
    buffers = np.zeros((6, most), np.float32)
    z, n, inverse, roots, weights, moves = buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], buffers[5]
    for block in range(first, last, BLOCK):
        _locate(state, keys, examples, earlier, block, min(block + BLOCK, last), rows, ends)
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
            logit = _weigh(z, n, inverse, roots, weights, padded, rates)
            logits[b] = logit
            p = 1.0 / (1.0 + np.exp(-(logit + np.float64(deep_logits[b]))))
            importance = np.float64(importances[b])
            g = np.float32(importance * (p - np.float64(labels[b])))
            square = g * g
            if earlier[b] and np.isfinite(g):
                right, wrong = importance * (p - np.float64(labels[b])), p - (1.0 - np.float64(labels[b]))
                wrong *= np.float64(earlier[b])
                g = np.float32(right - wrong)
                square = np.float32((right - wrong) * (right + wrong))
            gradients[b] = g
            if not np.isfinite(g) or (importance == 0.0 and not earlier[b]):
                continue
            _step(n, inverse, roots, weights, padded, g, square, moves)
            for j in range(count):
                row = rows[start + j]
                zn[row, 2] += moves[j]
                zn[row, 3] = sign * max(np.float32(0.0), abs(zn[row, 3]) + square)  # -0.0 has the sign, too


@kernel
def _locate(
    state: FtrlState, record: WideKeys, examples: WideExamples, earlier: F32, first: int, last: int, rows: I64,
    ends: I64,
) -> None:  # fmt: skip
    """The rows of some examples' keys; example first + i has rows[ends[i]:ends[i+1]].

    A correction counts no sighting: its page was counted when it was learned first.
    """
    keys, offsets = record
    slots, dirty, counts = state.slots, state.dirty, state.counts
    last_seen, now_s, lifetimes_s, tally = state.last_seen, state.now_s, state.lifetimes_s, state.tally
    admits, young, old, pages, added = state.admits, state.young, state.old, state.pages, state.added
    located, stop = 0, offsets[last]
    ends[0] = 0
    for i in range(offsets[first], min(offsets[first] + AHEAD, stop)):
        _prefetch(slots, last_seen, keys[i])
    for b in range(first, last):
        corrects, page = earlier[b] > 0, examples.pages[b]
        only_predicted = examples.weights[b] == 0 and not corrects
        for i in range(offsets[b], offsets[b + 1]):
            if i + AHEAD < stop:
                _prefetch(slots, last_seen, keys[i + AHEAD])
            key = keys[i]
            if only_predicted:
                row = find(slots, key)
                if row >= 0:
                    rows[located] = row
                    located += 1
                continue
            admit = np.int64(admits[_cross(key)]) if admits.shape[0] else 1
            if (
                admit > 1 and find(slots, key) < 0
                and (corrects or count_sighting(key, page, young, old, pages, added) < admit)
            ):  # fmt: skip
                continue
            row = find_or_insert(slots, key, counts)
            mark_changed(slots, row, dirty, counts)
            if last_seen.shape[0]:
                seen_s = np.int64(last_seen[row])
                if lifetimes_s.shape[0] and 0 < lifetimes_s[_cross(key)] < now_s - seen_s and seen_s > 0:
                    slots[row, 1] &= CHANGED  # it has expired, and begins from scratch
                    tally[EXPIRED] += 1
                last_seen[row] = now_s
            rows[located] = row
            located += 1
        ends[b - first + 1] = located


@kernel
def _prefetch(slots: U64, last_seen: U32, key: np.uint64) -> None:
    """Prefetch the memory of a key."""
    row = home(slots, key)
    prefetch_row(slots, row)
    if last_seen.shape[0]:
        prefetch(np.uintp(last_seen.ctypes.data) + np.uintp(row) * np.uintp(4))


@kernel
def _cross(key: np.uint64) -> Any:
    """The index of a key's cross."""
    return np.int64(key & np.uint64(255)) - 1
