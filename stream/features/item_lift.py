"""Lift of an item by what the user installed last: items that are installed together, more often than by chance.

A user's *memory* is a ring of the last items that they installed, with or without a page. An install counts the pairs
of its item with those in the memory; an item's own count is that of its pairs. An item's lift for a user is

    Σ (n(i, item) − e) / (e + prior) / √m    over the m items i ≠ item in the memory; missing without one

where e = n(i) · n(item) / n is what chance leads to expect. Association rules call n(i, item) / e the lift; so this is
the lift less 1, shrunk as long as little is expected. It says what item-item collaborative filtering says.

State is rows of (n, s, t) in the likenesses' table, whose memories' form it has (`item_similarity.py`): head, entries,
pairs (n: how often), and each item's count (n), and that of all. A pair's count is read in single precision, so that a
ranker can cache it. The order of installs matters, and a retraction undoes an install as long as its label can still
be corrected and its item is in the memory; an organic install that is retracted after it was emitted stays.
"""

from typing import Any, Final

import numpy as np

from stream.events.types import CORRECTIONS
from stream.features.cross_products import CrossProducts, list_at
from stream.features.encoder import Batch
from stream.features.item_similarity import (
    HEAD,
    SHIFT,
    ItemMemory,
    Outcomes,
    empty_memory,
    examples_of,
    pair_key,
    read_memory,
    read_row,
    read_users_memory,
    set_n,
)
from stream.features.page_kernels import Page
from stream.features.statistic_reads import StatisticRules
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import TableArrays, find_or_insert_moved, mark_changed, mark_run, mix
from stream.tables.jit import kernel

ITEM_COUNT: Final = np.uint64(0x4954454D)
ALL_ITEMS: Final = np.uint64(0x9D39247E33776D41)  # in place of an item's id: ids are hashes


@kernel
def count_key(salt: np.uint64, item: np.uint64) -> np.uint64:
    """The key of an item's own count, or of that of ALL_ITEMS."""
    return mix(salt ^ ITEM_COUNT, item)


@kernel
def lift_of(pairs: F64, counts: F64, items: U64, item: np.uint64, own: float, of_all: float, prior: float) -> Any:
    """An item's lift by these items (0: none); NaN when there is no other item among them.

    Counts of pairs: `pairs` [len(items)] of the item with each, `counts` [len(items)] of each, `own`, and `of_all`.
    """
    total, others = 0.0, 0
    for i in range(items.shape[0]):
        if items[i] != np.uint64(0) and items[i] != item:
            expected = counts[i] * own / of_all if of_all > 0.0 else 0.0
            total += (pairs[i] - expected) / (expected + prior)
            others += 1
    return total / np.sqrt(np.float64(others)) if others else np.nan


@kernel
def fill_lift(page: Page, crosses: CrossProducts, rules: StatisticRules, k: int, slots: U64, overlay: U64) -> None:
    """Write statistic k, a lift, of all items of a page. Its columns are the user's, then the item's."""
    words, w32, f32, at = page
    first, salt = crosses.offsets[k], crosses.salts[k]
    memory = empty_memory(rules.neighbours[k])
    items = memory.items[: read_users_memory(page, crosses, k, slots, overlay, memory)]
    counts, pairs = np.empty(items.shape[0], np.float64), np.empty(items.shape[0], np.float64)
    for i in range(items.shape[0]):
        counts[i] = _count(slots, overlay, count_key(salt, items[i]))
    of_all = _count(slots, overlay, count_key(salt, ALL_ITEMS))
    for position in range(at.items):
        item, end = list_at(w32, at, crosses.sides[first + 1], crosses.indices[first + 1], position)
        value = np.nan
        if end > item:
            for i in range(items.shape[0]):
                pairs[i] = np.float32(_count(slots, overlay, pair_key(salt, items[i], words[item])))
            own = _count(slots, overlay, count_key(salt, words[item]))
            value = lift_of(pairs, counts, items, words[item], own, of_all, rules.priors[k])
        f32[at.statistics + position * at.sizes.statistics + k] = value


@kernel
def _count(slots: U64, overlay: U64, key: np.uint64) -> float:
    n, _, _ = read_row(slots, overlay, key)
    return max(0.0, n)  # type: ignore[no-any-return]  # a kernel


