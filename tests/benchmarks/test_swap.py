"""What the benchmark of swaps counts."""

import numpy as np
import pytest

from benchmarks.swap import swapping_ms


def test_the_headline_is_of_all_requests() -> None:
    """p99 while swapping leaves none out: those behind new dense layers, a fifth of all, are in it, and apart."""
    moments = [(1.0 + 0.2 * n, n % 5 == 4) for n in range(10)]  # new dense layers at 1.8 and 2.8
    found = np.array([(due, 0.001) for due in np.arange(0.9, 3.0, 0.002)])
    dense = ((found[:, 0] > 1.8) & (found[:, 0] <= 2.0)) | (found[:, 0] > 2.8)
    late = dense & (np.mod(found[:, 0] - 1.8, 1.0) > 0.15)  # not within 100 ms of the swap
    found[dense, 1], found[late, 1] = 0.005, 0.050
    figures = swapping_ms(found, moments)
    assert 0.01 < late.mean() < 0.2, "over a hundredth of all"
    assert figures == pytest.approx(
        {"p99_swapping_ms": 50, "p99_without_dense_ms": 1, "p99_behind_dense_ms": 50, "p99_dense_swap_ms": 5}
    )
