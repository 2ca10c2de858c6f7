"""Each source's definition, and how their shares are merged."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.version_watcher import VersionWatcher
from ranker.retrieval import attribute_lists
from ranker.retrieval import sweep as sweeps
from ranker.retrieval.attribute_lists import AttributePairs, ListBuilder, key_of
from ranker.retrieval.candidates import retrieve
from ranker.retrieval.install_counters import InstallCounter
from ranker.retrieval.item_columns import LATEST_MAX, ItemColumns
from ranker.retrieval.item_counts import ItemStatistic, installs_of
from ranker.retrieval.new import few_impressions, new
from ranker.retrieval.pools import Pools, Query, SweptItems
from ranker.retrieval.popular import popular
from ranker.retrieval.same import same
from ranker.retrieval.sources import BY_REQUEST, ORDERS
from ranker.retrieval.sweep import PoolBuilder
from ranker.retrieval.trending import trending
from stream.events.types import Item
from stream.features.page_features import id_of, seed_of
from stream.snapshots.memory_store import MemoryStore
from stream.spec.retrieval import SOURCES, Retrieval
from tests.support.random_models import ToyModel, items, some_spec

NOWHERE = -np.inf


def swept(**arrays: Sequence[float]) -> SweptItems:
    """Some items, alike in what isn't given."""
    n = len(next(iter(arrays.values())))
    given = {name: np.array(values, np.float64) for name, values in arrays.items()}
    zeros = {name: np.zeros(n) for name in ("popularity", "installs", "lately", "impressions")}
    whole = zeros | {"lately_share": 0.5, "added": np.arange(n), "settings": Retrieval(new_below=3)} | given
    return SweptItems(**whole)  # type: ignore[arg-type]  # of its types


def query(order: Sequence[str] = (), request_id: str = "r", history: Sequence[str] = (), **settings: Any) -> Query:
    """A request whose sources have all the same order."""
    pools = Pools(dict.fromkeys(ORDERS, order))
    return Query(request_id, history, Retrieval(**settings), pools, ItemColumns())


def test_every_source_of_the_spec_retrieves() -> None:
    """A quota can be given to a source if, and only if, there is one of that name."""
    assert set(SOURCES) == {*ORDERS, *BY_REQUEST}


def test_popular() -> None:
    """By installs, then by static popularity, which is least for items that nobody described; absent ones never."""
    keys = popular(swept(installs=[2, 5, 2, 2, 9], popularity=[1, 0, 7, -np.inf, np.nan]))
    assert np.lexsort([-key for key in reversed(keys)]).tolist() == [1, 2, 0, 3, 4]
    assert keys[0].tolist()[4] == NOWHERE


def test_trending() -> None:
    """(lately − expected) / √(expected + 1), if it's above 0; expected is the item's share of the past."""
    (keys,) = trending(swept(installs=[6, 6, 6, 0, 6], lately=[3, 5, 1, 2, 9], popularity=[0, 0, 0, 0, np.nan]))
    assert keys.tolist() == pytest.approx([NOWHERE, 1.0, NOWHERE, 2.0, NOWHERE])


def test_few_impressions() -> None:
    """Items below `new_below`, fewest impressions first; among equals the one added last."""
    keys = few_impressions(swept(impressions=[2, 0, 3, 0, 0], popularity=[0, 0, 0, 0, np.nan]))
    assert np.lexsort([-key for key in reversed(keys)])[:3].tolist() == [3, 1, 0]
    assert keys[0].tolist()[2] == keys[0].tolist()[4] == NOWHERE


def test_new_goes_round() -> None:
    """Each request sees the whole order from a point of its own, the same each time; each item's chance is the same."""
    order = [f"i{n}" for n in range(4)]
    firsts = dict.fromkeys(order, 0)
    for n in range(400):
        found = [*new(query(order, request_id=f"r{n}"))]
        start = order.index(found[0])
        assert found == order[start:] + order[:start] == [*new(query(order, request_id=f"r{n}"))]
        firsts[found[0]] += 1
    assert min(firsts.values()) > 60


