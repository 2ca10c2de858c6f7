"""Trending items."""

import numpy as np

from ranker.retrieval.pools import Keys, SweptItems


def trending(items: SweptItems) -> Keys:
    """Installs lately above what the item's past share of all installs leads to expect, in standard deviations
    (Poisson's, of one install more than expected); items without such a rise don't trend.
    """
    expected = np.maximum(items.installs, 0.0) * items.lately_share  # retractions of unknown installs count below 0
    rise = (items.lately - expected) / np.sqrt(expected + 1.0)
    return (np.where(~np.isnan(items.popularity) & (rise > 0), rise, -np.inf),)
