"""A target policy: with what probability it would have shown the items of a logged page, place by place."""

from collections.abc import Callable, Sequence

import numpy as np

from ranker.ranking.selection import FreePlaces, Places
from stream.runtime.errors import SettingsError
from stream.tables.dtypes import F64

Draw = Callable[[F64], F64]  # keys of the candidates [n], -inf where one may not be shown → its probabilities [n]


def greedy_with(epsilon: float) -> Draw:
    """The candidate with the highest key (the first of equal ones); with probability epsilon any one, uniformly.

    Raises SettingsError when epsilon isn't a probability.

    >>> greedy_with(0.1)(np.array([0.2, 0.9, -np.inf, 0.3])).round(4).tolist()
    [0.0333, 0.9333, 0.0, 0.0333]
    """
    if not 0 <= epsilon <= 1:
        raise SettingsError(f"--epsilon takes a probability from 0 (the best item always) to 1; not {epsilon:g}")

    def chances(keys: F64) -> F64:
        is_free = keys > -np.inf
        found: F64 = is_free * (epsilon / max(is_free.sum(), 1))
        if is_free.any():
            found[np.argmax(keys)] += 1 - epsilon
        return found

    return chances


def page_chances(places: Places, draw: Draw, shown: Sequence[int], predicted: F64) -> tuple[F64, F64]:
    """Of each place of a logged page: the probability of the item shown there, and the mean prediction of what would
    be shown, both given the items above it; f64[K] each.

    `shown`: indices of the page's items among the candidates. `predicted`: P(label = 1) of each candidate [n].
    """
    chances, expected = np.empty((2, len(shown)))
    for k, index in enumerate(shown):
        of_place = draw(places.keys())
        chances[k], expected[k] = of_place[index], of_place @ predicted
        places.take(index)
    return chances, expected


def free_places(scores: F64, size: int) -> FreePlaces:
    """Places that only the first `size` of these items may take, by their scores [n]."""
    keys = np.full(len(scores), -np.inf)
    keys[:size] = scores[:size]
    return FreePlaces(keys)