def test_an_item_is_new_at_once() -> None:
    """An item is retrieved as soon as it is known, before a sweep has found it; once it's removed it isn't."""
    cache, builder = EntityCache(), PoolBuilder()
    cache.put("old", Item("old"))
    one = replace(query(["old"]), columns=cache.columns, pools=replace(builder.rebuild(None, cache.columns)))
    assert [*new(one)] == []
    for name in ("a", "b", "c"):
        cache.put(name, Item(name))
    cache.put("b", None)
    assert [*new(one)] == ["c", "a"]
    for n in range(LATEST_MAX):
        cache.put(f"i{n}", Item(f"i{n}"))
    assert [*new(one)] == [f"i{n}" for n in reversed(range(LATEST_MAX))]
    assert [*new(replace(one, pools=builder.rebuild(None, cache.columns)))] == []


def test_an_item_that_comes_again_is_new_once() -> None:
    """Removed and described again: its rank, and that of those behind it, counts items."""
    cache = EntityCache()
    for name, item in (("a", Item("a")), ("b", Item("b")), ("a", None), ("a", Item("a"))):
        cache.put(name, item)
    assert [*new(replace(query(), columns=cache.columns))] == ["a", "b"]


class World:
    """A version of a toy model whose spec retrieves like this, its 30 items, and what a sweep found in them."""

    def __init__(self, **settings: Any) -> None:
        spec = msgspec.structs.replace(some_spec(np.random.default_rng(5), ["wide"]), retrieval=Retrieval(**settings))
        store, self.cache, model = MemoryStore("m"), EntityCache(), ToyModel(spec, 5)
        for item in items(30):
            self.cache.put(item.item, item)
        model.publish(store)
        watcher = VersionWatcher(store, "m", self.cache, lambda: 4_000_000)
        assert watcher.step(), watcher.rejection
        assert watcher.served is not None
        self.version, self.catalogue = watcher.served.version, watcher.served.catalogue
        self.pools = watcher.pool_builder.pools

    def query(self, *history: str) -> Query:
        """A request of a user with these items."""
        settings = self.version.plan.spec.retrieval
        return Query("r", history, settings, self.pools, self.cache.columns, self.catalogue)


def test_same() -> None:
    """Items that share a value with the user's last ten: by how many of those have each shared value, then installs."""
    world = World(same=20, same_by=["item.tags"])
    names = [item.item for item in items(30)]
    tags = {item.item: set(item.attributes.get("tags", [])) for item in items(30)}  # type: ignore[arg-type]  # a list
    found = installs_of(world.version, np.array([id_of(seed_of("item.id"), name) for name in names], np.uint64))
    assert found is not None
    assert len(set(found)) > 3
    history = ["i7", *["i2"] * 3, "i3", "i1", "i1", "i5", "gone", "i4", "i10", "i6"]
    last = history[-10:]
    shared = {name: sum(len(tags[name] & tags.get(one, set())) for one in last) for name in names}
    expected = sorted((n for n in range(30) if shared[names[n]]), key=lambda n: (-shared[names[n]], -found[n], n))
    assert [*same(world.query(*history))] == [names[n] for n in expected]


def test_same_needs_something_to_go_by() -> None:
    """Without a history, with items that nobody described, or whose values no item has: nothing."""
    world = World(same=20, same_by=["item.tags"])
    for history in ((), ("unknown",), ("i2", "i10")):
        assert [*same(world.query(*history))] == []
    assert [*same(query(["a"], history=["i1"], same=5))] == []


@given(
    order=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 30), st.integers(0, 3)), max_size=60),
    per_value=st.integers(1, 5),
    cut=st.integers(0, 60),
)
def test_lists_of_values(order: list[tuple[int, int, int]], per_value: int, cut: int) -> None:
    """However the pairs of value and item come in parts: of each value the best by installs, then by popularity."""
    pairs = {(value << 56, slot): (installs, slot % 7) for value, slot, installs in order}

    def part(some: list[tuple[tuple[int, int], tuple[int, int]]]) -> AttributePairs:
        values, slots = np.array([k for k, _ in some], np.uint64).reshape(-1, 2).T
        installs, popularity = np.array([n for _, n in some], np.float64).reshape(-1, 2).T
        return AttributePairs(values, slots.astype(np.int64), key_of(installs, popularity))

    whole, builder, steps = [*pairs.items()], ListBuilder(), 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_lists, "PER_VALUE", per_value)
        patch.setattr(attribute_lists, "PAIRS", 5)
        for some in (whole[:cut], whole[cut:]):
            builder.add(part(some))
        while not builder.finish():
            steps += 1
        lists = builder.lists()
    assert steps <= 1 + len(pairs) // 5
    assert lists.values.tolist() == sorted({value for value, _ in pairs})
    for value, start, stop in zip(lists.values.tolist(), lists.starts[:-1], lists.starts[1:], strict=True):
        best = sorted((keys for (v, _), keys in pairs.items() if v == value), reverse=True)[:per_value]
        assert sorted((pairs[value, slot] for slot in lists.slots[start:stop].tolist()), reverse=True) == best


