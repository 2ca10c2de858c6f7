"""The next install: every entrant and session peer of a backtest ranks items that a user may install next.

A user is asked about just before the second (of event time) in which they install: what is known is what the log says
of earlier seconds. Items that the user has are left out, those that were only shown aren't. Lists that are ranked:

* `catalogue`: all items, by the session peers. The entrants rank what the spec's retrieval finds, as the system would;
* `retrieved`: the same candidates for all, those that retrieval finds;
* `on_page`: the items of the page that the user saw; or, where pages have one item, `in_session`: those of the
  user's pages with pauses of at most half an hour. Each item has its score as of its page; a session peer's is the
  item's rank in the catalogue then. Installed items are ranked among those that weren't installed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np

from producers.source import SourceElement, WorldEvent
from ranker.ranking.retrieval_terms import rank_terms, with_terms
from stream.events.types import Erase, Impression, Install, Item, Tick
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, I64, Bools
from thalweg.backtest.judgement import AS_SHOWN, JudgedRows
from thalweg.backtest.local_retrieval import LocalRetrieval
from thalweg.backtest.ranks import MISSED, Ranks
from thalweg.backtest.session_peers import SessionOptions, session_peers
from thalweg.backtest.user_sessions import UserSessions

CANDIDATE_PAGE: Final = ""  # request id of a page of candidates, which no page of a log has
RETRIEVAL: Final = "retrieval"  # the order in which items are retrieved
CATALOGUE, RETRIEVED, ON_PAGE, IN_SESSION = "catalogue", "retrieved", "on_page", "in_session"  # lists
Rank = tuple[int, int]  # candidates with a greater score, and others with the same


class Question(NamedTuple):
    """What does a user install within this second of event time? `items`: the answer."""

    user: str
    time_ms: int  # of the first install
    items: Sequence[str]


def _seconds() -> Callable[[SourceElement], int]:
    """The second of event time of elements in order; one without a time has that of the one before."""
    second = 0

    def of(element: SourceElement) -> int:
        nonlocal second
        if isinstance(element, Impression | Install | Tick):
            second = element.time_ms // 1_000
        return second

    return of


class NextInstalls:
    """The questions and how the installed items rank: of every nth install.

    `see` each event of the log, `ask` each question in between. `ask` returns a page of candidates for the entrants,
    `answer` takes their predictions in the same order.
    """

    def __init__(
        self, spec: Spec, entrants: Sequence[str], peers: Sequence[str], options: SessionOptions, every: int = 1
    ) -> None:
        self.seconds = 0.0  # that the session peers took
        self._every = every
        self._retrieval, self._rank_weight = LocalRetrieval(spec), spec.retrieval.rank_weight
        self._sessions = UserSessions()
        self._peers = session_peers(peers, self._sessions, options)
        self._entrants = list(entrants)
        self._contexts: dict[str, dict[str, str | float]] = {}  # of each user's newest page
        self._users: list[int] = []  # of each install that is asked about
        self._sizes: dict[str, list[int]] = {CATALOGUE: [], RETRIEVED: []}  # of its lists
        self._ranks: dict[tuple[str, str], list[Rank]] = defaultdict(list)  # by list and name
        self._indices: list[list[int]] = []  # by question, of installed items among the candidates; -1: not retrieved
        self._popularity: list[I64] = []  # by question, of its candidates
        self._answered = [0] * len(entrants)  # questions
        self._orders: list[F32] = []  # by page, of its items by each session peer, f32[peers, n]; greater is better

    def with_questions(self, source: Iterable[SourceElement]) -> Iterator[SourceElement | Question]:
        """The source, with questions of every nth install: each before the second of event time in which it comes."""
        installs = 0
        for _, group in groupby(source, _seconds()):
            elements = list(group)
            asked: dict[str, list[Install]] = {}
            for element in elements:
                if isinstance(element, Install) and not element.retracted:
                    if installs % self._every == 0:
                        asked.setdefault(element.user, []).append(element)
                    installs += 1
            for user, ones in asked.items():
                yield Question(user, ones[0].time_ms, [one.item for one in ones])
            yield from elements

    @property
    def peers(self) -> list[str]:
        """Names of the session peers."""
        return [peer.name for peer in self._peers]

    def see(self, event: WorldEvent) -> None:
        """The next event of the log."""
        if isinstance(event, Item):
            self._sessions.item(event.item)
            self._retrieval.describe(event)
        elif isinstance(event, Install):
            if self._sessions.update(event):
                self._retrieval.install(event)
        elif isinstance(event, Erase):
            self._sessions.erase(event.user)
            self._retrieval.erase(event.user)
            self._contexts.pop(event.user, None)
        elif isinstance(event, Impression):
            begun = time.perf_counter()
            self._orders.append(self._order(event))
            self.seconds += time.perf_counter() - begun
            self._retrieval.show(event.items)
            if event.context:
                self._contexts[event.user] = event.context

    def retire(self, item: str) -> None:
        """The item is no candidate until it's described again."""
        self._retrieval.retire(item)

    def _order(self, page: Impression) -> F32:
        sessions = self._sessions
        items, popularity = [sessions.item(item) for item in page.items], sessions.installs
        orders = np.empty((len(self._peers), len(items)), np.float32)
        for order, peer in zip(orders, self._peers, strict=True):
            scores = peer.score(page.user)
            for n, item in enumerate(items):
                above, tied = _rank(scores, popularity, item)
                order[n] = -(above + tied / 2)
        return orders

    def ask(self, question: Question) -> Impression | None:
        """The candidates; None if nothing is retrieved, or the user has what is asked for."""
        sessions = self._sessions
        own = sessions.session(question.user)
        installed = [item for item in map(sessions.known, dict.fromkeys(question.items)) if item not in own]
        retired = [sessions.known(name) for name in self._retrieval.retired]
        others = np.setdiff1d(np.arange(len(sessions)), [*own.tolist(), *retired])
        names = self._retrieved(question, own) if installed else []
        if not names:
            return None
        begun = time.perf_counter()
        popularity, retrieved = sessions.installs, np.array([sessions.known(name) for name in names])
        lists = {CATALOGUE: others, RETRIEVED: retrieved}
        for peer in self._peers:
            self._rank_by(peer.name, peer.score(question.user), popularity, lists, installed)
        self.seconds += time.perf_counter() - begun
        self._indices.append([_index_of(retrieved, item) for item in installed])
        self._popularity.append(popularity[retrieved])
        for name, candidates in lists.items():
            self._sizes[name] += [len(candidates)] * len(installed)
            self._ranks[name, RETRIEVAL] += [(index, 0) if index >= 0 else (MISSED, 0) for index in self._indices[-1]]
        self._users += [sessions.user(question.user)] * len(installed)
        context = self._contexts.get(question.user, {})
        return Impression(CANDIDATE_PAGE, question.time_ms, question.user, names, context=context)

    def _retrieved(self, question: Question, own: I64) -> list[str]:
        """Names of the candidates, for a user with these items."""
        self._retrieval.publish(question.time_ms)
        history = [self._sessions.names[item] for item in own.tolist()]
        return self._retrieval.candidates(history, f"{question.user} {question.time_ms}").names

    def _rank_by(
        self, name: str, scores: F64, popularity: I64, lists: Mapping[str, I64], installed: Sequence[int]
    ) -> None:
        """Rank installed items in lists; items of equal scores by popularity."""
        for of, candidates in lists.items():
            s, p = scores[candidates], popularity[candidates]
            for item in installed:
                index = _index_of(candidates, item)
                self._ranks[of, name].append(_rank(s, p, index) if index >= 0 else (MISSED, 0))

    def answer(self, entrant: int, predictions: F32) -> None:
        """An entrant's predictions for the candidates of its next question, float32 [n]: ordered as the spec says."""
        keys = predictions.astype(np.float64)
        if self._rank_weight:
            keys = with_terms(keys, rank_terms(len(keys), self._rank_weight))
        question = self._answered[entrant]
        for index in self._indices[question]:
            rank = _rank(keys, self._popularity[question], index) if index >= 0 else (MISSED, 0)
            for of in (CATALOGUE, RETRIEVED):
                self._ranks[of, self._entrants[entrant]].append(rank)
        self._answered[entrant] += 1

    def ranks(self, predictions: F32, positions: I64, rows: JudgedRows, which: Bools) -> dict[str, Ranks]:
        """By list; a list of which nothing was asked is left out.

        The entrants' predictions [M, N], positions [N] and rows are of those items of pages that `which` selects.
        """
        found = {}
        names, scores = [*self._entrants, *self.peers], [*predictions, *np.concatenate(self._orders, 1)[:, which]]
        if positions.any():
            found[ON_PAGE] = ranks_in_groups(
                [*names, AS_SHOWN], np.array([*scores, -positions], np.float32), rows, rows.pages
            )
        else:
            found[IN_SESSION] = ranks_in_groups(names, np.array(scores, np.float32), rows, rows.sessions)
        if not self._users:
            return found
        names = [*names, RETRIEVAL]
        for of, sizes in self._sizes.items():
            above, tied = np.array([self._ranks[of, name] for name in names], np.int64).transpose(2, 0, 1)
            found[of] = Ranks(names, np.array(self._users), np.array(sizes), above, tied)
        return found


