"""Versions whose payloads don't fit one segment, from the learner to the ranker."""

import pytest

from stream.snapshots import payload
from stream.spec.spec_file import load_spec
from thalweg.kernels import miniature
from thalweg.room_kernels import SPEC
from thalweg.versions.verify import Verifier


def test_versions_are_published_and_served_however_large_their_parts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With segments of 4 KiB bases and deltas are cut, and rankers answer as with whole ones."""
    whole = [(one.items, one.scores) for one in miniature(load_spec(SPEC), 96)[1]]
    limits = {"BLOB_BYTES_MAX": 1_024, "SEGMENT_BLOBS": 4, "SEGMENT_BYTES_MAX": 4_096, "HEADS_BYTES_MAX": 384}
    for name, value in limits.items():
        monkeypatch.setattr(payload, name, value)
    store, replies = miniature(load_spec(SPEC), 96)
    assert [(one.items, one.scores) for one in replies] == whole
    verifier, longest = Verifier(store), dict[str, int]()
    for number in store.versions():
        verifier.verify(number)
        for part, version in store.manifest(number).parts.items():
            longest[part] = max(longest.get(part, 0), *map(len, version.payloads()))
    assert not [*verifier.faults()]
    assert min(longest["statistics"], longest["deep"]) > 4
