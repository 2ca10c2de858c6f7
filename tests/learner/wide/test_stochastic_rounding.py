"""Rounding that keeps the mean."""

import math

import numpy as np
import pytest

from learner.wide.ftrl import Ftrl, FtrlRates
from learner.wide.stochastic_rounding import dithered, draw, noise, offsets_of_noise
from stream.tables.jit import kernel
from tests.support.wide_steps import keys_of, predict_then_learn


@kernel
def add_often(total: np.float32, term: np.float32, times: int, offset: np.float32) -> np.float32:
    """`term` added to `total`, rounded stochastically, one step after another."""
    for step in range(times):
        total = dithered(total, term, noise(draw(step), offset))
    return total


@pytest.mark.parametrize("start", [1.0, -1.5, 1e20, -3e-12])
@pytest.mark.parametrize("share", [0.3, 0.01, -0.2])
def test_terms_below_the_last_digit_add_up(start: float, share: float) -> None:
    """A hundred thousand terms of a share of the last digit each; to the nearest, all of them would be lost."""
    total = np.float32(start)
    digit = np.spacing(np.abs(total))
    term, times = np.float32(share * float(digit)), 100_000
    assert total + term == total
    for offset in offsets_of_noise(3):
        moved = (float(add_often(total, term, times, offset)) - float(total)) / float(digit)
        assert moved == pytest.approx(share * times, rel=0.1)


def test_what_float32_can_say_is_said() -> None:
    """A sum from 0 is exact; a term of the sum's size or more is off by a last digit at most."""
    assert add_often(np.float32(0), np.float32(0.1), 1, np.float32(0.7)) == np.float32(0.1)
    total = add_often(np.float32(1), np.float32(2), 1, np.float32(0.7))
    assert abs(float(total) - 3.0) <= float(np.spacing(np.float32(3)))


def test_noise_is_even_and_each_coordinate_s_own() -> None:
    """Over many steps each coordinate's noise is uniform from −½ to ½; no two are the same."""
    offsets = offsets_of_noise(64)
    found = np.array([[noise(draw(step), offset) for offset in offsets] for step in range(2_000)])
    assert (np.abs(found) <= 0.5).all()
    assert np.abs(found.mean(axis=0)).max() < 0.03
    assert np.abs(found.std(axis=0) - math.sqrt(1 / 12)).max() < 0.01
    assert len(np.unique(found[0])) == 64


def test_a_hot_key_follows_after_a_hundred_million_examples() -> None:
    """Sums as large as those of the bias then: rare labels move its weight as they do in float64. To the nearest, the
    steps of negatives were lost and those of positives weren't."""
    alpha, beta, n, weight, rate, count = 0.05, 1.0, 1e5, -6.3, 0.001, 300_000
    ftrl = Ftrl(FtrlRates(np.array([alpha], np.float32), beta, 0.0, 0.0))
    rows = keys_of([[2]]).keys.reshape(1, 1).repeat(2, axis=1).copy()
    rows.view(np.float32)[0, 2:] = weight, n
    ftrl.table.put(rows)
    labels = (np.random.default_rng(1).random(count) < rate).astype(np.float32)
    keys, ones = keys_of([[2]] * count), np.ones(count, np.float32)
    predict_then_learn(ftrl, keys, 0 * ones, labels, ones)
    wanted, nearest, total = weight, np.float32(weight), n
    for label in labels.tolist():
        g = 1 / (1 + math.exp(-wanted)) - label
        total += g * g
        wanted -= alpha * g / (beta + math.sqrt(total))
        g = 1 / (1 + math.exp(-float(nearest))) - label
        nearest -= np.float32(alpha * g / (beta + math.sqrt(total)))
    moved = wanted - weight
    assert abs(moved) > 0.01
    assert float(ftrl.weights(ftrl.table.rows())[0]) - weight == pytest.approx(moved, rel=0.1)
    assert abs(float(nearest) - weight - moved) > 0.2 * abs(moved), "else the test shows nothing"
