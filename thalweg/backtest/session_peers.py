"""The session peers: what predicts a user's next install from nothing but who installed what, in which order.

Definitions are those of Ludewig and Jannach (2018), "Evaluation of session-based recommendation algorithms", and of
their published code, `session-rec`; a session is what a user installed so far. All are incremental: a prediction
counts in the sessions as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from stream.tables.dtypes import F64
from thalweg.backtest.session_kernels import add_neighbours, add_rules, add_similarities
from thalweg.backtest.user_sessions import UserSessions


@dataclass(frozen=True)
class SessionOptions:
    """Options of the session peers. Defaults: the published ones, or what was better on MovieLens (decision 44)."""

    popular_last: int = 10_000  # installs of all users: an hour of a shop with three a second, MovieLens' last month
    rules_last: int = 20  # items of the session that rules start from; published: 1
    rules_steps: int = 1_000  # from an item to one after it
    rules_decay: float = 1.0
    knn_last: int = 10  # items of the session that others are compared with; published: 1
    knn_shrinkage: float = 20.0
    knn_alpha: float = 0.3  # published: 0.5
    vsknn_k: int = 100
    vsknn_sample: int = 1_000
    vsknn_decay: float = 1.0


class SessionPeer(Protocol):
    """Scores all items as a user's next install."""

    name: str

    def score(self, user: str) -> F64:
        """A score of each item, float64 [items]; the greater the likelier. The user's own items have one, too."""
        ...


class Popular:
    """Recent popularity: how many of the last `popular_last` installs, of whomever, are of the item."""

    name = "popular"

    def __init__(self, sessions: UserSessions, options: SessionOptions) -> None:
        self._sessions, self._last = sessions, options.popular_last

    def score(self, user: str) -> F64:
        """The same for every user."""
        return self._sessions.newest_installs(self._last).astype(np.float64)


class SequentialRules:
    """Sequential rules (SR): who installs i installs j some time later.

    Rule i → j = Σ over sessions with j at x positions behind i, x ≤ `rules_steps`: x^-`rules_decay`. Score of j =
    Σ over the session's `rules_last` newest items i: rule i → j / position of i, the newest 1. With one item, and a
    decay of 1, it's the paper's SR but for its norm, which is the same for all j.
    """

    name = "rules"

    def __init__(self, sessions: UserSessions, options: SessionOptions) -> None:
        self._sessions, self._last = sessions, options.rules_last
        self._gains: F64 = np.arange(1.0, options.rules_steps + 1) ** -options.rules_decay

    def score(self, user: str) -> F64:
        """By the rules of the user's newest items."""
        scores = np.zeros(len(self._sessions))
        newest = self._sessions.session(user)[::-1][: self._last]
        add_rules(newest, self._gains, self._sessions.sessions, scores)
        return scores


class ItemKnn:
    """Item-kNN: cosine of two items' users, shrunk.

    Similarity of i and j = nᵢⱼ / ((nᵢ + s)^a · (nⱼ + s)^(1 − a)), of how many users have both and either; s is
    `knn_shrinkage`, a `knn_alpha`. Score of j = Σ over the session's `knn_last` newest items i: similarity of i and j.
    """

    name = "item-knn"

    def __init__(self, sessions: UserSessions, options: SessionOptions) -> None:
        self._sessions, self._options = sessions, options

    def score(self, user: str) -> F64:
        """By the similarity to the user's newest items."""
        options, scores = self._options, np.zeros(len(self._sessions))
        newest = self._sessions.session(user)[::-1][: options.knn_last]
        add_similarities(newest, options.knn_shrinkage, options.knn_alpha, self._sessions.sessions, scores)
        return scores


class VSkNN:
    """V-SkNN: what the users have whose sessions are most like this one's newest items.

    Candidates are the `vsknn_sample` sessions with the newest installs that have an item of the session. Similarity to
    one = Σ over the items of both: (p / n)^d / n, by the position p in this session of length n, the newest n; d is
    `vsknn_decay`. Score of j = Σ over those of the `vsknn_k` most similar that have j: similarity / x^d, where the
    newest item of both is at position x from this session's end, the last one at 1. Its own session isn't a candidate.
    """

    name = "v-sknn"

    def __init__(self, sessions: UserSessions, options: SessionOptions) -> None:
        self._sessions, self._options = sessions, options

    def score(self, user: str) -> F64:
        """By the user's neighbours."""
        options, scores = self._options, np.zeros(len(self._sessions))
        number = self._sessions.user(user)
        limits = options.vsknn_k, options.vsknn_sample
        add_neighbours(number, *limits, options.vsknn_decay, self._sessions.sessions, scores)
        return scores


SESSION_PEERS: Final[Mapping[str, Sequence[Callable[[UserSessions, SessionOptions], SessionPeer]]]] = {
    "popular": (Popular,),
    "rules": (SequentialRules,),
    "knn": (ItemKnn, VSkNN),
}


def session_peers(names: Sequence[str], sessions: UserSessions, options: SessionOptions) -> list[SessionPeer]:
    """The peers of these names, which are keys of SESSION_PEERS."""
    return [peer(sessions, options) for name in names for peer in SESSION_PEERS[name]]
