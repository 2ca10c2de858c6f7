"""Frozen tables: what is copied run by run while a table goes on changing."""

import numpy as np
import pytest

from stream.tables.dtypes import U64
from stream.tables.frozen_table import FrozenTable, TableCopy
from stream.tables.hash_table import LOAD_MAX, STEP, HashTable


def rows_of(keys: U64) -> U64:
    """Rows of width 2 whose value follows from the key."""
    return np.stack([keys, keys >> np.uint64(40)], 1)


def copied(table: HashTable, run: int, keys: int | None = None) -> FrozenTable:
    """A copy of all rows, `run` keys at a time."""
    copy = TableCopy(len(table) if keys is None else keys, 1)
    while not copy.is_done:
        rows = copy.rows(table, run)
        copy.add(rows[:, 0], rows[:, 1:].astype(np.float32))
    return copy.frozen()


def random_keys(count: int, seed: int = 0) -> U64:
    """Distinct keys."""
    return np.unique(np.random.default_rng(seed).integers(1, 2**63, count, np.uint64))


@pytest.mark.parametrize(("count", "run"), [(0, 10), (1, 10), (700, 1), (50_000, 999), (50_000, 10**9)])
def test_a_copy_has_every_row(count: int, run: int) -> None:
    """Whatever the size of runs, each key is there once with its value, and no other key is."""
    keys, table = random_keys(count), HashTable(2)
    table.put(rows_of(keys))
    frozen = copied(table, run)
    found = frozen.rows_of(keys)
    assert sorted(found.tolist()) == list(range(len(keys)))
    assert (frozen.values[found, 0] == (keys >> np.uint64(40)).astype(np.float32)).all()
    assert (frozen.rows_of(random_keys(1_000, seed=1)) == -1).all()


def test_layout_makes_no_difference() -> None:
    """Tables with the same rows in other slots give the same copy, to the bit: one that was restored, too."""
    keys = random_keys(9_000)
    first, second = HashTable(2), HashTable(2, 200_000)
    first.put(rows_of(keys))
    second.put(rows_of(keys[::-1]))
    second.remove(keys[:100])
    second.put(rows_of(keys[:100]))
    assert len(first.slots) != len(second.slots)
    a, b = copied(first, 777), copied(second, 777)
    assert a.keys.tobytes() == b.keys.tobytes()
    assert a.values.tobytes() == b.values.tobytes()


def test_rows_that_have_still_to_move_are_copied() -> None:
    """In the middle of growth some rows are in the old array; keys that were removed from it are in neither."""
    table = HashTable(2)
    table.put(rows_of(random_keys(int(4 * STEP * LOAD_MAX) - 1_000)))
    table.reserve_for(random_keys(2_000, seed=1))
    gone = table.rows()[::7, 0].copy()
    table.remove(gone)
    assert table.moved < len(table.old), "it still grows"
    frozen = copied(table, 123_456)
    assert np.sort(frozen.keys).tobytes() == np.sort(table.rows()[:, 0]).tobytes()
    assert (frozen.rows_of(gone) == -1).all()


def test_keys_in_another_order_are_rejected() -> None:
    """A file that isn't what was written is found out when it's read."""
    frozen = copied(_table(), 100)
    with pytest.raises(ValueError, match="order"):
        FrozenTable(frozen.keys[::-1].copy(), frozen.values, frozen.bits)


def test_a_copy_resumes() -> None:
    """From its arrays, as if it hadn't stopped."""
    table = _table()
    whole, copy = copied(table, 500), TableCopy(len(table), 1)
    while not copy.is_done:
        rows = copy.rows(table, 500)
        copy.add(rows[:, 0], rows[:, 1:].astype(np.float32))
        copy = TableCopy.of(**{name: array.copy() for name, array in copy.arrays().items()})
    assert copy.frozen().keys.tobytes() == whole.keys.tobytes()


def _table() -> HashTable:
    table = HashTable(2)
    table.put(rows_of(random_keys(5_000)))
    return table
