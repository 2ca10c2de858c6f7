"""Rows laid over a table: what each view sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from stream.tables.delta_table import MISSING, TOMBSTONE, DeltaTable, empty_delta, lookup, may_have_entry
from stream.tables.hash_kernels import hash32

KEYS = st.integers(1, 12)
STEPS = st.lists(st.tuples(st.lists(KEYS, max_size=5), st.booleans()), max_size=12)


def sees(overlay: DeltaTable, count: int) -> dict[int, int | None]:
    """What a view has of each key: its column, None when it's gone; keys it hasn't are left out."""
    found: dict[int, int | None] = {}
    for key in range(1, 13):
        entry = lookup(overlay.heads, overlay.entries, count, np.uint64(key))
        if entry != MISSING:
            found[key] = None if entry == TOMBSTONE else int(overlay.entries[entry, 1])
    return found


@given(STEPS)
@how(max_examples=60)
def test_a_view_sees_what_was_there_when_it_was_taken(steps: list[tuple[list[int], bool]]) -> None:
    """Whatever comes later, each view keeps its rows; folding one changes nothing it sees."""
    overlay, count, value = empty_delta(2), 1, 0
    expected: dict[int, int | None] = {}
    views: list[tuple[int, dict[int, int | None]]] = []
    for keys, gone in steps:
        columns = np.arange(value, value + len(keys), dtype=np.uint64)[:, None]
        put = overlay.put(count, np.array(keys, np.uint64), columns, tombstones=gone)
        assert put is not None
        count, value = put, value + len(keys)
        expected = expected | {key: None if gone else int(c[0]) for key, c in zip(keys, columns, strict=True)}
        views.append((count, expected))
    for at, saw in views:
        assert sees(overlay, at) == saw
        folded = overlay.compacted(at)
        assert sees(folded, folded.count) == saw


def test_only_the_newest_view_can_be_gone_on_from() -> None:
    """When someone else went on from a view, or the room is used up, nothing is put: it takes a fold."""
    overlay, one = empty_delta(2), np.ones(1, np.uint64)
    first = overlay.put(overlay.count, one, one[:, None])
    assert first is not None
    assert overlay.put(first, one * 2, one[:, None]) is not None
    assert overlay.put(first, one * 3, one[:, None]) is None
    folded = overlay.compacted(first)
    assert folded.put(folded.count, one * 3, one[:, None]) is not None
    many = np.arange(1, overlay.room + 1, dtype=np.uint64)
    assert overlay.put(overlay.count, many, many[:, None]) is None
    assert sees(overlay, first) == {1: 1}


def test_a_key_with_an_entry_is_marked_and_few_others_are() -> None:
    """A missing mark would hide a row; one too many costs a look. A fold has marks of its own."""
    overlay, random = empty_delta(2, 510), np.random.default_rng(1)
    keys, others = np.split(random.integers(1, 2**63, 4_000, dtype=np.int64).astype(np.uint64), 2)
    put = overlay.put(overlay.count, keys[:1_500], keys[:1_500, None])
    assert put is not None
    put = overlay.put(put, keys[1_500:], keys[1_500:, None], tombstones=True)
    assert put is not None
    for held in (overlay, overlay.compacted(put)):
        assert all(may_have_entry(held.marks, hash32(key)) for key in keys)
        assert np.mean([may_have_entry(held.marks, hash32(key)) for key in others]) < 0.2


def test_vectors_go_with_their_entries() -> None:
    """An entry's vector is its own: a later one of the key doesn't change it, and a fold carries it along."""
    overlay, key = empty_delta(1, dim=3), np.array([5], np.uint64)
    nothing = np.zeros((1, 0), np.uint64)
    first = overlay.put(1, key, nothing, np.full((1, 3), 2, np.float32))
    assert first is not None
    second = overlay.put(first, key, nothing, np.full((1, 3), 7, np.float32))
    assert second is not None
    for count, value in ((first, 2.0), (second, 7.0)):
        folded = overlay.compacted(count)
        for held, at in ((overlay, count), (folded, folded.count)):
            entry = lookup(held.heads, held.entries, at, key[0])
            assert held.vectors[entry].tolist() == pytest.approx([value] * 3)
