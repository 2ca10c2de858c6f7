"""Retrieval by models refitted from all installs so far: item-kNN and EASE, each by all of a user's items alike, and by
recent ones first.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from stream.tables.dtypes import F64, I64

PEERS: Final = ("item_knn", "recent_knn", "ease", "recent_ease")
FADE: Final = 0.9  # of each further one of a user's items: the best of .97, .9 and .8, for both
L2: Final = 500.0  # EASE's: the best of 20, 50, 100, 200, 500, 1,000, 2,000 and 4,000


class RefittedPeers:
    """Item-item weights [I, I] by peer, as of the last `refit`, and installs by item [I] as of now."""

    def __init__(self, items: int) -> None:
        self.installs = np.zeros(items)
        self._weights: dict[str, F64] = {}

    def refit(self, histories: Sequence[Sequence[int]]) -> None:
        """Fit all peers to these users' items."""
        users = np.zeros((len(histories), len(self.installs)))
        for user, items in enumerate(histories):
            users[user, list(items)] = 1.0
        gram = users.T @ users
        norms = np.sqrt(np.maximum(np.diag(gram), 1.0))
        cosine = gram / norms[:, None] / norms[None]
        np.fill_diagonal(cosine, 0.0)
        inverse = np.linalg.inv(gram + L2 * np.eye(len(gram)))  # Steck 2019
        ease = -inverse / np.diag(inverse)[None]
        np.fill_diagonal(ease, 0.0)
        self._weights = {"item_knn": cosine, "recent_knn": cosine, "ease": ease, "recent_ease": ease}

    def ranks(self, history: Sequence[int], item: int) -> dict[str, int]:
        """By peer, how many items without the user's come before this one; ties go by installs, then by number."""
        found = {"popular": self.installs}
        if history and self._weights:
            last = np.array(history[::-1])
            faded = FADE ** np.arange(len(last))
            for peer, weights in self._weights.items():
                found[peer] = faded @ weights[last] if peer.startswith("recent") else weights[last].sum(axis=0)
        owned = np.array(history, np.int64)
        return {peer: self._rank(found.get(peer, self.installs), owned, item) for peer in ("popular", *PEERS)}

    def _rank(self, scores: F64, owned: I64, item: int) -> int:
        before = scores > scores[item]
        equal = scores == scores[item]
        before |= equal & (self.installs > self.installs[item])
        before |= equal & (self.installs == self.installs[item]) & (np.arange(len(scores)) < item)
        before[owned] = False
        return int(np.count_nonzero(before))
