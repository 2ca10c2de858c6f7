"""Search through an index is exact search over the version's own vectors, as far as lists that are read go."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.kernels.layered_table import Change, LayeredTable, based_on
from ranker.retrieval import vector_index, vector_indexer
from ranker.retrieval.vector_index import built
from ranker.retrieval.vector_indexer import Limits, VectorIndexer
from ranker.retrieval.vector_search import VectorSearch
from ranker.versions.learned_items import LearnedRows, learned_items
from stream.spec.retrieval import Kept, Retrieval
from stream.tables.dtypes import F32, U64

DIM = 4
SETTINGS = Retrieval(neighbours=10, kept=Kept(vector_dim=DIM))
SMALL = Limits(exact=20, changed=15)
FINISHED_S = 60.0  # then a test fails


def change_of(ids: U64, random: np.random.Generator, removed: U64 | None = None, scale: float = 1.0) -> Change:
    """Rows of these items with vectors by chance."""
    rows = random.normal(0, scale, (len(ids), 2 * DIM + 2)).astype(np.float32)
    dead = np.zeros(0, np.uint64) if removed is None else removed
    return Change(ids, np.zeros((len(ids), 0), np.uint64), rows, dead)


def rows_of(table: LayeredTable) -> LearnedRows:
    """What a version with this table has."""
    return learned_items(SETTINGS, table, None).view


def finish(indexer: VectorIndexer) -> None:
    """Wait for the index that is being made, if one is."""
    pending = indexer._pending
    if pending is not None:
        pending.exception(FINISHED_S)


def check(search: VectorSearch, learned: LearnedRows, user: F32) -> None:
    """It finds the best items, of all: any other scores less than the last one found, up to rounding."""
    found, vectors = search.nearest(user, 12), learned.vectors
    scores = dict(zip(vectors.ids.tolist(), (user @ vectors.outputs + vectors.biases).tolist(), strict=True))
    assert len(set(found.tolist())) == len(found) == min(12, len(scores))
    expected = sorted(scores.values(), reverse=True)[: len(found)]
    np.testing.assert_allclose([scores[one] for one in found.tolist()], expected, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.booleans()), max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_search_is_of_its_versions_vectors(seed: int, versions: list[tuple[int, int, bool]]) -> None:
    """Whatever changed, was added or removed since the index was made, in deltas or with a new base, and whether or not
    a newer one is being made: the search of a version finds what its own vectors say. PROBES lists are all lists here.
    """
    random, indexer = np.random.default_rng(seed), VectorIndexer(Limits(exact=59, changed=15))
    ids = random.integers(1, 2**64, 120, dtype=np.uint64)
    known = ids[:100]
    table = based_on(("base",), change_of(known, random))
    indexer.search_of(rows_of(table))
    for number, (changed, lost, is_based) in enumerate(versions):
        gone = random.choice(known, lost, replace=False)
        moved = np.setdiff1d(random.choice(ids, changed, replace=False), gone)
        known = np.union1d(np.setdiff1d(known, gone), moved)
        table = table.with_change((str(number),), change_of(moved, random, gone, scale=1.0 + number))
        if is_based:
            vectors = rows_of(table).vectors
            rows = np.zeros((len(vectors.ids), 2 * DIM + 2), np.float32)
            rows[:, DIM : 2 * DIM], rows[:, -1] = vectors.outputs.T, vectors.biases
            table = based_on(("base", str(number)), Change(vectors.ids, np.zeros((len(rows), 0), np.uint64), rows))
        if random.random() < 0.5 or number == 0:
            finish(indexer)
        learned = rows_of(table)
        search = indexer.search_of(learned)
        assert search.index is not None
        check(search, learned, random.normal(size=DIM).astype(np.float32))
    finish(indexer)


def test_few_items_are_searched_exactly() -> None:
    """Up to the limit there is no index."""
    random = np.random.default_rng(0)
    learned = rows_of(based_on(("base",), change_of(np.arange(1, 21, dtype=np.uint64), random)))
    search = VectorIndexer(SMALL).search_of(learned)
    assert search.index is None
    assert set(search.exact.ids.tolist()) == set(range(1, 21))


def test_without_an_index_the_likeliest_items_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first index is made, and if it can't be, those with the greatest biases are found; nothing waits."""
    random, go_on = np.random.default_rng(0), threading.Event()

    def slow(*_: Any) -> Any:
        assert go_on.wait(FINISHED_S)
        raise MemoryError("no room")

    monkeypatch.setattr(vector_indexer, "built", slow)
    indexer = VectorIndexer(SMALL)
    table = based_on(("base",), change_of(np.arange(1, 61, dtype=np.uint64), random))
    biases = dict(zip(rows_of(table).vectors.ids.tolist(), rows_of(table).vectors.biases.tolist(), strict=True))
    likeliest = sorted(biases, key=lambda one: -biases[one])[:20]
    for number in range(3):
        search = indexer.search_of(rows_of(table))
        assert search.index is None
        assert set(search.exact.ids.tolist()) == set(likeliest)
        table = table.with_change((str(number),), change_of(np.array([100 + number], np.uint64), random))
        if number == 1:
            go_on.set()
            finish(indexer)
    assert not indexer.has_newer


