"""Building versions: what a reader applies is what the learner has learned."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from learner.checkpoints.checkpoint import restore, take
from learner.publishing.version_builder import (
    GOLDEN_ITEMS,
    VersionBuilder,
    serving_deep_logits,
    serving_wide_logits,
)
from learner.training.model import Model
from stream.snapshots.manifest import DELTAS_MAX
from stream.snapshots.memory_store import MemoryStore
from tests.support.assembled_versions import assembled, learned_state
from tests.support.learner_world import records, small_spec


def test_every_version_is_what_the_learner_held() -> None:
    """Base, merged and small deltas together give the learner's state, over merges and folds."""
    spec = small_spec()
    log = records(spec, 3 * (DELTAS_MAX + 20) * 2, per_record=3)
    model, store = Model(spec), MemoryStore("small")
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
            assert assembled(store, store.manifest(offset + 1)) == learned_state(model)
    assert merged or len(bases) > 1, "the test is long enough to merge or fold"


def test_a_part_that_lost_count_of_its_changes_comes_as_a_base() -> None:
    """It alone, once; then deltas come again, and a reader always has what the learner holds."""
    spec = small_spec()
    model, store, bases = Model(spec), MemoryStore("small"), dict[str, list[str]]()
    builder = VersionBuilder(model)
    for offset, record in enumerate(records(spec, 24)):
        model.learn(record, offset)
        if offset == 4:
            model.wide.table.overflowed = True
        cut = builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        for name, part in cut.manifest.parts.items():
            bases.setdefault(name, []).append(part.base[0])
        assert assembled(store, store.manifest(offset + 1)) == learned_state(model)
    assert [bases["wide"].index(base) for base in bases["wide"]] == [0, 0, 0, 0, 4, 4, 4, 4]
    assert set(bases["statistics"]) == {bases["statistics"][0]}


def test_a_manifest_says_which_version_its_deep_part_is_of() -> None:
    """The version in which the deep part was cut last; a full base brings it again. 0 where there is none."""
    spec = small_spec()
    model = Model(spec)
    builder, versions = VersionBuilder(model), list[int]()
    for offset, record in enumerate(records(spec, 30)):
        model.learn(record, offset)
        if offset == 7:
            builder.reset()
        cut = builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=offset % 4 == 2)
        assert cut.blobs
        versions.append(cut.manifest.deep_version)
    assert versions == [1, 1, 3, 3, 3, 3, 7, 8, 8, 8]
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
    ingest_ms: list[int] = []
    for offset, record in enumerate(log):
        model.learn(record, offset)
        ingest_ms += builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=False).manifest.ingest_ms
    positives = [i for r in log for e in r for i, label in zip(e.ingest_ms, e.labels, strict=True) if label]
    assert sorted(ingest_ms) == sorted(positives)


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
    ingest_ms = VersionBuilder(model).build(1, 0, 1, 1, 0, {}, deep=False).manifest.ingest_ms
    assert ingest_ms == [ingests[i] for i in sorted(ingests)[:5]]


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
