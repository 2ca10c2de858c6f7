"""Likeness of an item to the user's last labels: item-item neighbours, items that the user passed by included.

A user's *memory* is a ring of the last labelled items with r = label − base rate. For each pair of items that were in
one memory, Σ r·r' over users says whether their labels go together. An item's likeness for a user is

    Σ r_i · s(i, item) / (n(i, item) + prior) / √m      over the m items i ≠ item in the memory; missing without one

The quotient is rounded to single precision, so that a ranker can cache it.

State is in the table of the statistics, rows of (n, s, t): the memory's head (n: labels so far), its entries
(n: r + 2, s: the item's id as bits), pairs (n: weight, s: Σ r·r'). Unlike an affinity, which reads the history that
installs make, it needs no list in the page.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.types import LATE_POSITIVE, RETRACTION
from stream.features.cross_products import CrossProducts, list_at
from stream.features.encoder import Batch
from stream.features.page_kernels import Page, locate
from stream.features.statistic_reads import StatisticRules
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import (
    CHANGED,
    TableArrays,
    find,
    find_moved,
    find_or_insert_moved,
    mark_changed,
    mix,
)
from stream.tables.jit import kernel

SHIFT: Final = 2.0  # r lies in (−1, 1), give or take a correction: a row's n is never negative
HEAD: Final = np.uint64(0x48454144)
PAIR: Final = np.uint64(0x50414952)


class Outcomes(NamedTuple):
    """What statistics learn of a batch's examples; arrays [B]."""

    labels: F64
    weights: F64
    reasons: I64
    times: F64  # ms, of the page


class ItemMemory(NamedTuple):
    """A user's last labelled items; room for the statistic's `neighbours`."""

    items: U64
    residuals: F64


@kernel
def pair_key(salt: np.uint64, one: np.uint64, other: np.uint64) -> np.uint64:
    """The key of two items, in either order."""
    return mix(mix(salt ^ PAIR, min(one, other)), max(one, other))


@kernel
def _read(slots: U64, overlay: U64, key: np.uint64) -> Any:
    """(n, bits of s) of a key; n = −1 when it is in neither table."""
    found = overlay
    row = find(overlay, key)
    if row < 0:
        found = slots
        row = find(slots, key)
        if row < 0:
            return -1.0, np.uint64(0)
    return abs(found.view(np.float64)[row, 1]), found[row, 2]  # n's sign bit is the table's CHANGED


@kernel
def read_memory(slots: U64, overlay: U64, salt: np.uint64, user: np.uint64, memory: ItemMemory) -> int:
    """Read the user's last labelled items into `memory`; returns how many there are."""
    items, residuals = memory
    head = mix(salt ^ HEAD, user)
    labels, _ = _read(slots, overlay, head)
    count = 0
    for k in range(min(np.int64(max(labels, 0.0)), items.shape[0])):
        n, item = _read(slots, overlay, mix(head, np.uint64(k + 1)))
        if n >= 0.0:
            items[count], residuals[count] = item, n - SHIFT
            count += 1
    return count


@kernel
def likeness_of(
    slots: U64, overlay: U64, salt: np.uint64, item: np.uint64, memory: ItemMemory, count: int, prior: float
) -> Any:
    """An item's likeness to the `count` items of a memory; NaN when there is no other item among them."""
    items, residuals = memory
    sums = np.empty(1, np.uint64)
    total, others = 0.0, 0
    for i in range(count):
        if items[i] == item:
            continue
        others += 1
        n, sums[0] = _read(slots, overlay, pair_key(salt, items[i], item))
        if n >= 0.0:
            total += residuals[i] * np.float32(sums.view(np.float64)[0] / (n + prior))
    return total / np.sqrt(np.float64(others)) if others else np.nan


