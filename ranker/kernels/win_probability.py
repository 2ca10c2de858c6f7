"""Kernels of Thompson sampling: normal draws are compared, and the winner's probability of winning is integrated."""

import math
from typing import Any, Final

import numpy as np

from stream.tables.dtypes import F64
from stream.tables.jit import kernel

REACH: Final = 8.0  # standard deviations that count
CELLS: Final = 128  # of the table of the normal distribution, for each standard deviation
SPREAD_MAX: Final = 16.0  # between deviations of two candidates: narrower distributions would need more nodes
NODES: Final = 2.0  # for each of the smallest deviations: the error of the trapezoids is below 1e-3 of the result
ODDS_MIN: Final = 1e-9  # keys beyond it and 1 − it aren't probabilities: there their log-odds go on as a straight line
NORMAL: Final[F64] = np.array([math.erfc(-k / CELLS / math.sqrt(2)) / 2 for k in range(-8 * CELLS, 8 * CELLS + 2)])


@kernel
def log_odds(key: float) -> float:
    """Log-odds of a key; of any number, in the order of the keys: rules may have moved it out of 0 to 1."""
    inner = min(max(key, ODDS_MIN), 1.0 - ODDS_MIN)
    return np.log(inner / (1.0 - inner)) + (key - inner) / ODDS_MIN  # type: ignore[no-any-return]


@kernel
def _below(z: float, normal: F64) -> Any:
    """Φ(z), by the table."""
    if z >= REACH:
        return 1.0
    if z <= -REACH:
        return 0.0
    at = (z + REACH) * CELLS
    cell = np.int64(at)
    return normal[cell] + (at - cell) * (normal[cell + 1] - normal[cell])


@kernel
def greatest_bound(keys: F64, deviations: F64) -> Any:
    """The candidate with the greatest log_odds(key) + deviation, of those whose key isn't −inf; both float64 [n]."""
    winner, greatest = np.int64(-1), -np.inf
    for i in range(keys.shape[0]):
        bound = log_odds(keys[i]) + deviations[i] if keys[i] > -np.inf else -np.inf
        if bound > greatest:
            winner, greatest = np.int64(i), bound
    return winner


@kernel
def draw_normals(keys: F64, deviations: F64, noise: F64, normal: F64) -> Any:
    """The candidate whose draw is the greatest, and the probability that its draw is.

    Draws are log_odds(key) + deviation · noise, of candidates whose key isn't −inf. All float64 [n]: `noise` standard
    normal; deviations below 1 / SPREAD_MAX of the greatest are raised to that. `normal` is NORMAL.
    """
    n, count, greatest = keys.shape[0], 0, -np.inf
    means, sigmas = np.empty(n), np.empty(n)
    least = max(ODDS_MIN, deviations.max() / SPREAD_MAX)
    chosen, winner = np.int64(-1), np.int64(-1)
    for i in range(n):
        if keys[i] > -np.inf:
            means[count], sigmas[count] = log_odds(keys[i]), max(deviations[i], least)
            draw = means[count] + sigmas[count] * noise[i]
            if draw > greatest:
                greatest, winner, chosen = draw, np.int64(count), np.int64(i)
            count += 1
    return chosen, win_probability(means[:count], sigmas[:count], winner, normal)


@kernel
def win_probability(means: F64, sigmas: F64, i: Any, normal: F64) -> float:
    """P(draw i is the greatest) of independent normal draws, means and standard deviations float64 [n].

    ∫ φ(z) ∏ Φ((mᵢ + σᵢ z − mⱼ) / σⱼ) dz by trapezoids, whose error falls exponentially with the number of nodes: all
    factors are smooth on the scale of the smallest deviation. Candidates that can't come near are left out.
    """
    mean, sigma = means[i], sigmas[i]
    low, high, smallest = mean - REACH * sigma, mean + REACH * sigma, sigma
    for j in range(means.shape[0]):
        low = max(low, means[j] - REACH * sigmas[j])
    if low >= high:
        return 0.0
    near, rivals = np.empty(means.shape[0], np.int64), 0
    for j in range(means.shape[0]):
        if j != i and means[j] + REACH * sigmas[j] > low:
            near[rivals] = j
            rivals += 1
            smallest = min(smallest, sigmas[j])
    nodes = np.int64(np.ceil((high - low) * NODES / smallest)) + 1
    step, total = (high - low) / nodes, 0.0
    for k in range(nodes + 1):
        x = low + k * step
        z = (x - mean) / sigma
        product = np.exp(-0.5 * z * z)
        for r in range(rivals):
            j = near[r]
            product *= _below((x - means[j]) / sigmas[j], normal)
            if product < 1e-15:
                break
        total += product
    return total * step / (sigma * np.sqrt(2.0 * np.pi))  # type: ignore[no-any-return]


@kernel
def win_chances(keys: F64, deviations: F64, shown: Any, normal: F64) -> Any:
    """Of each candidate: the probability that `draw_normals` chooses it, float64 [n]; 0 where the key is −inf.

    That of `shown` has the bits that `draw_normals` would return for it; the others come from one quadrature for all.
    """
    found = np.zeros(keys.shape[0])
    allowed = np.flatnonzero(keys > -np.inf)
    if len(allowed) == 0:
        return found
    means, sigmas = np.empty(len(allowed)), np.empty(len(allowed))
    least = max(ODDS_MIN, deviations.max() / SPREAD_MAX)
    for c, i in enumerate(allowed):
        means[c], sigmas[c] = log_odds(keys[i]), max(deviations[i], least)
    chances = win_probabilities(means, sigmas, normal)
    for c, i in enumerate(allowed):
        found[i] = win_probability(means, sigmas, c, normal) if i == shown else chances[c]
    return found


@kernel
def win_probabilities(means: F64, sigmas: F64, normal: F64) -> Any:
    """`win_probability` of each draw, float64 [n], on the same nodes for all: the work grows with n, not with n²."""
    found = np.zeros(means.shape[0])
    low, high = (means - REACH * sigmas).max(), (means + REACH * sigmas).max()
    near = np.flatnonzero(means + REACH * sigmas > low)
    nodes = np.int64(np.ceil((high - low) * NODES / sigmas[near].min())) + 1
    step = (high - low) / nodes
    z, below, before = np.empty(len(near)), np.empty(len(near)), np.empty(len(near))
    for k in range(nodes + 1):
        x, product = low + k * step, 1.0
        for r, i in enumerate(near):
            z[r] = (x - means[i]) / sigmas[i]
            below[r], before[r] = _below(z[r], normal), product
            product *= below[r]
        product = 1.0
        for r in range(len(near) - 1, -1, -1):
            others = product * before[r]
            if others > 1e-15 and abs(z[r]) < REACH:
                found[near[r]] += others * np.exp(-0.5 * z[r] * z[r])
            product *= below[r]
    return found * step / (sigmas * np.sqrt(2.0 * np.pi))
