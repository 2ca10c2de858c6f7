"""From a request to its reply. Whatever is read of the model is read of one version, captured once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from ranker.ranking.entity_cache import Shelf
from ranker.ranking.retrieve import CANDIDATES, retrieve
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import Follower, Served
from ranker.versions.model import Version
from stream.events.types import RankReply, RankRequest, Value
from stream.features.page_features import Catalogue, build_page, select
from stream.features.serve_as import as_logged, as_served
from stream.runtime.errors import BadEvent
from stream.tables.hash_table import U64

HISTORY_LAST: Final = 50  # read of a user where no column asks for it: for the rule "not what the user has"

DEADLINE: Final = "deadline"
NO_HISTORY: Final = "no_history"
NO_MODEL: Final = "no_model"
NO_USER: Final = "no_user"


@dataclass(frozen=True)
class Ranked:
    """The k best in order: indices of candidates, probabilities, features of their page; how many were scored."""

    order: list[int]
    scores: list[float]
    features: bytes
    scored: int


def rank_with(
    version: Version, words: U64, time_ms: int, k: int, scorer: Scorer, deadline_s: float | None = None
) -> Ranked:
    """Rank a page (`build_page`) by one version as of `time_ms`; `features` have the statistics that it was ranked by.

    Ties stay in the page's order. Raises BadEvent when a score isn't finite.
    """
    layout = version.plan.layout
    served = as_served(layout, words)
    scores, scored = scorer.score(version, served, deadline_s, time_ms=time_ms)
    if not np.isfinite(scores).all():
        raise BadEvent(f"version {version.number} gives a score that isn't finite: the request holds an absurd number")
    among = np.flatnonzero(scored)
    chosen = among[np.argsort(-scores[among], kind="stable")[:k]]
    page = as_logged(layout, select(layout, served, chosen), words)
    return Ranked(chosen.tolist(), scores[chosen].tolist(), page.tobytes(), len(among))


class Ranker:
    """Answers requests, one at a time, from what `shelf` and `follower` have in memory."""

    def __init__(self, shelf: Shelf, follower: Follower, scorer: Scorer, now_ms: Callable[[], int]) -> None:
        self._shelf, self._follower, self._scorer, self._now_ms = shelf, follower, scorer, now_ms

    @property
    def history_last(self) -> int:
        """How many items of a user's history are of use."""
        served = self._follower.served
        return (served.version.plan.layout.history_last if served else 0) or HISTORY_LAST

    def answer(self, request: RankRequest, history: Sequence[str] | None, read_s: float) -> RankReply:
        """The reply. `history`: the user's, newest last; None when it couldn't be had. `read_s`: monotonic, of reading.

        Raises BadEvent when there's nothing to rank, or nothing that can be ranked.
        """
        served = self._follower.served
        notes = [NO_HISTORY] if history is None else []
        had = history or []
        if served is None:
            reply = self._by_popularity(request, had, [*notes, NO_MODEL])
        else:
            reply = self._by_model(request, served, had, notes, read_s)
        rank_us = round((time.monotonic() - read_s) * 1e6)
        return msgspec.structs.replace(reply, rank_us=rank_us)

    def _by_popularity(self, request: RankRequest, had: Sequence[str], notes: list[str]) -> RankReply:
        known = self._shelf.items
        if request.candidates is None:
            names = retrieve(self._shelf.by_popularity(), had)
        else:
            names = _candidates(request.candidates)
        _need_some(names, request, bool(known))
        scores = {name: known[name].popularity if name in known else 0.0 for name in names}
        best = sorted(names, key=lambda name: -scores[name])[: request.k]
        return RankReply(request.request_id, request.user, best, [scores[name] for name in best], 0, scored=len(names),
                         notes=notes, time_ms=request.time_ms or self._now_ms())  # fmt: skip

    def _by_model(
        self, request: RankRequest, served: Served, had: Sequence[str], notes: list[str], read_s: float
    ) -> RankReply:
        version, catalogue = served.version, served.catalogue
        is_gone, popular = self._shelf.is_gone, self._follower.popular.items
        if request.candidates is None:
            names = retrieve((i for i in popular if not is_gone(i)), had, CANDIDATES)
        else:
            names = _candidates(request.candidates)
        _need_some(names, request, not all(map(is_gone, popular)))
        attributes = self._shelf.users.get(request.user) if request.attributes is None else request.attributes
        if attributes is None:
            notes = [*notes, NO_USER]
        time_ms = request.time_ms or version.event_time_ms(self._now_ms())
        words = self._page(version, catalogue, request, names, had, attributes or {})
        deadline_s = read_s + request.deadline_ms / 1e3 if request.deadline_ms else None
        ranked = rank_with(version, words, time_ms, request.k, self._scorer, deadline_s)
        if ranked.scored < len(names):
            notes = [*notes, DEADLINE]
        return RankReply(
            request.request_id, request.user, [names[i] for i in ranked.order], ranked.scores, version.number,
            staleness_ms=version.staleness_ms(self._now_ms()), live_since_ms=served.since_ms, scored=ranked.scored,
            notes=notes, features=ranked.features, time_ms=time_ms,
        )  # fmt: skip

    def _page(self, version: Version, catalogue: Catalogue, request: RankRequest, names: list[str], had: Sequence[str],
              attributes: Mapping[str, Value]) -> U64:  # fmt: skip
        layout = version.plan.layout
        user = layout.user(request.user, attributes, had, request.context)
        return build_page(layout, user, catalogue, self._shelf.rows(catalogue, names))


def _candidates(given: Sequence[str]) -> list[str]:
    """Each candidate once, in order: a page's items are distinct."""
    return [item for item in dict.fromkeys(given) if item]


def _need_some(names: list[str], request: RankRequest, stocked: bool) -> None:
    """`stocked`: whether there are items to retrieve from. Raises BadEvent, with the reason, when no name is left."""
    if names:
        return
    if request.candidates is not None:
        raise BadEvent("nothing to rank: the list of candidates is empty; name some, or leave it out")
    if not stocked:
        raise BadEvent(
            "nothing to rank: no items are known; write items to the topic `items`, or name candidates "
            "(items that were shown are known once their pages are learned)"
        )
    raise BadEvent(f"nothing to rank: user {request.user} has every item that is retrieved; name candidates")
