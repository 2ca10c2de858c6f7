"""The benchmarks' models by chance are published as a learner's are, and rankers take them as theirs."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from benchmarks.golden import ITEMS, PAGES
from benchmarks.serving import Publisher, World
from benchmarks.snapshot import REBASE_SHARE, fullest
from learner.publishing.delta_chain import REBASE_SHARE as LEARNERS_REBASE_SHARE
from learner.publishing.version_builder import GOLDEN_ITEMS, VersionBuilder
from learner.training.model import Model
from learner.training.model_state import GOLDEN_PAGES
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader
from stream.events.codec import example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression
from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import DELTAS_MAX, INGESTS_MAX, encode_manifest
from stream.snapshots.memory_store import MemoryStore
from stream.spec.retrieval import Retrieval
from stream.spec.spec_file import load_spec


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    """Of a small model that has its base in a store of memory."""
    world = World(structs.replace(load_spec(Path("specs/movielens.toml")), retrieval=Retrieval()), 600, 20)
    made = Publisher(world, MemoryStore("movielens"), wide_keys=20_000, rows=2_000, pages=20)
    made.base()
    return made


def loaded(publisher: Publisher, loader: VersionLoader, previous: Version | None = None) -> Version:
    """The newest version, which a ranker has tried out."""
    return loader.load(publisher.number, previous)


def test_a_ranker_tries_out_every_version(publisher: Publisher) -> None:
    """Golden pages score as their manifest says: of a base, deltas with the deep part and without, a merged one."""
    loader = VersionLoader(publisher.store, publisher.store.model)
    version = loaded(publisher, loader)
    for n in range(6):
        publisher.delta(5_000, 3_000, 1_000, dense=n % 2 == 0)
        if n == 4:
            publisher.merge()
        publisher.publish()
        before, version = version, loaded(publisher, loader, version)
        assert version.manifest.examples > 0
        assert len(version.manifest.golden) == PAGES
        old, new = (np.concatenate([g.scores for g in v.manifest.golden]) for v in (before, version))
        assert np.abs(old - new).max() > 1e-3, "what was published is in the golden scores"
    assert version.manifest.parts["wide"].merged
    loaded(publisher, VersionLoader(publisher.store, publisher.store.model))  # one that begins with it


def test_what_was_put_and_not_noted_is_refused(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation isn't idle: weights that golden scores don't know of show; a base that they know of is taken."""
    with monkeypatch.context() as patched:
        patched.setattr(publisher.golden, "note", lambda _: None)
        publisher.delta(5_000, 3_000, 1_000)
    publisher.publish()
    with pytest.raises(BadSnapshot, match="golden"):
        loaded(publisher, VersionLoader(publisher.store, publisher.store.model))
    publisher.base()
    loaded(publisher, VersionLoader(publisher.store, publisher.store.model))


def test_manifests_are_as_large_as_a_learners(publisher: Publisher) -> None:
    """A learner that has learned the same pages says as much of them, byte for byte, and tells the same metrics."""
    assert (PAGES, ITEMS, REBASE_SHARE) == (GOLDEN_PAGES, GOLDEN_ITEMS, LEARNERS_REBASE_SHARE)
    ours = publisher.cut()
    model = Model(publisher.spec)
    record = []
    for n, golden in enumerate(ours.golden):
        names = [f"i{i}" for i in range(ITEMS)]
        page = Impression(f"r{n}", ours.watermark_ms, "u1", names, features=golden.features)
        labels, reasons = [1, *[0] * (ITEMS - 1)], [INSTALLED, *[WINDOW_CLOSED] * (ITEMS - 1)]
        ids = [example_id(f"r{n}", p, reasons[p], "") for p in range(ITEMS)]
        record.append(Examples(page, ids, list(range(ITEMS)), labels, [1.0] * ITEMS, reasons,
                               [ours.learned_ms] * ITEMS))  # fmt: skip
    model.learn(record, 0)
    assert not model.rejected
    metrics = model.progress.metrics()
    theirs = VersionBuilder(model).build(ours.version, ours.parent, ours.token, 1, 0, metrics, deep=True).manifest
    assert set(theirs.metrics) == set(ours.metrics)
    assert [g.features for g in theirs.golden] == [g.features for g in ours.golden]
    assert set(theirs.parts) == set(ours.parts)
    same = structs.replace(
        theirs, parts=ours.parts, ingest_ms=ours.ingest_ms, examples=ours.examples, created_ms=ours.created_ms
    )
    assert len(encode_manifest(same)) == len(encode_manifest(ours))


def test_the_fullest_manifest_can_be_read(publisher: Publisher) -> None:
    """It's within the limits of a manifest, and nothing in it is less than what is published."""
    ours = publisher.cut()
    largest = fullest(ours)
    assert len(encode_manifest(largest)) > len(encode_manifest(ours))
    assert largest.golden == ours.golden
    assert len(largest.ingest_ms) == INGESTS_MAX
    for name, part in largest.parts.items():
        assert len(part.deltas) == DELTAS_MAX
        assert len(part.payloads()) > len(ours.parts[name].payloads())
