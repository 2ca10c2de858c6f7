"""Cutting and publishing versions: what a reader lays together is what the learner holds."""

import shutil
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from learner.checkpoint import restore, take
from learner.publishing.gate import rejection
from learner.publishing.publisher import Publisher
from learner.publishing.uploader import PublishConfig
from learner.publishing.version_allocator import HighWater
from learner.publishing.version_builder import (
    GOLDEN_ITEMS,
    BuiltVersion,
    VersionBuilder,
    serving_deep_logits,
    serving_wide_logits,
)
from learner.training.model import Model
from learner.training.progressive_validation import Figures
from stream.runtime.errors import BadSnapshot, Fenced, SnapshotError, StoreUnavailable
from stream.snapshots.manifest import DELTAS_MAX, Head, Manifest
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.store import fetch
from stream.snapshots.version_files import VersionFiles
from stream.spec.spec import Gate, Spec
from tests.support.learner_world import records, small_spec

Served = tuple[dict[int, float], dict[int, bytes], dict[int, bytes], list[bytes]]


def laid_together(store: MemoryStore, manifest: Manifest) -> Served:
    """wide weights, statistics rows and embedding rows by key, and dense arrays of a version."""
    wide: dict[int, float] = {}
    statistics: dict[int, bytes] = {}
    vectors: dict[int, bytes] = {}
    dense: list[bytes] = []
    for digests in manifest.parts["wide"].payloads():
        content = fetch(store, digests)
        wide.update(zip(content["keys"].tolist(), content["weights"].tolist(), strict=True))
    for digests in manifest.parts["statistics"].payloads():
        statistics.update((int(row[0]), row.tobytes()) for row in fetch(store, digests)["rows"])
    for digests in manifest.parts["deep"].payloads():
        content = fetch(store, digests)
        vectors.update((int(k), v.tobytes()) for k, v in zip(content["keys"], content["vectors"], strict=True))
        for key in content.get("dead", ()):
            vectors.pop(int(key), None)
        dense = [content[n].tobytes() for n in sorted(content) if n.startswith(("weight", "bias", "bound"))]
    return {k: w for k, w in wide.items() if w}, statistics, vectors, dense


def held(model: Model) -> Served:
    """The same of the learner's own state."""
    assert model.deep is not None
    rows = model.wide.table.rows()
    weights = model.wide.weights(rows)
    vocabulary = model.deep.vocabulary
    layers = model.deep.layers()
    dense = {f"weight_{i}": w.tobytes() for i, (w, _) in enumerate(layers)}
    dense |= {f"bias_{i}": b.tobytes() for i, (_, b) in enumerate(layers)}
    dense["boundaries"] = model.deep.boundaries.tobytes()
    return (
        {int(k): float(w) for k, w in zip(rows[:, 0], weights, strict=True) if w},
        {int(row[0]): row.tobytes() for row in model.statistics.table.rows()},
        {int(vocabulary.keys[r]): vocabulary.vectors[r].tobytes() for r in vocabulary.live()},
        [dense[n] for n in sorted(dense)],
    )


def test_every_version_is_what_the_learner_held() -> None:
    """Base, merged and small deltas laid together give the learner's state, over merges and folds."""
    spec = small_spec()
    log = records(spec, 3 * (DELTAS_MAX + 20) * 2, per_record=3)
    model, store = Model(spec), MemoryStore("small")
    model.reread = lambda offset: iter(log[offset:])
    builder, merged, bases = VersionBuilder(model), 0, set[str]()
    for offset, record in enumerate(log):
        model.learn(record, offset)
        cut = builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        merged += bool(cut.manifest.parts["statistics"].merged)
        bases.add(cut.manifest.parts["statistics"].base[0])
        assert all(len(part.deltas) <= DELTAS_MAX for part in cut.manifest.parts.values())
        if offset % 13 == 0 or offset == len(log) - 1:
            assert laid_together(store, store.manifest(offset + 1)) == held(model)
    assert merged or len(bases) > 1, "the test is long enough to merge or fold"


