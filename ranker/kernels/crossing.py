"""Cross-products of a page, read from a version's tables: the wide part's weights, and the statistics.

The user's columns come first in most crosses: they're mixed once a request, and each item continues from there. Keys
are gathered for many items, so that their rows are prefetched before they're read.
"""

from typing import Any, NamedTuple

import numpy as np

from ranker.kernels.pair_cache import NO_SLOT, load_pairs, read_shown, store_pairs
from ranker.kernels.plan import PlanArrays
from ranker.kernels.request import Tables, UserContext
from ranker.kernels.scratch import BUFFER, Scratch
from ranker.kernels.table_reads import read_rows, read_weights
from stream.features.cross_products import KEYS_MAX, USER, CrossProducts, expand_product, list_at
from stream.features.page_kernels import Page
from stream.features.statistic_reads import StatisticRows, measure, reading_of
from stream.spec.statistic_kinds import MEMORY_READS
from stream.tables.delta_table import TableView
from stream.tables.dtypes import I64, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel


class Prefixes(NamedTuple):
    """Keys of crosses' user columns: cross c continues from keys[ends[c]:ends[c + 1]]."""

    keys: U64
    ends: I64  # i64[crosses + 1]


@kernel
def prefixes_of(page: Page, crosses: CrossProducts) -> Prefixes:
    """Keys of the user's columns of each cross; none of a cross that has too many."""
    offsets, salts, fixed = crosses.offsets, crosses.salts, crosses.user_columns
    ends = np.zeros(salts.shape[0] + 1, np.int64)
    for c in range(salts.shape[0]):
        count = 1
        for r in range(offsets[c], offsets[c] + fixed[c]):
            low, high = list_at(page.w32, page.at, crosses.sides[r], crosses.indices[r], 0)
            count *= high - low
        ends[c + 1] = ends[c] + (count if count <= KEYS_MAX else 0)
    keys = np.empty(ends[-1], np.uint64)
    for c in range(salts.shape[0]):
        if ends[c + 1] > ends[c]:
            keys[ends[c]] = salts[c]
            expand_product(page, 0, crosses, offsets[c], offsets[c] + fixed[c], keys, ends[c], 1)
    return Prefixes(keys, ends)


@kernel
def _expand(page: Page, crosses: CrossProducts, c: int, known: U64, item: int, out: U64, start: int) -> Any:
    """Continue from the prefixes `known` with an item's columns of cross c, to out[start:]; returns how many keys.

    −1, and nothing is written, when there's no room.
    """
    first, last = crosses.offsets[c] + crosses.user_columns[c], crosses.offsets[c + 1]
    total = known.shape[0]
    for r in range(first, last):
        low, high = list_at(page.w32, page.at, crosses.sides[r], crosses.indices[r], item)
        total *= high - low
    if total == 0 or total > KEYS_MAX:
        return 0
    if start + total > out.shape[0]:
        return -1
    for i in range(known.shape[0]):
        out[start + i] = known[i]
    return expand_product(page, item, crosses, first, last, out, start, known.shape[0])


@kernel
def _mix_single(page: Page, crosses: CrossProducts, c: int, prefix: np.uint64, item: int, count: int, out: U64) -> bool:
    """Keys of cross c of `count` items from `item` on, where each list of the items' columns has one id; else False."""
    words, w32, at, sides, indices = page.words, page.w32, page.at, crosses.sides, crosses.indices
    width: Any
    for i in range(count):
        out[i] = prefix
    for r in range(crosses.offsets[c] + crosses.user_columns[c], crosses.offsets[c + 1]):
        offset, ids, width = at.user_offsets + indices[r], at.user_ids, np.int64(0)
        if sides[r] != USER:
            width = at.sizes.item_lists
            offset, ids = at.item_offsets + item * width + indices[r], at.item_ids
        for i in range(count):
            low = np.int64(w32[offset + i * width])
            if np.int64(w32[offset + i * width + 1]) != low + 1:
                return False
            out[i] = mix(out[i], words[ids + low])
    return True


@kernel
def _gather(
    page: Page, crosses: CrossProducts, c: int, prefixes: Prefixes, item: int, last: int, out: U64, ends: I64
) -> Any:
    """Keys of cross c of items item:last, as far as there's room; returns how many items, and how many keys.

    `ends[i]`: where the keys of item + i end.
    """
    known = prefixes.keys[prefixes.ends[c] : prefixes.ends[c + 1]]
    column, width = crosses.offsets[c] + crosses.user_columns[c], known.shape[0]
    start, total = item, 0
    if crosses.offsets[c + 1] - column != 1:
        count = min(last - item, ends.shape[0])
        if width == 1 and _mix_single(page, crosses, c, known[0], item, count, out):
            for i in range(count):
                ends[i] = i + 1
            return count, count
        while item < last and item - start < ends.shape[0]:
            count = _expand(page, crosses, c, known, item, out, total)
            if count < 0:
                break
            total += count
            ends[item - start] = total
            item += 1
        return item - start, total
    words, w32, at = page.words, page.w32, page.at  # one column of the item's: by far the most
    stride, ids = at.sizes.item_lists, at.item_ids
    offset = at.item_offsets + crosses.indices[column]
    while item < last and item - start < ends.shape[0]:
        low = ids + np.int64(w32[offset + item * stride])
        many = ids + np.int64(w32[offset + item * stride + 1]) - low
        count = width * many if width * many <= KEYS_MAX else 0
        if total + count > out.shape[0]:
            break
        if count == width:
            for i in range(width):
                out[total + i] = mix(known[i], words[low])
        elif count:
            for i in range(width):
                for j in range(many):
                    out[total + i * many + j] = mix(known[i], words[low + j])
        total += count
        ends[item - start] = total
        item += 1
    return item - start, total


