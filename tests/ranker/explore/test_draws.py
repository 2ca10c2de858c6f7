"""How a position is drawn: each test's docstring defines a way to explore."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from ranker.explore.draws import Draw, epsilon_greedy, thompson, upper_bound

KEYS = np.array([0.10, 0.12, -np.inf, 0.05, 0.2])
DEVIATIONS = np.array([0.5, 1.0, 9.0, 1.2, 0.3])
DRAWS = 20_000


def frequencies(draw: Draw) -> dict[int, tuple[float, float]]:
    """How often each candidate was drawn, and with what probability it said that it was."""
    counts: Counter[int] = Counter()
    said: dict[int, float] = {}
    for _ in range(DRAWS):
        index, probability = draw(KEYS)
        assert probability is not None
        assert said.setdefault(index, probability) == probability, "the same keys give the same probability"
        counts[index] += 1
    return {index: (count / DRAWS, said[index]) for index, count in counts.items()}


def test_epsilon_shows_any_candidate_now_and_then() -> None:
    """ε-greedy: with probability ε one of the n candidates that may be shown, ε / n each; else the best one."""
    found = frequencies(epsilon_greedy(0.2, np.random.default_rng(1)))
    assert {index: said for index, (_, said) in found.items()} == pytest.approx({0: 0.05, 1: 0.05, 3: 0.05, 4: 0.85})


@pytest.mark.parametrize("way", [lambda r: epsilon_greedy(0.3, r), lambda r: thompson(DEVIATIONS, r)])
def test_a_propensity_is_how_often_the_candidate_is_drawn(way: Callable[[np.random.Generator], Draw]) -> None:
    """Of 20,000 draws each candidate has its share, within four standard deviations of chance."""
    found = frequencies(way(np.random.default_rng(2)))
    assert sum(said for _, said in found.values()) == pytest.approx(1, abs=1e-3)
    for share, said in found.values():
        assert abs(share - said) <= 4 * np.sqrt(said * (1 - said) / DRAWS)


def test_thompson_draws_log_odds() -> None:
    """Thompson sampling: the greatest of normal draws around the log-odds. What is certain is drawn as it is known."""
    surely = thompson(np.full(5, 1e-6), np.random.default_rng(3))
    ((index, (share, said)),) = frequencies(surely).items()
    assert (index, share) == (4, 1.0)
    assert said == pytest.approx(1)
    one_unknown = thompson(np.array([1e-6, 1e-6, 1e-6, 1.0, 1e-6]), np.random.default_rng(3))
    drawn = Counter(one_unknown(KEYS)[0] for _ in range(200))
    assert set(drawn) == {3, 4}


def test_ucb_shows_the_highest_bound_and_draws_nothing() -> None:
    """UCB: the candidate with the highest log-odds + deviation, each time; there's no propensity."""
    draw = upper_bound(DEVIATIONS)
    odds = np.log(np.delete(KEYS, 2) / (1 - np.delete(KEYS, 2)))
    best = [0, 1, 3, 4][int(np.argmax(odds + np.delete(DEVIATIONS, 2)))]
    assert {draw(KEYS) for _ in range(5)} == {(best, None)}
    assert best != int(np.argmax(KEYS)), "the test shows something"
