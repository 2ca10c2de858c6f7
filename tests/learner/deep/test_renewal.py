"""What was damaged in the store is whole again after a full base."""

from pathlib import Path

import pytest

from learner.publishing.version_builder import VersionBuilder
from stream.runtime.errors import BadSnapshot
from stream.snapshots.store import fetch
from tests.support.assembled_versions import assembled
from tests.support.publisher_bench import Bench


def damage(bench: Bench, digest: str) -> None:
    """Other bytes under this digest."""
    bench.store._blobs[digest] = b"other"


def test_a_full_base_replaces_damaged_bytes(tmp_path: Path) -> None:
    """A base with the very bytes of the one before heals it: nothing needs to be learned in between."""
    bench = Bench(tmp_path)
    bench.turn()
    head = bench.store.head()
    assert head is not None
    digest = bench.store.manifest(head.version).parts["wide"].base[0]
    damage(bench, digest)
    bench.publisher.uploader.needs_base = True
    bench.publisher.uploader.head_version = head.version
    bench.ms += 1_000
    assert bench.publisher.maybe_publish(1)
    bench.settle()
    manifest = bench.store.manifest(head.version + 1)
    assert manifest.parts["wide"].base == [digest]
    assembled(bench.store, manifest)


def test_deltas_leave_what_is_there_alone(tmp_path: Path) -> None:
    """Only a full base is written whatever the store has: with a delta goes what is new."""
    bench = Bench(tmp_path)
    bench.turn()
    head = bench.store.head()
    assert head is not None
    digests = bench.store.manifest(head.version).parts["wide"].base
    damage(bench, digests[0])
    bench.turn()
    with pytest.raises(BadSnapshot, match="other bytes"):
        fetch(bench.store, digests)


def test_which_cuts_are_full(tmp_path: Path) -> None:
    """The first one and each after `reset`, whether or not it's time for the deep part."""
    bench = Bench(tmp_path)
    builder, full = VersionBuilder(bench.model), []
    for n in range(6):
        offset, record = next(bench.log)
        bench.model.learn(record, offset)
        if n == 3:
            builder.reset()
        full.append(builder.build(n + 1, n, 1, offset + 1, 0, {}, deep=n == 5).full)
    assert full == [True, False, False, True, False, False]
