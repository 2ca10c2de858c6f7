"""New items."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import xxhash

from ranker.retrieval.pools import Keys, Query, SweptItems


def few_impressions(items: SweptItems) -> Keys:
    """Items with less than `new_below` impressions, fewest first, then those that were added last."""
    is_new = ~np.isnan(items.popularity) & (items.impressions < items.settings.new_below)
    return np.where(is_new, -items.impressions, -np.inf), items.added.astype(np.float64)


def new(query: Query) -> Iterator[str]:
    """Items added since the last sweep, newest first; then those of `few_impressions`, from a point that differs by
    request: each has the same chance to be seen, however many there are.
    """
    order = query.pools.orders.get("new", ())
    start = xxhash.xxh3_64_intdigest(query.request_id.encode()) % max(1, len(order))
    return chain(query.columns.added_since(query.pools.added), order[start:], order[:start])
