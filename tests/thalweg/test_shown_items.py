"""Items that nobody described are retrieved once pages that showed them are learned."""

import time
from pathlib import Path

import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.types import Item, RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.version_files import VersionFiles
from tests.support.learner_world import records, small_spec
from thalweg.versions.verify import Verifier
from thalweg.versions.version_diff import changes, load_tables

SPEC = small_spec()
SHOWN = {f"i{n}" for n in range(30)}


def publish(model: Model, store: MemoryStore, version: int) -> None:
    """A full base of a model, as a learner that has just started publishes it."""
    cut = VersionBuilder(model).build(version, version - 1, store.take_token(), version, 1, {}, deep=True)
    store.put_blobs(cut.blobs)
    store.publish(cut.manifest)


@pytest.fixture
def model() -> Model:
    """It has learned pages of thirty items."""
    found = Model(SPEC)
    for offset, record in enumerate(records(SPEC, 90)):
        found.learn(record, offset)
    return found


@pytest.fixture
def store(model: Model) -> MemoryStore:
    """Its first version."""
    found = MemoryStore(SPEC.name)
    publish(model, found, 1)
    return found


def answered(pools: EntityCache, follower: VersionWatcher, had: list[str]) -> RankReply:
    """The reply to a request without candidates."""
    ranker = Ranker(pools, follower, Scorer(1), lambda: 1)
    return ranker.answer(RankRequest("r", "u1", 1_000), lambda: UserProfile(had, {}), time.monotonic())


def test_items_that_were_only_shown_are_retrieved(store: MemoryStore) -> None:
    """Though the topic `items` is empty: those of learned pages, less what the user has and what was taken back."""
    pools = EntityCache()
    follower = VersionWatcher(store, SPEC.name, pools, lambda: 1)
    with pytest.raises(BadEvent, match="no items are known"):
        answered(pools, follower, [])
    assert follower.step(), follower.rejection
    assert set(answered(pools, follower, []).items) == SHOWN
    pools.put("i7", None)
    assert set(answered(pools, follower, ["i3"]).items) == SHOWN - {"i3", "i7"}
    follower.step()
    assert set(answered(pools, follower, ["i3"]).items) == SHOWN - {"i3", "i7"}


def test_they_rank_beside_described_ones(store: MemoryStore) -> None:
    """An item that is described is one candidate, with its attributes; one that never was shown is known as before."""
    pools = EntityCache()
    for item in (Item("i4", {"price": 3.0}), Item("new")):
        pools.put(item.item, item)
    follower = VersionWatcher(store, SPEC.name, pools, lambda: 1)
    assert follower.step(), follower.rejection
    items = answered(pools, follower, []).items
    assert (set(items), len(items)) == (SHOWN | {"new"}, 31)


def test_they_are_known_after_restarts(model: Model, store: MemoryStore, tmp_path: Path) -> None:
    """Of the learner, by its checkpoint; of a ranker without a store, by the version that it kept."""
    again = restore(SPEC, take(model, 30, 1, 1))
    publish(again, store, 2)
    files = VersionFiles(tmp_path / "kept")
    follower = VersionWatcher(store, SPEC.name, EntityCache(), lambda: 1, files)
    assert follower.step(), follower.rejection
    follower.save_live()
    pools = EntityCache()
    restarted = VersionWatcher(MemoryStore(SPEC.name), SPEC.name, pools, lambda: 1, files)
    restarted.restore()
    assert set(answered(pools, restarted, []).items) == SHOWN


def test_versions_can_be_looked_at_with_their_items(model: Model, store: MemoryStore) -> None:
    """`verify` reads names as rankers do; `diff` counts those that came."""
    before = load_tables(store, store.manifest(1))
    for offset, record in enumerate(records(SPEC, 3, seed=5, items=2), 30):
        model.learn(record, offset)
    model.shown.add(["fresh"], 1)
    publish(model, store, 2)
    verifier = Verifier(store)
    for version in store.versions():
        verifier.verify(version)
    assert list(verifier.faults()) == []
    (items,) = (one for one in changes(before, load_tables(store, store.manifest(2))) if one.part == "items")
    assert (items.before, items.after, items.new, items.removed) == (30, 31, 1, 0)
