"""Kernels of the wide part: predict and learn examples one after the other. `ftrl.py` has the formulas."""

from typing import Any, Final, NamedTuple

import numpy as np

from learner.wide.admission import count_sighting
from learner.wide.forgetting import advance, faded, inflation
from learner.wide.stochastic_rounding import dithered, draw, noise, offsets_of_noise
from stream.features.encoder import WideKeys
from stream.runtime.prefetch import prefetch
from stream.tables.dtypes import F32, F64, I64, U8, U16, U32, U64
from stream.tables.eviction import EXPIRED
from stream.tables.hash_kernels import (
    AHEAD,
    CHANGED,
    find,
    find_or_insert,
    home,
    mark_changed,
    prefetch_row,
)
from stream.tables.jit import kernel

LANES: Final = 16  # float32 numbers that a processor works on at once
BLOCK: Final = 8  # examples whose rows are located at once: they stay in the nearest cache
TINY: Final = np.float32(1e-30)  # keeps 0/0 from being NaN, and changes nothing else
ZERO, ONE = np.float32(0.0), np.float32(1.0)


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
    clock: I64  # i64[2], as in `Forgetting`
    half_life_ms: int
    steps: I64  # i64[1], examples learned so far
    inverse_alphas: F32  # f32[crosses]
    beta: np.float32
    l1: np.float32
    l2: np.float32


class WideExamples(NamedTuple):
    """What a record's examples bring besides their keys."""

    deep_logits: F32  # f32[B]
    labels: F32  # f32[B]
    weights: F32  # f32[B]; 0 where none was earlier: it's predicted only
    time_ms: F64  # f64[B], event time
    pages: U64  # u64[B], hash of each one's page


class WideOutput(NamedTuple):
    """What `learn_wide_examples` writes."""

    logits: F32  # f32[B], of the wide part
    gradients: F32  # f32[B], of the full logit: weight · (σ(wide + deep) − label), or weight · (1 − 2 label)


class Coordinates(NamedTuple):
    """An example's coordinates, f32[count rounded up to LANES] each. `_step` leaves what u and n move by in them."""

    u: F32
    n: F32
    inverse: F32  # 1 / α
    spread: F32  # offsets of noise


class Step(NamedTuple):
    """What is the same for all coordinates of an example."""

    gradient: np.float32
    square: np.float32  # inflated
    fade: np.float32  # takes √n from inflated to as it is
    drawn: np.float32  # of `noise`


@kernel
def _predict(u: F32, count: int, l1: np.float32, weights: F32) -> float:
    """Write weights of `count` coordinates, a multiple of LANES; returns their sum, added lane by lane."""
    for j in range(count):
        weights[j] = u[j] - min(max(u[j], -l1), l1)  # exactly 0 within λ1
    a = b = c = d = 0.0
    for j in range(0, count, 4):
        a += weights[j]
        b += weights[j + 1]
        c += weights[j + 2]
        d += weights[j + 3]
    return (a + b) + (c + d)


@kernel
def _step(coordinates: Any, count: int, step: Any, rates: Any) -> None:
    """Replace each u and n by what it moves by. Conditions are selections: LANES coordinates are worked on at once."""
    u, n, inverse, spread = coordinates
    gradient, square, fade, drawn = step
    beta, l1, l2 = rates
    for j in range(count):
        rounding = noise(drawn, spread[j])
        total = max(ZERO, dithered(n[j], square, rounding))
        damping = (beta + np.sqrt(total) * fade) * inverse[j] + l2 + TINY
        pace = ONE / damping
        corner = min(max(u[j], -l1), l1)  # the end of ±λ1 that u is beyond; u itself within
        weight = u[j] - corner
        moved = dithered(u[j], -gradient * pace if weight != 0 else -gradient, rounding)
        over = moved - corner
        inner = corner + over * damping if weight != 0 else moved  # as if all were within ±λ1
        clipped = min(max(inner, -l1), l1)
        u[j] = (moved if over * weight > 0 else clipped + (inner - clipped) * pace) - u[j]
        n[j] = total - n[j]


@kernel
def _gradient(p: float, label: float, importance: float, earlier: float, left: float) -> tuple[float, float]:
    """The gradient of an example that was predicted at p, and its square. A correction takes back that of the wrong
    label, learned at weight `earlier`: the gradient whole, of its square what is `left`.
    """
    error = p - label
    if earlier > 0 and np.isfinite(error):
        right, wrong = importance * error, earlier * (p - (1.0 - label))
        return right - wrong, right * right - wrong * wrong * left
    gradient = np.float64(np.float32(importance * error))
    return gradient, gradient * gradient


