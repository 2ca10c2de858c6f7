"""The watcher: swaps, rejections, a store that is down."""

import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from ranker.ranking import version_watcher
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.freshness import PENDING_MAX, FreshnessTracker, PendingInstalls
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions import version_loader as versions
from ranker.versions.model import Version
from stream.runtime.errors import StoreUnavailable
from stream.snapshots.manifest import Golden
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.version_files import VersionFiles
from tests.support.random_models import ToyModel, items, some_spec


class CountingStore(MemoryStore):
    """Counts how often a manifest was read."""

    read = 0

    def manifest(self, version: int):  # type: ignore[no-untyped-def]  # as the store's
        """See SnapshotStore."""
        self.read += 1
        return super().manifest(version)


@pytest.fixture
def store() -> CountingStore:
    """An empty store."""
    return CountingStore("m")


@pytest.fixture
def model() -> ToyModel:
    """A toy model."""
    return ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)


@pytest.fixture
def watcher(store: CountingStore) -> VersionWatcher:
    """A watcher of the store; its clock stands at 2,000,100 ms."""
    return VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100)


def live(watcher: VersionWatcher) -> int:
    """The version that is live; 0: none."""
    return watcher.served.version.number if watcher.served else 0


def metric(name: str, **labels: str) -> float:
    """A metric's value now."""
    return REGISTRY.get_sample_value(f"thalweg_ranker_{name}", labels) or 0.0


