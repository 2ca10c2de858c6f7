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
goes by the order of labels, and is corrected as far as it remembers.)

A statistic of organic installs (`of = "organic"`) is a count or since that they move and labels don't: each adds 1 to
n and s. They move neither the base rate nor what is expected, so their order among labels doesn't matter.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.events.types import LATE_POSITIVE, RETRACTION, Organic
from stream.features.encoder import I64, KEYS_MAX, Batch, Product, count_product, fill_product
from stream.features.item_similarity import fill_likeness, learn_likeness
from stream.features.page_features import Layout, id_of, seed_of
from stream.features.page_kernels import locate
from stream.features.statistic_reads import base_rate, measure, read_row
from stream.features.statistic_updates import amount, move_organic, move_row, organic_keys
from stream.spec.spec import ORGANIC_INSTALLS, Spec, duration_ms
from stream.spec.statistic_kinds import LEARN_MEMORY, LEARN_ORGANIC, READ_MEMORY, READ_RATE, kind_of
from stream.tables.eviction import Sweep
from stream.tables.hash_table import U64, Table
from stream.tables.jit import kernel

F64 = npt.NDArray[np.float64]
WIDTH: Final = 4  # key; n, s, t as float64
NO_TABLE: Final[U64] = np.zeros((1, WIDTH), np.uint64)


class StatisticsProgram:
    """The spec's statistics, compiled for kernels."""

    def __init__(self, spec: Spec, layout: Layout) -> None:
        stats = spec.statistics
        self.sizes = np.array(layout.sizes, np.int64)
        kinds = [kind_of(s.kind) for s in stats.values()]
        self.reads = np.array([kind.read for kind in kinds], np.int64)
        self.product = Product(
            layout, [s.by or [s.to, s.of] for s in stats.values()], [f"statistic {n}" for n in stats]
        )
        self.priors = np.array([s.prior for s in stats.values()], np.float64)
        self.half_lives = np.array([duration_ms(s.half_life) if s.half_life else 0 for s in stats.values()], np.float64)
        self.neighbours = np.array([s.neighbours for s in stats.values()], np.int64)
        self.base_key = np.uint64(seed_of("statistic of everything"))
        self.rows_max = spec.max_statistics
        of_organic = np.array([s.of == ORGANIC_INSTALLS for s in stats.values()], np.bool_)
        self.organic: I64 = np.flatnonzero(of_organic)
        self.learns = np.where(of_organic, LEARN_ORGANIC, np.array([kind.learn for kind in kinds], np.int64))
        self.likenesses = np.flatnonzero(self.learns == LEARN_MEMORY).tolist()
        self._user_seed, self._item_seed = layout.seeds["user.id"], layout.seeds["item.id"]

    def fill(self, words: U64, time_ms: int, slots: U64, overlay: U64 = NO_TABLE) -> None:
        """Write the page's statistics and base rate, as of `time_ms`. `overlay` rows hide those of `slots`.

        Slots are uint64 [capacity, WIDTH] as in `Table`; many threads may read the same ones.
        """
        p = self.product
        _fill(words, words.view(np.uint32), words.view(np.float32), float(time_ms), self.sizes,
              self.reads, p.offsets, p.sides, p.places, p.salts, self.priors, self.half_lives,
              self.neighbours, self.base_key, slots, overlay)  # fmt: skip
        for k in self.likenesses:
            fill_likeness(words, words.view(np.uint32), words.view(np.float32), self.sizes, k, self.columns(k),
                          p.salts[k], self.neighbours[k], self.priors[k], slots, overlay)  # fmt: skip

    def organic_keys(self, installs: Sequence[Organic]) -> U64:
        """The keys that these move: install b's of the j-th statistic of organic installs at b·O+j. uint64 [B·O]."""
        ids = [(id_of(self._user_seed, one.user), id_of(self._item_seed, one.item)) for one in installs]
        p = self.product
        keys: U64 = organic_keys(np.array(ids, np.uint64), self.organic, p.offsets, p.sides, p.salts)
        return keys

    def columns(self, k: int) -> I64:
        """Side and index of each column of statistic k, one after the other. int64."""
        first, last = self.product.offsets[k : k + 2]
        pairs = zip(self.product.sides[first:last], self.product.places[first:last], strict=True)
        return np.array([number for pair in pairs for number in pair], np.int64)


