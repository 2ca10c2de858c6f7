"""Arms: how a page's candidates are ordered. Every arm's pages are ranked by a model, so that they carry features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from producers.store.pages import PageBatch
from stream.events.types import RankReply
from stream.features.page_features import Layout, select, words_of
from stream.log.protocol import Log
from stream.tables.dtypes import F32, I64, U64


class ChosenPage(NamedTuple):
    """A page's items as shown: indices of those asked for, int64 [k]; scores and propensities, if any; features."""

    order: I64
    scores: list[float]
    features: bytes
    propensities: Sequence[float] = ()


class Policy(Protocol):
    """Chooses what a page shows."""

    def candidates(self, pages: PageBatch, page: int, k: int) -> I64:
        """The candidates that a ranker shall rank, int64 [n], in the order of ties."""
        ...

    def ranked_max(self, k: int, candidates: int) -> int:
        """How many of them the reply shall have."""
        ...

    def choose(self, reply: RankReply, asked: I64, k: int) -> ChosenPage:
        """The page by a reply with features. `asked`: int64 [n], the reply's items as indices of those asked for."""
        ...


class ByModel(Policy):
    """The reply's own order."""

    def candidates(self, pages: PageBatch, page: int, k: int) -> I64:
        """All."""
        return np.arange(pages.candidates.shape[1])

    def ranked_max(self, k: int, candidates: int) -> int:
        """The best k."""
        return k

    def choose(self, reply: RankReply, asked: I64, k: int) -> ChosenPage:
        """As it came."""
        return ChosenPage(asked, reply.scores, reply.features, reply.propensities)


@dataclass(frozen=True)
class ByPopularity(Policy):
    """The control: the most installed lately come first, whoever asks."""

    layout: Layout

    def candidates(self, pages: PageBatch, page: int, k: int) -> I64:
        """The k most popular."""
        return np.argsort(-pages.popularity[page], kind="stable")[:k]

    def ranked_max(self, k: int, candidates: int) -> int:
        """All of them."""
        return candidates

    def choose(self, reply: RankReply, asked: I64, k: int) -> ChosenPage:
        """In the order of the request."""
        order = np.argsort(asked, kind="stable")
        return ChosenPage(asked[order], [], selected(self.layout, reply.features, order))


@dataclass(frozen=True)
class ByScores(Policy):
    """A scorer of pages that isn't a ranker: float32 [n] of a page's features."""

    layout: Layout
    score: Callable[[U64], F32]

    def candidates(self, pages: PageBatch, page: int, k: int) -> I64:
        """All."""
        return np.arange(pages.candidates.shape[1])

    def ranked_max(self, k: int, candidates: int) -> int:
        """All of them."""
        return candidates

    def choose(self, reply: RankReply, asked: I64, k: int) -> ChosenPage:
        """The k best by its own scores; ties in the order of the request."""
        scores = self.score(words_of(reply.features, self.layout, len(asked)))
        order = np.lexsort((asked, -scores))[:k]
        return ChosenPage(asked[order], scores[order].tolist(), selected(self.layout, reply.features, order))


def selected(layout: Layout, features: bytes, order: I64) -> bytes:
    """The features of some of a page's items."""
    words = np.frombuffer(features, np.uint64).copy()  # kernels are compiled for writable arrays
    return select(layout, words, order).tobytes()


class Arm(NamedTuple):
    """A variant of the experiment: its name, its policy, and the log whose rankers answer for it."""

    name: str
    policy: Policy
    log: Log
