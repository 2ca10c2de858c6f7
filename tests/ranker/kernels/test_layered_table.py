"""Contents laid over each other, many rows at a time."""

import numpy as np
import pytest

from ranker.kernels.layered_table import Change, LayeredTable, based_on
from stream.tables.delta_table import MISSING, TOMBSTONE, lookup
from stream.tables.hash_kernels import find


def _held(layers: LayeredTable, key: int) -> int | None:
    """What a key has, by a look into overlay and base."""
    rows = layers.view
    entry = lookup(rows.heads, rows.entries, rows.limit, np.uint64(key))
    if entry == TOMBSTONE:
        return None
    if entry != MISSING:
        return int(layers.delta.vectors[entry, 0]) if layers.delta.dim else int(rows.entries[entry, 1])
    row = find(rows.base, np.uint64(key))
    if row < 0:
        return None
    return int(layers.vectors[int(rows.base[row, 1]), 0]) if layers.delta.dim else int(rows.base[row, 1])


@pytest.mark.parametrize("dim", [0, 3])
def test_many_rows_are_all_there(dim: int) -> None:
    """Many rows, laid and folded, are what was said last of each key; older views stay as they were."""
    random = np.random.default_rng(dim)
    expected: dict[int, int] = {}

    def change(number: int, count: int) -> Change:
        keys = random.choice(np.arange(1, 30_001, dtype=np.uint64), count, replace=False)
        values = np.full((count, 1), number)
        dead = random.choice(keys, count // 10, replace=False)
        expected.update(dict.fromkeys(keys.tolist(), number))
        for key in dead.tolist():
            expected.pop(key)
        vectors = np.repeat(values, dim, axis=1).astype(np.float32)
        columns = np.zeros((count, 0), np.uint64) if dim else values.astype(np.uint64)
        alive = ~np.isin(keys, dead)
        return Change(keys[alive], columns[alive], vectors[alive], dead)

    layers = based_on(("1",), change(1, 10_000))
    views = [(layers, dict(expected))]
    for number in range(2, 5):
        layers = layers.with_change((str(number),), change(number, 6_000 + number))
        views.append((layers, dict(expected)))
    folded = layers.compacted()
    for view, had in [*views, (folded, expected)]:
        assert {key: held for key in range(1, 30_001) if (held := _held(view, key)) is not None} == had