class Statistics:
    """The statistics of one learner or replay: a program and its table."""

    def __init__(self, program: StatisticsProgram, table: Table | None = None) -> None:
        self.program = program
        self.table = table or Table(WIDTH)
        self.sweep = Sweep(program.rows_max)

    def fill(self, words: U64, time_ms: int) -> None:
        """Write the page's statistics as of `time_ms` into its words."""
        self.program.fill(words, time_ms, self.table.old, self.table.slots)

    def learn(self, batch: Batch, labels: F64, weights: F64, reasons: I64, time_ms: F64) -> None:
        """Move the statistics by these examples, in order. Over the spec's bound rows go that moved longest ago.

        `labels`, `weights`, `time_ms` (of the page): float64 [B]; `reasons`: int64 [B].
        """
        program, p, table = self.program, self.program.product, self.table
        w32 = batch.words.view(np.uint32)
        offsets = _count(batch.words, w32, batch.starts, batch.page, batch.position, program.sizes, p.offsets, p.sides,
                         p.places)  # fmt: skip
        keys = np.empty(offsets[-1] + 1, np.uint64)
        _fill_keys(batch.words, w32, batch.starts, batch.page, batch.position, program.sizes, p.offsets, p.sides,
                   p.places, p.salts, offsets, keys)  # fmt: skip
        keys[-1] = program.base_key
        remembered = len(batch) * sum(int(program.neighbours[k]) + 2 for k in program.likenesses)
        self.sweep.step(table, len(keys) + remembered, 0)
        table.reserve_for(keys)
        _learn(batch.words, w32, batch.words.view(np.float32), batch.starts, batch.page, batch.position,
               labels, weights, reasons, time_ms, program.sizes, program.reads, program.learns, program.half_lives,
               offsets, keys, table.slots, table.fresh, table.counts)  # fmt: skip
        for k in program.likenesses:
            last = int(program.neighbours[k])
            table.reserve_step(len(batch) * (last + 2))
            learn_likeness(batch.words, w32, batch.words.view(np.float32), batch.starts, batch.page, batch.position,
                           labels, weights, reasons, time_ms, program.sizes, program.columns(k), p.salts[k], last,
                           table.slots, table.old, table.fresh, table.counts)  # fmt: skip

    def learn_organic(self, installs: Sequence[Organic]) -> None:
        """Move the statistics of organic installs by these, in order; the caller has dropped duplicates."""
        program, table = self.program, self.table
        if not len(program.organic) or not installs:
            return
        keys = program.organic_keys(installs)
        times = np.repeat(np.array([one.time_ms for one in installs], np.float64), len(program.organic))
        half_lives = np.tile(program.half_lives[program.organic], len(installs))
        self.sweep.step(table, len(keys), 0)
        table.reserve_for(keys)
        move_organic(keys, times, half_lives, table.slots, table.fresh, table.counts)


@kernel
def _count(
    words: Any, w32: Any, starts: Any, page: Any, position: Any, sizes: Any, products: Any, sides: Any, places: Any
) -> Any:
    """Example b's keys of statistic k are offsets[b·S+k]:offsets[b·S+k+1]. int64 [B·S+1]."""
    kinds = products.shape[0] - 1
    offsets = np.zeros(page.shape[0] * kinds + 1, np.int64)
    for b in range(page.shape[0]):
        at = locate(words, w32, starts[page[b]], sizes)
        for k in range(kinds):
            count = count_product(w32, at, position[b], sizes, products[k], products[k + 1], sides, places)
            offsets[b * kinds + k + 1] = offsets[b * kinds + k] + count
    return offsets