def test_a_part_that_lost_count_of_its_changes_comes_as_a_base() -> None:
    """It alone, once; then deltas come again, and a reader always has what the learner holds."""
    spec = small_spec()
    model, store, bases = Model(spec), MemoryStore("small"), dict[str, list[str]]()
    builder = VersionBuilder(model)
    for offset, record in enumerate(records(spec, 24)):
        model.learn(record, offset)
        if offset == 4:
            model.wide.table.lost = True
        cut = builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        for name, part in cut.manifest.parts.items():
            bases.setdefault(name, []).append(part.base[0])
        assert laid_together(store, store.manifest(offset + 1)) == held(model)
    assert [bases["wide"].index(base) for base in bases["wide"]] == [0, 0, 0, 0, 4, 4, 4, 4]
    assert set(bases["statistics"]) == {bases["statistics"][0]}


def test_a_manifest_says_which_version_its_deep_part_is_of() -> None:
    """The version in which the deep part was cut last; a full base brings it anew. 0 where there is none."""
    spec = small_spec()
    model = Model(spec)
    builder, told = VersionBuilder(model), list[int]()
    for offset, record in enumerate(records(spec, 30)):
        model.learn(record, offset)
        if offset == 7:
            builder.reset()
        cut = builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=offset % 4 == 2)
        assert cut.blobs
        told.append(cut.manifest.deep_version)
    assert told == [1, 1, 3, 3, 3, 3, 7, 8, 8, 8]
    wide = Model(small_spec(**{'name = "small"': 'name = "small"\nparts = ["wide"]'}))
    wide.learn(records(wide.spec, 1)[0], 0)
    cut = VersionBuilder(wide).build(1, 0, 1, 1, 0, {}, deep=True)
    assert cut.blobs
    assert cut.manifest.deep_version == 0


def test_installs_are_named_in_the_version_that_learned_them() -> None:
    """The manifest's ingest times are those of positives learned since the version before."""
    spec = small_spec()
    log = records(spec, 30)
    model = Model(spec)
    builder = VersionBuilder(model)
    told: list[int] = []
    for offset, record in enumerate(log):
        model.learn(record, offset)
        told += builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=False).manifest.ingest_ms
    positives = [i for r in log for e in r for i, label in zip(e.ingest_ms, e.labels, strict=True) if label]
    assert sorted(told) == sorted(positives)


def test_while_nothing_is_published_installs_are_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the least ids, as if all had been kept."""
    monkeypatch.setattr("learner.training.model.INGESTS_MAX", 5)
    monkeypatch.setattr("learner.publishing.version_builder.INGESTS_MAX", 5)
    spec = small_spec()
    model, ingests = Model(spec), dict[int, int]()
    for offset, record in enumerate(records(spec, 90)):
        record = [structs.replace(e, ingest_ms=[10 * offset + n for n in range(3)]) for e in record]
        model.learn(record, offset)
        for e in record:
            ingests |= {i: ms for i, ms, label in zip(e.ids, e.ingest_ms, e.labels, strict=True) if label}
        assert len(model.installs) <= 10
    assert len(ingests) > 50
    told = VersionBuilder(model).build(1, 0, 1, 1, 0, {}, deep=False).manifest.ingest_ms
    assert told == [ingests[i] for i in sorted(ingests)[:5]]


class Bench:
    """A publisher over a memory store, and a clock in hand. It has learned as much as what is live there."""

    def __init__(
        self, tmp_path: Path, store: MemoryStore | None = None, keep: int = 50, spec: Spec | None = None
    ) -> None:
        self.spec = spec or small_spec()
        self.log = iter(enumerate(records(self.spec, 600)))
        self.model, self.store = Model(self.spec), store or MemoryStore("small")
        self.ms = 1000
        cadence = PublishConfig(
            100, 300, keep_versions=keep, quarantine=tmp_path, pins=tmp_path / "pins", numbers=tmp_path / "numbers"
        )
        self.publisher = Publisher(self.model, self.store, cadence, lambda: self.ms, HighWater())
        head = self.store.head()
        learned = self.store.manifest(head.version).offset[0] if head else 0
        for offset, record in islice(self.log, learned):
            self.model.learn(record, offset)
        self.publisher.maybe_publish(learned)  # so that it's known how far it is
        wait_for(lambda: self.publisher.uploader.owns_model)

    def turn(self) -> bool:
        """Learn a record, let 100 ms pass, publish, wait until it has arrived."""
        offset, record = next(self.log)
        self.model.learn(record, offset)
        self.ms += 100
        published = self.publisher.maybe_publish(offset + 1)
        self.settle()
        return published

    def settle(self) -> None:
        """Until nothing is on its way, or the store is down."""
        until = time.monotonic() + 10
        while self.publisher.uploader.busy and self.store.answers:
            assert time.monotonic() < until
            time.sleep(0.001)


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
    wide, statistics, _, _ = laid_together(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == held(bench.model)[:2]


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
    wide, statistics, _, _ = laid_together(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == held(bench.model)[:2]


def test_an_older_learner_is_fenced_off(tmp_path: Path) -> None:
    """Once another has taken a token, this one's next versions are refused and it is told to stop."""
    bench = Bench(tmp_path)
    bench.turn()
    bench.store.take_token()
    bench.turn()
    with pytest.raises(Fenced):
        bench.turn()


