"""Likeness of an item to the user's last labels: item-item neighbours, items that the user passed by included.

A user's *memory* is a ring of the last labelled items with r = label − base rate. For each pair of items that were in
one memory, Σ r·r' over users says whether their labels go together. An item's likeness for a user is

    Σ r_i · s(i, item) / (n(i, item) + prior) / √m      over the m items i ≠ item in the memory; missing without one

The quotient is rounded to single precision, so that a ranker can cache it.

State is rows of (n, s, t), in a table of their own: the memory's head (n: labels so far), its entries (n: r + 2, s: the
item's id as bits), pairs (n: weight, s: Σ r·r'). Unlike an affinity, which reads the history that installs make, it
needs no list in the page.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.types import CORRECTIONS
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
    hash32,
    home,
    home_of,
    mark_changed,
    mark_run,
    mix,
    prefetch_row,
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
    """A user's last labelled items by their place in the ring of the statistic's `neighbours`, N; and scratch."""

    items: U64  # u64[N]; 0: a place whose row was evicted
    residuals: F64  # f64[N]
    keys: U64  # u64[N + 2]: of the rows that are read or moved together


@kernel
def empty_memory(last: int) -> ItemMemory:
    """Room for a memory of so many items."""
    return ItemMemory(np.empty(last, np.uint64), np.empty(last, np.float64), np.empty(last + 2, np.uint64))


@kernel
def pair_key(salt: np.uint64, one: np.uint64, other: np.uint64) -> np.uint64:
    """The key of two items, in either order."""
    return mix(mix(salt ^ PAIR, min(one, other)), max(one, other))


@kernel
def read_row(slots: U64, overlay: U64, key: np.uint64) -> Any:
    """(n, s, bits of s) of a key; n = −1 when it is in neither table. n's sign bit is the table's CHANGED."""
    row = find(overlay, key)
    if row >= 0:
        values = overlay.view(np.float64)
        return abs(values[row, 1]), values[row, 2], overlay[row, 2]
    row = find(slots, key)
    if row >= 0:
        values = slots.view(np.float64)
        return abs(values[row, 1]), values[row, 2], slots[row, 2]
    return -1.0, 0.0, np.uint64(0)


@kernel
def _prefetch(slots: U64, overlay: U64, key: np.uint64) -> None:
    hashed = hash32(key)
    prefetch_row(overlay, home_of(overlay, hashed))
    if slots.shape[0] > 1:
        prefetch_row(slots, home_of(slots, hashed))


@kernel
def read_memory(slots: U64, overlay: U64, head: np.uint64, memory: ItemMemory) -> Any:
    """Read the last labelled items of the user with this `head`; returns how many labels there were so far."""
    items, residuals, keys = memory
    labels, _, _ = read_row(slots, overlay, head)
    labels = max(labels, 0.0)
    count = min(np.int64(labels), items.shape[0])
    for k in range(count):
        keys[k] = mix(head, np.uint64(k + 1))
        _prefetch(slots, overlay, keys[k])
    for k in range(count):
        n, _, items[k] = read_row(slots, overlay, keys[k])
        residuals[k] = n - SHIFT
    return labels


@kernel
def _pair_keys(slots: U64, overlay: U64, salt: np.uint64, item: np.uint64, memory: ItemMemory, count: int) -> None:
    """The keys of an item's pairs with all of a memory, 0 where there is no other; their rows are prefetched."""
    items, _, keys = memory
    for i in range(count):
        keys[i] = 0
        if items[i] != np.uint64(0) and items[i] != item:
            keys[i] = pair_key(salt, items[i], item)
            _prefetch(slots, overlay, keys[i])


@kernel
def likeness_of(
    slots: U64, overlay: U64, salt: np.uint64, item: np.uint64, memory: ItemMemory, count: int, prior: float
) -> Any:
    """An item's likeness to the first `count` items of a memory; NaN when there is no other item among them."""
    _, residuals, keys = memory
    _pair_keys(slots, overlay, salt, item, memory, count)
    total, others = 0.0, 0
    for i in range(count):
        if keys[i] == np.uint64(0):
            continue
        others += 1
        n, s, _ = read_row(slots, overlay, keys[i])
        if n >= 0.0:
            total += residuals[i] * np.float32(s / (n + prior))
    return total / np.sqrt(np.float64(others)) if others else np.nan


@kernel
def read_users_memory(page: Page, crosses: CrossProducts, k: int, slots: U64, overlay: U64, memory: ItemMemory) -> Any:
    """Read the memory that statistic k has of a page's user; returns how many items are in it."""
    words, w32, _, at = page
    column = crosses.offsets[k]
    user, end = list_at(w32, at, crosses.sides[column], crosses.indices[column], 0)
    labels = read_memory(slots, overlay, mix(crosses.salts[k] ^ HEAD, words[user]), memory) if end > user else 0.0
    return min(np.int64(labels), memory.items.shape[0])


@kernel
def fill_likeness(page: Page, crosses: CrossProducts, rules: StatisticRules, k: int, slots: U64, overlay: U64) -> None:
    """Write statistic k, a likeness, of all items of a page. Its columns are the user's, then the item's."""
    words, w32, f32, at = page
    first, salt = crosses.offsets[k], crosses.salts[k]
    memory = empty_memory(rules.neighbours[k])
    count = read_users_memory(page, crosses, k, slots, overlay, memory)
    for position in range(at.items):
        item, end = list_at(w32, at, crosses.sides[first + 1], crosses.indices[first + 1], position)
        value = np.nan
        if end > item:
            value = likeness_of(slots, overlay, salt, words[item], memory, count, rules.priors[k])
        f32[at.statistics + position * at.sizes.statistics + k] = value


