"""Sources that go by what the learner keeps of items: their definitions, and how they share their quotas."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.kernels.retrieval import together_with, user_vector
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import ServedVersion, VersionWatcher
from ranker.retrieval.best import best_of
from ranker.retrieval.candidates import FUSED, RANK_OFFSET, fused, retrieve
from ranker.retrieval.item_columns import ItemColumns, ids_of
from ranker.retrieval.neighbours import neighbours
from ranker.retrieval.pools import Query
from ranker.retrieval.together import together
from ranker.retrieval.vector_indexer import NO_MORE_THAN, Limits, VectorIndexer
from stream.events.types import Item, RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.snapshots.memory_store import MemoryStore
from stream.tables.dtypes import F32, U64
from tests.support.changing_world import RETRIEVAL, mixed_log
from tests.support.learner_world import small_spec

SPEC = small_spec(**{"[label]": f'{RETRIEVAL.replace("60", "10").replace("40", "4")}\n[label]\norganic = "examples"'})
SPEC = msgspec.structs.replace(SPEC, retrieval=msgspec.structs.replace(SPEC.retrieval, count=14))


class World:
    """A learner's version, served, and its 40 items."""

    def __init__(self, limits: Limits = NO_MORE_THAN) -> None:
        model, store, self.cache = Model(SPEC), MemoryStore(SPEC.name), EntityCache()
        for offset, record in enumerate(mixed_log(SPEC, 200)):
            model.learn(record, offset)
        cut = VersionBuilder(model).build(1, 0, store.take_token(), 200, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        for n in range(40):
            self.cache.put(f"i{n}", Item(f"i{n}"))
        self.watcher = VersionWatcher(store, SPEC.name, self.cache, lambda: 4_000_000)
        self.watcher.vector_indexer = VectorIndexer(limits)
        assert self.watcher.step(), self.watcher.rejection

    @property
    def served(self) -> ServedVersion:
        """What is live."""
        assert self.watcher.served is not None
        return self.watcher.served

    def query(self, *history: str) -> Query:
        """A request of a user with these items."""
        learned = self.served.version.learned_items
        assert learned is not None
        pools = self.watcher.pool_builder.pools
        return Query("r", history, SPEC.retrieval, pools, self.cache.columns, self.served.catalogue, learned.view)

    def answer(self, **request: Any) -> RankReply:
        """A reply to a user of whom nothing is known but what the request says."""
        scorer = Scorer(1)
        ranker = Ranker(self.cache, self.watcher, scorer, lambda: 4_000_000)
        reply = ranker.answer(RankRequest("r", "nobody", **request), lambda: UserProfile(None, None), 0.0)
        scorer.close()
        return reply


@pytest.fixture(scope="module")
def world() -> World:
    """The world; nothing changes it."""
    return World()


def names_by(scores: dict[int, float]) -> list[str]:
    """Names of the items with these ids, best first, of equals the smaller id."""
    names = {int(item_id): f"i{n}" for n, item_id in enumerate(ids_of([f"i{n}" for n in range(40)]))}
    return [names[one] for one in sorted(scores, key=lambda one: (-scores[one], one))]


def test_together(world: World) -> None:
    """Items of the lists of the user's last items, by the sum that `together_with` defines; their order counts."""
    learned = world.served.version.learned_items
    assert learned is not None
    history = ["i3", "i6", "gone", "i12"]
    ids, scores = together_with(learned.view.rows, ids_of(history[::-1]))
    found = [*together(world.query(*history))]
    assert found == names_by(dict(zip(ids.tolist(), scores.tolist(), strict=True)))
    assert len(found) > 5
    assert found != [*together(world.query(*history[::-1]))]


def test_neighbours(world: World) -> None:
    """All items that have vectors, by u · output + bias."""
    learned = world.served.version.learned_items
    assert learned is not None
    history, vectors = ["i3", "i6", "gone", "i12"], learned.view.vectors
    user = user_vector(learned.view.rows, ids_of(history[::-1]))
    scores = user @ vectors.outputs + vectors.biases
    found = [*neighbours(world.query(*history))]
    assert len(found) > 20
    expected = names_by(dict(zip(vectors.ids.tolist(), scores.tolist(), strict=True)))
    ranks = {name: rank for rank, name in enumerate(expected)}
    assert max(abs(ranks[name] - rank) for rank, name in enumerate(found)) <= 1, "up to rounding"


@pytest.mark.parametrize("history", [(), ("gone", "nowhere")])
def test_nothing_to_go_by(world: World, history: Sequence[str]) -> None:
    """Without a history, or with items that nobody installed, neither source finds anything; popular items are left."""
    assert [*together(world.query(*history))] == [*neighbours(world.query(*history))] == []
    found = retrieve(world.query(*history), set(), lambda _: False)
    assert set(found.sources) == {"popular"}
    assert len(found.names) == 14


def test_an_unknown_user_with_a_history_gets_a_personal_page(world: World) -> None:
    """The history in a request retrieves and ranks at once; the reply names sources and the vectors' version."""
    reply, other = (world.answer(k=5, history=history, attributes={}) for history in (["i3", "i6"], ["i9", "i1"]))
    assert {*reply.sources} <= {*FUSED, "popular"}
    assert {*FUSED} <= {*world.answer(k=14, history=["i3", "i6"], attributes={}).sources}
    assert reply.items != other.items
    for page, history in ((reply, ["i3", "i6"]), (other, ["i9", "i1"])):
        words = np.frombuffer(page.features, np.uint64)
        assert np.isin(ids_of(history), words).all(), "the model reads the history, too"
    assert reply.retrieval_version in (0, 1)
    assert world.answer(k=14, history=["i3", "i6"], attributes={}).retrieval_version == 1
    assert world.answer(k=5, candidates=["i3"], attributes={}).retrieval_version == 0


def test_replies_by_an_index_name_the_version_of_its_vectors(world: World) -> None:
    """While an index is made a part of the items is searched; then the live version's search takes it, without another
    version. Either way a reply names the version that it retrieved by."""
    large = World(Limits(exact=5))
    before = large.answer(k=14, history=["i3", "i6"], attributes={})
    assert large.served.nearest is not None
    assert large.served.nearest.index is None
    assert len(large.served.nearest.exact.ids) == 5
    while not large.watcher.vector_indexer.has_newer:
        time.sleep(0.01)
    assert not large.watcher.step(), "there is no other version"
    assert large.served.nearest.index is not None
    found = large.answer(k=14, history=["i3", "i6"], attributes={})
    assert (before.retrieval_version, found.retrieval_version) == (1, 1)
    assert found.items == world.answer(k=14, history=["i3", "i6"], attributes={}).items
    assert found.items != before.items


def test_the_two_share_their_quotas(world: World) -> None:
    """Together they have the sum of both quotas, in the order of `fused`; each item names the source that adds most."""
    query = world.query("i3", "i6", "i12")
    quotas = {"together": 10, "neighbours": 4}
    lists = {"together": [*together(query)], "neighbours": [*neighbours(query)]}
    owned = {"i3", "i6", "i12"}
    allowed = {source: [name for name in names if name not in owned] for source, names in lists.items()}
    scores: dict[str, float] = {}
    for source, names in allowed.items():
        for rank, name in enumerate(names, 1):
            scores[name] = scores.get(name, 0.0) + quotas[source] / (RANK_OFFSET + rank)
    found = retrieve(query, owned, lambda _: False)
    assert found.names == sorted(scores, key=lambda name: -scores[name])[:14]
    for name, source, rank in zip(found.names, found.sources, found.source_ranks, strict=True):
        assert allowed[source][rank - 1] == name
    assert set(found.sources) == set(FUSED)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=2, max_size=2), st.integers(1, 99))
