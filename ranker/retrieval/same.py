"""Items like the user's last ones."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from ranker.kernels.retrieval import shared_with
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
    slots, shared, keys = shared_with(values_of(catalogue, rows, query.settings.same_by)[0], lists)
    if query.depth < len(slots):  # what shares least is many, and seldom shown
        least = np.partition(shared, len(slots) - query.depth)[len(slots) - query.depth]
        slots, shared, keys = (array[shared >= least] for array in (slots, shared, keys))
    order = np.lexsort([slots, -keys, -shared])
    names = query.columns.names
    return (names[slot] for slot in slots[order].tolist())
