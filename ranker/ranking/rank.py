"""From a request to its reply. Everything of the model is read from one version, captured once."""

import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

from ranker import metrics
from ranker.explore.exploration import draw_of
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.page_candidates import under_rules
from ranker.ranking.retrieval_terms import retrieval_terms, with_terms
from ranker.ranking.score import Scorer
from ranker.ranking.selection import Chosen, Draw, choose
from ranker.ranking.version_watcher import ServedVersion, VersionWatcher
from ranker.retrieval.candidates import Candidates, retrieve
from ranker.retrieval.pools import Query
from ranker.rules.item_tests import item_rows
from ranker.rules.page_rules import PageRules
from ranker.versions.model import Version
from stream.events.codec import encode
from stream.events.types import EVENT_BYTES_MAX, ID_BYTES_MAX, Impression, RankReply, RankRequest
from stream.features.page_features import Layout, build_page, select
from stream.features.serve_as import as_logged, as_served
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.spec.retrieval import Retrieval
from stream.tables.dtypes import F64, I64, U64

DEADLINE: Final = "deadline"
NO_HISTORY: Final = "no_history"
NO_MODEL: Final = "no_model"
NO_USER: Final = "no_user"
FEATURES_CUT: Final = "features_cut"
RULES_CUT: Final = "rules_cut"


@dataclass(frozen=True)
class Ranked:
    """The k chosen: indices of candidates in order, probabilities, features of their page; how many were scored.

    `propensities`, `explored`: see Chosen.
    """

    order: list[int]
    scores: list[float]
    features: bytes
    scored: int
    propensities: list[float] = field(default_factory=list)
    explored: int = 0


Chooser = Callable[[I64, F64, int, Draw | None], Chosen]
Explorer = Callable[[Version, U64, I64], Draw | None]


def best(candidates: I64, scores: F64, k: int, draw: Draw | None = None) -> Chosen:
    """The k with the highest scores, or those that are drawn."""
    return choose(scores, k, draw=draw)


def unexplored(version: Version, words: U64, candidates: I64) -> None:
    """Nothing is drawn."""


def rank_with(
    version: Version,
    words: U64,
    time_ms: int,
    k: int,
    scorer: Scorer,
    deadline_s: float | None = None,
    chooser: Chooser = best,
    explorer: Explorer = unexplored,
    terms: F64 | None = None,
) -> Ranked:
    """Rank a page (`build_page`) by one version as of `time_ms`; `features` include the statistics used for it.

    `chooser` takes indices of the candidates that were scored [n], their probabilities [n], k, and how places are drawn
    by `explorer`, which takes the page as it is served and those indices. Ties keep the page's order. `terms` [items]:
    see `retrieval_terms`; they move the probabilities that `chooser` takes. Raises BadEvent when a score isn't finite.
    """
    layout = version.plan.layout
    served = as_served(layout, words)
    scores, scored = scorer.score(version, served, deadline_s, time_ms=time_ms)
    if not np.isfinite(scores).all():
        raise BadEvent(
            f"version {version.number} gives a score that isn't finite: a number in the request is too large"
        )
    candidates = np.flatnonzero(scored)
    keys: F64 = scores[candidates].astype(np.float64)
    if terms is not None:
        keys = with_terms(keys, terms[candidates])
    found = chooser(candidates, keys, k, explorer(version, served, candidates))
    chosen = candidates[found.order]
    page = as_logged(layout, select(layout, served, chosen), words)
    return Ranked(chosen.tolist(), scores[chosen].tolist(), page.tobytes(), len(candidates), found.propensities,
                  found.explored)  # fmt: skip


