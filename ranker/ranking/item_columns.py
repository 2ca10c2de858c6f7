"""Items in arrays: what ordering them by popularity reads, without their objects and without the interpreter's lock."""

from typing import Final, NamedTuple

import numpy as np

from stream.features.page_features import id_of, seed_of
from stream.tables.dtypes import F64, U64

ONLY_SHOWN: Final = -np.inf  # static popularity of an item that nobody described
_SEED: Final = seed_of("item.id")


class ItemSlice(NamedTuple):
    """Some consecutive slots: ids, uint64 [n], and static popularity, float64 [n], NaN where there's no item."""

    first: int
    ids: U64
    popularity: F64


class ItemColumns:
    """A slot for each item, used again after the item was removed. One thread at a time changes it; others may read."""

    def __init__(self) -> None:
        self.names: list[str] = []  # by slot; empty: free
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._ids = np.zeros(1024, np.uint64)
        self._popularity = np.full(1024, np.nan)

    def put(self, name: str, popularity: float) -> None:
        """Add an item, or change its static popularity."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = self._new_slot(name)
            self._ids[slot] = id_of(_SEED, name)
        self._popularity[slot] = popularity

    def remove(self, name: str) -> None:
        """Remove an item, if it's there."""
        slot = self._slots.pop(name, None)
        if slot is not None:
            self._popularity[slot] = np.nan
            self.names[slot] = ""
            self._free.append(slot)

    def slice(self, first: int, count: int) -> ItemSlice:
        """Slots first : first + count, as far as there are some."""
        last = min(first + count, len(self.names))
        return ItemSlice(first, self._ids[first:last], self._popularity[first:last])

    def _new_slot(self, name: str) -> int:
        if self._free:
            slot = self._free.pop()
            self.names[slot] = name
            return slot
        slot = len(self.names)
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._popularity = np.concatenate([self._popularity, np.full_like(self._popularity, np.nan)])
        self.names.append(name)
        return slot
