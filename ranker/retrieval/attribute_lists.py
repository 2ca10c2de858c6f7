"""The most popular items of each attribute value, in arrays."""

from collections.abc import Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from stream.features.page_features import Catalogue
from stream.tables.dtypes import F64, I64, U64

PER_VALUE: Final = 300  # so that enough are left when a long history is filtered out
NAMES: Final = 4_096  # looked up at once: the interpreter's lock isn't released meanwhile


class AttributeLists(NamedTuple):
    """`values` uint64 [V] rise; value v has slots[starts[v] : starts[v + 1]], the most installed first."""

    values: U64
    starts: I64  # [V + 1]
    slots: I64
    installs: F64  # of the slots


class Postings(NamedTuple):
    """Pairs of an attribute value and an item's slot that has it, arrays [n]; the item's installs and popularity."""

    values: U64
    slots: I64
    installs: F64
    popularity: F64


NO_LISTS: Final = AttributeLists(np.zeros(0, np.uint64), np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))


def rows_of(catalogue: Catalogue, names: Sequence[str]) -> I64:
    """Rows of items, int64 [n]; 0, that of an unknown one, for items that nobody described."""
    rows = [np.fromiter(map(catalogue.row.get, names[i : i + NAMES], repeat(0)), np.int64)
            for i in range(0, len(names), NAMES)]  # fmt: skip
    return np.concatenate(rows) if rows else np.zeros(0, np.int64)


def values_of(catalogue: Catalogue, rows: I64, columns: Sequence[str]) -> tuple[U64, I64]:
    """Values of these columns in rows, and the index of the row that each belongs to."""
    width = len(catalogue.layout.item_lists)
    firsts = np.concatenate([rows * width + catalogue.layout.item_lists.index(column) for column in columns])
    of = np.tile(np.arange(len(rows)), len(columns))
    starts, counts = catalogue.offsets[firsts], catalogue.offsets[firsts + 1] - catalogue.offsets[firsts]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return catalogue.ids[np.repeat(starts, counts) + within], np.repeat(of, counts)


def top_of_values(parts: Sequence[Postings]) -> Postings:
    """Of each value the PER_VALUE best items, by installs, then static popularity; values rise."""
    values, slots, installs, popularity = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort([slots, -popularity, -installs, values])
    values = values[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else order
    ranks = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    kept = order[ranks < PER_VALUE]
    return Postings(values[ranks < PER_VALUE], slots[kept], installs[kept], popularity[kept])


def lists_of(postings: Postings) -> AttributeLists:
    """Lists by value of what `top_of_values` returned."""
    values, starts = np.unique(postings.values, return_index=True)
    return AttributeLists(values, np.append(starts, len(postings.values)), postings.slots, postings.installs)
