"""Streaming numbers per entity: moved by each label or organic install, read when a page is ranked, logged in it.

State is rows: key → weight of labels, sum, newest event time (ms). Kinds (`statistic_kinds.py`), with a row's
(n, s, t):

    rate      (s + prior·base) / (n + prior)        s: labels; base: the rate over everything
    count     log(1 + n)
    since     log(1 + seconds from t to the page)   missing before the first label
    residual  s / (n + prior)                       s: label − expected
    affinity  the residuals of (i, item) over i in the history: the strongest `neighbours`, sum / √count
    likeness  how labels of the item go together with the user's last `neighbours` ones: see `item_similarity.py`
    lift      how often the item is installed by those who have the user's last `neighbours` installs, over what chance
              leads to expect: see `item_lift.py`
    coec      (s + prior·base) / (n + prior·base)   s: labels; n: those that positions' rates lead to expect: see
                                                    `position_rates.py`

With a `half_life` n and s halve with each; with a `window` a row has the sums of that (`window_sums.py`).

*Expected* is what the page's logged rates say together (`label_expectation.py`); so what a label adds depends on its
page alone, and sums without decay don't depend on the order of labels. Pages from before any label move no residual.
A late positive or a retraction moves `s` by ± its weight and nothing else: as if the first label had been right. (A
likeness depends on the order of labels, and is corrected as long as the item is in the memory.)
Likenesses move about a hundred rows a label, lifts an install: they have a table and a bound of their own, so that they
never evict the rates of users and items.

A statistic of organic installs (`of = "organic"`) is a count or since that installs move and labels don't: each adds
1 to n and s. They move neither the base rate nor what is expected, so their order among labels doesn't matter.
One of all installs (`of = "installs"`) moves by them and by positive labels; a retraction takes its 1 away. So does a
lift, but it depends on the order of all of them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from stream.events.types import Organic
from stream.features.cross_products import compile_crosses
from stream.features.encoder import Batch
from stream.features.item_lift import learn_organic_lift
from stream.features.item_similarity import Outcomes, memory_rules
from stream.features.label_expectation import rates_of
from stream.features.page_features import Layout, id_of, seed_of
from stream.features.position_rates import POSITIONS, PositionRules
from stream.features.statistic_kernels import Layers, LearnRules, fill_page, keys_of, learn_labels
from stream.features.statistic_reads import StatisticRules
from stream.features.statistic_updates import move_organic, organic_keys
from stream.spec.columns import INSTALLS, ORGANIC_INSTALLS
from stream.spec.spec import Spec
from stream.spec.statistic_kinds import (
    LEARN_INSTALLS,
    LEARN_LIFT,
    LEARN_MEMORY,
    LEARN_ORGANIC,
    LEARN_RATIO,
    MEMORY_LEARNS,
    kind_of,
)
from stream.tables.dtypes import I64, U64
from stream.tables.eviction import Evictor
from stream.tables.hash_table import HashTable

WIDTH: Final = 4  # key; n, s, t as float64
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)


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
        learns = np.array([kind.learn for kind in kinds], np.int64)
        counts_installs = np.isin(of, INSTALLS) & ~np.isin(learns, MEMORY_LEARNS)
        self.organic: I64 = np.flatnonzero(counts_installs)  # those whose rows organic installs move
        learns = np.where(counts_installs, np.where(of == ORGANIC_INSTALLS, LEARN_ORGANIC, LEARN_INSTALLS), learns)
        self.rules = StatisticRules(
            reads=np.array([kind.read for kind in kinds], np.int64),
            priors=np.array([s.prior for s in stats.values()], np.float64),
            fades=np.array([s.fade_ms() for s in stats.values()], np.float64),
            neighbours=np.array([s.neighbours for s in stats.values()], np.int64),
        )
        self.base_key = np.uint64(seed_of("statistic of everything"))
        self.rows_max, self.likeness_rows_max = spec.max_statistics, spec.max_likenesses
        ratios = np.flatnonzero(learns == LEARN_RATIO)
        self.position_rows = len(ratios) * POSITIONS
        likenesses, lifts = (np.flatnonzero(learns == learn) for learn in (LEARN_MEMORY, LEARN_LIFT))
        neighbours = self.rules.neighbours
        self.memories: list[int] = np.flatnonzero(np.isin(learns, MEMORY_LEARNS)).tolist()
        self.learn_rules = LearnRules(
            self.sizes,
            learns,
            self.rules.fades,
            rates_of(list(stats.values())),
            PositionRules(ratios, self.crosses.salts[ratios], self.rules.priors[ratios], self.rules.fades[ratios]),
            memory_rules(self.crosses, neighbours, likenesses),
            memory_rules(self.crosses, neighbours, lifts),
        )
        self.lift_rows = int((2 * neighbours[lifts] + 4).sum())  # that an install moves at most
        self.memory_rows = int((neighbours[likenesses] + 2).sum()) + self.lift_rows  # that an example moves at most
        self._user_seed, self._item_seed = layout.seeds["user.id"], layout.seeds["item.id"]

    def fill(self, words: U64, time_ms: int, rows: Layers, likenesses: Layers) -> None:
        """Write the page's statistics and base rate, as of `time_ms`. An overlay's rows hide those of its slots.

        `likenesses` are the rows that likenesses have; both may be the same table.
        """
        fill_page(words, float(time_ms), self.sizes, self.crosses, self.rules, self.base_key, rows, likenesses)

    def keys_of(self, batch: Batch) -> StatisticKeys:
        """The keys that these examples' labels move."""
        return StatisticKeys(*keys_of(batch, self.sizes, self.crosses, self.base_key))

    @property
    def learns_organic(self) -> bool:
        """Whether organic installs move any statistic."""
        return len(self.organic) + self.lift_rows > 0

    def organic_ids(self, installs: Sequence[Organic]) -> U64:
        """User and item of each as pages have them. uint64 [B, 2]."""
        ids = [(id_of(self._user_seed, one.user), id_of(self._item_seed, one.item)) for one in installs]
        return np.array(ids, np.uint64).reshape(-1, 2)

    def organic_keys(self, ids: U64) -> U64:
        """The keys that installs by user and item move: b's of the j-th statistic of organic installs at b·O+j."""
        return organic_keys(ids, self.organic, self.crosses)


