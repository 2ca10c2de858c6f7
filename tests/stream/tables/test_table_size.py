"""The sizes that are computed are those of the tables."""

import numpy as np
import pytest

from ranker.kernels.layered_table import Change, based_on
from stream.tables.delta_table import empty_delta
from stream.tables.hash_table import HashTable
from stream.tables.table_size import base_bytes, delta_bytes, growing_bytes

KEYS = 400_000


@pytest.mark.parametrize("width", [2, 4])
def test_a_growing_table_stays_within_its_size(width: int) -> None:
    """The arrays of a table that is filled bit by bit never take more than computed, and at some time nearly that."""
    table, most, rng = HashTable(width, tracked=False), 0, np.random.default_rng(1)
    while len(table) < KEYS:
        keys = rng.integers(1, 2**63, min(5_000, KEYS - len(table)), np.uint64)
        table.reserve_for(keys)
        most = max(most, table.slots.nbytes + table.old.nbytes)
        rows = np.zeros((len(keys), width), np.uint64)
        rows[:, 0] = keys
        table.put(rows)
    assert 0.6 < most / growing_bytes(KEYS, width, tracked=False) <= 1.0


@pytest.mark.parametrize("width", [2, 4])
def test_a_base_has_its_size(width: int) -> None:
    """A ranker's base is exactly as large as computed."""
    keys = np.arange(1, KEYS, dtype=np.uint64)
    table = based_on(("x",), Change(keys, np.zeros((len(keys), width - 1), np.uint64)))
    assert table.base.nbytes == base_bytes(len(keys), width)


@pytest.mark.parametrize("dim", [0, 8])
def test_a_delta_has_its_size(dim: int) -> None:
    """Heads, entries and vectors are most of a delta."""
    arrays = sum(array.nbytes for array in empty_delta(4, 10_000, dim).arrays)
    assert delta_bytes(10_000, 4, dim) <= arrays < 1.3 * delta_bytes(10_000, 4, dim)
