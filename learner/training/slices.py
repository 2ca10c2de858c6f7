"""Slices: the examples in which a category holds a value that the spec's `[slices]` names."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.features.encoder import Batch, list_at, place_of
from stream.features.page_features import Layout, id_of
from stream.features.page_kernels import locate
from stream.spec.spec import Spec
from stream.tables.jit import kernel

Bools = npt.NDArray[np.bool_]


class Slices:
    """Finds each example's slices in its page's words. `names`: `user.gender=F` and so on, in the spec's order."""

    def __init__(self, spec: Spec, layout: Layout) -> None:
        pairs = [(column, value) for column, values in spec.slices.items() for value in values]
        self.names = tuple(f"{column}={value}" for column, value in pairs)
        refs = [place_of(layout, column) for column, _ in pairs]
        self._sides = np.array([side for side, _ in refs], np.int64)
        self._places = np.array([place for _, place in refs], np.int64)
        self._ids = np.array([id_of(layout.seeds[column], value) for column, value in pairs], np.uint64)
        self._sizes = np.array(layout.sizes, np.int64)

    def members(self, batch: Batch) -> Bools:
        """Which example is in which slice, bool [B, S]: the column's list holds the value."""
        found: Bools = np.zeros((len(batch), len(self.names)), np.bool_)
        if self.names:
            _members(batch.words, batch.words.view(np.uint32), batch.starts, batch.page, batch.position, self._sizes,
                     self._sides, self._places, self._ids, found)  # fmt: skip
        return found


@kernel
def _members(words: Any, w32: Any, starts: Any, page: Any, position: Any, sizes: Any, sides: Any, places: Any,
             ids: Any, found: Any) -> None:  # fmt: skip
    for b in range(page.shape[0]):
        place = locate(words, w32, starts[page[b]], sizes)
        for s in range(ids.shape[0]):
            low, high = list_at(w32, place, sides[s], places[s], position[b], sizes)
            for i in range(low, high):
                if words[i] == ids[s]:
                    found[b, s] = True
                    break
