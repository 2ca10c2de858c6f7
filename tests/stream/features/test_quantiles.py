"""Quantiles against their definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.features.quantiles import quantise

numbers = st.floats(width=32, allow_infinity=False)


@given(
    st.integers(0, 4).flatmap(lambda d: st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=1, max_size=5)),
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9),
)
def test_a_number_becomes_the_share_of_boundaries_below_it(rows: list[list[float]], cuts: list[float]) -> None:
    """(i − 1)/(n_q − 1) in the i-th quantile; a number on a boundary counts below; missing is a flag beside 0."""
    given_ = np.array(rows, np.float32).reshape(len(rows), -1)
    d = given_.shape[1]
    boundaries = np.array([sorted(cut + i for cut in cuts) for i in range(d)], np.float32).reshape(d, len(cuts))
    got = quantise(given_, boundaries)
    assert got.dtype == np.float32
    assert got.shape == (len(rows), 2 * d)
    for r in range(len(rows)):
        for c in range(d):
            x = given_[r, c]
            missing = math.isnan(x)
            below = sum(bool(b < x) for b in boundaries[c])
            assert got[r, c] == (0 if missing else np.float32(below) / np.float32(len(cuts)))
            assert got[r, d + c] == missing
    assert ((got >= 0) & (got <= 1)).all()


@pytest.mark.parametrize("shape", [(0, 0), (2, 0)])
def test_before_the_first_freeze_every_number_is_in_the_middle(shape: tuple[int, int]) -> None:
    """Without boundaries a value is 0.5, and what is missing is still known to be."""
    got = quantise(np.array([[1, np.nan], [-1e30, 0]], np.float32), np.zeros(shape, np.float32))
    assert got.tolist() == [[0.5, 0, 0, 1], [0.5, 0.5, 0, 0]]


def test_a_boundary_that_repeats_is_leapt_over_at_once() -> None:
    """Equal boundaries (a number that is mostly one value) keep quantiles rising."""
    got = quantise(np.array([[0], [1], [2]], np.float32), np.array([[1, 1, 1, 2]], np.float32))
    assert got[:, 0].tolist() == [0, 0, 0.75]