def fitting(request: RankRequest, reply: RankReply, layout: Layout) -> RankReply:
    """The reply with as many of its best items as one impression holds: features must be of all the items of a page.

    Raises BadEvent when not even one fits, for the context.
    """
    whole = Impression(
        request.request_id, reply.time_ms, request.user, reply.items, "v" * ID_BYTES_MAX, reply.version, reply.scores,
        reply.scores, reply.features, request.context,
    )  # fmt: skip
    if len(encode(whole)) <= EVENT_BYTES_MAX:
        return reply
    words = np.frombuffer(reply.features, np.uint64).copy()  # kernels are compiled for writable arrays

    def first(n: int) -> Impression:
        items, scores, features = reply.items[:n], reply.scores[:n], select(layout, words, range(n)).tobytes()
        return msgspec.structs.replace(whole, items=items, scores=scores, propensities=scores, features=features)

    counts = range(1, len(reply.items))
    n = bisect_right(counts, EVENT_BYTES_MAX, key=lambda n: len(encode(first(n))))
    if not n:
        raise BadEvent(
            f"a page of this request can't be logged: with its context even one item is over {EVENT_BYTES_MAX} bytes; "
            "send a shorter context"
        )
    cut = first(n)
    return msgspec.structs.replace(
        reply, items=cut.items, scores=cut.scores, features=cut.features, notes=[*reply.notes, FEATURES_CUT],
        sources=reply.sources[:n], source_ranks=reply.source_ranks[:n], propensities=reply.propensities[:n],
        retrieval_terms=reply.retrieval_terms[:n],
    )  # fmt: skip


class Ranker:
    """Answers requests, one at a time, from the entities of `cache` and the live version of `watcher`."""

    def __init__(self, cache: EntityCache, watcher: VersionWatcher, scorer: Scorer, now_ms: Callable[[], int]) -> None:
        self._cache, self._watcher, self._scorer, self._now_ms = cache, watcher, scorer, now_ms

    def answer(
        self,
        request: RankRequest,
        profile: Callable[[], UserProfile],
        read_s: float,
        deadline_s: float | None = None,
    ) -> RankReply:
        """The reply. `profile` returns what is known of the user; it may wait, so it is called late, and only if the
        request lacks history or attributes. `read_s`, `deadline_s`: when the request was read, and until when items
        are scored, of time.monotonic().

        Raises BadEvent when no candidate is left or a score isn't finite.
        """
        served = self._watcher.served
        if served is None:
            reply = self._by_popularity(request, profile)
        else:
            reply = self._by_model(request, served, profile, deadline_s)
        rank_us = round((time.monotonic() - read_s) * 1e6)
        return msgspec.structs.replace(reply, rank_us=rank_us)

    def _by_popularity(self, request: RankRequest, profile: Callable[[], UserProfile]) -> RankReply:
        known, columns = self._cache.items, self._cache.columns
        if not self._watcher.pool_builder.pools.added:
            self._watcher.pool_builder.rebuild(None, columns)
        history = profile().history if request.history is None else request.history
        notes = [NO_HISTORY, NO_MODEL] if history is None else [NO_MODEL]
        if request.rules:
            raise BadEvent("rules can't be applied yet: they are read with the spec of the first version, and none is "
                           "live; ask again later, or leave them out")  # fmt: skip
        candidates = Candidates(_given(request))
        if not candidates.names:
            candidates = self.retrieved(request.request_id, history or [], None, history or [])
        if not candidates.names:
            raise self._nothing(request)
        names = candidates.names
        scores = [known[name].popularity if name in known else 0.0 for name in names]
        best = sorted(range(len(names)), key=lambda i: -scores[i])[: request.k]
        return RankReply(
            request.request_id, request.user, [names[i] for i in best], [scores[i] for i in best], 0,
            scored=len(names), notes=notes, time_ms=request.time_ms or self._now_ms(), **_found(candidates, best),
        )  # fmt: skip

    def _by_model(
        self,
        request: RankRequest,
        served: ServedVersion,
        profile: Callable[[], UserProfile],
        deadline_s: float | None,
    ) -> RankReply:
        version, catalogue = served.version, served.catalogue
        time_ms = request.time_ms or version.event_time_ms(self._now_ms())
        given = candidates = Candidates(_given(request))
        rows, unknown = catalogue.lookup(candidates.names)
        history, attributes = _merged(request, profile)
        rules = served.rulebook.page(request, attributes, history)
        notes = [NO_HISTORY] if history is None else []
        if attributes is None:
            notes.append(NO_USER)
        candidates = under_rules(
            given, partial(self.retrieved, request.request_id, history or [], served), rules, catalogue,
            rules.pinned(request.k, self._cache.items),
        )  # fmt: skip
        if not candidates.names:
            raise self._nothing(request)
        if candidates is not given:
            rows, unknown = catalogue.lookup(candidates.names)
        names = candidates.names
        user = version.plan.layout.user(request.user, attributes or {}, history or [], request.context)
        words = build_page(version.plan.layout, user, catalogue, rows, time_ms, unknown)
        chooser = _chooser(rules, names, rows) if rules.orders else best
        explorer = partial(draw_of, request.request_id)
        terms = retrieval_terms(candidates.sources, version.plan.spec.retrieval.rank_weight)
        ranked = rank_with(version, words, time_ms, request.k, self._scorer, deadline_s, chooser, explorer, terms)
        if version.plan.spec.explore.kind != "none":
            metrics.POSITIONS.inc(len(ranked.order))
            metrics.EXPLORED.inc(ranked.explored)
        if len(ranked.order) < request.k and rules.is_cut:
            notes.append(RULES_CUT)
        if ranked.scored < len(names):
            notes = [*notes, DEADLINE]
        reply = RankReply(
            request.request_id, request.user, [names[i] for i in ranked.order], ranked.scores, version.number,
            staleness_ms=version.staleness_ms(self._now_ms()), live_since_ms=served.since_ms, scored=ranked.scored,
            notes=notes, features=ranked.features, time_ms=time_ms, propensities=ranked.propensities,
            retrieval_version=version.retrieval_version if "neighbours" in candidates.sources else 0,
            removed=rules.removed, retrieval_terms=[] if terms is None else terms[ranked.order].tolist(),
            **_found(candidates, ranked.order),
        )  # fmt: skip
        return fitting(request, reply, version.plan.layout)

    def retrieved(
        self, request_id: str, history: Sequence[str], served: ServedVersion | None, excluded: Collection[str]
    ) -> Candidates:
        """Candidates of a request that names none, whose user installed these items, newest last."""
        settings = served.version.plan.spec.retrieval if served else Retrieval()
        learned = served.version.learned_items if served else None
        view = learned.view if learned else None
        catalogue, pools = served.catalogue if served else None, self._watcher.pool_builder.pools
        nearest = served.nearest if served else None
        query = Query(request_id, history, settings, pools, self._cache.columns, catalogue, view, nearest)
        return retrieve(query, set(excluded), self._cache.is_deleted)

    def _nothing(self, request: RankRequest) -> BadEvent:
        """Why nothing is retrieved."""
        if all(map(self._cache.is_deleted, self._watcher.pool_builder.pools.orders["popular"])):
            return BadEvent(
                "nothing to rank: no items are known; write items to the topic `items`, or name candidates "
                "(items that were shown are known once their pages are learned)"
            )
        return BadEvent(f"nothing to rank: user {request.user} has every item that is retrieved; name candidates")


