"""Sweeps over all items, and the order by popularity that they find."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.version_watcher import VersionWatcher
from ranker.retrieval import sweep as sweeps
from ranker.retrieval.item_counts import installs_of
from ranker.retrieval.sweep import PoolBuilder
from ranker.versions.model import Version
from stream.events.types import Item
from stream.features.page_features import id_of, seed_of
from stream.snapshots.memory_store import MemoryStore
from stream.spec.retrieval import Retrieval
from tests.support.random_models import ToyModel, some_spec

NAMES = [f"i{n}" for n in range(40)]  # the model's world has 30 of them
FEW = 7


@pytest.fixture(scope="module")
def version() -> Version:
    """A version whose statistics know some items' installs."""
    store, watcher = MemoryStore("m"), None
    model = ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)
    for _ in range(5):
        model.learn()
    model.publish(store)
    watcher = VersionWatcher(store, "m", EntityCache(), lambda: 4_000_000)
    assert watcher.step()
    assert watcher.served is not None
    return watcher.served.version


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few popular items, out of small slices."""
    monkeypatch.setattr(sweeps, "EXTRA", FEW - Retrieval().count)
    monkeypatch.setattr(sweeps, "SLICE", 5)


def popular_of(builder: PoolBuilder) -> Sequence[str]:
    """The popular items that the last sweep found, in order."""
    return builder.pools.orders.get("popular", [])


def sorted_fully(cache: EntityCache, shown: Sequence[str], deleted: set[str], version: Version | None) -> list[str]:
    """All items in order, by one sort. Of equals, the one that stands first in the columns comes first."""
    names = [*cache.items, *(name for name in shown if name not in cache.items and name not in deleted)]
    ids = np.array([id_of(seed_of("item.id"), name) for name in names], np.uint64)
    found = installs_of(version, ids) if version else None
    installs = dict(zip(names, np.zeros(len(names)) if found is None else found, strict=True))
    slots = {name: slot for slot, name in enumerate(cache.columns.names)}

    def key(name: str) -> tuple[float, bool, float, int]:
        item = cache.items.get(name)
        return (-installs[name], item is None, -item.popularity if item else 0.0, slots[name])

    return sorted(names, key=key)


changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.integers(-2, 2)),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("shown"), st.lists(st.sampled_from(NAMES), unique=True)),
        st.tuples(st.just("refresh")),
    ),
    max_size=60,
)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("with_model", [True, False])
@given(changes=changes)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slice_by_slice_gives_the_order_of_a_full_sort(
    version: Version, with_model: bool, changes: list[tuple[object, ...]]
) -> None:
    """Whatever was put, deleted and shown, and whenever slices were ordered: the next whole sweep has the best."""
    cache, builder, by = EntityCache(), PoolBuilder(), version if with_model else None
    shown: list[str] = []
    deleted: set[str] = set()
    for kind, *what in changes:
        if kind == "put":
            name, popularity = str(what[0]), float(what[1])  # type: ignore[arg-type]
            cache.put(name, Item(name, popularity=popularity))
            deleted.discard(name)
        elif kind == "delete":
            cache.put(str(what[0]), None)
            deleted.add(str(what[0]))
        elif kind == "shown":
            shown = list(what[0])  # type: ignore[call-overload]
            cache.set_shown(shown)
        else:
            builder.refresh(by, cache.columns)
            assert len(set(popular_of(builder))) == len(popular_of(builder)) <= FEW
    expected = sorted_fully(cache, shown, deleted, by)[:FEW]
    assert builder.rebuild(by, cache.columns).orders["popular"] == expected == popular_of(builder)


@pytest.mark.usefixtures("small")
def test_a_refresh_orders_one_slice(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is replaced when all slices were seen, and then rests."""
    monkeypatch.setattr(sweeps, "DUTY_CYCLE_MAX", 1e-9)
    cache, builder = EntityCache(), PoolBuilder()
    for n, name in enumerate(NAMES):
        cache.put(name, Item(name, popularity=float(n)))
    for _ in range(len(NAMES) // 5 - 1):
        builder.refresh(None, cache.columns)
        assert not builder.pools.orders
    builder.refresh(None, cache.columns)
    assert popular_of(builder) == NAMES[: -FEW - 1 : -1]
    cache.put("best", Item("best", popularity=1_000.0))
    for _ in range(20):
        builder.refresh(version, cache.columns)
    assert popular_of(builder) == NAMES[: -FEW - 1 : -1]
    assert builder.rebuild(None, cache.columns).orders["popular"][0] == "best"


def test_an_item_that_goes_during_a_sweep_is_left_out() -> None:
    """Its slot may have another item by then, which is an item all the same."""
    cache, builder = EntityCache(), PoolBuilder()
    for name in ("a", "b"):
        cache.put(name, Item(name))
    sweep = sweeps._Sweep(None, cache.columns, None, sweeps._Counters())
    assert sweep.step()
    cache.put("a", None)
    assert sweep.pools().orders["popular"] == ["b"]
    cache.put("c", Item("c"))
    assert sweep.pools().orders["popular"] == ["c", "b"]
    assert builder.rebuild(None, cache.columns).orders["popular"] == ["c", "b"]
