"""Likenesses and lifts of a page's items by its user's memory, read from a version's tables: see `item_similarity.py`
and `item_lift.py`.
"""

from typing import Any

import numpy as np

from ranker.kernels.pair_cache import load_pairs, read_shown, store_pairs
from ranker.kernels.plan import PlanArrays
from ranker.kernels.request import Tables, UserContext
from ranker.kernels.scratch import BUFFER, Scratch
from ranker.kernels.table_reads import read_rows
from stream.features.cross_products import list_at
from stream.features.item_lift import ALL_ITEMS, count_key, lift_of
from stream.features.item_similarity import HEAD, SHIFT, pair_key
from stream.features.page_kernels import Page
from stream.features.statistic_reads import StatisticRows
from stream.spec.statistic_kinds import MEMORY_READS, READ_LIFT
from stream.tables.delta_table import TableView
from stream.tables.dtypes import F64, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel


@kernel
def read_memories(page: Page, plan: PlanArrays, table: TableView, scratch: Scratch) -> Any:
    """The user's memory for each statistic: items, their residuals or counts, and ends, as in `UserContext`."""
    crosses, reads, neighbours = plan.statistics, plan.rules.reads, plan.rules.neighbours
    keys, hashes, rows = scratch.keys, scratch.hashes, StatisticRows(scratch.n, scratch.s, scratch.t)
    n, t, bits = rows.n, rows.t, rows.s.view(np.uint64)
    ends = np.zeros(reads.shape[0] + 1, np.int64)
    most = 0
    for k in range(reads.shape[0]):
        most += neighbours[k] if reads[k] in MEMORY_READS else 0
    items, residuals = np.empty(most, np.uint64), np.empty(most, np.float64)
    count = 0
    for k in range(reads.shape[0]):
        if reads[k] in MEMORY_READS:
            column = crosses.offsets[k]
            user, end = list_at(page.w32, page.at, crosses.sides[column], crosses.indices[column], 0)
            if end > user:
                head = mix(crosses.salts[k] ^ HEAD, page.words[user])
                keys[0] = head
                read_rows(keys, hashes, 1, table, 0.0, 0.0, rows)
                labels = min(np.int64(n[0]), neighbours[k])
                for start in range(0, labels, BUFFER):
                    entries = min(BUFFER, labels - start)
                    for i in range(entries):
                        keys[i] = mix(head, np.uint64(start + i + 1))
                    read_rows(keys, hashes, entries, table, 0.0, 0.0, rows)
                    for i in range(entries):
                        if t[i] >= 0.0 and bits[i] != np.uint64(0):  # neither evicted nor taken back
                            items[count], residuals[count] = bits[i], n[i] - SHIFT
                            count += 1
                if reads[k] == READ_LIFT:
                    _count_items(items[ends[k] : count], crosses.salts[k], table, scratch, residuals[ends[k] : count])
        ends[k + 1] = count
    return items[:count], residuals[:count], ends


@kernel
def _count_items(items: U64, salt: np.uint64, table: TableView, scratch: Scratch, counts: F64) -> None:
    """Each item's own count, or that of ALL_ITEMS."""
    rows = StatisticRows(scratch.n, scratch.s, scratch.t)
    for start in range(0, items.shape[0], BUFFER):
        some = min(BUFFER, items.shape[0] - start)
        for i in range(some):
            scratch.keys[i] = count_key(salt, items[start + i])
        read_rows(scratch.keys, scratch.hashes, some, table, 0.0, 0.0, rows)
        counts[start : start + some] = rows.n[:some]


@kernel
def fill_memories(
    page: Page, plan: PlanArrays, tables: Tables, user: UserContext, first: int, last: int, scratch: Scratch
) -> None:
    """Write the likenesses and lifts of items first:last into the page."""
    crosses, reads, priors, f32, at = plan.statistics, plan.rules.reads, plan.rules.priors, page.f32, page.at
    items, residuals, ends, memory_slots = user.memory_items, user.memory_residuals, user.memory_ends, user.memory_slots
    keys, hashes, ratios, n, s = scratch.keys, scratch.hashes, scratch.values, scratch.n, scratch.s
    rows, limit = StatisticRows(n, s, scratch.t), tables.statistics.limit
    matrix = -1
    for k in range(reads.shape[0]):
        if reads[k] not in MEMORY_READS:
            continue
        is_lift = reads[k] == READ_LIFT
        matrix += 1
        cells, begun, width = tables.likenesses.cells[matrix], ends[k], ends[k + 1] - ends[k]
        remembered, of, others = (
            items[begun : begun + width], residuals[begun : begun + width], memory_slots[begun : begun + width]
        )  # fmt: skip
        column = crosses.offsets[k] + 1
        side, index, salt = crosses.sides[column], crosses.indices[column], crosses.salts[k]
        # Many items at once: many keys are prefetched, and few loops started.
        together = max(1, min(last - first, BUFFER // max(1, width)))
        shown, slots = np.empty(together, np.uint64), np.empty(together, np.int64)
        of_all, own = np.zeros(1, np.float64), np.zeros(together if is_lift else 0, np.float64)
        if is_lift:
            _count_items(np.full(1, ALL_ITEMS), salt, tables.statistics, scratch, of_all)
        for low in range(first, last, together):
            count = min(together, last - low)
            read_shown(page, side, index, low, low + count, tables.slots, shown, slots)
            if is_lift:
                _count_items(shown[:count], salt, tables.statistics, scratch, own)
            for i in range(count):
                for m in range(width):
                    keys[i * width + m] = pair_key(salt, remembered[m], shown[i])
            misses = load_pairs(cells, tables.likenesses, limit, slots[:count], others, scratch)
            read_rows(keys, hashes, misses, tables.statistics, 0.0, 0.0, rows)
            for i in range(misses if not is_lift else 0):
                n[i] = s[i] / (n[i] + priors[k])
            store_pairs(cells, tables.likenesses.epoch, limit, slots, others, scratch, misses, n)
            for i in range(count):
                numbers, value = ratios[i * width : (i + 1) * width], np.nan
                if shown[i] != np.uint64(0) and is_lift:
                    value = lift_of(numbers, of, remembered, shown[i], own[i], of_all[0], priors[k])
                elif shown[i] != np.uint64(0):
                    value = _likeness_of(numbers, of, remembered, shown[i])
                f32[at.statistics + (low + i) * at.sizes.statistics + k] = value


@kernel
def _likeness_of(ratios: F64, residuals: F64, items: U64, item: np.uint64) -> float:
    """An item's likeness to these items, from its pairs with each; NaN when there is no other item among them."""
    total, others = 0.0, 0
    for i in range(items.shape[0]):
        if items[i] != item:
            total += residuals[i] * ratios[i]
            others += 1
    return total / np.sqrt(np.float64(others)) if others else np.nan
