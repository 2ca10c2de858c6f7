"""Statistics of the labels that a replay's joiners emit, each example once."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

import numpy as np

from stream.events.codec import organic_id
from stream.events.types import Examples, Organic
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.statistics import Statistics, StatisticsProgram
from stream.runtime.settings import DEDUP_IDS


class LabelStatistics(Statistics):
    """Statistics that equal those of a learner that has learned the same examples: duplicates are dropped."""

    def __init__(self, program: StatisticsProgram) -> None:
        super().__init__(program)
        self._recent_ids: set[int] = set()  # in two generations
        self._older_ids: set[int] = set()

    def learn_labels(self, emitted: Sequence[Examples]) -> None:
        """Learn the labels of one event, in order."""
        ids = [example for examples in emitted for example in examples.ids]
        columns = _columns(emitted)
        if not self._add_all(ids):
            new = np.array([*map(self._is_new, ids)], np.bool_)
            if not new.any():
                return
            columns = [column[new] for column in columns]
        pages, positions, labels, weights, reasons, times = columns
        raws = [examples.page.features for examples in emitted]
        starts = [*accumulate([len(raw) // 8 for raw in raws[:-1]], initial=0)]
        batch = Batch(np.frombuffer(b"".join(raws), np.uint64), np.array(starts), pages, positions)
        self.learn(batch, Outcomes(labels, weights, reasons, times))

    def learn_installs(self, installs: Sequence[Organic]) -> None:
        """Learn organic installs, in order."""
        self.learn_organic([one for one in installs if self._is_new(organic_id(one.user, one.install_id))])

    def _add_all(self, ids: Sequence[int]) -> bool:
        """Remember these ids if all are new and this generation has room for them; else none."""
        recent, distinct = self._recent_ids, set(ids)
        if len(distinct) < len(ids) or len(recent) + len(ids) > DEDUP_IDS:
            return False
        if not (recent.isdisjoint(ids) and self._older_ids.isdisjoint(ids)):
            return False
        recent |= distinct
        return True

    def _is_new(self, example: int) -> bool:
        if example in self._recent_ids or example in self._older_ids:
            return False
        if len(self._recent_ids) >= DEDUP_IDS:
            self._older_ids, self._recent_ids = self._recent_ids, set()
        self._recent_ids.add(example)
        return True


def _columns(emitted: Sequence[Examples]) -> list[Any]:
    """Pages, positions, labels, weights, reasons and times of these examples, as `Statistics.learn` takes them."""
    if len(emitted) == 1:
        (one,) = emitted
        columns = _page_columns(tuple(one.positions), tuple(one.labels), tuple(one.weights), tuple(one.reasons))
        return [*columns, np.full(len(one.ids), float(one.page.time_ms))]
    pages = np.repeat(np.arange(len(emitted)), [len(examples.ids) for examples in emitted])
    names = ("positions", np.int64), ("labels", np.float64), ("weights", np.float64), ("reasons", np.int64)
    return [
        pages,
        *(np.array([*chain.from_iterable(map(attrgetter(name), emitted))], kind) for name, kind in names),
        np.array([examples.page.time_ms for examples in emitted], np.float64)[pages],
    ]


@lru_cache(256)
def _page_columns(
    positions: tuple[int, ...], labels: tuple[int, ...], weights: tuple[float, ...], reasons: tuple[int, ...]
) -> list[Any]:
    """Of one page's examples, all but their time: most pages are wholly negative, and so alike."""
    return [
        np.zeros(len(positions), np.int64),
        np.array(positions, np.int64),
        np.array(labels, np.float64),
        np.array(weights, np.float64),
        np.array(reasons, np.int64),
    ]
