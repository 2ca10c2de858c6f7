"""Vectors for retrieval: which item a user installs next, from those that they installed last.

    logit(item) = u · output(item) + bias(item),    u = Σ FADE^k · input(k-th last item) / Σ FADE^k

An install teaches its item as a positive, and NEGATIVES items of recent installs as negatives, as skip-gram does
(Mikolov et al. 2013): what is learned is how much likelier than by popularity an item is, so popularity is added when
items are retrieved. AdaGrad; negatives are chosen by a hash of the count of installs, not by a generator.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from learner.retrieval.item_rows import BIAS, ItemRows, index_of, row_at
from stream.tables.dtypes import F32, I64, U64
from stream.tables.hash_kernels import find, mark_run, mix
from stream.tables.jit import kernel

FADE: Final = 0.9
NEGATIVES: Final = 20
STEPS: Final = 2  # an install
RATE: Final = 0.3
BIAS_RATE: Final = 0.05
RECENT: Final = 4_096  # installs that negatives are chosen from
SEED: Final = np.uint64(0x6A09E667F3BCC909)


class RecentInstalls(NamedTuple):
    """Items of the last installs: a ring."""

    items: U64  # u64[RECENT]
    installs: I64  # i64[1]: so far


@kernel
def note_install(recent: RecentInstalls, item: np.uint64) -> None:
    """Put an install into the ring."""
    recent.items[recent.installs[0] % RECENT] = item
    recent.installs[0] += 1


@kernel
def train(rows: ItemRows, slot: Any, items: U64, last: int, recent: RecentInstalls) -> None:
    """Learn that the user with these items, newest first, installs the one in `slot` next, by their `last` items.

    None of the items is a negative: that the user has it says nothing against it.
    """
    slots, values, columns, dim = rows.slots, rows.values, rows.columns, rows.columns.dim
    inputs = np.empty(min(last, items.shape[0]), np.int64)
    for k in range(inputs.shape[0]):
        found = find(slots, items[k])
        inputs[k] = row_at(slots, found) if found >= 0 else 0
    if dim == 0 or not inputs.any():
        return
    user, gradient = np.empty(dim, np.float32), np.empty(dim, np.float32)
    known = min(recent.installs[0], RECENT)
    for step in range(STEPS):
        total = _user_vector(values, columns.inputs, inputs, user)
        gradient[:] = 0.0
        _step(values[row_at(slots, slot)], columns, user, 1.0, gradient)
        for n in range(NEGATIVES if known else 0):
            h = mix(mix(SEED, np.uint64(recent.installs[0])), np.uint64(step * NEGATIVES + n))
            other = recent.items[h % np.uint64(known)]
            found = find(slots, other)
            if found < 0 or found == slot or index_of(other, items) >= 0:
                continue
            mark_run(rows.runs, other)
            _step(values[row_at(slots, found)], columns, user, 0.0, gradient)
        weight = np.float32(1.0 / total)
        for k in range(inputs.shape[0]):
            if inputs[k]:
                _descend(values[inputs[k]], columns.inputs, dim, weight, gradient)
            weight *= np.float32(FADE)


@kernel
def _user_vector(values: F32, column: int, inputs: I64, user: F32) -> float:
    """The mean of the items' input vectors, the newest counting most, into `user`; returns the sum of their weights."""
    user[:] = 0.0
    total, weight = 0.0, 1.0
    for row in inputs:
        if row:
            total += weight
            for d in range(user.shape[0]):
                user[d] += np.float32(weight) * values[row, column + d]
        weight *= FADE
    user /= np.float32(total)
    return total


@kernel
def _step(row: F32, columns: Any, user: F32, label: float, gradient: F32) -> None:
    """Move an item's output and bias, and add to the gradient by the user's vector."""
    dim, column = columns.dim, columns.outputs
    logit = row[columns.last + BIAS]
    for d in range(dim):
        logit += row[column + d] * user[d]
    error = np.float32(1.0 / (1.0 + np.exp(-np.float64(logit))) - label)
    for d in range(dim):
        gradient[d] += error * row[column + d]
    _descend(row, column, dim, error, user)
    row[columns.last + BIAS] -= np.float32(BIAS_RATE) * error


@kernel
def _descend(row: F32, column: int, dim: int, scale: np.float32, direction: F32) -> None:
    """An AdaGrad step of a vector, whose sums lie behind it, along scale · direction."""
    for d in range(dim):
        g = scale * direction[d]
        row[column + dim + d] += g * g
        row[column + d] -= np.float32(RATE) * g / np.sqrt(row[column + dim + d])