def _found(candidates: Candidates, order: Sequence[int]) -> dict[str, Any]:
    """What a reply says of where these of the candidates come from."""
    if not candidates.sources:
        return {}
    return {
        "sources": [candidates.sources[i] for i in order],
        "source_ranks": [candidates.source_ranks[i] for i in order],
    }


def _given(request: RankRequest) -> list[str]:
    """The request's distinct candidates; empty when they are to be retrieved. Raises BadEvent when it names none."""
    if request.candidates is None:
        return []
    names = [item for item in dict.fromkeys(request.candidates) if item]
    if not names:
        raise BadEvent("nothing to rank: the list of candidates is empty; name some, or leave it out")
    return names


def _chooser(rules: PageRules, names: list[str], rows: I64) -> Chooser:
    """Choose as rules order."""

    def ordered(candidates: I64, scores: F64, k: int, draw: Draw | None) -> Chosen:
        scored = item_rows([names[i] for i in candidates.tolist()], rows[candidates])
        places = rules.places(scored, scores, k)
        chosen = choose(scores, k, places, draw) if draw else Chosen(places.fill(), [])
        rules.count(places)
        return chosen

    return ordered


def _merged(request: RankRequest, profile: Callable[[], UserProfile]) -> UserProfile:
    """What the request brings of its user, and the rest from the profile."""
    if request.history is not None and request.attributes is not None:
        return UserProfile(request.history, request.attributes)
    history, attributes = profile()
    return UserProfile(
        history if request.history is None else request.history,
        attributes if request.attributes is None else request.attributes,
    )
