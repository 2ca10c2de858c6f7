"""Streaming numbers per entity: moved by each label or organic install, read when a page is ranked, logged in it.

State is one table: key → weight of labels, sum, newest event time (ms). Kinds (`statistic_kinds.py`), with a row's
(n, s, t):

    rate      (s + prior·base) / (n + prior)        s: labels; base: the rate over everything
    count     log(1 + n)
    since     log(1 + seconds from t to the page)   missing before the first label
    residual  s / (n + prior)                       s: label − expected
    affinity  the residuals of (i, item) over i in the history: the strongest `neighbours`, sum / √count
    likeness  how labels of the item go together with the user's last `neighbours` ones: see `item_similarity.py`

*Expected* is what the page's logged rates say: base + Σ (rate − base), within [0.01, 0.99]; so what a
label adds depends on its page alone, and sums without decay don't depend on the order of labels.
A late positive or a retraction moves `s` by ±1 and nothing else: as if the first label had been right. (A likeness
depends on the order of labels, and is corrected as long as the item is in the memory.)

A statistic of organic installs (`of = "organic"`) is a count or since that installs move and labels don't: each adds
1 to n and s. They move neither the base rate nor what is expected, so their order among labels doesn't matter.
One of all installs (`of = "installs"`) moves by them and by positive labels; a retraction takes its 1 away.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.types import LATE_POSITIVE, RETRACTION, Organic
from stream.features.cross_products import KEYS_MAX, CrossProducts, compile_crosses, count_product, fill_product
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes, fill_likeness, learn_likeness, likeness_rules
from stream.features.page_features import Layout, id_of, seed_of
from stream.features.page_kernels import Page, Sections, locate, open_page
from stream.features.statistic_reads import StatisticRules, base_rate, measure, read_row, reading_of
from stream.features.statistic_updates import label_sum, move, move_organic, organic_keys
from stream.spec.spec import ALL_INSTALLS, INSTALLS, ORGANIC_INSTALLS, Spec, duration_ms
from stream.spec.statistic_kinds import (
    LEARN_INSTALLS,
    LEARN_MEMORY,
    LEARN_ORGANIC,
    LEARN_RESIDUALS,
    READ_MEMORY,
    READ_RATE,
    kind_of,
)
from stream.tables.dtypes import F32, I64, U64
from stream.tables.eviction import Evictor
from stream.tables.hash_kernels import (
    AHEAD,
    CHANGED,
    TableArrays,
    find_or_insert,
    find_or_insert_moved,
    home,
    mark_changed,
    prefetch_row,
)
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

WIDTH: Final = 4  # key; n, s, t as float64
NO_TABLE: Final[U64] = np.zeros((1, WIDTH), np.uint64)


class StatisticKeys(NamedTuple):
    """Keys of the rows that examples move: a function of their pages alone, so that another thread can hash ahead.

    Of a slice of the examples: their part of `offsets`, and the same `keys`.
    """

    keys: U64  # u64[K + 1]; the last is that of everything
    offsets: I64  # i64[B·S + 1]: statistic k of example b has keys[offsets[b·S + k]:offsets[b·S + k + 1]]


class StatisticsProgram:
    """The spec's statistics, compiled for kernels."""

    def __init__(self, spec: Spec, layout: Layout) -> None:
        stats = spec.statistics
        self.sizes = layout.size_array
        kinds = [kind_of(s.kind) for s in stats.values()]
        self.crosses = compile_crosses(
            layout, [s.by or [s.to, s.of] for s in stats.values()], [f"statistic {n}" for n in stats]
        )
        of = np.array([s.of for s in stats.values()], np.str_)
        self.organic: I64 = np.flatnonzero(np.isin(of, INSTALLS))  # those that organic installs move
        learns = np.where(of == ORGANIC_INSTALLS, LEARN_ORGANIC, np.array([kind.learn for kind in kinds], np.int64))
        self.rules = StatisticRules(
            reads=np.array([kind.read for kind in kinds], np.int64),
            learns=np.where(of == ALL_INSTALLS, LEARN_INSTALLS, learns),
            priors=np.array([s.prior for s in stats.values()], np.float64),
            half_lives=np.array([duration_ms(s.half_life) if s.half_life else 0 for s in stats.values()], np.float64),
            neighbours=np.array([s.neighbours for s in stats.values()], np.int64),
        )
        self.base_key = np.uint64(seed_of("statistic of everything"))
        self.rows_max = spec.max_statistics
        likenesses = np.flatnonzero(self.rules.learns == LEARN_MEMORY)
        self.likenesses = likenesses.tolist()
        self.likeness_rules = likeness_rules(self.crosses, self.rules.neighbours, likenesses)
        self.memory_rows = int((self.rules.neighbours[likenesses] + 2).sum())  # rows that likenesses move an example
        self._user_seed, self._item_seed = layout.seeds["user.id"], layout.seeds["item.id"]

    def fill(self, words: U64, time_ms: int, slots: U64, overlay: U64 = NO_TABLE) -> None:
        """Write the page's statistics and base rate, as of `time_ms`. `overlay` rows hide those of `slots`.

        Slots are uint64 [capacity, WIDTH] as in `HashTable`; many threads may read the same ones.
        """
        _fill(words, float(time_ms), self.sizes, self.crosses, self.rules, self.base_key, slots, overlay)

    def keys_of(self, batch: Batch) -> StatisticKeys:
        """The keys that these examples' labels move."""
        return StatisticKeys(*_keys_of(batch, self.sizes, self.crosses, self.base_key))

    def organic_keys(self, installs: Sequence[Organic]) -> U64:
        """The keys that these move: install b's of the j-th statistic of organic installs at b·O+j. uint64 [B·O]."""
        ids = [(id_of(self._user_seed, one.user), id_of(self._item_seed, one.item)) for one in installs]
        return organic_keys(np.array(ids, np.uint64), self.organic, self.crosses)


