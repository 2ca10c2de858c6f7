"""Retrieval in one process: what the learner keeps, published every few installs, and read by the ranker's sources."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from learner.retrieval.item_retrieval import ItemRetrieval
from producers.source import WorldEvent
from ranker.kernels.layered_table import LayeredTable, based_on
from ranker.kernels.retrieval import AttributeLists
from ranker.retrieval.attribute_lists import AttributePairs, ListBuilder, key_of, rows_of, values_of
from ranker.retrieval.candidates import Candidates, retrieve
from ranker.retrieval.install_counters import InstallCounter
from ranker.retrieval.item_columns import ItemColumns
from ranker.retrieval.pools import Pools, Query, SweptItems
from ranker.retrieval.sources import ORDERS
from ranker.versions.learned_items import LearnedItems, learned_items
from ranker.versions.snapshot_validation import retrieval_change
from stream.events.types import Impression, Install, Item, Organic
from stream.features.page_features import Catalogue, Layout
from stream.spec.retrieval import Retrieval
from stream.spec.spec import Spec
from stream.spec.values import duration_ms

EVERY: Final = 100  # installs between two versions
DELTAS: Final = 32  # then a base is published


class Rating(NamedTuple):
    """What a user was shown, when (s), and whether they installed it."""

    user: str
    item: str
    time_s: int
    is_install: bool


def ratings_of(events: Sequence[WorldEvent]) -> list[Rating]:
    """Pages of one item, in order; a page's install counts at the page's second."""
    installed = {event.request_id for event in events if isinstance(event, Install)}
    return [
        Rating(event.user, event.items[0], event.time_ms // 1_000, event.request_id in installed)
        for event in events
        if isinstance(event, Impression)
    ]


class RetrievalService:
    """`learn` installs and impressions in order; `candidates` are as of the last version, which `publish` makes."""

    def __init__(self, spec: Spec, items: Sequence[Item], settings: Retrieval) -> None:
        layout = Layout(spec)
        self.settings, self._learner = settings, ItemRetrieval(settings, layout)
        self._catalogue, self._columns = Catalogue(layout), ItemColumns()
        for item in items:
            self._catalogue.put(item)
            self._columns.put(item.item, 0.0)  # nothing is known of later ratings
        self._slots = {name: slot for slot, name in enumerate(self._columns.names)}
        self._installs, self._impressions = np.zeros((2, len(self._slots)))
        self._lately = InstallCounter(float(duration_ms(settings.trending_half_life)))
        self._learned: LearnedItems | None = None
        self._pools, self._unpublished, self._deltas = Pools(), EVERY, 0

    def learn(self, ratings: Sequence[Rating]) -> None:
        """Learn what was shown and installed."""
        for rating in ratings:
            self._impressions[self._slots[rating.item]] += 1
        installed = [rating for rating in ratings if rating.is_install]
        for rating in installed:
            self._installs[self._slots[rating.item]] += 1
        if installed:
            self._learner.learn_organic([Organic(r.user, r.item, 1_000 * r.time_s, "") for r in installed])
        self._unpublished += len(installed)

    def publish(self, time_s: int) -> None:
        """Publish a version if EVERY installs were learned since the last one."""
        if self._unpublished >= EVERY:
            self._unpublished = 0
            table = self._table()
            self._learned = learned_items(self.settings, table, self._learned)
            self._pools = self._swept(1_000.0 * time_s)

    def _table(self) -> LayeredTable:
        """The published rows: every so often a base, in between deltas."""
        changed, length, dim = self._learner.take_changed(), self.settings.list_length, self.settings.vector_dim
        if self._learned is None or changed is None or self._deltas == DELTAS:
            self._deltas = 0
            return based_on(("base",), retrieval_change(self._learner.payload(None), length, dim))
        self._deltas += 1
        change = retrieval_change(self._learner.payload(changed), length, dim)
        return self._learned.table.with_change((str(self._deltas),), change)

    def _swept(self, time_ms: float) -> Pools:
        """What the ranker's sweep finds, of all items at once."""
        columns, settings = self._columns, self.settings
        items = columns.slice(0, len(columns.names))
        lately = self._lately.update(0, items.ids, self._installs, 0.0, time_ms)
        share = lately.sum() / max(1.0, self._installs.sum())
        swept = SweptItems(items.popularity, self._installs, lately, share, self._impressions, items.added, settings)
        return pools_of(swept, columns, self._catalogue)

    def candidates(self, history: Sequence[str], settings: Retrieval) -> Candidates:
        """What is retrieved for a user with these items, oldest first, under other quotas."""
        view = self._learned.view if self._learned else None
        query = Query("", history, settings, self._pools, self._columns, self._catalogue, view)
        return retrieve(query, set(history), lambda _: False)


def pools_of(swept: SweptItems, columns: ItemColumns, catalogue: Catalogue, best: int | None = None) -> Pools:
    """What the ranker's sweep finds, of all items at once; of each order the `best` ones."""
    names, orders = columns.names, {}
    for source, order in ORDERS.items():
        keys = order(swept)
        slots = np.lexsort([*(-key for key in reversed(keys))])
        orders[source] = [names[slot] for slot in slots[keys[0][slots] > -np.inf][:best].tolist()]
    lists = _by_value(swept, names, catalogue) if swept.settings.same else Pools().by_value
    return Pools(orders, lists, columns.added)


def _by_value(swept: SweptItems, names: Sequence[str], catalogue: Catalogue) -> AttributeLists:
    values, of = values_of(catalogue, rows_of(catalogue, names), swept.settings.same_by)
    builder = ListBuilder()
    builder.add(AttributePairs(values, of, key_of(swept.installs, np.zeros(len(names)))[of]))
    while not builder.finish():
        pass
    return builder.lists()
