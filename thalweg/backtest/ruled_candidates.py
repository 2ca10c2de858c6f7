"""What targets may show on the pages of a log: the ranker's own rules, by what was known when a page was shown."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from producers.features import FeatureBuilder
from producers.source import SourceElement
from ranker.ranking.page_candidates import under_rules
from ranker.ranking.selection import FreePlaces, Places
from ranker.retrieval.candidates import Candidates
from ranker.rules.item_tests import ItemRows, item_rows
from ranker.rules.page_rules import PageRules
from ranker.rules.rulebook import Rulebook
from stream.events.types import Erase, Impression, Item, RankRequest, RetiredItem, User, Value
from stream.history.histories import MEMBERS_MAX
from stream.runtime.errors import BadEvent
from stream.spec.rules import Installed
from stream.spec.spec import Spec
from stream.tables.dtypes import F64, Bools


class RuledPage(NamedTuple):
    """One page under a target's rules: its candidates, then what else the log shows on it."""

    items: ItemRows  # [n]
    free: Bools  # bool[n], which ones filters leave to the target
    rules: PageRules

    def places(self, scores: F64, k: int) -> Places:
        """The page's k places, by the probabilities of all items [n]: those of `rank.py`."""
        if self.rules.orders:
            return self.rules.places(self.items, scores, k, self.free)
        return FreePlaces(np.where(self.free, scores, -np.inf))


class RuledCandidates:
    """Candidates of pages for a `FeatureBuilder`, which are all items described or shown before, and what the rules of
    each target leave of them; a retired one is none until it's described again. The builder's source has to be read
    through `watched`.

    What a user has installed is known to rules where the target's spec has a history or a rule of kind `installed`.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._specs = specs
        self._rulebooks: list[Rulebook] = []
        self._items: dict[str, Item] = {}
        self._retired: set[str] = set()
        self._attributes: dict[str, dict[str, Value]] = {}
        self._pages: dict[str, list[RuledPage]] = {}  # by request id

    def watched(self, source: Iterable[SourceElement]) -> Iterator[SourceElement]:
        """The same elements; items and users among them are known from then on."""
        for element in source:
            if isinstance(element, Item):
                self._items[element.item] = element
                self._retired.discard(element.item)
            elif isinstance(element, RetiredItem):
                self._items.pop(element.item, None)
                self._retired.add(element.item)
            elif isinstance(element, User):
                self._attributes[element.user] = element.attributes
            elif isinstance(element, Erase):
                self._attributes.pop(element.user, None)
            yield element

    def __call__(self, features: FeatureBuilder, page: Impression) -> list[str]:
        """Names of the candidates. See producers.features.Candidates."""
        if not self._rulebooks:
            self._rulebooks = [Rulebook(spec, features.catalogue, self._items) for spec in self._specs]
        names = [name for name in features.catalogue.row if name not in self._retired]
        listed = [*dict.fromkeys([*names, *page.items])]
        items = item_rows(listed, features.catalogue.lookup(listed)[0])
        installed = features.histories.newest(page.user, MEMBERS_MAX)
        self._pages[page.request_id] = [self._page(book, page, names, items, installed) for book in self._rulebooks]
        return names

    def take(self, page: Impression) -> list[RuledPage]:
        """What each target may show on the page, once."""
        return self._pages.pop(page.request_id)

    def _page(
        self, book: Rulebook, page: Impression, names: list[str], items: ItemRows, installed: list[str]
    ) -> RuledPage:
        k, spec = len(page.items), book.spec
        knows = book.catalogue.layout.history or any(isinstance(rule, Installed) for rule in spec.rules.values())
        request = RankRequest(page.request_id, page.user, k, page.time_ms, page.context)
        rules = book.page(request, self._attributes.get(page.user), installed if knows else ())

        def retrieved(excluded: Iterable[str]) -> Candidates:
            left = {*excluded}
            return Candidates([name for name in names if name not in left])

        try:
            pinned = rules.pinned(k, self._items)
            left = {*under_rules(Candidates([]), retrieved, rules, book.catalogue, pinned).names}
        except BadEvent:  # rules remove all of them
            left = set()
        return RuledPage(items, np.array([name in left for name in items.names], bool), rules)
