"""An inverted file over items' vectors, by faiss: searched in parts, brought up to date by what changed.

The greatest u · output + bias is the least distance when each item's [output, bias] gets one more number that makes all
of one norm, and each user's [u, 1] a zero (Bachrach et al. 2014). An index never changes: a newer one is a copy with
other rows, so threads search it without locks.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from ranker.kernels.retrieval import ItemVectors, RetrievalRows
from stream.tables.dtypes import F32, U64

LISTS: Final = 2.0  # times the root of the number of items
PROBES: Final = 32  # lists that a search reads
TRAINED_BY: Final = 64  # items per list
ROUNDS: Final = 8  # of k-means
ROOM: Final = 1.2  # squared norms may grow by this factor before they don't fit
NONE: Final = -1  # in faiss's answer; ids are labels, so half of them are negative there
SLICE: Final = 65_536  # items added at once


@dataclass(frozen=True)
class VectorIndex:
    """Lists of all items of `rows` but `misfits`, whose squared norms are over `norm`. `trained`: the number of items
    that lists were chosen for."""

    lists: Any  # faiss.IndexIVFFlat
    rows: RetrievalRows
    misfits: U64
    norm: float
    trained: int

    def without(self, items: U64) -> "IndexView":
        """This index, as if it hadn't these items."""
        import faiss

        parameters: Any = faiss.SearchParametersIVF  # its stubs lack the arguments
        left_out = faiss.IDSelectorNot(faiss.IDSelectorBatch(items.view(np.int64)))
        return IndexView(self, parameters(nprobe=PROBES, sel=left_out))

    def updated(self, rows: RetrievalRows, vectors: ItemVectors, lost: U64) -> "VectorIndex":
        """A copy in which these items have these vectors, and `lost` none."""
        import faiss

        lists, replaced = faiss.clone_index(self.lists), np.concatenate([vectors.ids, lost])
        lists.remove_ids(faiss.IDSelectorBatch(replaced.view(np.int64)))
        misfits = np.concatenate([np.setdiff1d(self.misfits, replaced), _add(lists, vectors, self.norm)])
        return VectorIndex(lists, rows, misfits, self.norm, self.trained)


@dataclass(frozen=True)
class IndexView:
    """An index and what a search in it leaves out."""

    index: VectorIndex
    parameters: Any  # faiss.SearchParametersIVF

    def nearest(self, user: F32, count: int) -> tuple[U64, F32]:
        """Items with the greatest u · output + bias, approximately, and these sums: `count`, or fewer."""
        query = np.concatenate([user, np.array([1.0, 0.0], np.float32)])
        distances, found = self.index.lists.search(query[None], count, params=self.parameters)
        there = found[0] != NONE
        scores: F32 = (np.float32(query @ query + self.index.norm) - distances[0][there]) / np.float32(2.0)
        return found[0][there].view(np.uint64), scores


def built(rows: RetrievalRows, vectors: ItemVectors) -> VectorIndex:
    """An index of these items, which depends on nothing else, nor on their order: one thread, one seed."""
    import faiss

    order = np.argsort(vectors.ids)
    vectors = ItemVectors(vectors.ids[order], vectors.outputs[:, order], vectors.biases[order])
    norm, count = ROOM * float(_norms(vectors).max()), max(1, int(LISTS * len(order) ** 0.5))
    width = rows.dim + 2
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, count, faiss.METRIC_L2)
    lists.cp.niter, lists.cp.min_points_per_centroid, lists.cp.max_points_per_centroid = ROUNDS, 1, TRAINED_BY
    with threadpool_limits(1):
        lists.train(_points(vectors, norm))
    return VectorIndex(lists, rows, _add(lists, vectors, norm), norm, len(order))


def _add(lists: Any, vectors: ItemVectors, norm: float) -> U64:
    """Add items; returns those that don't fit."""
    fits = _norms(vectors) <= norm
    with threadpool_limits(1):
        for first in range(0, len(vectors.ids), SLICE):
            part = first + np.flatnonzero(fits[first : first + SLICE])
            some = ItemVectors(vectors.ids[part], vectors.outputs[:, part], vectors.biases[part])
            lists.add_with_ids(_points(some, norm), some.ids.view(np.int64))
    return vectors.ids[~fits]


def _points(vectors: ItemVectors, norm: float) -> F32:
    """[output, bias, what the squared norm lacks], float32 [n, D + 2]."""
    dim, count = vectors.outputs.shape
    points = np.empty((count, dim + 2), np.float32)
    points[:, :dim], points[:, dim] = vectors.outputs.T, vectors.biases
    points[:, dim + 1] = np.sqrt(np.maximum(0.0, norm - _norms(vectors)))
    return points


def _norms(vectors: ItemVectors) -> F32:
    """Squared norms of [output, bias], float32 [n]."""
    norms: F32 = np.einsum("dn,dn->n", vectors.outputs, vectors.outputs) + vectors.biases**2
    return norms