@kernel
def _locate(table: TableArrays, keys: U64, count: int, time_ms: float, rows: I64) -> None:
    """The rows of the first `count` keys but zeros, added when new, marked as changed, of this time or a later one."""
    slots, old, dirty, counts, runs = table
    values = slots.view(np.float64)
    for i in range(count):
        if keys[i] != np.uint64(0):
            row = find_or_insert_moved(slots, old, keys[i], counts)
            mark_changed(slots, row, dirty, counts)
            mark_run(runs, keys[i])
            values[row, 3] = max(values[row, 3], time_ms)
            rows[i] = row


@kernel
def _move_pairs(slots: U64, keys: U64, rows: I64, count: int, move: Any, residuals: F64) -> None:
    """Move located pairs with a memory by `move`: weight, r."""
    weight, r = move
    values = slots.view(np.float64)
    for i in range(count):
        if keys[i] != np.uint64(0):
            row = rows[i]
            mark = slots[row, 1] & CHANGED
            values[row, 1] = abs(values[row, 1]) + weight
            slots[row, 1] |= mark
            values[row, 2] += r * residuals[i]


@kernel
def set_n(slots: U64, row: int, n: float) -> None:
    """Set a row's n, whose sign bit is the table's."""
    mark = slots[row, 1] & CHANGED
    slots.view(np.float64)[row, 1] = n
    slots[row, 1] |= mark


@kernel
def _correct(table: TableArrays, head: np.uint64, item: np.uint64, moved: float, last: int) -> bool:
    """Move the r of an item in the memory of `last` items; whether it is there."""
    slots, old, dirty, counts, runs = table
    for m in range(last):
        row = find_moved(slots, old, mix(head, np.uint64(m + 1)), counts)
        if row >= 0 and slots[row, 2] == item:
            mark_changed(slots, row, dirty, counts)
            mark_run(runs, slots[row, 0])
            set_n(slots, row, max(0.0, abs(slots.view(np.float64)[row, 1]) + moved))
            return True
    return False


def memory_rules(crosses: CrossProducts, neighbours: I64, of: I64) -> I64:
    """What has to be known to learn each of these statistics: salt, neighbours, the columns of user and item."""
    first = crosses.offsets[of]
    columns = [column for r in (first, first + 1) for column in (crosses.sides[r], crosses.indices[r])]
    return np.stack([crosses.salts[of].view(np.int64), neighbours[of], *columns], axis=1)


@kernel
def examples_of(batch: Batch, sizes: I64, rule: I64, slots: U64) -> tuple[U64, U64, F64]:
    """Heads and items u64[B], 0: the page has none; base rates f64[B]. The heads' rows are prefetched."""
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    salt, examples = np.uint64(rule[0]), pages.shape[0]
    heads, items, bases = np.zeros(examples, np.uint64), np.zeros(examples, np.uint64), np.empty(examples)
    page, at = np.int64(-1), locate(words, w32, starts[0], sizes)
    for b in range(examples):
        if pages[b] != page:
            page, at = pages[b], locate(words, w32, starts[pages[b]], sizes)
        user, user_end = list_at(w32, at, rule[2], rule[3], positions[b])
        item, item_end = list_at(w32, at, rule[4], rule[5], positions[b])
        if user < user_end and item < item_end:
            heads[b], items[b] = mix(salt ^ HEAD, words[user]), words[item]
            prefetch_row(slots, home(slots, heads[b]))
        base = np.float64(f32[at.base_rate])
        bases[b] = base if base == base else 0.5
    return heads, items, bases


@kernel
def learn_likeness(batch: Batch, outcomes: Outcomes, sizes: I64, rule: I64, table: TableArrays) -> None:
    """Move memories (of `last` items) and pairs by these examples, in order. `rule`: one of `memory_rules`.

    The table has room for last + 2 keys an example. A late positive or a retraction moves the r in the memory, and
    its pairs with the memory as it is now; it changes nothing when the item is no longer in the memory.
    A memory is read once for the examples of one user that follow each other.
    """
    slots, old, _, _, _ = table
    heads, items, bases = examples_of(batch, sizes, rule, slots)
    salt, last = np.uint64(rule[0]), rule[1]
    memory, rows = empty_memory(last), np.empty(last + 2, np.int64)
    _, residuals, keys = memory
    head, learned = np.uint64(0), 0.0
    for b in range(heads.shape[0]):
        if heads[b] == np.uint64(0):
            continue
        if heads[b] != head:
            head = heads[b]
            learned = read_memory(old, slots, head, memory)
        item, t, count, place = items[b], outcomes.times[b], min(np.int64(learned), last), np.int64(learned) % last
        label, weight = outcomes.labels[b], outcomes.weights[b]
        _pair_keys(old, slots, salt, item, memory, count)
        if outcomes.reasons[b] in CORRECTIONS:
            moved = 2.0 * label - 1.0
            if _correct(table, head, item, moved, last):
                _locate(table, keys, count, t, rows)
                _move_pairs(slots, keys, rows, count, (0.0, weight * moved), residuals)
            head = np.uint64(0)  # its memory has changed
            continue
        r = label - bases[b]
        keys[count], keys[count + 1] = head, mix(head, np.uint64(place + 1))
        _prefetch(old, slots, keys[count + 1])
        _locate(table, keys, count + 2, t, rows)
        _move_pairs(slots, keys, rows, count, (weight, weight * r), residuals)
        learned += 1.0
        set_n(slots, rows[count], learned)
        set_n(slots, rows[count + 1], SHIFT + r)
        slots[rows[count + 1], 2] = memory.items[place] = item
        residuals[place] = abs(SHIFT + r) - SHIFT
