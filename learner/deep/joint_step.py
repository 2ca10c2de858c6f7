"""The joint step in numba: one call predicts and learns a record's micro-batches, wide and deep part together.

For each micro-batch: look up the ids, pool their embeddings, run the tower; the wide part predicts and learns item by
item at the full logit; one AdaGrad step updates the tower and the embedding rows that were read; then sightings are
counted. Only rows that are read are touched, so the cost doesn't depend on the vocabulary's size.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from learner.deep.dense_layer import EPSILON, AdaGrad
from learner.deep.tower import TowerState, allocate_activations, backward, forward
from learner.deep.vocabulary_kernels import VocabularyState, count_sightings, look_up, mark_row
from learner.wide.forgetting import advance, inflation
from learner.wide.ftrl_kernels import WideExamples, WideOutput, learn_wide_examples
from stream.features.encoder import WideKeys
from stream.features.quantiles import quantise
from stream.runtime.prefetch import prefetch
from stream.tables.dtypes import F32, I64, U64
from stream.tables.jit import kernel

SAMPLE_SIZE: Final = 16_384  # examples whose numbers are sampled for quantiles
PREFETCH_ROWS: Final = 16  # embedding rows between prefetching one and reading it
SCATTER: Final = np.uint64(0x9E3779B97F4A7C15)


class DeepState(NamedTuple):
    """The deep part as kernels see it."""

    tower: TowerState
    vocabulary: VocabularyState
    lists: int  # of ids, per example
    boundaries: F32  # (numbers, quantiles − 1)
    sample: F32  # (SAMPLE_SIZE, numbers): recent numbers
    sampled: Any  # (SAMPLE_SIZE,) uint8: which rows of `sample` are set
    micro_batch: int
    embedding_rate: np.float32
    clock: I64  # i64[2], as in `Forgetting`
    half_life_ms: int  # of AdaGrad's sums
    floor: np.float32  # beside each sum, where they fade: what a sum starts at doesn't; else 0


class Inputs(NamedTuple):
    """A record's encoded examples: wide keys; lists of ids and numbers of the deep part."""

    keys: U64
    key_offsets: I64  # (B + 1,)
    ids: U64
    id_offsets: I64  # (B · lists + 1,)
    numbers: F32  # (B, numbers)


class Targets(NamedTuple):
    """Labels of a record's examples, and what else is learned by: arrays [B]. `time_ms` is event time."""

    ids: U64
    labels: F32
    weights: F32  # 0 where none was learned earlier: it's predicted only
    time_ms: Any
    pages: U64  # hash of each one's page


@kernel
def learn_micro_batches(
    wide: Any, deep: Any, inputs: Any, targets: Any, bounds: Any, earlier: Any, predictions: Any, wide_logits: Any
) -> None:
    """Learn the micro-batches between neighbouring `bounds` in order; each is predicted before it's learned.

    `earlier` as in `learn_wide_examples`, float32 [B]. Writes probabilities and wide logits, float32 [B].
    """
    gradients = np.empty(predictions.shape[0], np.float32)
    logits = np.empty(predictions.shape[0], np.float32)
    keys, output = WideKeys(inputs.keys, inputs.key_offsets), WideOutput(wide_logits, gradients)
    examples = WideExamples(logits, targets.labels, targets.weights, targets.time_ms, targets.pages)
    for batch in range(bounds.shape[0] - 1):
        first, last = bounds[batch], bounds[batch + 1]
        activations, slots, rows = predict_batch(deep, inputs, first, last, logits)
        learn_wide_examples(wide, keys, examples, first, last, earlier, output)
        for b in range(first, last if deep.half_life_ms else first):
            advance(deep.clock, deep.half_life_ms, targets.time_ms[b])
        step_deep(deep, inputs, first, last, activations, rows, gradients)
        record_sightings(deep, inputs, targets, earlier, first, last, slots, rows)
        for b in range(first, last):
            logit = np.float64(wide_logits[b]) + np.float64(logits[b])
            predictions[b] = np.float32(1.0 / (1.0 + np.exp(-logit)))


