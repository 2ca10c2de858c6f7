"""The probability that one of several normal draws is the greatest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.kernels.win_probability import (
    NORMAL,
    SPREAD_MAX,
    draw_normals,
    greatest_bound,
    log_odds,
    win_chances,
    win_probabilities,
    win_probability,
)
from stream.tables.dtypes import F64

SIGMAS = st.floats(0.1, 0.1 * SPREAD_MAX)
CANDIDATES = st.lists(st.tuples(st.floats(-9, 9), SIGMAS), min_size=1, max_size=30)


def split(candidates: list[tuple[float, float]]) -> tuple[F64, F64]:
    """Means and standard deviations."""
    return np.array([m for m, _ in candidates]), np.array([s for _, s in candidates])


@given(CANDIDATES)
def test_someone_wins(candidates: list[tuple[float, float]]) -> None:
    """The probabilities of all candidates sum to 1, within .1 %."""
    means, sigmas = split(candidates)
    wins = [win_probability(means, sigmas, i, NORMAL) for i in range(len(means))]
    assert sum(wins) == pytest.approx(1, abs=1e-3)
    assert min(wins) >= 0


@given(st.floats(-3, 3), st.floats(-3, 3), SIGMAS, SIGMAS)
def test_of_two_the_difference_decides(a: float, b: float, sigma_a: float, sigma_b: float) -> None:
    """Of two draws the first is the greater with probability Φ((a − b) / √(σa² + σb²)), within .1 % of it."""
    found = win_probability(np.array([a, b]), np.array([sigma_a, sigma_b]), 0, NORMAL)
    z = (a - b) / math.hypot(sigma_a, sigma_b)
    assert found == pytest.approx(math.erfc(-z / math.sqrt(2)) / 2, rel=1e-3, abs=1e-9)


def test_of_equal_ones_each_wins_as_often() -> None:
    """A hundred candidates that nothing tells apart have a hundredth each."""
    means, sigmas = np.full(100, -3.0), np.full(100, 0.3)
    assert win_probability(means, sigmas, 17, NORMAL) == pytest.approx(0.01, rel=1e-3)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_log_odds_keep_the_order_of_any_keys(a: float, b: float) -> None:
    """Log-odds of a probability are log(p / (1 − p)); whatever rules make of keys, a higher one has higher log-odds."""
    if a < b:
        assert log_odds(a) <= log_odds(b)
    if 1e-6 < a < 1 - 1e-6:
        assert log_odds(a) == pytest.approx(math.log(a / (1 - a)))
    assert math.isfinite(log_odds(a))


def test_only_what_may_be_shown_is_drawn() -> None:
    """A key of −inf is never chosen, however much its noise, and takes no probability from the others."""
    keys, noise = np.array([0.2, -np.inf, 0.2]), np.array([0.0, 9.0, 0.1])
    deviations = np.array([0.5, 5.0, 0.5])
    index, probability = draw_normals(keys, deviations, noise, NORMAL)
    assert index == 2
    assert probability == pytest.approx(0.5, rel=1e-3)
    assert greatest_bound(keys, deviations) == 0


@given(CANDIDATES)
def test_all_chances_by_one_quadrature(candidates: list[tuple[float, float]]) -> None:
    """One quadrature for all draws gives each what its own gives, within .1 % of it, and they sum to 1."""
    means, sigmas = split(candidates)
    found = win_probabilities(means, sigmas, NORMAL)
    own = [win_probability(means, sigmas, i, NORMAL) for i in range(len(means))]
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-3)


@given(CANDIDATES, st.integers(0, 2**32))
def test_the_chance_of_what_was_drawn_is_its_propensity(candidates: list[tuple[float, float]], seed: int) -> None:
    """To the bit, whichever candidates may not be shown; these have none."""
    random = np.random.default_rng(seed)
    keys, deviations = 1 / (1 + np.exp(-split(candidates)[0])), split(candidates)[1]
    keys[random.random(len(keys)) < 0.3] = -np.inf
    if not (keys > -np.inf).any():
        assert not win_chances(keys, deviations, 0, NORMAL).any()
        return
    index, propensity = draw_normals(keys, deviations, random.standard_normal(len(keys)), NORMAL)
    found = win_chances(keys, deviations, index, NORMAL)
    assert found[index] == propensity
    assert not found[keys == -np.inf].any()


def test_chances_are_frequencies_of_draws() -> None:
    """Of 200,000 draws each candidate wins its share, within five standard errors; also those that seldom do."""
    keys, deviations = np.array([0.05, 0.04, -np.inf, 0.06, 0.02]), np.array([0.3, 0.5, 0.2, 0.4, 0.9])
    random, draws = np.random.default_rng(0), 200_000
    log_odds_of = np.log(keys[[0, 1, 3, 4]] / (1 - keys[[0, 1, 3, 4]]))
    drawn = log_odds_of + deviations[[0, 1, 3, 4]] * random.standard_normal((draws, 4))
    shares = np.bincount(drawn.argmax(1), minlength=4) / draws
    found = win_chances(keys, deviations, -1, NORMAL)[[0, 1, 3, 4]]
    assert (np.abs(shares - found) < 5 * np.sqrt(found * (1 - found) / draws)).all()
    assert 0.05 < found.min() < found.max() < 0.6
