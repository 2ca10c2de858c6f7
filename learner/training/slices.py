"""Slices: the examples in which a category has a value that the spec's `[slices]` names."""

import numpy as np

from stream.features.cross_products import column_of, list_at
from stream.features.encoder import Batch
from stream.features.page_features import Layout, id_of
from stream.features.page_kernels import locate
from stream.spec.spec import Spec
from stream.tables.dtypes import I64, U64, Bools
from stream.tables.jit import kernel


class Slices:
    """Finds each example's slices in its page's words. `names`: `user.gender=F` and so on, in the spec's order."""

    def __init__(self, spec: Spec, layout: Layout) -> None:
        pairs = [(column, value) for column, values in spec.slices.items() for value in values]
        self.names = tuple(f"{column}={value}" for column, value in pairs)
        self._columns: I64 = np.array([column_of(layout, column) for column, _ in pairs], np.int64).reshape(-1, 2)
        self._ids = np.array([id_of(layout.seeds[column], value) for column, value in pairs], np.uint64)
        self._sizes = layout.size_array

    def members(self, batch: Batch) -> Bools:
        """Which example is in which slice, bool [B, S]: the column's list has the value."""
        if not self.names:
            return np.zeros((len(batch.page), 0), np.bool_)
        return _members(batch, self._sizes, self._columns, self._ids)


@kernel
def _members(batch: Batch, sizes: I64, columns: I64, ids: U64) -> Bools:
    """`columns`: i64[S, 2], side and index. `ids`: u64[S]."""
    words, starts, pages, positions = batch
    w32 = words.view(np.uint32)
    found = np.zeros((pages.shape[0], ids.shape[0]), np.bool_)
    for b in range(pages.shape[0]):
        at = locate(words, w32, starts[pages[b]], sizes)
        for s in range(ids.shape[0]):
            low, high = list_at(w32, at, columns[s, 0], columns[s, 1], positions[b])
            for i in range(low, high):
                if words[i] == ids[s]:
                    found[b, s] = True
                    break
    return found