class Statistics:
    """The statistics of one learner or replay: a program and its table."""

    def __init__(self, program: StatisticsProgram, table: HashTable | None = None) -> None:
        self.program = program
        self.table = table or HashTable(WIDTH)
        self.evictor = Evictor(program.rows_max)

    def fill(self, words: U64, time_ms: int) -> None:
        """Write the page's statistics as of `time_ms` into its words."""
        self.program.fill(words, time_ms, self.table.old, self.table.slots)

    def learn(self, batch: Batch, outcomes: Outcomes, keys: StatisticKeys | None = None) -> None:
        """Move the statistics by these examples, in order. Over the spec's bound the least recently moved rows go.

        `keys`: what `keys_of` says of the batch, if it is known already.
        """
        program, table = self.program, self.table
        every, offsets = keys or program.keys_of(batch)
        moved = every[offsets[0] : offsets[-1] + 1]  # one more than these: room for the row of everything
        unknown = len(outcomes.labels) * program.memory_rows
        self.evictor.step(table, len(moved) + unknown, 0)
        table.reserve_for(moved, unknown)
        _learn(batch, outcomes, program.sizes, program.rules, program.likeness_rules, every, offsets, table.arrays)

    def is_quiet(self, keys: int, examples: int) -> bool:
        """Whether `examples` that move `keys` rows can be learned in one step as in several: none is evicted."""
        return self.evictor.is_quiet(self.table, keys + examples * (1 + self.program.memory_rows))

    def learn_organic(self, installs: Sequence[Organic]) -> None:
        """Move the statistics that organic installs move by these, in order; the caller has dropped duplicates."""
        program, table = self.program, self.table
        if not len(program.organic) or not installs:
            return
        keys = program.organic_keys(installs)
        times = np.repeat(np.array([one.time_ms for one in installs], np.float64), len(program.organic))
        half_lives = np.tile(program.rules.half_lives[program.organic], len(installs))
        self.evictor.step(table, len(keys), 0)
        table.reserve_for(keys)
        move_organic(table.arrays, keys, times, half_lives)


@kernel
def _keys_of(batch: Batch, sizes: I64, crosses: CrossProducts, base_key: np.uint64) -> tuple[U64, I64]:
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
def _fill(
    words: U64, now: float, sizes: I64, crosses: CrossProducts, rules: StatisticRules, base_key: np.uint64,
    slots: U64, overlay: U64,
) -> None:  # fmt: skip
    page = open_page(words, sizes)
    f32, at = page.f32, page.at
    keys, ratios = np.empty(KEYS_MAX, np.uint64), np.empty(KEYS_MAX, np.float64)
    rows_n, rows_s, rows_t = np.empty(KEYS_MAX), np.empty(KEYS_MAX), np.empty(KEYS_MAX)
    reads, half_lives = rules.reads, rules.half_lives
    n, s, _ = read_row(slots, overlay, base_key, now, 0.0)
    base = base_rate(n, s)
    f32[at.base_rate] = base
    for item in range(at.items):
        for k in range(reads.shape[0]):
            count = 0 if reads[k] == READ_MEMORY else count_product(page, item, crosses, k)
            value = np.nan
            if count > 0:
                fill_product(page, item, crosses, k, keys, 0)
                for i in range(count):
                    rows_n[i], rows_s[i], rows_t[i] = read_row(slots, overlay, keys[i], now, half_lives[k])
                value = measure(reading_of(rules, k, now, base), rows_n, rows_s, rows_t, 0, count, ratios)
            f32[at.statistics + item * at.sizes.statistics + k] = value
    for k in range(reads.shape[0]):
        if reads[k] == READ_MEMORY:
            fill_likeness(page, crosses, rules, k, slots, overlay)