def test_fused(orders: list[list[str]], quota: int) -> None:
    """Each item once; what one source alone found keeps its order; a larger quota counts more."""
    quotas = dict(zip(FUSED, (quota, 100 - quota), strict=True))

    found = [*fused(dict(zip(FUSED, orders, strict=True)), quotas)]
    names = [one.name for one in found]
    assert sorted(names) == sorted({*orders[0], *orders[1]})
    for mine, others in (orders, orders[::-1]):
        only = [name for name in mine if name not in others]
        assert [name for name in names if name in only] == only
    if orders[0] and orders[1] and quota > 50:
        assert found[0].source == FUSED[0]


def test_best_of() -> None:
    """The best scores, of equals the smaller id, however many are asked for."""
    random = np.random.default_rng(0)
    scores: F32 = random.integers(0, 20, 100).astype(np.float32)
    ids: U64 = random.permutation(100).astype(np.uint64)
    expected = sorted(range(100), key=lambda i: (-scores[i], ids[i]))
    for count in (0, 1, 17, 99, 100, 200):
        assert best_of(scores, ids, count).tolist() == expected[:count]


def test_names_of_ids() -> None:
    """Names of the items that are there, in the order of the ids; a removed one is left out, also when its slot is used
    again."""
    columns = ItemColumns()
    for name in ("a", "b", "c"):
        columns.put(name, 0.0)
    ids = ids_of(["c", "nobody", "a", "b"])
    assert [*columns.names_of(ids)] == ["c", "a", "b"]
    columns.remove("a")
    columns.put("d", 1.0)
    assert [*columns.names_of(ids)] == ["c", "b"]
    assert [*columns.names_of(ids_of(["d"]))] == ["d"]
