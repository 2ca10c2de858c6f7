"""Why a user's page is as it is: the page is ranked as for a request, then explained item by item.

A page is explained by the version that ranked it, from the very features in its reply. What its hashed values say is
known here: the request, the user's profile and the items are what they were hashed from.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from ranker.explain.deep_part import DeepPart
from ranker.explain.item_terms import ItemTerms, explain_items
from ranker.ranking.rank import Ranker
from ranker.ranking.version_watcher import ServedVersion, VersionWatcher
from ranker.rules.item_tests import item_rows
from ranker.rules.page_rules import PageRules
from ranker.versions.model import Version, sigmoid
from stream.events.named_explanations import Explanation, ItemExplanation
from stream.events.types import ITEMS_MAX, Item, RankReply, RankRequest, User
from stream.features.page_features import build_page, words_of
from stream.features.serve_as import as_served
from stream.features.value_names import ValueNames
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.tables.dtypes import U64

K_MAX: Final = 100  # items of a page that is explained
TERMS_MAX: Final = 20  # of one item, in each part
PAGE_TERMS_MAX: Final = 3  # of each item, where the whole page is explained
SWAPS_MAX: Final = 5  # tries to rank and explain by one version

ItemOf = Callable[[str], Item | None]  # None: not described


class Explainer:
    """Explains the pages of one model. For one thread at a time; others may rank meanwhile."""

    def __init__(self, ranker: Ranker, watcher: VersionWatcher, item_of: ItemOf, now_ms: Callable[[], int]) -> None:
        self._ranker, self._watcher, self._item_of, self._now_ms = ranker, watcher, item_of, now_ms
        self._deep: DeepPart | None = None

    def knows(self, item: str) -> bool:
        """Whether an item is described, or was shown on a page that the live version has learned."""
        served = self._watcher.served
        return self._item_of(item) is not None or (served is not None and item in served.version.shown)

    def explain(self, request: RankRequest, profile: UserProfile, model: str, item: str = "") -> Explanation:
        """The request's page, or `item` alone, which needn't be on the page. `profile`: what is known of the user.

        Raises BadEvent where no page can be ranked, also while there is no version.
        """
        history = profile.history if request.history is None else request.history
        attributes = profile.attributes if request.attributes is None else request.attributes
        request = msgspec.structs.replace(request, history=history, attributes=attributes)
        served, reply = self._ranked(request, profile)
        names = self._names(served.version, request, [item] if item else reply.items)
        if not item:
            found = self._on_page(served.version, reply, range(len(reply.items)), names, PAGE_TERMS_MAX)
        elif item in reply.items:
            found = self._on_page(served.version, reply, [reply.items.index(item)], names, TERMS_MAX)
        else:
            found = [self._off_page(served, request, profile, reply, item, names)]
        explained = [one.item for one in found]
        candidates = item_rows(explained, served.catalogue.lookup(explained)[0])
        rules = served.rulebook.page(request, attributes, history)
        found = [
            msgspec.structs.replace(one, boosts=boosts, removed_by=one.removed_by or _left_out_by(rules, one))
            for one, boosts in zip(found, rules.boosts(candidates), strict=True)
        ]
        manifest, now_ms = served.version.manifest, self._now_ms()
        return Explanation(
            request.user, model, reply.time_ms, manifest.version, max(0, now_ms - manifest.created_ms),
            manifest.watermark_ms, reply.staleness_ms, manifest.examples, reply.scored, found, reply.notes,
            reply.removed, reply.retrieval_version,
        )  # fmt: skip

    def _ranked(self, request: RankRequest, profile: UserProfile) -> tuple[ServedVersion, RankReply]:
        """The request's page, and the version that has ranked it."""
        for _ in range(SWAPS_MAX):
            served = self._watcher.served
            if served is None:
                raise BadEvent("no version is served yet: a learner publishes the first one once it has learned")
            reply = self._ranker.answer(request, lambda: profile, time.monotonic())
            if reply.version == served.version.number:
                return served, reply
        raise BadEvent("versions were swapped faster than a page can be explained: ask again")

    def _on_page(
        self, version: Version, reply: RankReply, positions: Sequence[int], names: ValueNames, terms_max: int
    ) -> list[ItemExplanation]:
        words = words_of(reply.features, version.plan.layout, len(reply.items)).copy()  # kernels write
        terms = self._explained(version, words, positions, names, terms_max)
        return [self._item(reply, reply.items[at], at + 1, True, one) for at, one in zip(positions, terms, strict=True)]

    def _off_page(
        self, served: ServedVersion, request: RankRequest, profile: UserProfile, reply: RankReply, item: str,
        names: ValueNames,
    ) -> ItemExplanation:  # fmt: skip
        """An item behind the page's, at its rank among the candidates, or at 0 if it is none."""
        version, time_ms = served.version, reply.time_ms
        whole = self._ranker.answer(
            msgspec.structs.replace(request, k=ITEMS_MAX, time_ms=time_ms), lambda: profile, time.monotonic()
        )
        user = version.plan.layout.user(request.user, request.attributes or {}, request.history or [], request.context)
        items = [*reply.items, item]
        rows, unknown = served.catalogue.lookup(items)
        words = build_page(version.plan.layout, user, served.catalogue, rows, time_ms, unknown)
        version.fill(words, time_ms)
        (terms,) = self._explained(version, words, [len(items) - 1], names, TERMS_MAX)
        if item in whole.items:
            return self._item(whole, item, whole.items.index(item) + 1, False, terms)
        removed_by = self._removed_by(request, profile, items, time_ms)
        return msgspec.structs.replace(self._item(whole, item, 0, False, terms), removed_by=removed_by)

    def _removed_by(self, request: RankRequest, profile: UserProfile, items: list[str], time_ms: int) -> list[str]:
        """The rules that take the last of these items away from them."""
        with_it, without = (
            self._ranker.answer(
                msgspec.structs.replace(request, candidates=some, k=len(items), time_ms=time_ms), lambda: profile,
                time.monotonic(),
            )
            for some in (items, items[:-1])
        )  # fmt: skip
        return [rule for rule, count in with_it.removed.items() if count > without.removed.get(rule, 0)]

    def _explained(
        self, version: Version, words: U64, positions: Sequence[int], names: ValueNames, terms_max: int
    ) -> list[ItemTerms]:
        if version.tower is None:
            self._deep = None
        elif self._deep is None or self._deep.tower is not version.tower:
            self._deep = DeepPart(version.plan, version.tower)
        page = as_served(version.plan.layout, words)
        return explain_items(version, self._deep, page, positions, names, terms_max)

    def _item(self, reply: RankReply, item: str, rank: int, on_page: bool, terms: ItemTerms) -> ItemExplanation:
        known, at = self._item_of(item), rank - 1
        score = float(sigmoid(np.array([terms.logit], np.float32))[0])
        return ItemExplanation(
            item, known.title if known else "", rank, on_page, score, *terms,
            source=reply.sources[at] if rank and reply.sources else "",
            source_rank=reply.source_ranks[at] if rank and reply.source_ranks else 0,
            propensity=reply.propensities[at] if rank and reply.propensities else None,
            retrieval=reply.retrieval_terms[at] if rank and reply.retrieval_terms else 0.0,
        )  # fmt: skip

    def _names(self, version: Version, request: RankRequest, items: Sequence[str]) -> ValueNames:
        """The texts behind the ids of the request's pages."""
        names = ValueNames(version.plan.layout)
        names.add_user(User(request.user, request.attributes or {}))
        names.add_context(request.context)
        names.add_context({
            column.removeprefix("context."): one.serve_as
            for column, one in version.plan.layout.columns.items()
            if one.serve_as is not None
        })  # fmt: skip
        for item in (request.history or [])[-version.plan.layout.history_last :]:
            names.add_title(self._item_of(item) or Item(item))
        for item in items:
            names.add_item(self._item_of(item) or Item(item))
        return names


def _left_out_by(rules: PageRules, one: ItemExplanation) -> list[str]:
    """The rule by which retrieval leaves out what the user has, if it's why the item is no candidate."""
    return [rules.installed_name] if not one.rank and one.item in rules.left_out else []
