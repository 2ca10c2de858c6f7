"""What was damaged in the store is whole again after a full base."""

from pathlib import Path

import pytest

from learner.publishing.delta_chain import Cutter
from stream.runtime.errors import BadSnapshot
from stream.snapshots.store import fetch
from tests.learner.publishing.test_publisher import Bench, laid_together


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
    bench.publisher.carrier.wants_base = True
    bench.publisher.carrier.live = head.version
    bench.ms += 1_000
    assert bench.publisher.maybe_publish(1)
    bench.settle()
    manifest = bench.store.manifest(head.version + 1)
    assert manifest.parts["wide"].base == [digest]
    laid_together(bench.store, manifest)


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
    """The first one and each after `start_over`, whether or not it's time for the deep part."""
    bench = Bench(tmp_path)
    cutter, full = Cutter(bench.model), []
    for n in range(6):
        offset, record = next(bench.log)
        bench.model.learn(record, offset)
        if n == 3:
            cutter.start_over()
        full.append(cutter.cut(n + 1, n, 1, offset + 1, 0, {}, deep=n == 5).full)
    assert full == [True, False, False, True, False, False]
