"""Publishing versions: when they go out, and what happens when the store is unavailable, wiped or taken over."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from learner.publishing.publisher import Publisher
from learner.publishing.uploader import PublishConfig
from learner.publishing.version_allocator import HighWater
from learner.publishing.version_builder import BuiltVersion
from stream.events.types import Erase
from stream.features.page_features import id_of
from stream.runtime.errors import BadSnapshot, Fenced, SnapshotError, StoreUnavailable
from stream.snapshots.manifest import Head, Manifest
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.store import StoreMemory
from stream.snapshots.version_files import VersionFiles
from tests.support.assembled_versions import assembled, learned_state
from tests.support.learner_world import records
from tests.support.publisher_bench import Bench
from tests.support.waiting import wait_until


def test_a_store_that_is_down_delays_and_loses_nothing(tmp_path: Path) -> None:
    """Learning goes on; when the store answers again the next versions arrive and are whole."""
    bench = Bench(tmp_path)
    assert bench.turn()
    bench.store.answers = False
    for _ in range(5):
        bench.turn()
    assert bench.publisher.uploader.busy
    bench.store.answers = True
    bench.settle()
    for _ in range(4):
        bench.turn()
    head = bench.store.head()
    assert head is not None
    assert head.version == bench.publisher.version == 6
    wide, statistics, _, _ = assembled(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == learned_state(bench.model)[:2]


def test_gate_and_quarantine_forget_who_was_erased(tmp_path: Path) -> None:
    """At the first look after the model has learned it; at a process's start, everybody's evidence that is left."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    evidence = bench.publisher.gate.evidence()
    assert evidence is not None
    ids = {id_of(bench.model.layout.seeds["user.id"], f"u{k}"): f"u{k}" for k in range(20)}
    user_id = next(word for word in evidence[0].pages.words.tolist() if word in ids)
    np.savez(tmp_path / "a.npz", page_words=evidence[0].pages.words)
    bench.publisher.maybe_publish(3)
    assert (tmp_path / "a.npz").exists()
    bench.model.learn([Erase(ids[user_id], 1)], 3)
    bench.publisher.maybe_publish(4)
    assert not (tmp_path / "a.npz").exists()
    left = bench.publisher.gate.evidence()
    assert left is None or user_id not in left[0].pages.words
    np.savez(tmp_path / "b.npz", page_words=evidence[0].pages.words)
    again = Bench(tmp_path, bench.store)
    again.model.erased = bench.model.erased
    again.publisher.maybe_publish(4)
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("turns", [30, 31, 32])
def test_an_erasure_alone_publishes_the_deep_part_too(tmp_path: Path, turns: int) -> None:
    """When nothing else is learned, a deep part that isn't due yet follows once it is: the embedding goes."""
    bench = Bench(tmp_path)
    for _ in range(turns):
        bench.turn()
    assert bench.model.deep is not None
    vocabulary = bench.model.deep.vocabulary
    user_id = np.array([id_of(bench.model.layout.seeds["user.id"], "u3")], np.uint64)
    assert vocabulary.rows_of(user_id)[0]
    bench.model.learn([Erase("u3", 1)], turns)
    for _ in range(4):
        bench.ms += 100
        bench.publisher.maybe_publish(turns + 1)
        bench.settle()
    head = bench.store.head()
    assert head is not None
    deep = assembled(bench.store, bench.store.manifest(head.version))[2]
    assert int(user_id[0]) not in deep


def test_a_wiped_store_gets_a_full_base(tmp_path: Path) -> None:
    """After FLUSHALL the next version stands on its own."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    bench.store.wipe()
    for _ in range(3):
        bench.turn()
    head = bench.store.head()
    assert head is not None
    wide, statistics, _, _ = assembled(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == learned_state(bench.model)[:2]


def test_a_learner_of_a_new_log_publishes_at_once(tmp_path: Path) -> None:
    """It doesn't wait for the offset that the live version has learned up to: that's an offset of a lost log."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    config = PublishConfig(100, 300, 50, tmp_path, tmp_path / "pins", tmp_path / "numbers")
    publisher = Publisher(bench.model, bench.store, config, lambda: bench.ms, HighWater(), log_ms=500)
    bench.ms += 100
    wait_until(lambda: publisher.maybe_publish(0))
    wait_until(lambda: not publisher.uploader.busy)
    head = bench.store.head()
    assert head is not None
    assert bench.store.manifest(head.version).position == (500, 0)
    with capture_logs() as logs:
        behind = Publisher(bench.model, bench.store, config, lambda: bench.ms, HighWater())
        behind.maybe_publish(1_000_000)
        wait_until(lambda: bool(logs))
    assert "nothing is published before" in logs[0]["event"]
    assert not behind.uploader.owns_model, "it learns the log that was lost"


