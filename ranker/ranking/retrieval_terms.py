"""What an item's rank among retrieved candidates adds to the logit by which a page is ordered (`rank_weight`).

The model says how likely an item is to be installed if it's shown. What a user comes to next, shown or not, retrieval
knows: its order is that of what comes next in other users' installs. A page is ordered by both (decision 51).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from ranker.ranking.page_candidates import PINNED
from stream.tables.dtypes import F64

RANK_OFFSET: Final = 5  # ranks 1 and 2 differ by as much as 12 and 14


def retrieval_terms(sources: Sequence[str], weight: float) -> F64 | None:
    """Terms of candidates with these sources, pinned ones first, float64 [n]; None: nothing is added.

    Pinned items weren't retrieved: they get 0, as the last of those that were.
    """
    if not weight or not sources:
        return None
    pinned = 0
    while pinned < len(sources) and sources[pinned] == PINNED:
        pinned += 1
    terms = rank_terms(len(sources) - pinned, weight)
    return np.concatenate([np.zeros(pinned), terms]) if pinned else terms


@lru_cache(64)
def rank_terms(count: int, weight: float) -> F64:
    """Terms of `count` items in the order in which they were retrieved, float64 [count]; the last one's is 0.

    >>> rank_terms(5, 2.0).round(3).tolist()
    [1.022, 0.713, 0.446, 0.211, 0.0]
    """
    terms: F64 = weight * np.log((RANK_OFFSET + count) / (RANK_OFFSET + np.arange(1.0, count + 1)))
    terms.flags.writeable = False
    return terms


def with_terms(scores: F64, terms: F64) -> F64:
    """The probabilities whose log odds are those of `scores` plus `terms`, float64 [n]: the keys of a page's order.

    >>> with_terms(np.array([0.5, 0.8]), np.log([3.0, 1.0])).round(3).tolist()
    [0.75, 0.8]
    """
    odds = scores * np.exp(terms)
    keys: F64 = odds / (1.0 - scores + odds)
    return keys
