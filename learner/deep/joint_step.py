"""The joint step in numba: a record's micro-batches are predicted and learned in one call, both parts at once.

For each micro-batch: look ids up, pool their embeddings, run the tower; let the wide part predict and learn item by
item at the full logit; take one AdaGrad step on the tower and on the embedding rows that were read; count what was
seen. The cost doesn't depend on the vocabulary's size: only rows that are read are touched.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from learner.deep.tower import EPSILON, TowerState, backward, forward, room_for
from learner.deep.vocabulary import VocabularyState, count_sightings, look_up, touch_row
from learner.wide.ftrl import learn_examples
from stream.features.encoder import I64
from stream.features.page_features import F32
from stream.features.quantiles import quantise
from stream.runtime.prefetch import prefetch
from stream.tables.hash_table import U64
from stream.tables.jit import kernel

SAMPLE: Final = 16_384  # examples whose numbers are remembered for quantiles
ROWS_AHEAD: Final = 16  # embedding rows between asking for their memory and reading it
SCATTER: Final = np.uint64(0x9E3779B97F4A7C15)


class DeepState(NamedTuple):
    """What kernels work on. `boundaries` of the quantiles; `sample` of recent numbers, `sampled` says which are set."""

    tower: TowerState
    vocabulary: VocabularyState
    lists: int
    boundaries: F32
    sample: F32
    sampled: Any
    micro_batch: int


class Given(NamedTuple):
    """What a record's examples are, encoded: wide keys; lists of ids and numbers of the deep part."""

    keys: U64
    key_offsets: I64
    ids: U64
    id_offsets: I64
    numbers: F32


class Told(NamedTuple):
    """What is known of a record's examples besides: arrays [B]. `time_ms` is event time."""

    ids: U64
    labels: F32
    weights: F32
    time_ms: Any


@kernel
def learn_record(
    wide: Any, deep: Any, given: Any, told: Any, cuts: Any, fake_negative: Any, predictions: Any, wide_logits: Any
) -> None:
    """Learn the micro-batches between neighbouring `cuts` in order; each is predicted before it's learned.

    Writes probabilities and wide logits, float32 [B].
    """
    gradients = np.empty(predictions.shape[0], np.float32)
    logits = np.empty(predictions.shape[0], np.float32)
    for part in range(cuts.shape[0] - 1):
        first, last = cuts[part], cuts[part + 1]
        inputs, places, rows = predict_part(deep, given, first, last, logits)
        learn_examples(wide, given.keys, given.key_offsets, first, last, logits, told.labels, told.weights,
                       fake_negative, wide_logits, gradients)  # fmt: skip
        learn_part(deep, given, first, last, inputs, rows, gradients)
        note_part(deep, given, told, first, last, places)
        for b in range(first, last):
            logit = np.float64(wide_logits[b]) + np.float64(logits[b])
            predictions[b] = np.float32(1.0 / (1.0 + np.exp(-logit)))


@kernel
def learn_wide(wide: Any, keys: Any, offsets: Any, told: Any, fake_negative: Any, predictions: Any) -> None:
    """Learn a record's examples in order with no deep part. Writes probabilities, float32 [B]."""
    n = predictions.shape[0]
    nothing, logits = np.zeros(n, np.float32), np.empty(n, np.float32)
    learn_examples(wide, keys, offsets, 0, n, nothing, told.labels, told.weights, fake_negative, logits,
                   np.empty(n, np.float32))  # fmt: skip
    for b in range(n):
        predictions[b] = np.float32(1.0 / (1.0 + np.exp(-np.float64(logits[b]))))


@kernel
def predict_part(deep: Any, given: Any, first: Any, last: Any, logits: Any) -> Any:
    """Logits of examples first:last, written. Returns the tower's inputs, and places and rows of the ids."""
    lists, tower, vocabulary = deep.lists, deep.tower, deep.vocabulary
    offsets = given.id_offsets[first * lists : last * lists + 1]
    ids = given.ids[offsets[0] : offsets[-1]]
    places, rows = np.empty(ids.shape[0], np.int64), np.empty(ids.shape[0], np.int64)
    look_up(vocabulary.slots, ids, places, rows)
    inputs = room_for(tower, last - first)
    width = tower.widths[0]
    pool(vocabulary.held, rows, offsets, lists, inputs, width)
    pooled = tower.pooled
    values = quantise(given.numbers[first:last], deep.boundaries)
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            inputs[r * width + pooled + c] = values[r, c]
    forward(tower, inputs, last - first, logits[first:last])
    return inputs, places, rows


