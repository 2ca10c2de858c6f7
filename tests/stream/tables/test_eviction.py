"""The sweep: which keys go, whatever the table's layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.tables.dtypes import U64
from stream.tables.eviction import EVICTED, EXPIRED, Evictor
from stream.tables.hash_kernels import find_many, find_or_insert, mark_changed
from stream.tables.hash_table import HashTable

LIVES_S = np.array([0, 100], np.uint32)  # of keys with low byte 1: for ever; 2: 100 s


def see(table: HashTable, keys: U64, now_s: int) -> None:
    """As a kernel does."""
    table.stamp()
    table.reserve_for(keys)
    for key in keys:
        row = find_or_insert(table.slots, key, table.counts)
        mark_changed(table.slots, row, table.dirty, table.counts)
        table.last_seen[row] = now_s


def key_of(number: int, life: int) -> int:
    """A key whose low byte is 1 + life."""
    return number << 8 | life + 1


def test_keys_go_when_they_were_not_seen_for_longer_than_they_live() -> None:
    """A hundred seconds after its last sighting a key is still there, a second later it goes and is told as changed."""
    table, sweep = HashTable(2), Evictor(10_000, LIVES_S)
    keys = np.array([key_of(n, n % 2) for n in range(1, 41)], np.uint64)
    see(table, keys, 1_000)
    table.take_changed()
    sweep.step(table, 10_000, 1_100_999)
    assert len(table) == 40
    sweep.step(table, 10_000, 1_101_000)
    assert len(table) == 20
    assert sorted(table.take_changed()[:, 0].tolist()) == sorted(k for k in keys.tolist() if k & 255 == 2)
    assert sweep.tally.tolist() == [20, 0]


def test_time_does_not_go_back() -> None:
    """A late record's time doesn't bring anything back."""
    sweep = Evictor(10_000, LIVES_S)
    sweep.step(HashTable(2), 1, 5_000_000)
    sweep.step(HashTable(2), 1, 4_000_000)
    assert sweep.now_s == 5_000


def test_over_the_bound_those_go_that_were_not_seen_for_longest() -> None:
    """The table stays within its bound, and holds all that was seen within the last half of it."""
    bound, table = 2_000, HashTable(2)
    sweep, latest = Evictor(bound), list[int]()
    for n in range(1, 10_000, 10):
        keys = np.arange(n, n + 10, dtype=np.uint64) << np.uint64(8)
        sweep.step(table, len(keys), n * 1_000)
        see(table, keys, n)
        latest += keys.tolist()
        assert len(table) <= bound
        assert (find_many(table.slots, np.array(latest[-bound // 2 :], np.uint64)) >= 0).all()
    assert len(table) > bound / 2
    assert sweep.tally[EXPIRED] == 0
    assert sweep.tally[EVICTED] == len(latest) - len(table)


def test_keys_of_one_second_go_by_hash() -> None:
    """Where all were seen at once, the bound holds all the same, and always takes the same ones."""
    tables = [HashTable(2), HashTable(2, 30_000)]
    for table in tables:
        sweep = Evictor(2_000)
        for n in range(1, 5_000, 10):
            keys = np.arange(n, n + 10, dtype=np.uint64)
            sweep.step(table, 10, 1_000)
            see(table, keys, 1)
            assert len(table) <= 2_000
    first, other = (np.sort(table.rows()[:, 0]).tolist() for table in tables)
    assert first == other


def test_statistics_have_their_time_in_a_column() -> None:
    """Without stamps it's column 3 that says when a row moved, in ms."""
    table, sweep = HashTable(4), Evictor(1_000)
    rows = np.zeros((1_000, 4), np.uint64)
    rows[:, 0] = np.arange(1, 1_001)
    rows.view(np.float64)[:, 3] = 1_000.0 * np.arange(1, 1_001)
    table.put(rows)
    for _ in range(20):
        sweep.step(table, 10, 0)
    held = np.sort(table.rows()[:, 0])
    assert len(held) <= 875
    assert held.tolist() == list(range(1_001 - len(held), 1_001))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 90), st.sampled_from([0, 20_000]), st.sampled_from([1_000, 100_000]))
def test_a_restored_table_loses_the_same_keys_at_the_same_record(seed: int, stop: int, room: int, bound: int) -> None:
    """Restored anywhere, into a table of another layout, it goes on as if nothing had been: record by record."""
    random = np.random.default_rng(seed)
    records = [random.integers(1, 3_000, 40).astype(np.uint64) << np.uint64(8) | np.uint64(2) for _ in range(120)]
    table, sweep = HashTable(2), Evictor(bound, LIVES_S)
    other, again = HashTable(2), Evictor(bound, LIVES_S)
    for n, keys in enumerate(records):
        if n == stop:
            rows, stamps = table.rows(), table.stamps()
            other, again = HashTable(2, room), Evictor(bound, LIVES_S)
            other.put(rows[np.argsort(rows[:, 0])])
            other.stamp(rows[:, 0].copy(), stamps)
            again.restore(sweep.state())
        for each, its in ((table, sweep), (other, again)):
            if each is table or n >= stop:
                its.step(each, len(keys), 3_000 * n)
                see(each, keys, its.now_s)
        if n >= stop:
            assert len(table) == len(other)
    assert again.state().tolist() == sweep.state().tolist()
    assert sweep.tally.sum() > 0
    one, two = (each.rows()[np.argsort(each.rows()[:, 0])].tolist() for each in (table, other))
    assert one == two


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_growth_in_the_middle_hides_nothing_from_the_sweep(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    """While rows still lie in the smaller array, those that have to go are found there too."""
    monkeypatch.setattr("stream.tables.hash_table.STEP", 8)
    table, sweep = HashTable(2), Evictor(10_000, LIVES_S)
    keys = np.array([key_of(n, 1) for n in range(1, 615 + wanted)], np.uint64)
    see(table, keys[:610], 1)
    see(table, keys[610:], 500)
    assert len(table.old) > 1 or wanted == 0
    sweep.step(table, 100_000, 200_000)
    assert sorted(table.rows()[:, 0].tolist()) == keys[610:].tolist()


def test_rows_that_moved_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of growth, or not: the same keys go over the bound, each counted once."""
    monkeypatch.setattr("stream.tables.hash_table.STEP", 8)
    tables = HashTable(2), HashTable(2, 10_000)
    sweeps = Evictor(700), Evictor(700)
    keys = np.array([key_of(n, 0) for n in range(1, 621)], np.uint64)
    for table, sweep in zip(tables, sweeps, strict=True):
        for n in range(0, len(keys), 10):
            see(table, keys[n : n + 10], 1 + n)
        before = len(table)
        sweep.step(table, 100, 1_000_000)
        assert before - len(table) == sweep.tally[EVICTED] > 0
    assert len(tables[0].old) > 1, "it was growing"
    assert sweeps[0].state().tolist() == sweeps[1].state().tolist()
