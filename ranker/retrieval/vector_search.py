"""Search for the items whose vectors are nearest: of all exactly, or of many by an index (`vector_index.py`)."""

from dataclasses import dataclass

import numpy as np

from ranker.kernels.retrieval import ItemVectors
from ranker.retrieval.best import best_of
from ranker.retrieval.vector_index import IndexView
from stream.tables.dtypes import F32, U64


@dataclass(frozen=True)
class VectorSearch:
    """Searches the vectors of one version: those of `exact` one by one, all others by an `index`, if there is one."""

    exact: ItemVectors
    index: IndexView | None = None

    def nearest(self, user: F32, count: int) -> U64:
        """The `count` items with the greatest u · output + bias, the greatest first; of equal ones the smaller id."""
        ids, scores = self.exact.ids, user @ self.exact.outputs + self.exact.biases
        if self.index is not None:
            best = best_of(scores, ids, count)
            others, their_scores = self.index.nearest(user, count)
            ids, scores = np.concatenate([ids[best], others]), np.concatenate([scores[best], their_scores])
        found: U64 = ids[best_of(scores, ids, count)]
        return found
