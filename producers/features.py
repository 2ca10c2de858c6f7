"""The ranker's part for pages that carry no features. Pure: events in, events out; no clock, no I/O.

What the features of a page may know is what a ranker would have known at that place in the log: histories as
the joiner keeps them, and statistics of those labels and organic installs that the joiner has emitted. So it runs
a join of its own, one per partition as the joiner does, and a label moves the statistics only when that join emits
it. A page's features are made before the page itself is joined: what its own arrival closes isn't known yet.
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
from stream.features.page_features import Catalogue, Layout, UserColumns, build_page, words_of
from stream.features.statistics import Statistics, StatisticsProgram
from stream.history.histories import MEMBERS_MAX
from stream.joiner.join import Joiner
from stream.joiner.label_rules import label_rules
from stream.log.protocol import partition_of
from stream.runtime.errors import BadEvent
from stream.runtime.settings import DEDUP_IDS
from stream.spec.spec import Spec


class Taken(NamedTuple):
    """An event as it goes into the log, and what the joiner writes to `examples` because of it."""

    event: WorldEvent
    examples: list[Examples]
    organic: Sequence[Organic] = ()  # where the spec wants them there


class Histories:
    """What each user has, as the joiner keeps it: an item once, at its newest time; by time, equal times by item."""

    def __init__(self) -> None:
        self._times: dict[str, dict[str, int]] = {}
        self._orders: dict[str, list[tuple[int, str]]] = {}

    def move(self, install: Install) -> None:
        """The user has the item now; after a retraction no longer."""
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


class FeatureMaker:
    """Gives pages their features. `take` every event in the order in which it goes into the log.

    `statistics` are those that a learner has when it has learned all examples told so far.
    """

    def __init__(self, spec: Spec, partitions: int) -> None:
        self.layout = Layout(spec)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.catalogue = Catalogue(self.layout)
        self.histories = Histories()
        self._attributes: dict[str, dict[str, Value]] = {}
        self._columns: dict[str, UserColumns] = {}  # without context; until history or attributes move
        rules = label_rules(spec)
        self._joiners = [Joiner(rules) for _ in range(partitions)]
        self._organic_wanted = rules.organic_examples
        self._offset = 0
        self._young: set[int] = set()
        self._old: set[int] = set()

    def take(self, event: WorldEvent) -> Taken:
        """The event, a page with its features, and what the joiner tells when it comes as it happens.

        A page that has features keeps them. Raises BadEvent when the joiner or the learner couldn't take
        the page; then nothing has changed.
        """
        if isinstance(event, Item):
            self.catalogue.put(event)
            return Taken(event, [])
        if isinstance(event, User):
            self._attributes[event.user] = event.attributes
            self._columns.pop(event.user, None)
            return Taken(event, [])
        if isinstance(event, Impression):
            event = self._with_features(event)
        if isinstance(event, Impression | Install):
            partitions: Sequence[int] = [partition_of(event.user, len(self._joiners))]
        else:
            partitions = range(len(self._joiners))
        said, organic = list[Examples](), list[Organic]()
        for partition in partitions:
            said += self._feed(partition, event)
            organic += self._joiners[partition].organic if self._organic_wanted else ()
        if isinstance(event, Install):
            self.histories.move(event)
            self._columns.pop(event.user, None)
        for examples in said:
            self._learn(examples)
        self.statistics.learn_organic([one for one in organic if self._is_new(organic_id(one.user, one.install_id))])
        return Taken(event, said, organic)

    def _feed(self, partition: int, event: SourceEvent) -> list[Examples]:
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
        """Move the statistics, as the learner does: an example once."""
        new = [row for row, example in enumerate(examples.ids) if self._is_new(example)]
        if not new:
            return
        words = np.frombuffer(examples.page.features, np.uint64)
        n = len(new)
        batch = Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), _column(examples.positions, new, np.int64))
        self.statistics.learn(
            batch,
            _column(examples.labels, new, np.float64),
            _column(examples.weights, new, np.float64),
            _column(examples.reasons, new, np.int64),
            np.full(n, float(examples.page.time_ms)),
        )

    def _is_new(self, example: int) -> bool:
        if example in self._young or example in self._old:
            return False
        if len(self._young) >= DEDUP_IDS:
            self._old, self._young = self._young, set()
        self._young.add(example)
        return True


def _column(values: Sequence[float], rows: Sequence[int], kind: type[np.generic]) -> Any:
    return np.array([values[row] for row in rows], kind)