@kernel
def _fill_keys(words: Any, w32: Any, starts: Any, page: Any, position: Any, sizes: Any, products: Any, sides: Any,
               places: Any, salts: Any, offsets: Any, keys: Any) -> None:  # fmt: skip
    kinds = products.shape[0] - 1
    for b in range(page.shape[0]):
        at = locate(words, w32, starts[page[b]], sizes)
        for k in range(kinds):
            first = offsets[b * kinds + k]
            if offsets[b * kinds + k + 1] > first:
                fill_product(words, w32, at, position[b], sizes, products[k], products[k + 1], sides, places, salts[k],
                             keys, first)  # fmt: skip


@kernel
def _fill(words: Any, w32: Any, f32: Any, now: Any, sizes: Any, reads: Any, offsets: Any, sides: Any,
          places: Any, salts: Any, priors: Any, half_lives: Any, neighbours: Any, base_key: Any, slots:
          Any, overlay: Any) -> None:  # fmt: skip
    at = locate(words, w32, 0, sizes)
    keys = np.empty(KEYS_MAX, np.uint64)
    near, held_n = np.empty(KEYS_MAX, np.float64), np.empty(KEYS_MAX, np.float64)
    held_s, held_t = np.empty(KEYS_MAX, np.float64), np.empty(KEYS_MAX, np.float64)
    n, s, _ = read_row(slots, overlay, base_key, now, 0.0)
    base = base_rate(n, s)
    f32[at[6]] = base
    for item in range(at[0]):
        for k in range(reads.shape[0]):
            first, last = offsets[k], offsets[k + 1]
            count = 0 if reads[k] == READ_MEMORY else count_product(w32, at, item, sizes, first, last, sides, places)
            value = np.nan
            if count > 0:
                fill_product(words, w32, at, item, sizes, first, last, sides, places, salts[k], keys, 0)
                for i in range(count):
                    held_n[i], held_s[i], held_t[i] = read_row(slots, overlay, keys[i], now, half_lives[k])
                value = measure(reads[k], held_n, held_s, held_t, 0, count, now, base, priors[k], neighbours[k], near)
            f32[at[8] + item * sizes[4] + k] = value


@kernel
def _expected(f32: Any, at: Any, position: Any, sizes: Any, reads: Any) -> Any:
    base = np.float64(f32[at[6]])
    if base != base:
        return 0.5
    expected = base
    for k in range(reads.shape[0]):
        value = np.float64(f32[at[8] + position * sizes[4] + k])
        if reads[k] == READ_RATE and value == value:
            expected += value - base
    return min(0.99, max(0.01, expected))


@kernel
def _learn(words: Any, w32: Any, f32: Any, starts: Any, page: Any, position: Any, labels: Any, weights: Any,
           reasons: Any, times: Any, sizes: Any, reads: Any, learns: Any, half_lives: Any, offsets: Any, keys: Any,
           slots: Any, fresh: Any, counts: Any) -> None:  # fmt: skip
    base_key = keys[keys.shape[0] - 1]
    for b in range(page.shape[0]):
        at = locate(words, w32, starts[page[b]], sizes)
        t = times[b]
        n, label, expected = weights[b], weights[b] * labels[b], 0.0
        if reasons[b] == LATE_POSITIVE or reasons[b] == RETRACTION:
            n, label = 0.0, 2.0 * labels[b] - 1.0
        else:
            expected = weights[b] * _expected(f32, at, position[b], sizes, reads)
        move_row(slots, base_key, n, label, t, 0.0, fresh, counts)
        for k in range(learns.shape[0]):
            if learns[k] == LEARN_MEMORY or learns[k] == LEARN_ORGANIC:
                continue
            moved = amount(learns[k], label, expected)
            for i in range(offsets[b * learns.shape[0] + k], offsets[b * learns.shape[0] + k + 1]):
                move_row(slots, keys[i], n, moved, t, half_lives[k], fresh, counts)
