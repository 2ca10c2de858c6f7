"""Features, as a ranker would log them, for pages that have none. Pure: events in, events out; no clock, no I/O.

The features of a page use only what a ranker would have known at that offset of the log: the joiner's histories, and
statistics of the labels and organic installs that the joiner has emitted. So a join runs here, one per partition,
and a label updates the statistics only when that join emits it. A page's features are built before the page is
joined: the windows that its arrival closes aren't known yet.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from producers.label_statistics import LabelStatistics
from producers.source import WorldEvent
from stream.events.codec import encode_record
from stream.events.types import (
    EVENT_BYTES_MAX,
    Erase,
    Examples,
    Impression,
    Install,
    Item,
    Organic,
    User,
    Value,
)
from stream.features.page_features import Catalogue, Layout, build_page, words_of
from stream.features.page_kernels import UserColumns
from stream.features.statistics import StatisticsProgram
from stream.features.user_rows import erase_statistics, user_id_of
from stream.history.histories import MEMBERS_MAX
from stream.joiner.join import Joiner
from stream.joiner.label_rules import label_rules
from stream.joiner.labels import PageLabels, label_page
from stream.joiner.output_records import partition_of_user
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from stream.tables.dtypes import U64

ALL: Final = -1  # partitions


class CandidatePage(NamedTuple):
    """What a page could have shown, with features as of its time: first the candidates, then what else it shows."""

    words: U64
    size: int  # how many are candidates
    shown: list[int]  # index of each item of the page


class JoinedEvent(NamedTuple):
    """An event as written to the log, and what the joiner emits for it."""

    event: WorldEvent
    examples: list[Examples]
    organic: Sequence[Organic] = ()  # if a statistic of the spec learns organic installs
    candidates: CandidatePage | None = None


class PreparedEvent(NamedTuple):
    """An event with its features, but for their statistics."""

    event: WorldEvent
    record: bytes = b""  # the event as the joiner reads it; empty: it doesn't
    time_ms: int = 0
    partition: int = ALL
    words: U64 | None = None  # features of a page that has none
    candidates: CandidatePage | None = None


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

    def erase(self, event: Erase) -> None:
        """Erase what the user installed up to then."""
        left = [(time_ms, item) for time_ms, item in self._orders.pop(event.user, []) if time_ms > event.time_ms]
        self._orders[event.user], self._times[event.user] = left, {item: time_ms for time_ms, item in left}

    def newest(self, user: str, last: int) -> list[str]:
        """The newest `last` items, newest last."""
        return [item for _, item in self._orders.get(user, [])[-last:]]


class FeatureBuilder:
    """Builds the features of pages. `process` every event in the order of the log.

    `statistics` equal those of a learner that has learned all examples emitted so far. With `candidates` pages have a
    `CandidatePage`, too.
    """

    def __init__(self, spec: Spec, partitions: int, candidates: "Candidates | None" = None) -> None:
        self._candidates = candidates
        self.layout = Layout(spec)
        self.statistics = LabelStatistics(StatisticsProgram(spec, self.layout))
        self.catalogue = Catalogue(self.layout)
        self.histories = Histories()
        self._attributes: dict[str, dict[str, Value]] = {}
        self._columns: dict[str, UserColumns] = {}  # of pages without context; valid until history or attributes change
        rules = label_rules(spec)
        self._joiners = [Joiner(rules) for _ in range(partitions)]
        self._emits_organic = rules.organic_examples
        self._offset = 0  # of the next event
        self._pages: dict[int, Impression] = {}  # that labels may still name, by offset
        self._page_offsets: deque[int] = deque()

    def process(self, event: WorldEvent) -> JoinedEvent:
        """The event, a page with its features, and what the joiner emits for it when it arrives without delay.

        A page that has features keeps them. Raises BadEvent, and changes nothing, when joiner or learner would
        reject the page.
        """
        return self.join([self.prepare(event)])[0]

    def prepare(self, event: WorldEvent) -> PreparedEvent:
        """The first half of `process`: prepare events in the order of the log, then `join` them in the same order.

        Raises BadEvent as `process` does.
        """
        if isinstance(event, Item):
            self.catalogue.put(event)
            return PreparedEvent(event)
        if isinstance(event, User):
            self._attributes[event.user] = event.attributes
            self._columns.pop(event.user, None)
            return PreparedEvent(event)
        if isinstance(event, Impression):
            return self._prepare_page(event)
        if isinstance(event, Install):
            self.histories.update(event)
            self._columns.pop(event.user, None)
            return PreparedEvent(event, encode_record([event]), event.time_ms, self._partition(event.user))
        if isinstance(event, Erase):
            self.histories.erase(event)
            self._attributes.pop(event.user, None)
            self._columns.pop(event.user, None)
            return PreparedEvent(event, encode_record([event]), event.time_ms, self._partition(event.user))
        return PreparedEvent(event, encode_record([event]), event.time_ms)

    def retire(self, item: str) -> None:
        """Forget what describes an item, as a ranker does that reads its tombstone: pages prepared before keep it."""
        self.catalogue.remove(item)

    def prepare_candidates(self, page: Impression) -> PreparedEvent:
        """Candidates to be ranked now, as a page that isn't in the log: `join` gives it its statistics, no label."""
        rows = self.catalogue.rows(page.items)
        words = build_page(self.layout, self._user(page), self.catalogue, rows, page.time_ms)
        return PreparedEvent(page, time_ms=page.time_ms, words=words)

    def join(self, prepared: Sequence[PreparedEvent]) -> list[JoinedEvent]:
        """Join prepared events. Which labels an event leads to doesn't depend on features: so all are joined first.

        Then each page gets its statistics, and each event's labels move them, one after the other.
        """
        labels, organic = self._join(prepared)
        joined = []
        for number, one in enumerate(prepared, self._offset):
            event, words = one.event, one.words
            if isinstance(event, Impression):
                if words is not None:
                    self.statistics.fill(words, event.time_ms)
                    event = msgspec.structs.replace(event, features=words.tobytes())
                if one.candidates:
                    self.statistics.fill(one.candidates.words, event.time_ms)
                self._pages[number] = event
                self._page_offsets.append(number)
            examples = [label_page(self._pages[of.offset], of) for of in labels.get(number, ())]
            if examples:
                self.statistics.learn_labels(examples)
            installs = organic.get(number, ())
            if installs:
                self.statistics.learn_installs(installs)
            if isinstance(event, Erase):
                user, others = user_id_of(self.layout, event.user), np.unique(self.catalogue.ids)
                erase_statistics(self.statistics, self.layout, user, others)
            joined.append(JoinedEvent(event, examples, installs, one.candidates))
        self._offset += len(prepared)
        self._drop_pages()
        return joined

    def _join(self, prepared: Sequence[PreparedEvent]) -> tuple[dict[int, list[PageLabels]], dict[int, list[Organic]]]:
        """Labels and organic installs that the events lead to, by offset, where there are any."""
        labels, organic = dict[int, list[PageLabels]](), dict[int, list[Organic]]()
        for partition, joiner in enumerate(self._joiners):
            chosen = [
                (offset, one.record, one.time_ms)
                for offset, one in enumerate(prepared, self._offset)
                if one.record and one.partition in (partition, ALL)
            ]
            offsets, records, times_ms = zip(*chosen, strict=True) if chosen else ((), (), ())
            for offset, output in zip(offsets, joiner.join_apart(records, offsets, times_ms), strict=True):
                if output.labels:
                    labels.setdefault(offset, []).extend(output.labels)
                if output.organic and self._emits_organic:
                    organic.setdefault(offset, []).extend(output.organic)
        return labels, organic

    def _partition(self, user: str) -> int:
        return partition_of_user(user, len(self._joiners)) if len(self._joiners) > 1 else 0

    def _drop_pages(self) -> None:
        """Drop the pages that no label can name any more."""
        needed = [joiner.oldest_needed_offset() for joiner in self._joiners]
        oldest = min((offset for offset in needed if offset is not None), default=self._offset)
        while self._page_offsets and self._page_offsets[0] < oldest:
            del self._pages[self._page_offsets.popleft()]

    def _prepare_page(self, page: Impression) -> PreparedEvent:
        record, words = encode_record([page]), None
        names = self._candidates(self, page) if self._candidates else None  # known before this page shows its items
        size = len(record) - 1
        if page.features:
            words_of(page.features, self.layout, len(page.items))
        else:
            rows = self.catalogue.rows(page.items)
            words = build_page(self.layout, self._user(page), self.catalogue, rows, page.time_ms)
            size += words.nbytes + (words.nbytes > 0xFF) + 2 * (words.nbytes > 0xFFFF)  # a longer head
        if size > EVENT_BYTES_MAX:
            raise BadEvent(
                f"with its features the page has {size} bytes, over {EVENT_BYTES_MAX}: show fewer items on one page"
            )
        candidates = None if names is None else self._candidate_page(page, names)
        return PreparedEvent(page, record, page.time_ms, self._partition(page.user), words, candidates)

    def _candidate_page(self, page: Impression, names: Sequence[str]) -> CandidatePage:
        index = {name: i for i, name in enumerate(dict.fromkeys([*names, *page.items]))}
        rows = self.catalogue.rows([*index])
        words = build_page(self.layout, self._user(page), self.catalogue, rows, page.time_ms)
        return CandidatePage(words, len(names), [index[item] for item in page.items])

    def _user(self, page: Impression) -> UserColumns:
        known = None if page.context else self._columns.get(page.user)
        if known is None:
            history = self.histories.newest(page.user, self.layout.history_last) if self.layout.history else []
            known = self.layout.user(page.user, self._attributes.get(page.user, {}), history, page.context)
            if not page.context:
                self._columns[page.user] = known
        return known


Candidates = Callable[[FeatureBuilder, Impression], Sequence[str]]  # names those of a page by what is known before it