@kernel
def learn_wide(wide: Any, keys: Any, offsets: Any, targets: Any, earlier: Any, predictions: Any) -> None:
    """Learn a record's examples in order without a deep part. Writes probabilities, float32 [B]."""
    n = predictions.shape[0]
    zeros, logits = np.zeros(n, np.float32), np.empty(n, np.float32)
    examples = WideExamples(zeros, targets.labels, targets.weights, targets.time_ms, targets.pages)
    output = WideOutput(logits, np.empty(n, np.float32))
    first = n - n  # a literal 0 would be another signature, compiled once more
    learn_wide_examples(wide, WideKeys(keys, offsets), examples, first, n, earlier, output)
    for b in range(n):
        predictions[b] = np.float32(1.0 / (1.0 + np.exp(-np.float64(logits[b]))))


@kernel
def predict_batch(deep: Any, inputs: Any, first: Any, last: Any, logits: Any) -> Any:
    """Write logits of examples first:last. Returns the tower's activations, and the ids' slots and embedding rows."""
    lists, tower, vocabulary = deep.lists, deep.tower, deep.vocabulary
    offsets = inputs.id_offsets[first * lists : last * lists + 1]
    ids = inputs.ids[offsets[0] : offsets[-1]]
    slots, rows = np.empty(ids.shape[0], np.int64), np.empty(ids.shape[0], np.int64)
    look_up(vocabulary, ids, offsets, slots, rows)
    activations = allocate_activations(tower, last - first)
    width = tower.widths[0]
    pool(vocabulary.embeddings, rows, offsets, lists, activations, width)
    pooled = tower.pooled
    values = quantise(inputs.numbers[first:last], deep.boundaries)
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            activations[r * width + pooled + c] = values[r, c]
    forward(tower, activations, logits[first:last])
    return activations, slots, rows


@kernel
def prefetch_row(embeddings: Any, row: Any) -> None:
    """Prefetch all cache lines of an embedding row."""
    width = np.uintp(embeddings.shape[1] * 4)
    start = np.uintp(embeddings.ctypes.data) + np.uintp(row) * width
    for byte in range(np.uintp(0), width, np.uintp(64)):
        prefetch(start + byte)


@kernel
def pool(embeddings: Any, rows: Any, offsets: Any, lists: Any, out: Any, width: Any) -> None:
    """Pool lists of rows as sum/√n of their vectors; out[r·width:] receives those of example r, [lists·dim]."""
    dim = embeddings.shape[1] // 2
    base = offsets[0]
    for k in range(offsets.shape[0] - 1):
        start = k // lists * width + k % lists * dim
        first, last = offsets[k] - base, offsets[k + 1] - base
        total = out[start : start + dim]
        for i in range(first, last):
            if i + PREFETCH_ROWS < rows.shape[0]:
                prefetch_row(embeddings, rows[i + PREFETCH_ROWS])
            vector = embeddings[rows[i]]
            for c in range(dim):
                total[c] += vector[c]
        if last - first > 1:
            scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
            for c in range(dim):
                total[c] *= scale


@kernel
def step_deep(deep: Any, inputs: Any, first: Any, last: Any, activations: Any, rows: Any, gradients: Any) -> None:
    """One AdaGrad step after `predict_batch`; gradients [first:last] are divided by the micro-batch's size.

    As in the wide part nothing is learned from an example whose gradient isn't finite, and all from the others.
    Where sums fade, gradients are inflated, and with them all that is made of them: sums of squares, steps' epsilons.
    """
    tower, lists = deep.tower, deep.lists
    inflated = inflation(deep.clock, deep.half_life_ms)
    root = np.float32(np.sqrt(inflated))
    scaled = np.empty(last - first, np.float32)
    for b in range(first, last):
        gradient = gradients[b]
        if not np.isfinite(gradient):
            gradient = np.float32(0.0)
            clear_row(tower, activations, last - first, b - first)
        scaled[b - first] = gradient / np.float32(deep.micro_batch) * root
    floor, epsilon = deep.floor * np.float32(inflated), EPSILON * root
    below = backward(tower, activations, scaled, AdaGrad(tower.rate, floor, epsilon))
    if rows.shape[0]:
        offsets = inputs.id_offsets[first * lists : last * lists + 1]
        learn_rows(deep.vocabulary, rows, offsets, lists, below, AdaGrad(deep.embedding_rate, floor, epsilon))