def test_an_idle_learner_hears_that_another_owns_the_model(tmp_path: Path) -> None:
    """It has nothing to publish, and still ends as soon as a version of the other's is live."""
    bench = Bench(tmp_path)
    bench.turn()
    manifest = bench.store.manifest(1)
    bench.store.publish(structs.replace(manifest, version=2, parent=1, token=bench.store.take_token()))
    bench.publisher.uploader.join(10)
    with pytest.raises(Fenced, match="another learner owns small"):
        bench.publisher.maybe_publish(1)


def test_a_refused_version_leaves_its_evidence(tmp_path: Path) -> None:
    """A model that went bad isn't published; what is live stays; quarantine holds the reason."""
    bench = Bench(tmp_path)
    bench.turn()
    assert bench.model.deep is not None
    bench.model.deep.tower.flat[0] = float("nan")
    assert not bench.turn()
    assert bench.publisher.rejected == 1
    head = bench.store.head()
    assert head is not None
    assert head.version == 1
    assert "finite" in next(tmp_path.glob("*.json")).read_text()


def test_a_version_that_cannot_be_packed(tmp_path: Path) -> None:
    """A weight that isn't finite goes nowhere; it's told as a refusal, and once it's sound a full base follows."""
    bench = Bench(tmp_path)
    bench.turn()
    table = bench.model.wide.table
    row = table.rows()[:1].copy()
    table.put(np.array([[row[0, 0], np.array([np.inf, 1], np.float32).view(np.uint64)[0]]], np.uint64))
    bench.model.wide.table.take_fresh()
    bench.publisher.uploader.needs_base = True  # the key isn't fresh: only a base has it
    for _ in range(3):
        bench.turn()
    head = bench.store.head()
    assert head is not None
    assert head.version == 1
    assert bench.publisher.rejected >= 1
    table.put(row)
    for _ in range(3):
        bench.turn()
    head = bench.store.head()
    assert head is not None
    assert head.version > 1
    wide, statistics, _, _ = laid_together(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == held(bench.model)[:2]


@pytest.mark.parametrize(
    ("window", "finite", "word"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.5), True, ""),
        (Figures(2000, 0.5, 0.02, 0.0, 0.02), True, "no install among the last 2000 examples, where 40 were predicted"),
        (Figures(2000, 0.5, 0.002, 0.0, 0.002), True, ""),
        (Figures(2000, 0.7, 0.65, 0.5, 0.65), True, "calibration"),
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), True, "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), True, "log loss"),
        (Figures(100, 0.4, 0.80, 0.5, 0.65), True, ""),
        (Figures(2000, 0.7, float("nan"), 0.5, 0.5), True, "finite"),
        (Figures(2000, 0.7, 0.65, 0.5, 0.5), False, "finite"),
    ],
)
def test_the_gate(window: Figures, finite: bool, word: str) -> None:
    """Finite, calibrated within bounds, no worse than a constant; judged once there are predictions enough."""
    reason = rejection(Gate(), window, finite)
    assert (word in reason) if word else not reason


