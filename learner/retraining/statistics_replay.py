"""Statistics that a spec adds, computed for pages that were logged without them, each as of its page's time.

Labels are replayed in the log's order. When a positive was emitted isn't in the log, but when a window closed is; and a
record was emitted no later than those behind it. So a page's statistics have learned the records that are sure to be
earlier than the page: none of its own labels, and not always what was emitted just before it was shown.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from msgspec.structs import replace

from learner.training.example_batch import batch_of
from stream.events.types import WINDOW_CLOSED, Erase, Examples, Organic, TrainingEvent
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Layout
from stream.features.page_kernels import open_page
from stream.features.statistics import Statistics, StatisticsProgram
from stream.features.user_rows import erase_statistics, user_id_of
from stream.spec.spec import Spec
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, U64
from stream.tables.hash_table import HashTable

Events = Sequence[TrainingEvent]
PageKey = tuple[str, str, int]  # user, request id, time


def page_key(examples: Examples) -> PageKey:
    """What identifies the page; further records may have other examples of it."""
    return examples.page.user, examples.page.request_id, examples.page.time_ms


class StatisticsReplay:
    """Replays records under a spec. `computed`: which of its statistics pages lack. `everything`: rows u64[n, 4] of the
    live model's statistics to begin with, such as that of the base rate.
    """

    def __init__(self, spec: Spec, computed: Sequence[int], everything: U64) -> None:
        self._layout, self._computed = Layout(spec), list(computed)
        label = spec.label
        closes_ms = duration_ms(label.window) + duration_ms(label.lateness)
        self._closes_ms = 0 if label.policy == "fake_negative" else closes_ms  # from a page to its negatives, at most
        self.statistics = Statistics(StatisticsProgram(spec, self._layout))
        self.statistics.table.put(everything)

    def run(self, records: Sequence[Events], pages: dict[PageKey, U64]) -> None:
        """Write the computed statistics into `pages`, the words of each page of the records, and learn all records."""
        emitted_ms = list(accumulate(map(self._emitted_ms, reversed(records)), min))[::-1]
        learned = 0
        for key in sorted(pages, key=lambda of: of[2]):
            while learned < len(records) and emitted_ms[learned] < key[2]:
                self._learn(records[learned], pages)
                learned += 1
            self._fill(pages[key], key[2])
        for record in records[learned:]:
            self._learn(record, pages)

    def _emitted_ms(self, record: Events) -> float:
        """When the record was emitted, at the latest; for all that it says itself."""
        times = [
            event.page.time_ms + self._closes_ms
            for event in record
            if isinstance(event, Examples) and WINDOW_CLOSED in event.reasons
        ]
        return min(times, default=math.inf)

    def _fill(self, words: U64, time_ms: int) -> None:
        scratch = words.copy()
        self.statistics.fill(scratch, time_ms)
        self._statistics_of(words)[:, self._computed] = self._statistics_of(scratch)[:, self._computed]

    def _statistics_of(self, words: U64) -> F32:
        page = open_page(words, self._layout.size_array)
        at = page.at
        count = at.items * at.sizes.statistics
        of: F32 = page.f32[at.statistics : at.statistics + count].reshape(at.items, at.sizes.statistics)
        return of

    def _learn(self, record: Events, pages: dict[PageKey, U64]) -> None:
        examples = [
            replace(event, page=replace(event.page, features=pages[page_key(event)].tobytes()))
            for event in record
            if isinstance(event, Examples) and page_key(event) in pages
        ]
        batch = batch_of([examples], self._layout, 1).examples
        if len(batch):
            outcomes = Outcomes(
                batch.labels.astype(np.float64), batch.weights.astype(np.float64), batch.reasons, batch.time_ms
            )
            self.statistics.learn(batch.pages, outcomes)
        self.statistics.learn_organic([event for event in record if isinstance(event, Organic)])
        for event in record:
            if isinstance(event, Erase):
                self._erase(event.user, pages)

    def _erase(self, user: str, pages: dict[PageKey, U64]) -> None:
        """As a learner does; what the user was crossed with is in the user's pages."""
        words = [words for key, words in pages.items() if key[0] == user]
        others = np.unique(np.concatenate([np.zeros(0, np.uint64), *words]))
        erase_statistics(self.statistics, self._layout, user_id_of(self._layout, user), others)


def add_missing_rows(target: Statistics, source: Statistics) -> None:
    """Add the rows whose keys `target` doesn't have: those of statistics that are new, most of all."""
    for table, other in ((target.table, source.table), (target.likenesses, source.likenesses)):
        _add_missing(table, other.rows())


def _add_missing(table: HashTable, rows: U64) -> None:
    if len(rows):
        table.put(rows[~table.contains(rows[:, 0].copy())])
