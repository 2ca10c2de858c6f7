"""The memory of example ids: duplicates of a re-read are dropped by it. Bounded, exact within its bound."""

from typing import Any

import numpy as np

from stream.table import U64, Table, find, kernel, place

IDS = 500_000  # a generation; between one and two generations are remembered


class Seen:
    """Two generations of ids: when the young one is full it becomes the old one, and the old one is forgotten."""

    def __init__(self, young: U64 | None = None, old: U64 | None = None, ids: int = IDS) -> None:
        self.ids_max = ids
        self.young, self.old = Table(1), Table(1)
        for table, ids_held in ((self.young, young), (self.old, old)):
            if ids_held is not None:
                table.put(ids_held.reshape(-1, 1))

    def new(self, ids: U64) -> Any:
        """Which of these are new, as bool [B]; all are known from now on. A second one in the batch isn't new."""
        if len(self.young) >= self.ids_max:
            self.old, self.young = self.young, Table(1)
        self.young.reserve(len(ids))
        return _new(self.young.slots, self.young.counts, self.old.slots, ids)


@kernel
def _new(young: Any, counts: Any, old: Any, ids: Any) -> Any:
    out = np.zeros(ids.shape[0], np.bool_)
    for i in range(ids.shape[0]):
        key = ids[i] if ids[i] != np.uint64(0) else np.uint64(1)
        if find(young, key) < 0 and find(old, key) < 0:
            place(young, key, counts)
            out[i] = True
    return out