@kernel
def _add_weights(table: TableView, items: int, count: int, first: int, scratch: Scratch) -> None:
    """Add the weights of the first `count` of scratch.keys to scratch.totals[first:], item by item."""
    weights, totals, ends = scratch.n, scratch.totals, scratch.ends
    read_weights(scratch, count, table, weights)
    k = 0
    for i in range(items):
        total = totals[first + i]
        while k < ends[i]:
            total += weights[k]
            k += 1
        totals[first + i] = total


@kernel
def add_wide(
    page: Page, plan: PlanArrays, tables: Tables, user: UserContext, first: int, last: int, of_user: bool,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Add the wide part's logit of item first + i to scratch.totals[i]: crosses of the user alone, or all others."""
    crosses, keys, prefixes = plan.wide, scratch.keys, Prefixes(user.wide_keys, user.wide_ends)
    offsets, fixed, matrices = crosses.offsets, crosses.user_columns, plan.matrices
    for c in range(fixed.shape[0]):
        if (fixed[c] == offsets[c + 1] - offsets[c]) != of_user:
            continue
        if matrices[c] != NO_SLOT:
            _add_pairs(page, plan, tables, user, c, first, last, scratch)
            continue
        item = first
        while item < last:
            items, count = _gather(page, crosses, c, prefixes, item, last, keys, scratch.ends)
            for k in range(count):
                keys[k] = (keys[k] & ~np.uint64(255)) | np.uint64(c + 1)
            _add_weights(tables.wide, items, count, item - first, scratch)
            item += items


@kernel
def _add_pairs(
    page: Page, plan: PlanArrays, tables: Tables, user: UserContext, c: int, first: int, last: int, scratch: Scratch
) -> None:
    """Add the weights of cross c, of pairs of an item of the user's history and one shown, to scratch.totals."""
    keys, values, read, totals = scratch.keys, scratch.values, scratch.n, scratch.totals
    prefixes = user.wide_keys[user.wide_ends[c] : user.wide_ends[c + 1]]
    column, width = plan.wide.offsets[c] + plan.wide.user_columns[c], prefixes.shape[0]
    side, index = plan.wide.sides[column], plan.wide.indices[column]
    cells, limit, mark = tables.weights.cells[plan.matrices[c]], tables.wide.limit, np.uint64(c + 1)
    others = user.slots[:width]  # none of a history that makes too many keys
    together = max(1, min(last - first, BUFFER // max(1, width)))
    shown, slots = np.empty(together, np.uint64), np.empty(together, np.int64)
    for low in range(first, last, together):
        count = min(together, last - low)
        read_shown(page, side, index, low, low + count, tables.slots, shown, slots)
        for i in range(count):
            for m in range(width):
                keys[i * width + m] = (mix(prefixes[m], shown[i]) & ~np.uint64(255)) | mark
        misses = load_pairs(cells, tables.weights, limit, slots[:count], others, scratch)
        read_weights(scratch, misses, tables.wide, read)
        store_pairs(cells, tables.weights.epoch, limit, slots, others, scratch, misses, read)
        for i in range(count):
            total = totals[low + i - first]
            for m in range(width if shown[i] != np.uint64(0) else 0):
                total += values[i * width + m]
            totals[low + i - first] = total


@kernel
def fill_statistics(
    page: Page, plan: PlanArrays, tables: Tables, user: UserContext, first: int, last: int, of_user: bool,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Write statistics of items first:last into the page: those of the user alone, or all others."""
    crosses, rules, f32, at = plan.statistics, plan.rules, page.f32, page.at
    offsets, fixed, reads, fades = crosses.offsets, crosses.user_columns, rules.reads, rules.fades
    keys, hashes, ends, values = scratch.keys, scratch.hashes, scratch.ends, scratch.values
    n, s, t, prefixes = scratch.n, scratch.s, scratch.t, Prefixes(user.statistic_keys, user.statistic_ends)
    size = at.sizes.statistics
    for k in range(fixed.shape[0]):
        if (fixed[k] == offsets[k + 1] - offsets[k]) != of_user or reads[k] in MEMORY_READS:
            continue
        item, reading = first, reading_of(rules, k, user.now, user.base)
        while item < last:
            items, count = _gather(page, crosses, k, prefixes, item, last, keys, ends)
            read_rows(keys, hashes, count, tables.statistics, user.now, fades[k], StatisticRows(n, s, t))
            start: Any = np.int64(0)
            for i in range(items):
                f32[at.statistics + (item + i) * size + k] = measure(reading, n, s, t, start, ends[i], values)
                start = ends[i]
            item += items