@kernel
def fill_likeness(page: Page, crosses: CrossProducts, rules: StatisticRules, k: int, slots: U64, overlay: U64) -> None:
    """Write statistic k, a likeness, of all items of a page. Its columns are the user's, then the item's."""
    words, w32, f32, at = page
    first, salt, last = crosses.offsets[k], crosses.salts[k], rules.neighbours[k]
    memory = ItemMemory(np.empty(last, np.uint64), np.empty(last, np.float64))
    user, end = list_at(w32, at, crosses.sides[first], crosses.indices[first], 0)
    count = read_memory(slots, overlay, salt, words[user], memory) if end > user else 0
    for position in range(at.items):
        item, end = list_at(w32, at, crosses.sides[first + 1], crosses.indices[first + 1], position)
        value = np.nan
        if end > item:
            value = likeness_of(slots, overlay, salt, words[item], memory, count, rules.priors[k])
        f32[at.statistics + position * at.sizes.statistics + k] = value


@kernel
def _changed_row(slots: U64, old: U64, dirty: U64, counts: I64, key: np.uint64, time_ms: float) -> Any:
    """The key's row, added when new, marked as changed, of this time or a later one."""
    row = find_or_insert_moved(slots, old, key, counts)
    mark_changed(slots, row, dirty, counts)
    values = slots.view(np.float64)
    values[row, 3] = max(values[row, 3], time_ms)
    return row


@kernel
def _set_n(slots: U64, row: int, n: float) -> None:
    mark = slots[row, 1] & CHANGED
    slots.view(np.float64)[row, 1] = n
    slots[row, 1] |= mark


@kernel
def _move_pairs(
    table: TableArrays, salt: np.uint64, item: np.uint64, move: Any, memory: ItemMemory, count: int, time_ms: float
) -> None:
    """Move the pairs of an item with all others of a memory by `move`: weight, r."""
    weight, r = move
    (slots, old, dirty, counts), (items, residuals) = table, memory
    values = slots.view(np.float64)
    for i in range(count):
        if items[i] != item:
            row = _changed_row(slots, old, dirty, counts, pair_key(salt, items[i], item), time_ms)
            _set_n(slots, row, abs(values[row, 1]) + weight)
            values[row, 2] += r * residuals[i]


@kernel
def learn_likeness(
    batch: Batch, outcomes: Outcomes, sizes: I64, crosses: CrossProducts, k: int, last: int, table: TableArrays
) -> None:
    """Move memories (of `last` items) and pairs by these examples, in order.

    The table has room for last + 2 keys an example. A late positive or a retraction moves the r in the memory, and
    its pairs with the memory as it is now; it changes nothing when the item is no longer in the memory.
    """
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    slots, old, dirty, counts = table
    first, salt = crosses.offsets[k], crosses.salts[k]
    memory = ItemMemory(np.empty(last, np.uint64), np.empty(last, np.float64))
    for b in range(pages.shape[0]):
        at = locate(words, w32, starts[pages[b]], sizes)
        user, user_end = list_at(w32, at, crosses.sides[first], crosses.indices[first], positions[b])
        item, item_end = list_at(w32, at, crosses.sides[first + 1], crosses.indices[first + 1], positions[b])
        if user == user_end or item == item_end:
            continue
        head, item_id, t = mix(salt ^ HEAD, words[user]), words[item], outcomes.times[b]
        count = read_memory(old, slots, salt, words[user], memory)
        label, weight, reason = outcomes.labels[b], outcomes.weights[b], outcomes.reasons[b]
        if reason in (LATE_POSITIVE, RETRACTION):
            for m in range(last):
                row = find_moved(slots, old, mix(head, np.uint64(m + 1)), counts)
                if row >= 0 and slots[row, 2] == item_id:
                    mark_changed(slots, row, dirty, counts)
                    moved = 2.0 * label - 1.0
                    _set_n(slots, row, max(0.0, abs(slots.view(np.float64)[row, 1]) + moved))
                    _move_pairs(table, salt, item_id, (0.0, moved), memory, count, t)
                    break
            continue
        base = np.float64(f32[at.base_rate])
        r = label - (base if base == base else 0.5)
        _move_pairs(table, salt, item_id, (weight, weight * r), memory, count, t)
        row = _changed_row(slots, old, dirty, counts, head, t)
        learned = abs(slots.view(np.float64)[row, 1])
        _set_n(slots, row, learned + 1.0)
        row = _changed_row(slots, old, dirty, counts, mix(head, np.uint64(np.int64(learned) % last + 1)), t)
        _set_n(slots, row, SHIFT + r)
        slots[row, 2] = item_id
