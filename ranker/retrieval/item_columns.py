"""Items in arrays: what a sweep over all of them reads, without their objects and without the interpreter's lock."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from stream.features.page_features import cached_id_of, id_of, seed_of
from stream.tables.dtypes import F64, I64, U64

ONLY_SHOWN: Final = -np.inf  # static popularity of an item that nobody described
LATEST_MAX: Final = 256  # of the items added last, which are retrieved before a sweep has found them
_SEED: Final = seed_of("item.id")


class ItemSlice(NamedTuple):
    """Some consecutive slots, arrays [n]: ids; static popularity, NaN where there's no item; when each was added."""

    first: int
    ids: U64
    popularity: F64
    added: I64


class ItemColumns:
    """A slot for each item, used again after the item was removed. One thread at a time changes it; others may read."""

    def __init__(self) -> None:
        self.names: list[str] = []  # by slot; empty: free
        self.added = 0  # how many items were added so far
        self._slots: dict[str, int] = {}
        self._by_id: dict[int, int] = {}
        self._free: list[int] = []
        self._ids = np.zeros(1024, np.uint64)
        self._popularity = np.full(1024, np.nan)
        self._added = np.zeros(1024, np.int64)
        self._latest: deque[tuple[int, str]] = deque(maxlen=LATEST_MAX)

    def put(self, name: str, popularity: float) -> None:
        """Add an item, or change its static popularity."""
        slot = self._slots.get(name)
        if slot is None:
            self.added += 1
            slot = self._slots[name] = self._new_slot(name)
            item_id = id_of(_SEED, name)
            self._ids[slot], self._added[slot], self._by_id[item_id] = item_id, self.added, slot
            self._latest.append((self.added, name))
        self._popularity[slot] = popularity

    def remove(self, name: str) -> None:
        """Remove an item, if it's there."""
        slot = self._slots.pop(name, None)
        if slot is not None:
            self._popularity[slot] = np.nan
            self.names[slot] = ""
            self._by_id.pop(int(self._ids[slot]), None)
            self._free.append(slot)

    def names_of(self, ids: U64) -> list[str]:
        """Names of the items with these ids, in order; those that aren't here are left out."""
        names = self.names
        return [names[slot] for slot in map(self._by_id.get, ids.tolist()) if slot is not None]

    def slice(self, first: int, count: int) -> ItemSlice:
        """Slots first : first + count, as far as there are some."""
        part = np.s_[first : min(first + count, len(self.names))]
        return ItemSlice(first, self._ids[part], self._popularity[part], self._added[part])

    def added_since(self, added: int) -> list[str]:
        """Items added after so many had been, the newest first; LATEST_MAX at most."""
        if self.added == added:
            return []
        latest = [name for number, name in reversed(tuple(self._latest)) if number > added and name in self._slots]
        return [*dict.fromkeys(latest)]  # one may have been removed and added again

    def _new_slot(self, name: str) -> int:
        if self._free:
            slot = self._free.pop()
            self.names[slot] = name
            return slot
        slot = len(self.names)
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._popularity = np.concatenate([self._popularity, np.full_like(self._popularity, np.nan)])
            self._added = np.concatenate([self._added, np.zeros_like(self._added)])
        self.names.append(name)
        return slot


def ids_of(names: Sequence[str]) -> U64:
    """The ids that pages have of these items, uint64 [n]."""
    return np.array([cached_id_of(_SEED, name) for name in names], np.uint64)