class Statistics:
    """The statistics of one learner or replay: a program and its tables, whose keys differ."""

    def __init__(
        self, program: StatisticsProgram, table: HashTable | None = None, likenesses: HashTable | None = None
    ) -> None:
        self.program = program
        self.table = HashTable(WIDTH) if table is None else table
        self.likenesses = HashTable(WIDTH) if likenesses is None else likenesses
        self.evictor, self.likeness_evictor = Evictor(program.rows_max), Evictor(program.likeness_rows_max)

    def rows(self) -> U64:
        """The rows of both tables, uint64 [n, WIDTH]."""
        return np.concatenate([self.table.rows(), self.likenesses.rows()])

    def fill(self, words: U64, time_ms: int) -> None:
        """Write the page's statistics as of `time_ms` into its words."""
        table, likenesses = self.table, self.likenesses
        self.program.fill(words, time_ms, Layers(table.old, table.slots), Layers(likenesses.old, likenesses.slots))

    def learn(self, batch: Batch, outcomes: Outcomes, keys: StatisticKeys | None = None) -> None:
        """Move the statistics by these examples, in order. Over the spec's bounds the least recently moved rows go.

        `keys`: what `keys_of` says of the batch, if it is known already.
        """
        program, table, likenesses = self.program, self.table, self.likenesses
        every, offsets = keys or program.keys_of(batch)
        moved = every[offsets[0] : offsets[-1] + 1]  # one more than these: room for the row of everything
        self.evictor.step(table, len(moved), 0)
        table.reserve_for(moved, program.position_rows)
        if program.memory_rows:
            unknown = len(outcomes.labels) * program.memory_rows
            self.likeness_evictor.step(likenesses, unknown, 0)
            likenesses.reserve_for(NO_KEYS, unknown)
        learn_labels(batch, outcomes, program.learn_rules, every, offsets, table.arrays, likenesses.arrays)

    def is_quiet(self, keys: int, examples: int) -> bool:
        """Whether `examples` that move `keys` rows can be learned in one step as in several: none is evicted."""
        program = self.program
        return self.evictor.is_quiet(
            self.table, keys + examples + program.position_rows
        ) and self.likeness_evictor.is_quiet(self.likenesses, examples * program.memory_rows)

    def learn_organic(self, installs: Sequence[Organic]) -> None:
        """Move the statistics that organic installs move by these, in order; the caller has dropped duplicates."""
        program, table, likenesses = self.program, self.table, self.likenesses
        if not installs or not program.learns_organic:
            return
        ids, times = program.organic_ids(installs), np.array([one.time_ms for one in installs], np.float64)
        keys = program.organic_keys(ids)
        self.evictor.step(table, len(keys), 0)
        table.reserve_for(keys)
        fades = np.tile(program.rules.fades[program.organic], len(installs))
        move_organic(table.arrays, keys, np.repeat(times, len(program.organic)), fades)
        unknown = len(installs) * program.lift_rows
        self.likeness_evictor.step(likenesses, unknown, 0)
        likenesses.reserve_for(NO_KEYS, unknown)
        for rule in program.learn_rules.lifts:
            learn_organic_lift(ids, times, rule, likenesses.arrays)