@kernel
def _add(table: TableArrays, key: np.uint64, n: float, time_ms: float) -> int:
    """Add to a row's n, which stays above 0, and return the row: marked as changed, of this time or a later one."""
    slots, old, dirty, counts, runs = table
    row = find_or_insert_moved(slots, old, key, counts)
    mark_changed(slots, row, dirty, counts)
    mark_run(runs, key)
    values = slots.view(np.float64)
    values[row, 3] = max(values[row, 3], time_ms)
    set_n(slots, row, max(0.0, abs(values[row, 1]) + n))
    return row  # type: ignore[no-any-return]  # a kernel


@kernel
def _move_pairs(table: TableArrays, salt: np.uint64, items: U64, item: np.uint64, n: float, time_ms: float) -> None:
    """Add n to the counts of an item's pairs with all others of a memory, and to what follows from them."""
    others = 0.0
    for i in range(items.shape[0]):
        if items[i] != np.uint64(0) and items[i] != item:
            _add(table, pair_key(salt, items[i], item), n, time_ms)
            _add(table, count_key(salt, items[i]), n, time_ms)
            others += 1.0
    if others:
        _add(table, count_key(salt, item), n * others, time_ms)
        _add(table, count_key(salt, ALL_ITEMS), 2.0 * n * others, time_ms)


@kernel
def _remembered(table: TableArrays, head: np.uint64, memory: ItemMemory) -> Any:
    """How many installs the user with this `head` had so far, and the items that are remembered of them."""
    slots, old, _, _, _ = table
    installs = np.int64(read_memory(old, slots, head, memory))
    return installs, memory.items[: min(installs, memory.items.shape[0])]


@kernel
def _learn_install(
    table: TableArrays, salt: np.uint64, head: np.uint64, item: np.uint64, time_ms: float, memory: ItemMemory
) -> None:
    """Count an install by the user with this `head`, unless the item is in their memory already."""
    installs, items = _remembered(table, head, memory)
    if (items == item).any():
        return
    _move_pairs(table, salt, items, item, 1.0, time_ms)
    entry = _add(table, mix(head, np.uint64(installs % memory.items.shape[0] + 1)), 0.0, time_ms)
    set_n(table.slots, entry, SHIFT + 1.0)
    table.slots[entry, 2] = item
    _add(table, head, 1.0, time_ms)


@kernel
def _retract_install(
    table: TableArrays, salt: np.uint64, head: np.uint64, item: np.uint64, time_ms: float, memory: ItemMemory
) -> None:
    """Take an install back; nothing, when its item is no longer in the memory."""
    _, items = _remembered(table, head, memory)
    for i in range(items.shape[0]):
        if items[i] == item:
            _move_pairs(table, salt, items, item, -1.0, time_ms)
            entry = _add(table, mix(head, np.uint64(i + 1)), 0.0, time_ms)
            set_n(table.slots, entry, SHIFT)
            table.slots[entry, 2] = np.uint64(0)
            return


@kernel
def learn_lift(batch: Batch, outcomes: Outcomes, sizes: I64, rule: I64, table: TableArrays) -> None:
    """Count the installs among these examples, in order, and take back those that are retracted.

    `rule`: one of `memory_rules`. The table has room for 2 · `neighbours` + 4 keys an example.
    """
    installs = False
    for b in range(outcomes.labels.shape[0]):
        installs |= outcomes.labels[b] > 0.0 or outcomes.reasons[b] in CORRECTIONS
    if not installs:
        return
    heads, items, _ = examples_of(batch, sizes, rule, table.slots)
    salt, memory = np.uint64(rule[0]), empty_memory(rule[1])
    for b in range(heads.shape[0]):
        if heads[b] == np.uint64(0):
            continue
        if outcomes.labels[b] > 0.0:
            _learn_install(table, salt, heads[b], items[b], outcomes.times[b], memory)
        elif outcomes.reasons[b] in CORRECTIONS:
            _retract_install(table, salt, heads[b], items[b], outcomes.times[b], memory)


@kernel
def learn_organic_lift(ids: U64, times: F64, rule: I64, table: TableArrays) -> None:
    """Count organic installs in order; ids u64[B, 2]: user, item. There is room as for `learn_lift`."""
    salt, memory = np.uint64(rule[0]), empty_memory(rule[1])
    for b in range(ids.shape[0]):
        _learn_install(table, salt, mix(salt ^ HEAD, ids[b, 0]), ids[b, 1], times[b], memory)
