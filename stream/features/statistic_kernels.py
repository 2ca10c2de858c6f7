"""Kernels of the statistics: a page's are read and written to it, a batch's labels move them. See `statistics.py`."""

from typing import NamedTuple

import numpy as np

from stream.features.cross_products import KEYS_MAX, CrossProducts, count_product, fill_product
from stream.features.encoder import Batch
from stream.features.item_lift import fill_lift, learn_lift
from stream.features.item_similarity import Outcomes, fill_likeness, learn_likeness
from stream.features.label_expectation import expected_label
from stream.features.page_kernels import Page, locate, open_page
from stream.features.position_rates import PositionRules, expected_clicks
from stream.features.statistic_reads import StatisticRules, base_rate, measure, read_row, reading_of
from stream.features.statistic_updates import counted, label_sum, move
from stream.spec.statistic_kinds import (
    LEARN_INSTALLS,
    LEARN_ORGANIC,
    LEARN_RATIO,
    LEARN_RESIDUALS,
    MEMORY_LEARNS,
    MEMORY_READS,
    READ_LIFT,
    READ_MEMORY,
)
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import (
    AHEAD,
    CHANGED,
    TableArrays,
    find_or_insert,
    find_or_insert_moved,
    home,
    mark_changed,
    mark_run,
    prefetch_row,
)
from stream.tables.jit import kernel


class LearnRules(NamedTuple):
    """What labels move, and how; arrays [S]. The coecs', likenesses' and lifts' are theirs alone."""

    sizes: I64  # of the layout
    learns: I64  # LEARN_…
    fades: F64
    rates: I64  # `rates_of`
    positions: PositionRules
    likenesses: I64  # `memory_rules`
    lifts: I64


class Layers(NamedTuple):
    """Rows of a table, uint64 [capacity, WIDTH] as in `HashTable`; many threads may read the same ones."""

    slots: U64
    overlay: U64  # hides rows of `slots`


@kernel
def keys_of(batch: Batch, sizes: I64, crosses: CrossProducts, base_key: np.uint64) -> tuple[U64, I64]:
    """Keys of the rows that a batch's examples move, the last is that of everything: u64[K + 1]. And i64[B·S + 1]:
    statistic k of example b has keys[offsets[b·S + k]:offsets[b·S + k + 1]].
    """
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    kinds = crosses.salts.shape[0]
    offsets = np.zeros(pages.shape[0] * kinds + 1, np.int64)
    if not pages.shape[0]:
        return np.full(1, base_key), offsets
    number, at = np.int64(-1), locate(words, w32, starts[0], sizes)
    for b in range(pages.shape[0]):
        if pages[b] != number:
            number, at = pages[b], locate(words, w32, starts[pages[b]], sizes)
        page = Page(words, w32, f32, at)
        for k in range(kinds):
            offsets[b * kinds + k + 1] = offsets[b * kinds + k] + count_product(page, positions[b], crosses, k)
    keys = np.empty(offsets[-1] + 1, np.uint64)
    keys[-1] = base_key
    for b in range(pages.shape[0]):
        if pages[b] != number:
            number, at = pages[b], locate(words, w32, starts[pages[b]], sizes)
        page = Page(words, w32, f32, at)
        for k in range(kinds):
            first = offsets[b * kinds + k]
            if offsets[b * kinds + k + 1] > first:
                fill_product(page, positions[b], crosses, k, keys, first)
    return keys, offsets


@kernel
def fill_page(
    words: U64, now: float, sizes: I64, crosses: CrossProducts, rules: StatisticRules, base_key: np.uint64,
    table: Layers, likenesses: Layers,
) -> None:  # fmt: skip
    """Write a page's base rate and statistics as of `now` (ms)."""
    page = open_page(words, sizes)
    f32, at = page.f32, page.at
    slots, overlay = table
    keys, ratios = np.empty(KEYS_MAX, np.uint64), np.empty(KEYS_MAX, np.float64)
    rows_n, rows_s, rows_t = np.empty(KEYS_MAX), np.empty(KEYS_MAX), np.empty(KEYS_MAX)
    reads, fades = rules.reads, rules.fades
    n, s, _ = read_row(slots, overlay, base_key, now, 0.0)
    base = base_rate(n, s)
    f32[at.base_rate] = base
    for item in range(at.items):
        for k in range(reads.shape[0]):
            count = 0 if reads[k] in MEMORY_READS else count_product(page, item, crosses, k)
            value = np.nan
            if count > 0:
                fill_product(page, item, crosses, k, keys, 0)
                for i in range(count):
                    rows_n[i], rows_s[i], rows_t[i] = read_row(slots, overlay, keys[i], now, fades[k])
                value = measure(reading_of(rules, k, now, base), rows_n, rows_s, rows_t, 0, count, ratios)
            f32[at.statistics + item * at.sizes.statistics + k] = value
    for k in range(reads.shape[0]):
        if reads[k] == READ_MEMORY:
            fill_likeness(page, crosses, rules, k, likenesses.slots, likenesses.overlay)
        elif reads[k] == READ_LIFT:
            fill_lift(page, crosses, rules, k, likenesses.slots, likenesses.overlay)