def test_an_older_learner_is_fenced_off(tmp_path: Path) -> None:
    """Once another has taken a token, this one's next versions are rejected and it has to stop."""
    bench = Bench(tmp_path)
    bench.turn()
    bench.store.take_token()
    bench.turn()
    with pytest.raises(Fenced):
        bench.turn()


def test_an_idle_learner_finds_that_another_owns_the_model(tmp_path: Path) -> None:
    """It has nothing to publish, and still ends as soon as a version of the other's is live."""
    bench = Bench(tmp_path)
    bench.turn()
    manifest = bench.store.manifest(1)
    bench.store.publish(structs.replace(manifest, version=2, parent=1, token=bench.store.take_token()))
    bench.publisher.uploader.join(10)
    with pytest.raises(Fenced, match="another learner owns small"):
        bench.publisher.maybe_publish(1)


def test_a_rejected_version_leaves_its_evidence(tmp_path: Path) -> None:
    """A model that went bad isn't published; what is live stays; the reason is in quarantine."""
    bench = Bench(tmp_path)
    bench.turn()
    assert bench.model.deep is not None
    bench.model.deep.tower.layers()[0][0][0, 0] = float("nan")
    with capture_logs() as logged:
        assert not bench.turn()
    assert bench.publisher.rejected == 1
    assert rejections(logged) == [(2, "gate")]
    head = bench.store.head()
    assert head is not None
    assert head.version == 1
    assert "finite" in next(tmp_path.glob("*.json")).read_text()


def test_the_same_evidence_is_rejected_once(tmp_path: Path) -> None:
    """While nothing more is learned, as when traffic has ceased, a rejected version isn't judged again; then it is."""
    bench = Bench(tmp_path)
    bench.turn()
    half = (np.arange(2_000) % 2).astype(np.float32)
    bench.model.progress.record(np.full(2_000, 0.9, np.float32), half)
    with capture_logs() as logged:
        bench.turn()
        for _ in range(5):
            bench.ms += 1_000  # the deep part is due each time
            assert not bench.publisher.maybe_publish(2)
    assert rejections(logged) == [(2, "gate")]
    assert bench.publisher.rejected == 1
    bench.model.progress.record(np.full(2_000, 0.5, np.float32), half)
    assert bench.turn()


