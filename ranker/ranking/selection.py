"""Which items a page shows, place by place: the best, unless rules restrict a place or exploration draws for it."""

from typing import NamedTuple, Protocol

import numpy as np

from stream.tables.dtypes import F64


class Chosen(NamedTuple):
    """Indices of candidates in shown order; with what probability each was shown there (empty: nothing was drawn).

    `explored`: how many places don't show the candidate with the highest key.
    """

    order: list[int]
    propensities: list[float]
    explored: int = 0


class Places(Protocol):
    """What rules say about the next place, given the items chosen so far."""

    def keys(self) -> F64:
        """The candidates' keys for the next place, [n]: higher is better, -inf where an item may not be shown there."""

    def take(self, index: int) -> None:
        """The next place shows this candidate."""


class Draw(Protocol):
    """How a place is filled."""

    def __call__(self, keys: F64, /) -> tuple[int, float | None]:
        """The index of a candidate whose key isn't -inf, and the probability with which this one was drawn; None where
        nothing is drawn.
        """


class FreePlaces:
    """Each candidate may be shown anywhere, once. `keys` [n] are copied."""

    def __init__(self, keys: F64) -> None:
        self._keys = keys.copy()

    def keys(self) -> F64:
        """See Places."""
        return self._keys

    def take(self, index: int) -> None:
        """See Places."""
        self._keys[index] = -np.inf


def choose(keys: F64, k: int, places: Places | None = None, draw: Draw | None = None) -> Chosen:
    """At most k of the candidates with these keys [n]; ties keep their order. Fewer when `places` allow no more."""
    if places is None and draw is None:
        return Chosen(np.argsort(-keys, kind="stable")[:k].tolist(), [])
    places = places or FreePlaces(keys)
    order: list[int] = []
    propensities: list[float] = []
    explored = 0
    while len(order) < k:
        now = places.keys()
        if not (now > -np.inf).any():
            break
        best = int(np.argmax(now))
        index, propensity = draw(now) if draw else (best, None)
        places.take(index)
        order.append(index)
        explored += index != best
        if propensity is not None:
            propensities.append(propensity)
    return Chosen(order, propensities, explored)