@kernel
def _expected(f32: F32, at: Sections, position: int, reads: I64) -> Any:
    """The label rate that the logged statistics of an item lead to expect."""
    base = np.float64(f32[at.base_rate])
    if base != base:
        return 0.5
    expected = base
    for k in range(reads.shape[0]):
        value = np.float64(f32[at.statistics + position * at.sizes.statistics + k])
        if reads[k] == READ_RATE and value == value:
            expected += value - base
    return min(0.99, max(0.01, expected))


@kernel
def _learn(
    batch: Batch, outcomes: Outcomes, sizes: I64, rules: StatisticRules, likenesses: I64, keys: U64, offsets: I64,
    table: TableArrays,
) -> None:  # fmt: skip
    """One call for all: each costs 5 to 10 µs."""
    if not batch.page.shape[0]:
        return
    _move_rows(batch, outcomes, sizes, rules, keys, offsets, table)
    for j in range(likenesses.shape[0]):
        learn_likeness(batch, outcomes, sizes, likenesses[j], table)


@kernel
def _move_rows(
    batch: Batch, outcomes: Outcomes, sizes: I64, rules: StatisticRules, keys: U64, offsets: I64, table: TableArrays
) -> None:
    """Move the row of everything, once, and the others key by key; only the former may still be in `old`."""
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    labels, weights, reasons, times = outcomes
    slots, old, dirty, counts = table
    values = slots.view(np.float64)
    reads, learns, half_lives = rules.reads, rules.learns, rules.half_lives
    kinds, examples = learns.shape[0], pages.shape[0]
    residuals = (learns == LEARN_RESIDUALS).any()
    everything = find_or_insert_moved(slots, old, keys[keys.shape[0] - 1], counts)
    mark_changed(slots, everything, dirty, counts)
    mark = slots[everything, 1] & CHANGED
    all_n, all_s, all_t = abs(values[everything, 1]), values[everything, 2], values[everything, 3]
    page, at = pages[0], locate(words, w32, starts[pages[0]], sizes)
    stop = offsets[examples * kinds]
    for i in range(offsets[0], min(offsets[0] + AHEAD, stop)):
        prefetch_row(slots, home(slots, keys[i]))
    for b in range(examples):
        if pages[b] != page:
            page, at = pages[b], locate(words, w32, starts[pages[b]], sizes)
        t, n, label, expected = times[b], weights[b], weights[b] * labels[b], 0.0
        if reasons[b] == LATE_POSITIVE or reasons[b] == RETRACTION:
            n, label = 0.0, 2.0 * labels[b] - 1.0
        elif residuals:
            expected = weights[b] * _expected(f32, at, positions[b], reads)
        all_n, all_s, all_t = all_n + n, all_s + label, max(all_t, t)
        for k in range(kinds):
            first, last = offsets[b * kinds + k], offsets[b * kinds + k + 1]
            for i in range(first + AHEAD, min(last + AHEAD, stop)):
                prefetch_row(slots, home(slots, keys[i]))
            if learns[k] == LEARN_MEMORY or learns[k] == LEARN_ORGANIC:
                continue
            s, count = label_sum(learns[k], label, expected), n
            if learns[k] == LEARN_INSTALLS:
                if s == 0.0:
                    continue
                count = s
            for i in range(first, last):
                row = find_or_insert(slots, keys[i], counts)
                mark_changed(slots, row, dirty, counts)
                move(slots, values, row, (count, s, t), half_lives[k])
    values[everything, 1] = all_n
    slots[everything, 1] |= mark
    values[everything, 2], values[everything, 3] = all_s, all_t