@kernel
def ask_for(held: Any, row: Any) -> None:
    """Ask for the memory of an embedding row, all its cache lines."""
    width = np.uintp(held.shape[1] * 4)
    start = np.uintp(held.ctypes.data) + np.uintp(row) * width
    for byte in range(np.uintp(0), width, np.uintp(64)):
        prefetch(start + byte)


@kernel
def pool(held: Any, rows: Any, offsets: Any, lists: Any, out: Any, width: Any) -> None:
    """Lists of rows pooled as sum/√n of their vectors; out[r·width:] gets those of example r, [lists·dim]."""
    dim = held.shape[1] // 2
    base = offsets[0]
    for k in range(offsets.shape[0] - 1):
        at = k // lists * width + k % lists * dim
        first, last = offsets[k] - base, offsets[k + 1] - base
        total = out[at : at + dim]
        for i in range(first, last):
            if i + ROWS_AHEAD < rows.shape[0]:
                ask_for(held, rows[i + ROWS_AHEAD])
            vector = held[rows[i]]
            for c in range(dim):
                total[c] += vector[c]
        if last - first > 1:
            scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
            for c in range(dim):
                total[c] *= scale


@kernel
def learn_part(deep: Any, given: Any, first: Any, last: Any, inputs: Any, rows: Any, gradients: Any) -> None:
    """One AdaGrad step on what `predict_part` returned; gradients [first:last] are divided by the micro-batch."""
    tower, lists = deep.tower, deep.lists
    padded = np.zeros(inputs.shape[0] // tower.widths.sum(), np.float32)
    for b in range(first, last):
        padded[b - first] = gradients[b] / np.float32(deep.micro_batch)
    below = backward(tower, inputs, padded)
    if rows.shape[0]:
        learn_rows(deep.vocabulary, rows, given.id_offsets[first * lists : last * lists + 1], lists, below, tower.rate)


@kernel
def learn_rows(vocabulary: Any, rows: Any, offsets: Any, lists: Any, gradient: Any, rate: Any) -> None:
    """AdaGrad on the embedding rows that were read: gradients of one row are summed first."""
    held = vocabulary.held
    dim, base = held.shape[1] // 2, offsets[0]
    seats, unique = seats_of(rows)
    totals = np.zeros((unique.shape[0], dim), np.float32)
    for k in range(offsets.shape[0] - 1):
        first, last = offsets[k] - base, offsets[k + 1] - base
        if first == last:
            continue
        scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
        pooled = gradient[k // lists, k % lists * dim : (k % lists + 1) * dim]
        for i in range(first, last):
            total = totals[seats[i]]
            for c in range(dim):
                total[c] += pooled[c] * scale
    for u in range(unique.shape[0]):
        touch_row(unique[u], vocabulary.touched, vocabulary.fresh, vocabulary.counts)
        row, total = held[unique[u]], totals[u]
        for c in range(dim):
            g = total[c]
            s = row[dim + c] + g * g
            row[dim + c] = s
            row[c] -= rate * g / (np.sqrt(s) + EPSILON)


@kernel
def seats_of(rows: Any) -> Any:
    """Distinct rows in order of appearance, and the place of each row among them. By a small hash table."""
    size = 16
    while size < 2 * rows.shape[0]:
        size *= 2
    taken = np.full(size, -1, np.int64)
    seats, unique = np.empty(rows.shape[0], np.int64), np.empty(rows.shape[0], np.int64)
    count = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        at = np.int64((np.uint64(row) * SCATTER) >> np.uint64(40)) & (size - 1)
        while taken[at] >= 0 and unique[taken[at]] != row:
            at = (at + 1) & (size - 1)
        if taken[at] < 0:
            taken[at] = count
            unique[count] = row
            count += 1
        seats[i] = taken[at]
    return seats, unique[:count]


@kernel
def note_part(deep: Any, given: Any, told: Any, first: Any, last: Any, places: Any) -> None:
    """Count the ids of examples first:last, and put their numbers into the sample where their ids' hash points."""
    lists, offsets = deep.lists, given.id_offsets
    base = offsets[first * lists]
    for b in range(first, last):
        low, high = offsets[b * lists], offsets[(b + 1) * lists]
        count_sightings(deep.vocabulary, given.ids[low:high], places[low - base : high - base], told.time_ms[b])
        at = np.int64(told.ids[b] % np.uint64(SAMPLE))
        deep.sample[at] = given.numbers[b]
        deep.sampled[at] = 1
