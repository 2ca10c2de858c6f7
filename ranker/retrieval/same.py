"""Items like the user's last ones."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from ranker.retrieval.attribute_lists import rows_of, values_of
from ranker.retrieval.pools import Query

LAST: Final = 10  # of the user's items


def same(query: Query) -> Iterator[str]:
    """Items that share values of `same_by` with the user's last items: by how many of these have each value, summed
    over the values that the item shares, then by installs.
    """
    lists, catalogue = query.pools.by_value, query.catalogue
    if catalogue is None or not query.history or not len(lists.values):
        return iter(())
    rows = rows_of(catalogue, query.history[-LAST:])
    values, counts = np.unique(values_of(catalogue, rows, query.settings.same_by)[0], return_counts=True)
    at = np.searchsorted(lists.values, values)
    found = lists.values[np.minimum(at, len(lists.values) - 1)] == values
    starts, stops = lists.starts[at[found]], lists.starts[at[found] + 1]
    parts = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
    if not parts:
        return iter(())
    entries = np.concatenate(parts)
    slots, first, inverse = np.unique(lists.slots[entries], return_index=True, return_inverse=True)
    shared = np.bincount(inverse, np.repeat(counts[found], stops - starts))
    order = np.lexsort([slots, -lists.keys[entries[first]], -shared])
    names = query.columns.names
    return (names[slot] for slot in slots[order].tolist())
