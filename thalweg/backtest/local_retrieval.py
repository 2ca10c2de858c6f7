"""Retrieval in one process: the learner's lists and vectors, published as versions and read by the ranker's sources."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from learner.retrieval.item_retrieval import ItemRetrieval
from ranker.kernels.layered_table import LayeredTable, based_on
from ranker.kernels.retrieval import AttributeLists
from ranker.retrieval.attribute_lists import AttributePairs, ListBuilder, key_of, rows_of, values_of
from ranker.retrieval.candidates import Candidates, retrieve
from ranker.retrieval.install_counters import InstallCounter
from ranker.retrieval.item_columns import ONLY_SHOWN, ItemColumns
from ranker.retrieval.pools import Pools, Query, SweptItems
from ranker.retrieval.sources import ORDERS
from ranker.versions.learned_items import LearnedItems, learned_items
from ranker.versions.snapshot_validation import retrieval_change
from stream.events.types import Install, Item
from stream.features.page_features import Catalogue, Layout
from stream.features.user_rows import user_id_of
from stream.spec.retrieval import Retrieval
from stream.spec.spec import Spec
from stream.spec.values import duration_ms

EVERY: Final = 100  # installs between two versions; while there are few installs, a hundredth of them
DELTAS: Final = 32  # then a base is published


class LocalRetrieval:
    """`describe`, `show` and `install` in the order of the log; `publish` makes the next version, if it's time for one,
    and `candidates` are as of the last. Items' static popularity is left out: a log may have it from later events.
    """

    def __init__(self, spec: Spec, settings: Retrieval | None = None) -> None:
        """`settings`: in place of the spec's."""
        layout = Layout(spec)
        self.settings = settings or spec.retrieval
        self._learner = ItemRetrieval(self.settings, layout) if self.settings.is_learned else None
        self._layout = layout
        self._catalogue, self._columns = Catalogue(layout), ItemColumns()
        self._slots: dict[str, int] = {}
        self.retired: set[str] = set()  # not retrieved until described again, as in a ranker
        self._installs, self._impressions = np.zeros((2, 1024))
        self._lately = InstallCounter(float(duration_ms(self.settings.trending_half_life)))
        self._learned: LearnedItems | None = None
        self._unpublished: list[Install] = []
        self._pools, self._published, self._deltas = Pools(), 0, 0

    def describe(self, item: Item) -> None:
        """An item's record."""
        self.retired.discard(item.item)
        self._catalogue.put(item)
        self._put(item.item, 0.0)

    def retire(self, item: str) -> None:
        """An item's tombstone."""
        self.retired.add(item)
        self._catalogue.remove(item)

    def show(self, items: Iterable[str]) -> None:
        """A page's items; those that nobody described may be retrieved from now on."""
        for item in items:
            if item not in self._slots:
                self._put(item, ONLY_SHOWN)
            self._impressions[self._slots[item]] += 1

    def install(self, install: Install) -> None:
        """An install, or its retraction, of an item that was described or shown; others can't be retrieved."""
        if install.item in self._slots:
            self._unpublished.append(install)

    def erase(self, user: str) -> None:
        """Forget what the user installed; what it taught items stays, as in the learner."""
        self._learn()
        if self._learner:
            self._learner.erase(user_id_of(self._layout, user))

    def _put(self, name: str, popularity: float) -> None:
        self._columns.put(name, popularity)
        slot = self._slots.setdefault(name, len(self._slots))
        if slot == len(self._installs):
            self._installs, self._impressions = (
                np.append(of, np.zeros(slot)) for of in (self._installs, self._impressions)
            )

    def publish(self, time_ms: float) -> None:
        """Publish a version if there are enough new installs, or an item is new."""
        is_due = len(self._unpublished) >= min(EVERY, 1 + self._published // EVERY)
        if is_due:
            self._learn()
            if self._learner:
                self._learned = learned_items(self.settings, self._table(self._learner), self._learned)
        if is_due or self._columns.added > self._pools.added:
            self._pools = self._swept(time_ms)

    def _learn(self) -> None:
        """Learn the new installs."""
        new, self._unpublished = self._unpublished, []
        self._published += len(new)
        for one in new:
            self._installs[self._slots[one.item]] += -1 if one.retracted else 1
        if self._learner:
            self._learner.learn_named(new)

    def _table(self, learner: ItemRetrieval) -> LayeredTable:
        """The published rows: every so often a base, in between deltas."""
        changed, length, dim = learner.take_changed(), self.settings.list_length, self.settings.vector_dim
        if self._learned is None or changed is None or self._deltas == DELTAS:
            self._deltas = 0
            return based_on(("base",), retrieval_change(learner.payload(None), length, dim))
        self._deltas += 1
        change = retrieval_change(learner.payload(changed), length, dim)
        return self._learned.table.with_change((str(self._deltas),), change)

    def _swept(self, time_ms: float) -> Pools:
        """What the ranker's sweep finds, of all items at once."""
        columns, settings = self._columns, self.settings
        items = columns.slice(0, len(columns.names))
        installs, impressions = self._installs[: len(items.ids)], self._impressions[: len(items.ids)]
        lately = self._lately.update(0, items.ids, installs, 0.0, time_ms)
        share = lately.sum() / max(1.0, installs.sum())
        swept = SweptItems(items.popularity, installs, lately, share, impressions, items.added, settings)
        return pools_of(swept, columns, self._catalogue)

    def candidates(self, history: Sequence[str], request_id: str = "", settings: Retrieval | None = None) -> Candidates:
        """What is retrieved for a user with these items, oldest first. `settings`: other quotas."""
        view = self._learned.view if self._learned else None
        query = Query(request_id, history, settings or self.settings, self._pools, self._columns, self._catalogue, view)
        return retrieve(query, set(history), self.retired.__contains__)


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