def test_the_head_is_followed(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """Each step swaps in what the head names; a head that stays costs no more than a look."""
    assert not watcher.step()
    for number in (1, 2, 3):
        model.publish(store)
        assert watcher.step()
        assert live(watcher) == number
    store.read = 0
    assert not watcher.step()
    assert store.read == 0


def test_a_bad_version_is_refused_once(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """What fails validation is counted and reported, isn't retried while the head stays; the live version stays."""
    model.publish(store)
    watcher.step()
    rejected = metric("rejected_versions_total")
    model.publish(store, golden=[Golden(model.page(2).tobytes(), [0.0, 1.0])])
    store.read = 0
    assert [watcher.step() for _ in range(5)] == [False] * 5
    assert (live(watcher), metric("rejected_versions_total") - rejected) == (1, 1)
    assert store.read == 2, "under another token: is it older? then, to be built"
    assert "golden" in watcher.rejection
    assert [said for said in store.reports if "version 2 is rejected" in said and "golden" in said]
    model.learn()
    model.publish(store)
    assert watcher.step()
    assert live(watcher) == 3


def test_a_version_that_breaks_the_ranker_is_refused(
    store: CountingStore,
    model: ToyModel,
    watcher: VersionWatcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever goes wrong while a version is built, it is rejected with a traceback in the log, and the next comes."""
    model.publish(store)
    assert watcher.step()
    model.publish(store)
    with monkeypatch.context() as patch:
        patch.setattr(versions, "validate_version", _mistaken)
        assert [watcher.step() for _ in range(3)] == [False] * 3
    assert live(watcher) == 1
    assert "ZeroDivisionError" in watcher.rejection
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert [said for said in store.reports if "version 2 is rejected" in said and "ZeroDivisionError" in said]
    model.publish(store)
    assert watcher.step()
    assert live(watcher) == 3


def _mistaken(version: Version) -> None:
    raise ZeroDivisionError("a mistake of ours")


def test_a_kept_version_that_breaks_the_ranker_is_refused(
    store: CountingStore, model: ToyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ranker starts whatever lies in its folder: a version that can't be built there isn't served."""
    VersionFiles(tmp_path).save(store, model.publish(store))
    second = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(versions, "validate_version", _mistaken)
        second.restore()
    assert live(second) == 0
    assert second.step()


def test_a_refused_version_gets_another_chance_later(
    store: CountingStore, model: ToyModel, watcher: VersionWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that lacked a blob is looked at again after a while: the store may have it back."""
    model.publish(store)
    digest, blob = next(iter(store._blobs.items()))
    del store._blobs[digest]
    assert not watcher.step()
    store._blobs[digest] = blob
    assert not watcher.step()
    monkeypatch.setattr(version_watcher, "REJECTED_RETRY_S", 0.0)
    assert watcher.step()


def test_a_store_that_is_down_changes_nothing(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """Down or wiped, the live version stays; when the store is back, the next version comes by itself."""
    model.publish(store)
    stop = threading.Event()
    thread = threading.Thread(target=watcher.run, args=(stop,))
    thread.start()
    _until(lambda: live(watcher) == 1)
    store.answers = False
    with pytest.raises(StoreUnavailable):
        watcher.step()
    assert live(watcher) == 1
    store.answers = True
    store.wipe()
    assert not watcher.step()
    model.publish(store, "base")
    _until(lambda: live(watcher) == 2)
    stop.set()
    thread.join()


def test_the_live_version_never_becomes_older(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """A store that was wiped and filled by an older learner doesn't take the live version back."""
    for _ in range(3):
        model.publish(store)
    watcher.step()
    store.wipe()
    model.number = 0
    model.publish(store, "base")
    assert not watcher.step()
    assert live(watcher) == 3


def test_a_version_of_a_later_log_is_newer(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """After Kafka was lost the learner goes on at a new log's start: offsets of two logs don't compare."""
    for _ in range(3):
        model.publish(store)
    watcher.step()
    store.wipe()
    store.take_token()
    model.publish(store, "base", offset={0: 0}, log_ms=7)
    assert watcher.step()
    assert watcher.served is not None
    assert watcher.served.version.manifest.position == (7, 0)
    store.wipe()
    store.take_token()
    model.publish(store, "base", offset={0: 9})
    assert not watcher.step()


def test_what_has_learned_more_is_newer_whatever_its_number(
    store: CountingStore, model: ToyModel, watcher: VersionWatcher
) -> None:
    """Numbers that restarted in a wiped store: heads are served once they have learned more of the log."""
    for _ in range(3):
        model.publish(store)
    watcher.step()
    store.wipe()
    store.take_token()
    model.number = 0
    for offset in (2, 3):
        model.publish(store, "base", offset={0: offset})
        assert not watcher.step()
        assert (live(watcher), metric("head_is_older", model="m")) == (3, 1)
    assert "up to offset 3 of examples" in watcher.rejection
    model.publish(store, "base", offset={0: 4})  # with the number of the live one, under another token
    assert watcher.step()
    assert metric("head_is_older", model="m") == 0
    assert watcher.served is not None
    assert watcher.served.version.manifest.offset == {0: 4}
    assert not watcher.step()


def test_a_greater_number_that_has_learned_less_waits(
    store: CountingStore, model: ToyModel, watcher: VersionWatcher
) -> None:
    """A learner that went back to its checkpoint, over a wiped store: rankers wait until it has caught up."""
    for _ in range(3):
        model.publish(store)
    watcher.step()
    store.wipe()
    model.number = 100
    model.publish(store, "base", offset={0: 2})
    read = store.read
    assert [watcher.step() for _ in range(3)] == [False] * 3
    assert store.read == read + 1, "looked at once"
    store.pin(101)
    assert watcher.step()
    store.pin(0)
    model.publish(store, "base", offset={0: 3})
    assert watcher.step()
    assert live(watcher) == 102


def test_installs_of_skipped_versions_count(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """servable_ms has each install once, when its version or a later one is swapped in; the first load has none."""
    model.publish(store)
    before = metric("servable_seconds_count"), metric("servable_seconds_sum")
    watcher.step()
    assert metric("servable_seconds_count") == before[0]
    for _ in range(3):  # ingest times 2,000,002 to 2,000,004; swapped in at 2,000,100
        model.publish(store)
    watcher.step()
    assert metric("servable_seconds_count") - before[0] == 3
    assert metric("servable_seconds_sum") - before[1] == pytest.approx((98 + 97 + 96) / 1e3)


def test_freshness_is_measured_by_the_first_reply() -> None:
    """An install is fresh at the first reply whose version has learned it, and only then."""
    freshness = FreshnessTracker()
    freshness.swapped_in(4, 0, [(4, [1_000, 1_500])], 2_000)
    freshness.swapped_in(5, 0, [(5, [1_800])], 2_100)
    before = metric("freshness_seconds_count"), metric("freshness_seconds_sum")
    freshness.replied(3, 2_200)
    freshness.observe()
    assert metric("freshness_seconds_count") == before[0]
    freshness.replied(4, 2_500)
    freshness.observe()
    assert metric("freshness_seconds_count") - before[0] == 2
    assert metric("freshness_seconds_sum") - before[1] == pytest.approx(2.5)
    freshness.replied(4, 9_000)
    freshness.observe()
    freshness.replied(5, 2_800)
    freshness.observe()
    assert metric("freshness_seconds_count") - before[0] == 3
    assert metric("freshness_seconds_sum") - before[1] == pytest.approx(3.5)


def test_a_reply_before_its_version_is_counted_in_counts() -> None:
    """Requests don't wait until a swap is noted: the reply is remembered, and observed after it."""
    freshness = FreshnessTracker()
    before = metric("freshness_seconds_count")
    freshness.replied(4, 2_000)
    freshness.swapped_in(4, 0, [(4, [1_000])], 2_100)
    freshness.observe()
    assert metric("freshness_seconds_count") - before == 1


def test_freshness_of_the_deep_part_is_measured_by_its_first_reply() -> None:
    """The first reply by a version whose deep part was cut since it was learned; where nobody says, there is none."""
    freshness = FreshnessTracker()
    before = metric("freshness_deep_seconds_count"), metric("freshness_deep_seconds_sum")

    def found() -> tuple[float, float]:
        count, seconds = metric("freshness_deep_seconds_count"), metric("freshness_deep_seconds_sum")
        return count - before[0], round(1_000 * (seconds - before[1]))

    freshness.swapped_in(4, 2, [(3, [1_000]), (4, [1_500])], 2_000)
    freshness.replied(4, 2_200)
    freshness.observe()
    assert found() == (0, 0)
    freshness.swapped_in(6, 4, [(5, [1_800]), (6, [1_900])], 2_300)
    freshness.replied(4, 2_300)
    freshness.observe()
    assert found() == (0, 0), "the reply was by the version before"
    freshness.replied(6, 2_500)
    freshness.observe()
    assert found() == (2, 2_500)
    freshness.replied(6, 9_000)
    freshness.observe()
    freshness.swapped_in(7, 7, [(7, [])], 2_600)
    freshness.replied(7, 2_700)
    freshness.observe()
    assert found() == (4, 4_200)
    freshness.swapped_in(8, 0, [(8, [1_000])], 2_800)
    freshness.replied(8, 2_900)
    freshness.observe()
    assert found() == (4, 4_200)


def test_installs_that_wait_are_bounded() -> None:
    """Of more than fit, a part stays that is spread over all versions."""
    pending = PendingInstalls()
    for version in range(1, 201):
        pending.add([(version, [version] * 1_000)])
    kept = pending.pop_learned(200)
    assert PENDING_MAX / 2 <= len(kept) <= PENDING_MAX
    assert set(kept) == set(range(1, 201))


def test_the_deep_part_of_skipped_versions_counts(
    store: CountingStore, model: ToyModel, watcher: VersionWatcher
) -> None:
    """What a swap brings is counted for the version that learned it: its deep part may lie between those skipped."""
    model.publish(store)
    watcher.step()
    before = metric("freshness_deep_seconds_count")
    for deep_version in (1, 3, 3):  # of versions 2, 3, 4
        deep = msgspec.structs.replace(model.parts["deep"], version=deep_version)
        model.publish_parts(store, {**model.parts, "deep": deep})
    watcher.step()
    watcher.freshness.replied(4, 2_000_100)
    watcher.freshness.observe()
    assert metric("freshness_deep_seconds_count") - before == 2


def test_a_pin_is_obeyed(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """A pinned version is served though it's older, and stays so after a wipe; after an unpin the head is."""
    for _ in range(3):
        model.publish(store)
        model.learn()
    watcher.step()
    store.pin(2)
    assert watcher.step()
    assert live(watcher) == 2
    model.publish(store)
    assert not watcher.step()
    store.wipe()
    model.publish(store, "base")
    assert not watcher.step()
    assert live(watcher) == 2
    store.pin(0)
    assert watcher.step()
    assert live(watcher) == 5


@pytest.mark.parametrize("restarted", [False, True])
def test_the_latest_decision_holds(store: CountingStore, model: ToyModel, tmp_path: Path, restarted: bool) -> None:
    """After a failover to a copy that knows an older decision nobody goes back to it, restarted or not."""
    watcher = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    for _ in range(3):
        model.publish(store)
    store.pin(1)
    watcher.step()
    knows_1 = store.replica()
    for version in (2, 0):
        store.pin(version)
        watcher.step()
        watcher.save_live()
        serving = live(watcher)
        store.fail_over(knows_1)
        if restarted:
            watcher = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
            watcher.restore()
        assert not watcher.step()
        assert live(watcher) == serving == (version or 3)


def test_a_pin_is_obeyed_by_all_rankers(store: CountingStore, model: ToyModel) -> None:
    """Rankers that watch at the same time all go back to the pinned version, and on again after an unpin."""
    for _ in range(3):
        model.publish(store)
        model.learn()
    stop = threading.Event()
    rankers = [VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100) for _ in range(2)]
    threads = [threading.Thread(target=ranker.run, args=(stop,)) for ranker in rankers]
    for thread in threads:
        thread.start()
    try:
        _until(lambda: [live(ranker) for ranker in rankers] == [3, 3])
        store.pin(2)
        _until(lambda: [live(ranker) for ranker in rankers] == [2, 2])
        model.publish(store)
        late = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100)
        late.step()
        assert live(late) == 2, "who comes later obeys, too"
        store.pin(0)
        _until(lambda: [live(ranker) for ranker in rankers] == [4, 4])
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_older_version_brings_no_installs(store: CountingStore, model: ToyModel, watcher: VersionWatcher) -> None:
    """Going back to a pinned version makes nothing servable that wasn't."""
    for _ in range(2):
        model.publish(store)
    watcher.step()
    before = metric("servable_seconds_count")
    store.pin(1)
    watcher.step()
    assert live(watcher) == 1
    assert metric("servable_seconds_count") == before


def test_a_start_without_a_store(store: CountingStore, model: ToyModel, tmp_path: Path) -> None:
    """What was live is served by a ranker that starts while the store is down; it goes on when the store is back."""
    model.publish(store)
    files = VersionFiles(tmp_path)
    first = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, files)
    first.step()
    first.save_live()
    store.answers = False
    second = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    second.restore()
    assert live(second) == 1
    words = model.page(5)
    assert second.served is not None
    np.testing.assert_allclose(second.served.version.probabilities(words), model.scores(words), atol=1e-5)
    with pytest.raises(StoreUnavailable):
        second.step()
    store.answers = True
    model.publish(store)
    assert second.step()
    assert live(second) == 2


def test_items_that_came_since_the_last_order_are_found(store: CountingStore, model: ToyModel) -> None:
    """Once all items are read they're all in order, though a part of them was put in order just before."""
    cache = EntityCache()
    watcher = VersionWatcher(store, "m", cache, lambda: 2_000_100)
    model.publish(store)
    first, *rest = items(30)
    cache.put(first.item, first)
    watcher.step()
    assert watcher.pool_builder.pools.orders["popular"] == [first.item]
    for item in rest:
        cache.put(item.item, item)
    watcher.items_loaded()
    assert len(watcher.pool_builder.pools.orders["popular"]) == 30


def test_a_pin_outlives_a_restart(store: CountingStore, model: ToyModel, tmp_path: Path) -> None:
    """A restarted ranker still obeys the pin, though the store was wiped meanwhile."""
    for _ in range(2):
        model.publish(store)
    store.pin(1)
    first = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    first.step()
    first.save_live()
    store.wipe()
    model.publish(store, "base")
    second = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    second.restore()
    assert not second.step()
    assert live(second) == 1


def test_a_copy_of_another_model_is_not_served(
    store: CountingStore, model: ToyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What another model's ranker kept in the folder is rejected, and replaced by what the store has."""
    others = MemoryStore("other")
    other = ToyModel(some_spec(np.random.default_rng(5), ["wide"], "other"))
    VersionFiles(tmp_path).save(others, other.publish(others))
    watcher = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    watcher.restore()
    assert live(watcher) == 0
    assert "of other" in caplog.text
    model.publish(store)
    assert watcher.step()
    watcher.save_live()
    kept = VersionFiles(tmp_path).load()
    assert kept is not None
    assert (kept.model, kept.version) == ("m", 1)
    VersionFiles(tmp_path).blobs(kept)


def test_a_garbled_copy_is_not_served(store: CountingStore, model: ToyModel, tmp_path: Path) -> None:
    """A local copy with one changed byte is rejected; the store's version is served instead."""
    model.publish(store)
    first = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    first.step()
    first.save_live()
    path = max((tmp_path / "blobs").iterdir())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    second = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    second.restore()
    assert live(second) == 0
    assert second.step()
    second.save_live()
    third = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, VersionFiles(tmp_path))
    third.restore()
    assert live(third) == 1, "the copy has healed"


def _until(holds) -> None:  # type: ignore[no-untyped-def]  # a condition
    patience = threading.Event()
    for _ in range(1_000):
        if holds():
            return
        patience.wait(0.02)
    raise AssertionError("it never became true")


def test_a_stop_while_a_version_is_loaded_is_no_warning(
    store: CountingStore, model: ToyModel, watcher: VersionWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """The builder ends with the ranker: what it was building isn't missed."""
    model.publish(store)
    stop = threading.Event()

    def ends(*_: object) -> Version:
        stop.set()
        raise StoreUnavailable("the process that builds versions has ended")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watcher, "_loader", type("Ending", (), {"load": ends}))
        watcher.run(stop)
    assert not caplog.records
