"""Products of batches with packed weights."""

import numpy as np
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from ranker.kernels.packed_gemm import multiply, packed, padded

SIZES = st.integers(1, 90)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(0, 90), SIZES, st.booleans())
@how(max_examples=60, deadline=None)
def test_a_product_is_that_of_its_matrices(seed: int, n: int, inputs: int, outputs: int, relu: bool) -> None:
    """out + x · weights, then max(0, ·) where asked, whatever the shapes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, inputs + 3)).astype(np.float32)
    weight, out = rng.normal(size=(inputs, outputs)).astype(np.float32), np.zeros((n, padded(outputs)), np.float32)
    out[:, :outputs] = start = rng.normal(size=(n, outputs)).astype(np.float32)
    multiply(x.ravel(), inputs + 3, n, packed(weight).ravel(), inputs, out.ravel(), padded(outputs), relu)
    expected = start.astype(np.float64) + x[:, :inputs].astype(np.float64) @ weight
    np.testing.assert_allclose(out[:, :outputs], np.maximum(expected, 0) if relu else expected, atol=1e-4)
    assert (out[:, outputs:] == 0).all()


def test_a_row_is_the_same_in_every_batch() -> None:
    """However many rows are multiplied at once, each one's outputs are the same to the bit."""
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(13, 100)).astype(np.float32), rng.normal(size=(100, 70)).astype(np.float32)
    whole = np.zeros((13, padded(70)), np.float32)
    multiply(x.ravel(), 100, 13, packed(weight).ravel(), 100, whole.ravel(), padded(70), False)
    for first in range(13):
        for last in range(first + 1, 14):
            out = np.zeros((last - first, padded(70)), np.float32)
            multiply(
                x[first:last].ravel(), 100, last - first, packed(weight).ravel(), 100, out.ravel(), padded(70), False
            )
            assert (out == whole[first:last]).all()


def test_what_is_no_number_stays_so() -> None:
    """A rectifier doesn't hide a sum that overflowed to NaN."""
    x, weight = np.array([np.inf, -np.inf], np.float32), np.ones((2, 1), np.float32)
    out = np.zeros(padded(1), np.float32)
    multiply(x, 2, 1, packed(weight).ravel(), 2, out, padded(1), True)
    assert np.isnan(out[0])