@kernel
def learn_wide_examples(
    state: FtrlState, keys: WideKeys, examples: WideExamples, first: int, last: int, earlier: F32,
    output: WideOutput,
) -> None:  # fmt: skip
    """Predict and learn examples first:last of a record, one after the other.

    `earlier` float32 [B]: the weight at which the other label of an example was learned before, or 0. That step is
    taken back, as of now: its g whole, of its g² what is left. `_locate` waits for memory, for many keys at once; then
    all is in the cache.
    """
    slots, inverse_alphas, offsets, steps = state.slots, state.inverse_alphas, keys.offsets, state.steps
    rates = Rates(state.beta, state.l1, state.l2)
    deep_logits, labels, importances, times_ms, _ = examples
    logits, gradients = output
    un = slots.view(np.float32)
    sign = np.float32(-1.0 if state.dirty.shape[0] else 1.0)  # n's sign bit is the table's CHANGED
    most = 0
    for b in range(first, last):
        most = max(most, offsets[b + 1] - offsets[b])
    most = (most + LANES - 1) // LANES * LANES
    rows = np.empty(BLOCK * most, np.int64)
    ends = np.empty(BLOCK + 1, np.int64)
    buffers = np.zeros((4, most), np.float32)
    u, n, inverse, weights = buffers[0], buffers[1], buffers[2], buffers[3]
    coordinates = Coordinates(u, n, inverse, offsets_of_noise(most))
    clock, half_life_ms = state.clock, state.half_life_ms
    inflated = inflation(clock, half_life_ms)
    fade = np.float32(1.0 / np.sqrt(inflated))
    for block in range(first, last, BLOCK):
        _locate(state, keys, examples, earlier, block, min(block + BLOCK, last), rows, ends)
        for b in range(block, min(block + BLOCK, last)):
            if half_life_ms:
                advance(clock, half_life_ms, times_ms[b])
                inflated = inflation(clock, half_life_ms)
                fade = np.float32(1.0 / np.sqrt(inflated))
            start = ends[b - block]
            count = ends[b - block + 1] - start
            for j in range(count):
                row = rows[start + j]
                u[j], n[j] = un[row, 2], abs(un[row, 3])
                inverse[j] = inverse_alphas[cross_of(slots[row, 0])]
            padded = (count + LANES - 1) // LANES * LANES
            for j in range(count, padded):
                u[j] = ZERO
            logit = _predict(u, padded, state.l1, weights)
            logits[b] = logit
            p = 1.0 / (1.0 + np.exp(-(logit + np.float64(deep_logits[b]))))
            left = faded(clock, half_life_ms, times_ms[b]) if earlier[b] > 0 else 1.0
            importance, before = np.float64(importances[b]), np.float64(earlier[b])
            g, square = _gradient(p, np.float64(labels[b]), importance, before, left)
            gradients[b] = g
            steps[0] += 1
            if not np.isfinite(g) or importance + before == 0.0:
                continue
            step = Step(np.float32(g), np.float32(square * inflated), fade, draw(steps[0]))
            _step(coordinates, padded, step, rates)
            for j in range(count):
                row = rows[start + j]
                un[row, 2] += u[j]
                un[row, 3] = sign * max(ZERO, abs(un[row, 3]) + n[j])  # -0.0 has the sign, too


@kernel
def scale_sums(slots: U64, factor: float) -> None:
    """Multiply every row's n."""
    un = slots.view(np.float32)
    for row in range(slots.shape[0]):
        un[row, 3] *= np.float32(factor)


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
            admit = np.int64(admits[cross_of(key)]) if admits.shape[0] else 1
            if (
                admit > 1 and find(slots, key) < 0
                and (corrects or count_sighting(key, page, young, old, pages, added) < admit)
            ):  # fmt: skip
                continue
            row = find_or_insert(slots, key, counts)
            mark_changed(slots, row, dirty, counts)
            if last_seen.shape[0]:
                seen_s = np.int64(last_seen[row])
                if lifetimes_s.shape[0] and 0 < lifetimes_s[cross_of(key)] < now_s - seen_s and seen_s > 0:
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
def cross_of(key: np.uint64) -> Any:
    """The index of a key's cross."""
    return np.int64(key & np.uint64(255)) - 1