@pytest.mark.parametrize("base_rate", [0.0, 1.0])
def test_corrections_that_leave_no_rate_are_not_judged(base_rate: float) -> None:
    """Where labels come as corrections and leave no positive or no negative, only what isn't finite is refused."""
    window = Figures(2000, 0.5, 1.3, base_rate, 0.3)
    assert rejection(Gate(), window, True)
    assert rejection(Gate(), window, True, corrected=True) == ""
    assert "finite" in rejection(Gate(), window, False, corrected=True)
    assert "finite" in rejection(Gate(), Figures(2000, 0.5, float("nan"), base_rate, 0.3), True, corrected=True)


@pytest.mark.parametrize(
    ("window", "bound"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), "log_loss_rise_max"),
    ],
)
def test_a_refusal_over_labels_of_older_pages_says_so(window: Figures, bound: str) -> None:
    """Where labels come as corrections it tells which bound to widen; elsewhere that would mislead."""
    reason = rejection(Gate(), window, True, corrected=True)
    assert "labels of this window come from older pages" in reason
    assert f"widen `[publish] gate.{bound}`" in reason
    assert "older pages" not in rejection(Gate(), window, True)


@pytest.mark.parametrize(("policy", "published"), [("eager", False), ("fake_negative", True)])
def test_the_gate_knows_the_policy(tmp_path: Path, policy: str, published: bool) -> None:
    """Before the first installs come, a learner of fake negatives publishes; where none were told, that's refused."""
    bench = Bench(tmp_path)
    label = structs.replace(bench.spec.label, policy=policy)
    bench.model.spec = structs.replace(bench.spec, label=label)
    bench.model.progress.record(np.full(2000, 0.3, np.float32), np.zeros(2000, np.float32))
    record = [structs.replace(e, labels=[0] * len(e.labels)) for e in records(bench.spec, 1)[0]]
    bench.model.learn(record, 0)
    assert bench.publisher.maybe_publish(1) is published
    bench.settle()


def test_golden_rows_are_of_the_version_that_goes_out() -> None:
    """Between two cuts of the deep part, golden scores combine the new wide part with the deep part as published."""
    spec = small_spec()
    log = records(spec, 60)
    model = Model(spec)
    builder = VersionBuilder(model)
    model.learn(log[0], 0)
    first = builder.build(1, 0, 1, 1, 0, {}, deep=True).manifest
    assert model.deep is not None
    before = model.deep.tower.flat.copy()
    for offset in range(1, 10):
        model.learn(log[offset], offset)
    second = builder.build(2, 1, 1, 10, 0, {}, deep=False).manifest
    assert [g.features for g in second.golden] == [g.features for g in first.golden]
    assert second.parts["deep"] == first.parts["deep"]
    assert not np.array_equal(before, model.deep.tower.flat)
    assert [g.scores for g in second.golden] != [g.scores for g in first.golden], "the wide part moved"


def test_what_has_learned_brings_golden_rows() -> None:
    """The deep part goes out before its time when there were no pages yet at its first cut."""
    spec = small_spec()
    log = records(spec, 60)
    model = Model(spec)
    builder = VersionBuilder(model)
    assert not builder.build(1, 0, 1, 0, 0, {}, deep=True).manifest.golden
    model.learn(log[0], 0)
    assert builder.build(2, 1, 1, 1, 0, {}, deep=False).manifest.golden


