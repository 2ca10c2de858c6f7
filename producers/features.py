"""Features, as a ranker would log them, for pages that have none. Pure: events in, events out; no clock, no I/O.

The features of a page use only what a ranker would have known at that offset of the log: the joiner's histories, and
statistics of the labels and organic installs that the joiner has emitted. So a join runs here, one per partition,
and a label updates the statistics only when that join emits it. A page's features are built before the page is
joined: the windows that its arrival closes aren't known yet.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from producers.source import WorldEvent
from stream.events.codec import encode, organic_id
from stream.events.types import EVENT_BYTES_MAX, Examples, Impression, Install, Item, Organic, SourceEvent, User, Value
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, words_of
from stream.features.page_kernels import UserColumns
from stream.features.statistics import Statistics, StatisticsProgram
from stream.history.histories import MEMBERS_MAX
from stream.joiner.join import Joiner
from stream.joiner.label_rules import label_rules
from stream.log.protocol import partition_of
from stream.runtime.errors import BadEvent
from stream.runtime.settings import DEDUP_IDS
from stream.spec.spec import Spec


class JoinedEvent(NamedTuple):
    """An event as written to the log, and what the joiner emits for it."""

    event: WorldEvent
    examples: list[Examples]
    organic: Sequence[Organic] = ()  # if the spec has a statistic of organic installs


class Histories:
    """Each user's items as the joiner retains them: an item once, at its newest time; ordered by time, then item."""

    def __init__(self) -> None:
        self._times: dict[str, dict[str, int]] = {}
        self._orders: dict[str, list[tuple[int, str]]] = {}

    def update(self, install: Install) -> None:
        """Add the item to the user's history; a retraction removes it."""
        times = self._times.setdefault(install.user, {})
        order = self._orders.setdefault(install.user, [])
        known_ms = times.get(install.item)
        if known_ms is not None:
            if not install.retracted and install.time_ms <= known_ms:
                return
            del order[bisect_left(order, (known_ms, install.item))]
            del times[install.item]
        if install.retracted:
            return
        times[install.item] = install.time_ms
        insort(order, (install.time_ms, install.item))
        if len(order) > MEMBERS_MAX:
            del times[order.pop(0)[1]]

    def newest(self, user: str, last: int) -> list[str]:
        """The newest `last` items, newest last."""
        return [item for _, item in self._orders.get(user, [])[-last:]]


class FeatureBuilder:
    """Builds the features of pages. `process` every event in the order of the log.

    `statistics` equal those of a learner that has learned all examples emitted so far.
    """

    def __init__(self, spec: Spec, partitions: int) -> None:
        self.layout = Layout(spec)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.catalogue = Catalogue(self.layout)
        self.histories = Histories()
        self._attributes: dict[str, dict[str, Value]] = {}
        self._columns: dict[str, UserColumns] = {}  # of pages without context; valid until history or attributes change
        rules = label_rules(spec)
        self._joiners = [Joiner(rules) for _ in range(partitions)]
        self._emits_organic = rules.organic_examples
        self._offset = 0
        self._recent_ids: set[int] = set()  # for deduplication, in two generations
        self._older_ids: set[int] = set()

    def process(self, event: WorldEvent) -> JoinedEvent:
        """The event, a page with its features, and what the joiner emits for it when it arrives without delay.

        A page that has features keeps them. Raises BadEvent, and changes nothing, when joiner or learner would
        reject the page.
        """
        if isinstance(event, Item):
            self.catalogue.put(event)
            return JoinedEvent(event, [])
        if isinstance(event, User):
            self._attributes[event.user] = event.attributes
            self._columns.pop(event.user, None)
            return JoinedEvent(event, [])
        if isinstance(event, Impression):
            event = self._with_features(event)
        if isinstance(event, Impression | Install):
            partitions: Sequence[int] = [partition_of(event.user, len(self._joiners))]
        else:
            partitions = range(len(self._joiners))
        emitted, organic = list[Examples](), list[Organic]()
        for partition in partitions:
            emitted += self._join(partition, event)
            organic += self._joiners[partition].organic if self._emits_organic else ()
        if isinstance(event, Install):
            self.histories.update(event)
            self._columns.pop(event.user, None)
        for examples in emitted:
            self._learn(examples)
        self.statistics.learn_organic([one for one in organic if self._is_new(organic_id(one.user, one.install_id))])
        return JoinedEvent(event, emitted, organic)

    def _join(self, partition: int, event: SourceEvent) -> list[Examples]:
        self._offset += 1
        return self._joiners[partition].feed([event], self._offset, event.time_ms)

    def _with_features(self, page: Impression) -> Impression:
        if page.features:
            words_of(page.features, self.layout, len(page.items))
        else:
            words = build_page(self.layout, self._user(page), self.catalogue, self.catalogue.rows(page.items))
            self.statistics.fill(words, page.time_ms)
            page = msgspec.structs.replace(page, features=words.tobytes())
        size = len(encode(page))
        if size > EVENT_BYTES_MAX:
            raise BadEvent(
                f"with its features the page has {size} bytes, over {EVENT_BYTES_MAX}: show fewer items on one page"
            )
        return page

    def _user(self, page: Impression) -> UserColumns:
        known = None if page.context else self._columns.get(page.user)
        if known is None:
            history = self.histories.newest(page.user, self.layout.history_last) if self.layout.history else []
            known = self.layout.user(page.user, self._attributes.get(page.user, {}), history, page.context)
            if not page.context:
                self._columns[page.user] = known
        return known

    def _learn(self, examples: Examples) -> None:
        """Update the statistics as the learner does, which drops duplicates."""
        new = [row for row, example in enumerate(examples.ids) if self._is_new(example)]
        if not new:
            return
        words = np.frombuffer(examples.page.features, np.uint64)
        n = len(new)
        batch = Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), _column(examples.positions, new, np.int64))
        outcomes = Outcomes(
            _column(examples.labels, new, np.float64),
            _column(examples.weights, new, np.float64),
            _column(examples.reasons, new, np.int64),
            np.full(n, float(examples.page.time_ms)),
        )
        self.statistics.learn(batch, outcomes)

    def _is_new(self, example: int) -> bool:
        if example in self._recent_ids or example in self._older_ids:
            return False
        if len(self._recent_ids) >= DEDUP_IDS:
            self._older_ids, self._recent_ids = self._recent_ids, set()
        self._recent_ids.add(example)
        return True


def _column(values: Sequence[float], rows: Sequence[int], kind: type[np.generic]) -> Any:
    return np.array([values[row] for row in rows], kind)