@kernel
def learn_labels(
    batch: Batch, outcomes: Outcomes, rules: LearnRules, keys: U64, offsets: I64, table: TableArrays,
    likenesses: TableArrays,
) -> None:  # fmt: skip
    """Move all that these examples move, in order; both tables have room. One call for all: each costs 5 to 10 µs."""
    if not batch.page.shape[0]:
        return
    _move_rows(batch, outcomes, rules, keys, offsets, table)
    for j in range(rules.likenesses.shape[0]):
        learn_likeness(batch, outcomes, rules.sizes, rules.likenesses[j], likenesses)
    for j in range(rules.lifts.shape[0]):
        learn_lift(batch, outcomes, rules.sizes, rules.lifts[j], likenesses)


@kernel
def _move_rows(
    batch: Batch, outcomes: Outcomes, rules: LearnRules, keys: U64, offsets: I64, table: TableArrays
) -> None:
    """Move the row of everything, once, and the others key by key; of those only positions' may still be in `old`."""
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    labels, weights, reasons, times = outcomes
    slots, old, dirty, counts, runs = table
    values = slots.view(np.float64)
    sizes, learns, fades, rates, ratios, _, _ = rules
    kinds, examples = learns.shape[0], pages.shape[0]
    residuals = (learns == LEARN_RESIDUALS).any()
    expected_of = expected_clicks(batch, outcomes, ratios, keys[keys.shape[0] - 1], table)
    everything = find_or_insert_moved(slots, old, keys[keys.shape[0] - 1], counts)
    mark_changed(slots, everything, dirty, counts)
    mark_run(runs, keys[keys.shape[0] - 1])
    mark = slots[everything, 1] & CHANGED
    all_n, all_s, all_t = abs(values[everything, 1]), values[everything, 2], values[everything, 3]
    page, at = pages[0], locate(words, w32, starts[pages[0]], sizes)
    stop = offsets[examples * kinds]
    for i in range(offsets[0], min(offsets[0] + AHEAD, stop)):
        prefetch_row(slots, home(slots, keys[i]))
    for b in range(examples):
        if pages[b] != page:
            page, at = pages[b], locate(words, w32, starts[pages[b]], sizes)
        n, label = counted(labels[b], weights[b], reasons[b])
        t, expected = times[b], 0.0
        if residuals:
            expected = n * expected_label(f32, at, positions[b], rates)
        all_n, all_s, all_t = all_n + n, all_s + label, max(all_t, t)
        c = 0
        for k in range(kinds):
            weight = n
            if learns[k] == LEARN_RATIO:
                weight, c = expected_of[b, c], c + 1
            first, last = offsets[b * kinds + k], offsets[b * kinds + k + 1]
            for i in range(first + AHEAD, min(last + AHEAD, stop)):
                prefetch_row(slots, home(slots, keys[i]))
            if learns[k] in MEMORY_LEARNS or learns[k] == LEARN_ORGANIC:
                continue
            if learns[k] == LEARN_RESIDUALS and expected != expected:
                continue
            s = label_sum(learns[k], label, expected)
            if learns[k] == LEARN_INSTALLS:
                if s == 0.0:
                    continue
                weight = s
            for i in range(first, last):
                row = find_or_insert(slots, keys[i], counts)
                mark_changed(slots, row, dirty, counts)
                move(slots, values, row, (weight, s, t), fades[k])
    values[everything, 1] = all_n
    slots[everything, 1] |= mark
    values[everything, 2], values[everything, 3] = all_s, all_t