def test_an_index_is_brought_up_to_date_by_what_changed() -> None:
    """Over the limit a newer index is made, with the same lists: then nothing is outside of it."""
    random, indexer = np.random.default_rng(0), VectorIndexer(SMALL)
    ids = np.arange(1, 101, dtype=np.uint64)
    table = based_on(("base",), change_of(ids, random))
    indexer.search_of(rows_of(table))
    finish(indexer)
    first = indexer.search_of(rows_of(table))
    assert first.index is not None
    for number in range(3):
        table = table.with_change((str(number),), change_of(ids[6 * number : 6 * number + 6], random, scale=0.1))
        search = indexer.search_of(rows_of(table))
        assert len(search.exact.ids) == 6 * (number + 1)
    finish(indexer)
    search = indexer.search_of(rows_of(table))
    assert search.index is not None
    assert not len(search.exact.ids)
    assert search.index.index.lists.quantizer.ntotal == first.index.index.lists.quantizer.ntotal
    assert search.index.index.trained == 100
    assert search.index.index.lists.ntotal == 100


def test_lists_are_chosen_again_when_items_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that outgrow the norm are searched exactly; when there are many of them a new index has room for them."""
    monkeypatch.setattr(vector_indexer, "MISFITS_MAX", 10)
    random, indexer = np.random.default_rng(0), VectorIndexer(SMALL)
    ids = np.arange(1, 101, dtype=np.uint64)
    table = based_on(("base",), change_of(ids, random))
    indexer.search_of(rows_of(table))
    finish(indexer)
    norms = []
    for number, large in enumerate((ids[:8], ids[8:16])):
        calm = ids[20 + 20 * number :][:20]
        table = table.with_change((str(number), "a"), change_of(calm, random, scale=0.1))
        table = table.with_change((str(number), "b"), change_of(large, random, scale=50.0))
        indexer.search_of(rows_of(table))
        finish(indexer)
        search = indexer.search_of(rows_of(table))
        assert search.index is not None
        norms.append(search.index.index.norm)
        outside = set(search.exact.ids.tolist())
        assert outside == (set(ids[:8].tolist()) if number == 0 else set())
        check(search, rows_of(table), random.normal(size=DIM).astype(np.float32))
    assert norms[1] > norms[0]


def test_rankers_build_the_same_index() -> None:
    """Lists are a function of the items and their vectors, not of the order in which a table has them."""
    random = np.random.default_rng(0)
    change = change_of(random.permutation(np.arange(1, 3_001, dtype=np.uint64)), random)
    order = random.permutation(3_000)
    other = Change(change.keys[order], change.columns, change.vectors[order])
    found = []
    for one in (change, other):
        learned = rows_of(based_on(("base",), one))
        index = built(learned.rows, learned.vectors).without(np.zeros(0, np.uint64))
        users = np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)
        found.append([index.nearest(user, 50)[0].tolist() for user in users])
    assert found[0] == found[1]
    assert index.index.lists.nlist > vector_index.PROBES, "so that lists count"
