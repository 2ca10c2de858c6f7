"""Ids without an embedding: each column has a vector for them, and versions of earlier builds one for all."""

import numpy as np

from ranker.kernels.layered_table import Change, based_on
from ranker.versions.model import embeddings_of

KEYS = np.array([7, 8], np.uint64)  # of two columns' vectors


def test_each_column_has_its_vector() -> None:
    """It's a row like any other: a delta replaces it, too."""
    vectors = np.array([[1, 1], [2, 2], [3, 3]], np.float32)
    base = Change(np.array([5, 7, 8], np.uint64), np.zeros((3, 0), np.uint64), vectors, unseen=np.zeros(2, np.float32))
    table = based_on(("base",), base)
    assert embeddings_of(table, KEYS).unseen.tolist() == [[2, 2], [3, 3]]
    changed = Change(KEYS[1:], np.zeros((1, 0), np.uint64), np.array([[4, 4]], np.float32))
    assert embeddings_of(table.with_change(("delta",), changed), KEYS).unseen.tolist() == [[2, 2], [4, 4]]


def test_a_version_of_an_earlier_build_has_one_for_all() -> None:
    """That of key 0."""
    base = Change(np.array([5], np.uint64), np.zeros((1, 0), np.uint64), np.ones((1, 2), np.float32),
                  unseen=np.array([6, 9], np.float32))  # fmt: skip
    assert embeddings_of(based_on(("base",), base), KEYS).unseen.tolist() == [[6, 9], [6, 9]]