def _rank(scores: F64, popularity: I64, index: int) -> Rank:
    """Of the item at this index: equal scores are ordered by popularity."""
    is_equal, own = scores == scores[index], popularity[index]
    above = np.count_nonzero(scores > scores[index]) + np.count_nonzero(is_equal & (popularity > own))
    return int(above), int(np.count_nonzero(is_equal & (popularity == own))) - 1


def _index_of(candidates: I64, item: int) -> int:
    """The item's index among candidates; -1: it isn't there."""
    found = np.flatnonzero(candidates == item)
    return int(found[0]) if len(found) else -1


def ranks_in_groups(names: Sequence[str], scores: F32, rows: JudgedRows, groups: I64) -> Ranks:
    """Of each installed item among it and the items of its group that weren't installed, if there are any.

    `scores`: of M models, float32 [M, N]; `groups`: of the examples, int64 [N].
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    users, sizes, above, tied = [], [], [], []
    for group in np.split(order, starts[1:]):
        is_installed = rows.labels[group] > 0.5
        own, others = scores[:, group[is_installed]], scores[:, group[~is_installed]]
        if own.size and others.size:
            above.append((others[:, None] > own[..., None]).sum(-1))
            tied.append((others[:, None] == own[..., None]).sum(-1))
            users += [rows.users[group[0]]] * own.shape[1]
            sizes += [1 + others.shape[1]] * own.shape[1]
    none = [np.zeros((len(names), 0), np.int64)]
    counts = (np.concatenate(none + found, 1) for found in (above, tied))
    return Ranks(names, np.array(users, np.int64), np.array(sizes, np.int64), *counts)
