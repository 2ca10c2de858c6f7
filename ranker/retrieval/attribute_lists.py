"""The most popular items of each attribute value, in arrays."""

from collections.abc import Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from ranker.kernels.retrieval import AttributeLists
from stream.features.page_features import Catalogue
from stream.tables.dtypes import F64, I64, U64
from stream.tables.jit import kernel

PER_VALUE: Final = 300  # so that enough are left when a long history is filtered out
NAMES: Final = 4_096  # looked up at once: the interpreter's lock isn't released meanwhile
BUCKETS: Final = 64  # values are hashes: by their leading bits
PAIRS: Final = 65_536  # sorted at once
_SHIFT: Final = np.uint64(58)
_TIE: Final = 1e-6  # of an install: what static popularity is worth


class AttributePairs(NamedTuple):
    """An attribute value, the slot of an item that has it, and the item's key (`key_of`); arrays [n]."""

    values: U64
    slots: I64
    keys: F64


NO_LISTS: Final = AttributeLists(np.zeros(0, np.uint64), np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))


def rows_of(catalogue: Catalogue, names: Sequence[str]) -> I64:
    """Rows of items, int64 [n]; 0, that of an unknown one, for items that nobody described."""
    rows = [np.fromiter(map(catalogue.row.get, names[i : i + NAMES], repeat(0)), np.int64)
            for i in range(0, len(names), NAMES)]  # fmt: skip
    return np.concatenate(rows) if rows else np.zeros(0, np.int64)


def values_of(catalogue: Catalogue, rows: I64, columns: Sequence[str]) -> tuple[U64, I64]:
    """Values of these columns in rows, and the index of the row that each belongs to."""
    indices = np.array([catalogue.layout.item_lists.index(column) for column in columns], np.int64)
    width = len(catalogue.layout.item_lists)
    return _values_of(rows, indices, width, catalogue.offsets, catalogue.ids)


@kernel
def _values_of(rows: I64, columns: I64, width: int, offsets: I64, ids: U64) -> tuple[U64, I64]:
    count = 0
    for column in columns:
        for row in rows:
            count += offsets[row * width + column + 1] - offsets[row * width + column]
    values, of, n = np.empty(count, np.uint64), np.empty(count, np.int64), 0
    for column in columns:
        for r in range(rows.shape[0]):
            first = rows[r] * width + column
            for k in range(offsets[first], offsets[first + 1]):
                values[n], of[n] = ids[k], r
                n += 1
    return values, of


def key_of(installs: F64, popularity: F64) -> F64:
    """Orders by installs; where these are equal, by static popularity. float64 [n]."""
    tie: F64 = np.arctan(popularity) / np.pi + 0.5
    return installs + _TIE * tie


class ListBuilder:
    """Collects pairs of a value and an item's slot; then `finish` cuts each value's list to the PER_VALUE best keys."""

    def __init__(self) -> None:
        self._pairs: list[list[AttributePairs]] = [[] for _ in range(BUCKETS)]
        self._bucket = 0
        self._parts: list[AttributeLists] = []

    def add(self, pairs: AttributePairs) -> None:
        """Collect some pairs; a pair comes once."""
        buckets = (pairs.values >> _SHIFT).astype(np.uint8)
        order = np.argsort(buckets, kind="stable")
        ends = np.cumsum(np.bincount(buckets, minlength=BUCKETS))
        for collected, start, end in zip(self._pairs, ends - np.diff(ends, prepend=0), ends, strict=True):
            if start < end:
                part = order[start:end]
                collected.append(AttributePairs(pairs.values[part], pairs.slots[part], pairs.keys[part]))

    def finish(self) -> bool:
        """Cut the lists of the next PAIRS pairs or so; whether they were the last ones."""
        pairs: list[AttributePairs] = []
        while self._bucket < BUCKETS and sum(len(one.values) for one in pairs) < PAIRS:
            pairs += self._pairs[self._bucket]
            self._pairs[self._bucket] = []
            self._bucket += 1
        if pairs:
            self._parts.append(_cut(AttributePairs(*(np.concatenate(arrays) for arrays in zip(*pairs, strict=True)))))
        return self._bucket == BUCKETS

    def lists(self) -> AttributeLists:
        """The lists of all values that are finished."""
        if not self._parts:
            return NO_LISTS
        values, _, slots, keys = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        counts = np.concatenate([np.diff(part.starts) for part in self._parts])
        return AttributeLists(values, np.concatenate([[0], np.cumsum(counts)]), slots, keys)


def _cut(pairs: AttributePairs) -> AttributeLists:
    order = np.argsort(pairs.values)
    values, starts = np.unique(pairs.values[order], return_index=True)
    kept = [
        some if len(some) <= PER_VALUE else some[np.argpartition(-pairs.keys[some], PER_VALUE - 1)[:PER_VALUE]]
        for some in np.split(order, starts[1:])
    ]
    ends = np.cumsum([0, *map(len, kept)])
    best = np.concatenate(kept)
    return AttributeLists(values, ends, pairs.slots[best], pairs.keys[best])
