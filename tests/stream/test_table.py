"""The hash table: what a dict and a list of changed keys would hold, whatever the keys."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.table import LOAD_MAX, U64, Table, capacity_for, find, find_many, mix, place, touch

SEED = 0x243F6A8885A308D3


def homes(keys: U64, capacity: int) -> list[int]:
    """Where each key would stand in an empty table."""
    return [int(mix(np.uint64(SEED), key)) % capacity for key in keys]


def crowd(home: int, count: int, capacity: int = 1024) -> list[int]:
    """Keys that all want the same slot."""
    keys = np.arange(1, 200 * capacity, dtype=np.uint64)
    x = (np.uint64(SEED) ^ keys) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(29)
    found = keys[x % np.uint64(capacity) == home][:count]
    assert homes(found, capacity) == [home] * count
    return [int(key) for key in found]


CROWD = crowd(1023, 40)  # they wrap around the table's end
keys = st.sampled_from([*CROWD, 1, 2, 2**64 - 1]) | st.integers(1, 2**64 - 1)
cells = st.integers(0, 2**64 - 1)
steps = st.lists(
    st.tuples(st.just("change"), st.lists(st.tuples(keys, cells), max_size=12))
    | st.tuples(st.just("put"), st.lists(st.tuples(keys, cells), max_size=12))
    | st.tuples(st.just("reserve"), st.integers(0, 3000))
    | st.tuples(st.sampled_from(["take", "restore"]), st.none()),
    max_size=20,
)


class Pair:
    """A table and what it should be."""

    def __init__(self) -> None:
        self.table = Table(3)
        self.held: dict[int, int] = {}
        self.fresh: list[int] = []

    def change(self, pairs: list[tuple[int, int]]) -> None:
        """As a kernel does: room first, then place, touch, write."""
        table = self.table
        table.reserve(len(pairs))
        for key, cell in pairs:
            row = place(table.slots, np.uint64(key), table.counts)
            assert table.slots[row, 1] == self.held.get(key, 0)
            touch(row, np.uint64(key), table.dirty, table.fresh, table.counts)
            table.slots[row, 1:] = cell, key
            self.held[key] = cell
            if key not in self.fresh:
                self.fresh.append(key)

    def put(self, pairs: list[tuple[int, int]]) -> None:
        """Whole rows, which isn't a change to tell."""
        self.table.put(np.array([(key, cell, key) for key, cell in pairs], np.uint64).reshape(-1, 3))
        self.held.update(pairs)

    def reserve(self, extra: int) -> None:
        """Room for more."""
        self.table.reserve(extra)
        assert len(self.table) + extra <= len(self.table.slots) * LOAD_MAX

    def take(self, _: None) -> None:
        """The changed rows, in order of their first change."""
        rows = self.table.take_fresh()
        assert rows.tolist() == [[key, self.held[key], key] for key in self.fresh]
        self.fresh = []

    def restore(self, _: None) -> None:
        """A table made of another's slots goes on as that one."""
        old = self.table
        self.table = Table.restored(old.slots, old.fresh_keys())
        assert np.array_equal(self.table.slots, old.slots)
        assert np.array_equal(self.table.dirty, old.dirty)
        assert self.table.slots is not old.slots

    def check(self) -> None:
        """Every key is found, none that isn't there, and nothing else is told."""
        table = self.table
        assert len(table) == len(self.held)
        assert {int(k): int(c) for k, c, _ in table.rows()} == self.held
        at = find_many(table.slots, np.array(list(self.held), np.uint64))
        assert [int(table.slots[i, 1]) for i in at] == list(self.held.values())
        assert all(find(table.slots, np.uint64(k)) == -1 for k in (*CROWD, 3) if k not in self.held)
        assert table.fresh_keys().tolist() == self.fresh
        assert sorted(table.slots[table.dirty == 1, 0].tolist()) == sorted(self.fresh)


@given(steps)
def test_a_table_is_a_dict_that_knows_what_changed(steps: list[tuple[str, Any]]) -> None:
    """Whatever is done, in whatever order, contents and changed keys are those of a dict and a list."""
    pair = Pair()
    for name, given_ in steps:
        getattr(pair, name)(given_)
        pair.check()


@pytest.mark.parametrize("home", [0, 511, 1023])
def test_keys_that_all_collide_are_all_found(home: int) -> None:
    """Forty keys of one slot stand beside each other, around the end too, and outlive growth."""
    pair = Pair()
    pair.change([(key, key + 1) for key in crowd(home, 40)])
    pair.check()
    pair.reserve(10_000)
    pair.check()


def test_growth_keeps_what_is_fresh() -> None:
    """Over several doublings changed keys stay in the order of their first change, once each."""
    pair, random = Pair(), np.random.default_rng(1)
    for _ in range(30):
        pair.change([(int(key), int(key) % 7) for key in random.integers(1, 4_000, 200)])
    assert len(pair.table.slots) > 1024
    pair.check()
    pair.take(None)
    pair.check()


@given(st.integers(0, 1 << 30))
def test_a_capacity_is_the_smallest_power_of_two_within_the_load(count: int) -> None:
    """At least 1,024, a power of two, and half of it would be too full."""
    capacity = capacity_for(count)
    assert capacity >= 1024
    assert capacity & (capacity - 1) == 0
    assert count <= capacity * LOAD_MAX
    assert capacity == 1024 or count > capacity / 2 * LOAD_MAX


def test_the_layout_is_a_function_of_the_keys_history() -> None:
    """The same changes give the same bytes, so the same order ever after."""
    one, other = Pair(), Pair()
    for pair in (one, other):
        pair.change([(key, 1) for key in (*CROWD, *range(1, 2000))])
    assert np.array_equal(one.table.slots, other.table.slots)
    assert np.array_equal(one.table.rows(), other.table.rows())


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_mix_minds_the_order(one: int, other: int) -> None:
    """A hash of a chain of values tells which came first: salt, then one, then the other."""

    def chain(first: int, second: int) -> int:
        return int(mix(np.uint64(mix(np.uint64(7), np.uint64(first))), np.uint64(second)))

    assert (chain(one, other) == chain(other, one)) == (one == other)