def test_a_counter_fades() -> None:
    """Each install halves with each half-life since the sweep that found it; another item in a slot starts with none
    of them; installs that are taken back aren't counted again.
    """
    counter, ids = InstallCounter(1_000.0), np.array([1, 2], np.uint64)

    def counts(*installs: float, at: float, fade_ms: float = 0.0) -> list[float]:
        found: list[float] = counter.update(0, ids, np.array(installs), fade_ms, at).tolist()
        return found

    assert counts(4, 0, at=0) == [4, 0]
    assert counts(4, 3, at=1_000) == [2, 3]
    assert counts(3, 3, at=2_000) == [1, 1.5]
    ids[1] = 3
    assert counts(3, 6, at=3_000) == [0.5, 6]
    assert counts(1.5 + 1, 6, at=4_000, fade_ms=1_000.0) == [
        1.25,
        6,
    ]  # of the installs half have faded
    assert counter.update(2, ids, np.ones(2), 0.0, 0.0).tolist() == [1, 1]


def test_items_rise_and_fall() -> None:
    """At first nothing trends; then what had more installs since than its past leads to expect, whatever its size."""
    world = World(trending=5, trending_half_life="1s")
    assert world.pools.orders["trending"] == []
    builder, columns = PoolBuilder(), world.cache.columns
    counts = dict.fromkeys(columns.names, 100.0)

    def rebuild(at_ms: int) -> Pools:
        version = replace(world.version, manifest=msgspec.structs.replace(world.version.manifest, watermark_ms=at_ms))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweeps, "installs_of", lambda _, ids: np.array([counts[n] for n in columns.names]))
            patch.setattr(sweeps, "install_statistic", lambda _: ItemStatistic(np.uint64(0), fade_ms=0.0))
            return builder.rebuild(version, columns)

    assert rebuild(0).orders["trending"] == []
    counts["i3"] += 30
    counts["i9"] += 50
    assert rebuild(10_000).orders["popular"][:2] == ["i9", "i3"]
    assert rebuild(10_000).orders["trending"] == ["i9", "i3"]
    assert rebuild(10_000_000).orders["trending"] == []


def test_shares_are_merged() -> None:
    """Each source's quota in the spec's order, without duplicates and what is excluded; then popular ones fill up."""
    orders = {"trending": ["a", "b", "x", "c"], "new": ["b", "d", "e"], "popular": ["a", "x", "c", "f", "g", "h"]}
    one = replace(query(count=6, trending=3, new=1), pools=Pools(orders))
    found = retrieve(one, {"x"}, lambda name: name == "f")
    taken = [*zip(found.names, found.sources, found.source_ranks, strict=True)]
    start = [*new(one)].index("d")
    assert set(taken[:3]) == {("a", "trending", 1), ("b", "trending", 2), ("c", "trending", 3)}
    assert taken[3][1] == "new"
    assert taken[4:] == [("g", "popular", 3), ("h", "popular", 4)]
    assert start >= 0


names = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(orders=st.fixed_dictionaries(dict.fromkeys(ORDERS, names)), excluded=st.sets(st.sampled_from("abcdefgh")),
       quotas=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), count=st.integers(9, 10))  # fmt: skip
def test_whatever_is_merged(
    orders: dict[str, list[str]], excluded: set[str], quotas: tuple[int, int, int], count: int
) -> None:
    """All that sources found, once each, none of it excluded, while there's room; each at its rank in its source."""
    trending, new_, popular_ = quotas
    one = query(count=count, trending=trending, new=new_, popular=popular_)
    found = retrieve(replace(one, pools=Pools(orders)), excluded, lambda _: False)
    used = {"popular"} | ({"trending"} if trending else set()) | ({"new"} if new_ else set())
    assert len(set(found.names)) == len(found.names)
    assert set(found.names) == {name for source in used for name in orders[source]} - excluded
    for name, source, rank in zip(found.names, found.sources, found.source_ranks, strict=True):
        order = [*BY_REQUEST[source](replace(one, pools=Pools(orders)))] if source in BY_REQUEST else orders[source]
        assert [one for one in order if one not in excluded][rank - 1] == name
