"""Popular items."""

import numpy as np

from ranker.retrieval.pools import Keys, SweptItems


def popular(items: SweptItems) -> Keys:
    """Most installs first, then by static popularity; described ones before those only shown."""
    there = ~np.isnan(items.popularity)
    return np.where(there, items.installs, -np.inf), items.popularity
