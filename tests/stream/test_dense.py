"""Quantiles and pooled embeddings against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.dense import pool_rows, quantise, rows_of
from stream.table import Table

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


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 5), st.data())
def test_lists_are_pooled_as_sum_over_root_n(b: int, lists: int, dim: int, data: st.DataObject) -> None:
    """Each list's vectors summed, over √n; an empty list is zeros; no lists at all give no columns."""
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=b * lists, max_size=b * lists))
    offsets = np.cumsum([0, *sizes])
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    vectors = random.standard_normal((6, dim)).astype(np.float32)
    rows = random.integers(0, 6, int(offsets[-1]))
    got = pool_rows(rows, offsets, b, lists, vectors)
    assert got.dtype == np.float32
    assert got.shape == (b, lists * dim)
    for r in range(b):
        for f in range(lists):
            of = rows[offsets[r * lists + f] : offsets[r * lists + f + 1]]
            wanted = vectors[of].astype(np.float64).sum(axis=0) / math.sqrt(max(1, len(of)))
            np.testing.assert_allclose(got[r, f * dim : (f + 1) * dim], wanted, rtol=1e-5, atol=1e-6)


@given(st.dictionaries(st.integers(1, 2**64 - 1), st.integers(1, 9), max_size=20), st.lists(st.integers(1, 30)))
def test_an_id_without_a_row_has_row_0(rows: dict[int, int], others: list[int]) -> None:
    """Ids of the vocabulary get their rows, all others the unseen one."""
    table = Table(2)
    table.put(np.array(list(rows.items()), np.uint64).reshape(-1, 2))
    ids = [*rows, *others]
    assert rows_of(np.array(ids, np.uint64), table.slots).tolist() == [rows.get(i, 0) for i in ids]
