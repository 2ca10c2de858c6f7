"""How a position is drawn: each function returns a `Draw`, by keys of the candidates, −inf where one can't be shown."""

from collections.abc import Callable

import numpy as np

from ranker.kernels.win_probability import NORMAL, draw_normals, greatest_bound
from stream.tables.dtypes import F64

Draw = Callable[[F64], tuple[int, float | None]]  # keys [n] → index; its probability, None where nothing is drawn


def epsilon_greedy(epsilon: float, random: np.random.Generator) -> Draw:
    """With probability ε any candidate, all alike, else the best: ε / n each, and 1 − ε more for the best one."""

    def draw(keys: F64) -> tuple[int, float | None]:
        shown, best = np.flatnonzero(keys > -np.inf), int(np.argmax(keys))
        index = int(shown[random.integers(len(shown))]) if random.random() < epsilon else best
        return index, epsilon / len(shown) + (1.0 - epsilon if index == best else 0.0)

    return draw


def thompson(deviations: F64, random: np.random.Generator) -> Draw:
    """The candidate whose log-odds, drawn for this position alone, are the greatest.

    `deviations` float64 [n]: standard deviations of the candidates' log-odds.
    """

    def draw(keys: F64) -> tuple[int, float | None]:
        index, probability = draw_normals(keys, deviations, random.standard_normal(len(keys)), NORMAL)
        return int(index), float(probability)

    return draw


def upper_bound(deviations: F64) -> Draw:
    """The candidate with the greatest upper bound of its log-odds, key + deviation. Nothing is drawn."""

    def draw(keys: F64) -> tuple[int, float | None]:
        return int(greatest_bound(keys, deviations)), None

    return draw