@kernel
def clear_row(tower: Any, activations: Any, rows: Any, row: Any) -> None:
    """Zero a row's activations: what isn't finite in them would reach the gradients, though its own is 0."""
    at = 0
    for width in tower.widths:
        activations[at + row * width : at + (row + 1) * width] = 0.0
        at += rows * width


@kernel
def learn_rows(vocabulary: Any, rows: Any, offsets: Any, lists: Any, gradient: Any, step: Any) -> None:
    """AdaGrad on the embedding rows that were read: gradients of one row are summed first."""
    embeddings, marks, changed, counts = vocabulary.embeddings, vocabulary.marks, vocabulary.changed, vocabulary.counts
    dim, base, rate, floor, epsilon = embeddings.shape[1] // 2, offsets[0], step.rate, step.floor, step.epsilon
    unique, inverse = unique_rows(rows)
    totals = np.zeros((unique.shape[0], dim), np.float32)
    for k in range(offsets.shape[0] - 1):
        first, last = offsets[k] - base, offsets[k + 1] - base
        if first == last:
            continue
        scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
        pooled = gradient[k // lists, k % lists * dim : (k % lists + 1) * dim]
        for i in range(first, last):
            total = totals[inverse[i]]
            for c in range(dim):
                total[c] += pooled[c] * scale
    for u in range(unique.shape[0]):
        mark_row(unique[u], marks, changed, counts)
        row, total = embeddings[unique[u]], totals[u]
        for c in range(dim):
            g = total[c]
            s = row[dim + c] + g * g
            if not np.isfinite(s):
                continue
            row[dim + c] = s
            row[c] -= rate * g / (np.sqrt(s + floor) + epsilon)


@kernel
def unique_rows(rows: Any) -> Any:
    """Distinct rows in order of appearance, and each row's index among them. Uses a small hash table."""
    size = 16
    while size < 2 * rows.shape[0]:
        size *= 2
    buckets = np.full(size, -1, np.int64)
    inverse, unique = np.empty(rows.shape[0], np.int64), np.empty(rows.shape[0], np.int64)
    count = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        bucket = np.int64((np.uint64(row) * SCATTER) >> np.uint64(40)) & (size - 1)
        while buckets[bucket] >= 0 and unique[buckets[bucket]] != row:
            bucket = (bucket + 1) & (size - 1)
        if buckets[bucket] < 0:
            buckets[bucket] = count
            unique[count] = row
            count += 1
        inverse[i] = buckets[bucket]
    return unique[:count], inverse


@kernel
def record_sightings(
    deep: Any, inputs: Any, targets: Any, earlier: Any, first: Any, last: Any, slots: Any, rows: Any
) -> None:
    """Count the ids of examples first:last; sample their numbers, each at the index that its example id hashes to.

    A correction doesn't count: its page was counted when it was learned first.
    """
    lists, offsets, sample, sampled = deep.lists, inputs.id_offsets, deep.sample, deep.sampled
    base, end = offsets[first * lists], offsets[last * lists]
    times_ms, pages = np.empty(end - base, targets.time_ms.dtype), np.empty(end - base, np.uint64)
    for b in range(first, last):
        times_ms[offsets[b * lists] - base : offsets[(b + 1) * lists] - base] = targets.time_ms[b]
        page = targets.pages[b] if earlier[b] == 0 and targets.weights[b] != 0 else np.uint64(0)
        pages[offsets[b * lists] - base : offsets[(b + 1) * lists] - base] = page
        index = np.int64(targets.ids[b] % np.uint64(SAMPLE_SIZE))
        sample[index] = inputs.numbers[b]
        sampled[index] = 1
    count_sightings(deep.vocabulary, inputs.ids[base:end], slots, rows, times_ms, pages)