def rejections(logged: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """The rejected versions, each with what rejected it."""
    return [(one["version"], one["by"]) for one in logged if one["event"] == "version rejected; the live one stays"]


def test_a_version_that_cannot_be_packed(tmp_path: Path) -> None:
    """A weight that isn't finite isn't published; the rejection is logged, and once it's sound a full base follows."""
    bench = Bench(tmp_path)
    bench.turn()
    table = bench.model.wide.table
    key = 1 << 20 | 1  # no page has it: the gate's scores don't show it
    table.put(np.array([[key, np.array([np.inf, 1], np.float32).view(np.uint64)[0]]], np.uint64))
    bench.model.wide.table.take_changed()
    bench.publisher.uploader.needs_base = True  # the key isn't fresh: only a base has it
    with capture_logs() as logged:
        for _ in range(3):
            bench.turn()
    head = bench.store.head()
    assert head is not None
    assert head.version == 1
    assert bench.publisher.rejected >= 1
    assert rejections(logged) == [(2, "packing")], "one line a cause"
    assert [json.loads(path.read_text())["version"] for path in sorted(tmp_path.glob("*.json"))] == [2]
    table.remove(np.array([key], np.uint64))
    for _ in range(3):
        bench.turn()
    head = bench.store.head()
    assert head is not None
    assert head.version > 1
    wide, statistics, _, _ = assembled(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == learned_state(bench.model)[:2]


@pytest.mark.parametrize(("policy", "published"), [("eager", False), ("fake_negative", True)])
def test_the_gate_knows_the_policy(tmp_path: Path, policy: str, published: bool) -> None:
    """Before the first installs come, a learner of fake negatives publishes; where labels are final, it's rejected."""
    bench = Bench(tmp_path)
    label = structs.replace(bench.spec.label, policy=policy)
    bench.model.spec = structs.replace(bench.spec, label=label)
    bench.model.progress.record(np.full(2000, 0.3, np.float32), np.zeros(2000, np.float32))
    record = [structs.replace(e, labels=[0] * len(e.labels)) for e in records(bench.spec, 1)[0]]
    bench.model.learn(record, 0)
    assert bench.publisher.maybe_publish(1) is published
    bench.settle()


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_a_learner_whose_traffic_has_ceased_publishes(tmp_path: Path, p: float) -> None:
    """No page comes any more, and installs of earlier pages do: what they teach goes live, again and again."""
    bench = Bench(tmp_path)
    label = structs.replace(bench.spec.label, policy="fake_negative")
    bench.model.spec = structs.replace(bench.spec, label=label)
    bench.turn()
    record, corrected = bench.model.progress.record, np.ones(100, np.bool_)
    for _ in range(40):  # a life at 5 %
        record(np.full(1900, 0.05, np.float32), np.zeros(1900, np.float32))
        record(np.full(100, p, np.float32), np.ones(100, np.float32), corrected=corrected)
        bench.turn()
    versions, first = [], bench.publisher.version + 1
    for _ in range(14):
        record(np.full(100, p, np.float32), np.ones(100, np.float32), corrected=corrected)
        assert bench.turn(), bench.publisher.gate.verdict
        versions.append(bench.publisher.version)
    assert versions == [*range(first, first + 14)]
    assert bench.model.progress.window().calibration < 0.2


def test_nothing_goes_out_before_anything_was_learned(tmp_path: Path) -> None:
    """A tower that knows nothing must not rank anybody's page."""
    bench = Bench(tmp_path)
    bench.ms += 10_000
    assert not bench.publisher.maybe_publish(0)
    assert bench.turn()


def test_what_the_deep_part_learned_last_goes_out_in_silence(tmp_path: Path) -> None:
    """When nothing more comes, the deep part still follows at its own cadence; then there is nothing to publish."""
    bench = Bench(tmp_path)
    bench.turn()
    bench.turn()  # wide and statistics only: the deep part's time hasn't come
    bench.ms += 1_000
    assert bench.publisher.maybe_publish(2)
    bench.settle()
    head = bench.store.head()
    assert head is not None
    assert assembled(bench.store, bench.store.manifest(head.version)) == learned_state(bench.model)
    bench.ms += 1_000
    assert not bench.publisher.maybe_publish(2)


def test_a_store_that_refuses_for_a_while_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk behind the store, a revoked login: people mend it, and publishing goes on."""
    bench = Bench(tmp_path)
    bench.turn()
    publish, refusals = bench.store.publish, [SnapshotError("MISCONF"), SnapshotError("NOPERM")]

    def refusing(manifest: Manifest) -> None:
        if refusals:
            raise refusals.pop()
        publish(manifest)

    monkeypatch.setattr(bench.store, "publish", refusing)
    bench.turn()
    assert not refusals
    head = bench.store.head()
    assert head is not None
    assert head.version == 2


def test_a_store_that_fell_back_to_an_older_copy_is_published_over(tmp_path: Path) -> None:
    """After a failover to an older copy the next version is a full base on top of what that copy says is live."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    bench.store._head = Head(1, bench.publisher.uploader.token)
    for _ in range(3):
        bench.turn()
    head = bench.store.head()
    assert head is not None
    assert head.version == bench.publisher.version
    wide, statistics, _, _ = assembled(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == learned_state(bench.model)[:2]


@pytest.mark.parametrize("damage", ["a blob", "the decision", "the folder", "nothing"])
def test_a_lost_store_is_noticed_whatever_became_of_the_pinned_copy(tmp_path: Path, damage: str) -> None:
    """Garbled or deleted, with nothing left to publish: a wiped store gets a full base all the same, within seconds."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    bench.store.pin(1)
    folder = tmp_path / "pins"
    wait_until(lambda: (folder / "decision").exists())
    for _ in range(5):  # until there's nothing more to publish: the deep part follows at its own cadence
        bench.ms += 1_000
        bench.publisher.maybe_publish(3)
        bench.settle()
    path = max((folder / "blobs").iterdir()) if damage == "a blob" else folder / "decision"
    if damage == "the folder":
        shutil.rmtree(folder)
    elif damage != "nothing":
        path.write_bytes(b"garbled")
    bench.store.wipe()
    wait_until(lambda: bench.publisher.uploader.needs_base)
    bench.ms += 1_000
    assert bench.publisher.maybe_publish(3)
    bench.settle()
    head = bench.store.head()
    assert head is not None
    assert assembled(bench.store, bench.store.manifest(head.version)) == learned_state(bench.model)
    if damage == "nothing":
        wait_until(lambda: bench.store.decision().version == 1)
    bench.store.pin(head.version)
    wait_until(lambda: (saved := VersionFiles(folder).load()) is not None and saved.version == head.version)


def test_a_garbled_head_is_published_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as lost: though nothing more was learned, a full base takes its place."""
    bench = Bench(tmp_path)
    bench.turn()
    version = bench.publisher.version

    def garbled() -> Head:
        raise BadSnapshot("the head of small is garbled")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "head", garbled)
        wait_until(lambda: bench.publisher.uploader.needs_base)
        bench.store._head = None  # as such a head counts when the next one is published
        bench.ms += 1_000
        assert bench.publisher.maybe_publish(1)
        bench.settle()
    head = bench.store.head()
    assert head is not None
    assert head.version == version + 1
    assert bench.store.manifest(head.version).parent == 0


def test_a_lost_store_gets_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the learner takes to cut it, and though the store stays empty meanwhile."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    uploader, cut = bench.publisher.uploader, bench.publisher._builder.build

    def slowly(*args: Any, **more: Any) -> BuiltVersion:
        for _ in range(3):  # the uploader looks after the store, again and again
            looked_s = uploader._checked_s
            wait_until(lambda: uploader._checked_s > looked_s)  # noqa: B023  # called before the loop goes on
        return cut(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(bench.publisher._builder, "build", slowly)
        bench.store.wipe()
        wait_until(lambda: uploader.needs_base)
        bench.turn()
    for _ in range(5):
        bench.turn()
    bases = {tuple(bench.store.manifest(version).parts["wide"].base) for version in bench.store.versions()}
    assert (len(bench.store.versions()), len(bases)) == (6, 1)


def test_what_an_older_learner_left_in_a_wiped_store_is_published_over(tmp_path: Path) -> None:
    """It was here before the head was known again; though its number is greater and there is nothing new to publish."""
    bench = Bench(tmp_path)
    bench.turn()
    manifest, blobs = bench.store.manifest(1), dict(bench.store._blobs)
    for _ in range(5):  # until there's nothing more to publish
        bench.ms += 1_000
        bench.publisher.maybe_publish(1)
        bench.settle()
    answers, bench.store.answers = bench.store.answers, False
    bench.store.wipe()
    older = MemoryStore("small")
    older.put_blobs(blobs)
    older.publish(structs.replace(manifest, version=500, parent=0, token=manifest.token - 1))
    bench.store.fail_over(older.replica())
    bench.store.answers = answers
    wait_until(lambda: bench.publisher.uploader.needs_base)
    bench.ms += 1_000
    assert bench.publisher.maybe_publish(1)
    bench.settle()
    head = bench.store.head()
    assert head == Head(501, bench.publisher.uploader.token)


def test_learners_that_are_killed_early_leave_room(tmp_path: Path) -> None:
    """Each publishes a few versions and dies: what is old goes all the same."""
    store = MemoryStore("small")
    for life in range(6):
        bench = Bench(tmp_path, store, keep=2)
        for _ in range(3):
            bench.turn()
        assert bench.publisher.uploader.published >= 3 * (life + 1)
        bench.publisher.uploader.stop()
    assert len(store.versions()) <= 5


class SecretiveStore(MemoryStore):
    """A store whose login may not ask how full it is."""

    def memory(self) -> StoreMemory:
        """See SnapshotStore."""
        raise SnapshotError("Redis denies access")


def test_how_full_the_store_is_is_exported(tmp_path: Path) -> None:
    """Used and allowed bytes are metrics; who may not ask publishes all the same, and says so once."""
    bench = Bench(tmp_path)
    bench.turn()

    def exported(what: str) -> float | None:
        return REGISTRY.get_sample_value(f"thalweg_learner_redis_{what}_bytes")

    wait_until(lambda: exported("used") == bench.store.memory().used > 0, "the memory of this store")
    assert exported("limit") == bench.store.memory().limit
    with capture_logs() as logs:
        bench = Bench(tmp_path / "other", SecretiveStore("small"))
        wait_until(lambda: [one for one in logs if "how full" in one["event"]], "the warning")
        assert bench.turn()
        assert bench.turn()
    assert len([one for one in logs if "how full" in one["event"]]) == 1


class SmallStore(MemoryStore):
    """A store that takes no more blobs while it keeps `room` versions."""

    room = 5

    def put_blobs(self, blobs: Mapping[str, bytes], *, renew: bool = False) -> None:
        """See SnapshotStore."""
        if len(self._manifests) >= self.room:
            raise StoreUnavailable("no memory left: raise maxmemory, or lower THALWEG_KEEP_VERSIONS")
        super().put_blobs(blobs, renew=renew)


def test_a_full_store_is_mended_by_keeping_fewer_versions(tmp_path: Path) -> None:
    """As its error says: a learner that is started again so drops what is old, and gets through."""
    store = SmallStore("small")
    first = Bench(tmp_path, store)
    while len(store.versions()) < store.room:
        first.turn()
    first.publisher.uploader.stop()
    again = Bench(tmp_path, store, keep=2)
    again.turn()
    assert again.publisher.uploader.published > store.room
    assert len(store.versions()) <= 3