def test_golden_rows_survive_a_restart(tmp_path: Path) -> None:
    """A restored learner's first base has golden rows, of the very deep part that goes out with them."""
    spec = small_spec()
    log = records(spec, 60)
    model = Model(spec)
    for offset in range(10):
        model.learn(log[offset], offset)
    restored = restore(spec, take(model, 10, 0, 0))
    assert list(restored.recent_pages) == list(model.recent_pages)
    builder = VersionBuilder(restored)
    first = builder.build(1, 0, 1, 10, 0, {}, deep=True).manifest
    assert first.golden
    restored.learn(log[10], 10)
    second = builder.build(2, 1, 1, 11, 0, {}, deep=False).manifest
    assert [g.features for g in second.golden] == [g.features for g in first.golden]


def test_golden_rows_are_few_and_true() -> None:
    """Of a long page the first items are golden rows, and they score as they do on the whole page."""
    spec = small_spec()
    model = Model(spec)
    record = records(spec, 3, items=25)[0]
    model.learn(record, 0)
    golden = VersionBuilder(model).build(1, 0, 1, 1, 0, {}, deep=True).manifest.golden
    for page, one in zip(record, golden, strict=True):
        words = np.frombuffer(page.page.features, np.uint64)
        logits = serving_wide_logits(model, words) + serving_deep_logits(model, words)
        assert len(one.scores) == GOLDEN_ITEMS
        np.testing.assert_allclose(one.scores, 1 / (1 + np.exp(-logits[:GOLDEN_ITEMS])), rtol=1e-5)


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
    assert laid_together(bench.store, bench.store.manifest(head.version)) == held(bench.model)
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
    wide, statistics, _, _ = laid_together(bench.store, bench.store.manifest(head.version))
    assert (wide, statistics) == held(bench.model)[:2]


@pytest.mark.parametrize("damage", ["a blob", "the decision", "the folder", "nothing"])
def test_a_lost_store_is_noticed_whatever_became_of_the_pinned_copy(tmp_path: Path, damage: str) -> None:
    """Garbled or deleted, with nothing left to publish: a wiped store gets a full base all the same, within seconds."""
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.turn()
    bench.store.pin(1)
    folder = tmp_path / "pins"
    wait_for(lambda: (folder / "decision").exists())
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
    wait_for(lambda: bench.publisher.uploader.needs_base)
    bench.ms += 1_000
    assert bench.publisher.maybe_publish(3)
    bench.settle()
    head = bench.store.head()
    assert head is not None
    assert laid_together(bench.store, bench.store.manifest(head.version)) == held(bench.model)
    if damage == "nothing":
        wait_for(lambda: bench.store.decision().version == 1)
    bench.store.pin(head.version)
    wait_for(lambda: (kept := VersionFiles(folder).load()) is not None and kept.version == head.version)


def test_a_garbled_head_is_published_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as lost: though nothing more was learned, a full base takes its place."""
    bench = Bench(tmp_path)
    bench.turn()
    version = bench.publisher.version

    def garbled() -> Head:
        raise BadSnapshot("the head of small is garbled")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "head", garbled)
        wait_for(lambda: bench.publisher.uploader.needs_base)
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
            wait_for(lambda: uploader._checked_s > looked_s)  # noqa: B023  # called before the loop goes on
        return cut(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(bench.publisher._builder, "build", slowly)
        bench.store.wipe()
        wait_for(lambda: uploader.needs_base)
        bench.turn()
    for _ in range(5):
        bench.turn()
    bases = {tuple(bench.store.manifest(version).parts["wide"].base) for version in bench.store.versions()}
    assert (len(bench.store.versions()), len(bases)) == (6, 1)


def test_what_an_older_learner_left_in_a_wiped_store_is_published_over(tmp_path: Path) -> None:
    """It was here before the head was known again; though its number is greater and there is nothing new to tell."""
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
    wait_for(lambda: bench.publisher.uploader.needs_base)
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


def wait_for(true: Callable[[], bool]) -> None:
    """Until it's so."""
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)
