"""A target policy: with what probability it would have shown the items of a logged page, place by place."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ranker.kernels.win_probability import NORMAL, win_chances
from ranker.ranking.selection import FreePlaces, Places
from stream.spec.explore import Explore
from stream.tables.dtypes import F64

Draw = Callable[[F64, int], F64]
"""Keys [n], -inf where a candidate may not be shown, and which one the log shows there → probabilities [n]."""


def greedy_with(epsilon: float) -> Draw:
    """The candidate with the highest key (the first of equal ones); with probability epsilon any one, uniformly.

    >>> greedy_with(0.1)(np.array([0.2, 0.9, -np.inf, 0.3]), 0).round(4).tolist()
    [0.0333, 0.9333, 0.0, 0.0333]
    """

    def chances(keys: F64, shown: int) -> F64:
        is_free = keys > -np.inf
        found: F64 = is_free * (epsilon / max(is_free.sum(), 1))
        if is_free.any():
            found[np.argmax(keys)] += 1 - epsilon
        return found

    return chances


def thompson_with(deviations: F64) -> Draw:
    """The candidate whose log-odds are the greatest, each drawn with its standard deviation, float64 [n].

    >>> thompson_with(np.array([0.5, 0.5, 9.0]))(np.array([0.2, 0.2, -np.inf]), 0).round(3).tolist()
    [0.5, 0.5, 0.0]
    """

    def chances(keys: F64, shown: int) -> F64:
        found: F64 = win_chances(keys, deviations, shown, NORMAL)
        return found

    return chances


def draw_with(explore: Explore, uncertain: Mapping[float, F64]) -> Draw:
    """How the exploration of a target's spec draws. `uncertain`: u of the candidates by `prior`, float64 [n], 0 of
    those that rules removed.
    """
    if explore.kind == "thompson":
        return thompson_with(explore.scale * uncertain[explore.prior])
    return greedy_with(explore.epsilon if explore.kind == "epsilon" else 0.0)


def page_chances(places: Places, draw: Draw, shown: Sequence[int], predicted: F64) -> tuple[F64, F64]:
    """Of each place of a logged page: the probability of the item shown there, and the mean prediction of what would
    be shown, both given the items above it; f64[K] each.

    `shown`: indices of the page's items among the candidates. `predicted`: P(label = 1) of each candidate [n].
    """
    chances, expected = np.empty((2, len(shown)))
    for k, index in enumerate(shown):
        of_place = draw(places.keys(), index)
        chances[k], expected[k] = of_place[index], of_place @ predicted
        places.take(index)
    return chances, expected


def free_places(scores: F64, size: int) -> FreePlaces:
    """Places that only the first `size` of these items may take, by their scores [n]."""
    keys = np.full(len(scores), -np.inf)
    keys[:size] = scores[:size]
    return FreePlaces(keys)
