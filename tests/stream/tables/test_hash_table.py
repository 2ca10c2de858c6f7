"""The hash table: what a dict and a list of changed keys would hold, whatever the keys, in the middle of growth too."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import stream.tables.hash_table
from stream.tables.dtypes import U64
from stream.tables.hash_kernels import (
    CHANGED,
    find,
    find_many,
    find_moved,
    find_or_insert,
    find_or_insert_moved,
    hash32,
    mark_changed,
    mix,
)
from stream.tables.hash_table import LOAD_MAX, STAGE, HashTable, capacity_for

CAPACITY = 1024


def crowd(home: int, count: int) -> list[int]:
    """Keys that all want the same slot of a table of CAPACITY, and of every smaller one."""
    found = [key for key, at in homes().items() if at == home][:count]
    assert len(found) == count
    return found


@functools.cache
def homes() -> dict[int, int]:
    """Where keys would stand in an empty table of CAPACITY."""
    return {key: int(hash32(np.uint64(key))) * CAPACITY >> 32 for key in range(1, 100 * CAPACITY)}


CROWD = crowd(1023, 40)  # they wrap around the table's end
some_keys = st.lists(st.sampled_from([*CROWD, 1, 2, 2**64 - 1]) | st.integers(1, 2**64 - 1), max_size=12)
NO_KEYS: U64 = np.zeros(0, np.uint64)
cells = st.integers(0, 2**63 - 1)


class Machine(RuleBasedStateMachine):
    """A table beside a dict of its cells, one of its stamps, and a list of changed keys."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.table = HashTable(self.width)
        self.held: dict[int, int] = {}
        self.stamps: dict[int, int] = {}
        self.fresh: list[int] = []

    @rule(keys=some_keys, cell=cells, stamp=st.integers(1, 2**32 - 1))
    def change(self, keys: list[int], cell: int, stamp: int) -> None:
        """As a kernel does: room first, then insert, mark, write."""
        table = self.table
        table.reserve_for(np.array(keys, np.uint64))
        for key in keys:
            row = find_or_insert(table.slots, np.uint64(key), table.counts)
            assert table.slots[row, 1] & ~CHANGED == self.held.get(key, 0)
            mark_changed(table.slots, row, table.dirty, table.counts)
            table.slots[row, 1] = np.uint64(cell) | CHANGED
            table.slots[row, 2] = key
            self.held[key] = cell
            if len(table.last_seen):
                assert table.last_seen[row] == self.stamps.get(key, 0)
                table.last_seen[row] = self.stamps[key] = stamp
            if key not in self.fresh:
                self.fresh.append(key)

    @rule(first=st.integers(1, 2**62), count=st.integers(1, 900), cell=cells)
    def change_many(self, first: int, count: int, cell: int) -> None:
        """Enough to make it grow; the next steps find it in the middle of that."""
        self.change(list(range(first, first + count)), cell, 7)

    @rule(keys=some_keys, others=some_keys, cell=cells)
    def change_unforeseen(self, keys: list[int], others: list[int], cell: int) -> None:
        """As a kernel does that doesn't know its keys beforehand: wherever growth stands, rows come when asked for."""
        table = self.table
        if len(table.last_seen):
            return
        keys = [*keys, *list(self.held)[::5]]
        table.reserve_for(NO_KEYS, len(keys))
        for key in others:
            row = find_moved(table.slots, table.old, np.uint64(key), table.counts)
            assert (row >= 0) == (key in self.held)
            assert row < 0 or table.slots[row, 1] & ~CHANGED == self.held[key]
        for key in keys:
            row = find_or_insert_moved(table.slots, table.old, np.uint64(key), table.counts)
            assert table.slots[row, 1] & ~CHANGED == self.held.get(key, 0)
            mark_changed(table.slots, row, table.dirty, table.counts)
            table.slots[row, 1] = np.uint64(cell) | CHANGED
            table.slots[row, 2] = key
            self.held[key] = cell
            if key not in self.fresh:
                self.fresh.append(key)

    @rule(keys=some_keys, cell=cells)
    def put(self, keys: list[int], cell: int) -> None:
        """Whole rows, which isn't a change to tell."""
        self.table.put(np.array([(key, cell, key) for key in keys], np.uint64).reshape(-1, 3))
        self.held.update((key, cell) for key in keys)

    @rule(keys=some_keys, every=st.integers(2, 40))
    def drop(self, keys: list[int], every: int) -> None:
        """Some that may be there, and some that are."""
        keys = [*keys, *list(self.held)[::every]]
        self.table.remove(np.array(keys, np.uint64))
        for key in dict.fromkeys(keys):
            if key in self.held:
                del self.held[key]
                self.stamps.pop(key, None)
                if key not in self.fresh:
                    self.fresh.append(key)

    @rule()
    def stamp(self) -> None:
        """From here on rows have a stamp."""
        self.table.stamp()

    @rule(extra=st.integers(0, 3_000))
    def reserve(self, extra: int) -> None:
        """Room for more, all rows in one place."""
        self.table.reserve(extra)
        assert len(self.table) + extra <= len(self.table.slots) * LOAD_MAX
        assert len(self.table.old) == 1

    @rule()
    def take(self) -> None:
        """The changed rows, in order of their first change; zeros for those that are gone."""
        rows = self.table.take_changed()
        gone = [key for key in self.fresh if key not in self.held]
        assert rows[:, 0].tolist() == self.fresh
        assert rows[:, 1].tolist() == [self.held.get(key, 0) for key in self.fresh]
        assert all(rows[rows[:, 0] == key, 1:].sum() == 0 for key in gone)
        self.fresh = []

    @rule()
    def restore(self) -> None:
        """A table made of another's rows, as a checkpoint keeps them, goes on as that one; nothing in it is fresh."""
        if len(self.table.last_seen):
            return
        rows = self.table.rows()
        self.table = HashTable(3, len(rows))
        self.table.put(rows)
        self.fresh = []

    @rule()
    def rows(self) -> None:
        """All that it holds, without marks, and its stamps beside it; growth stays where it is."""
        growing, rows, stamps = len(self.table.old), self.table.rows(), self.table.stamps()
        assert {int(k): int(c) for k, c, _ in rows} == self.held
        assert len(rows) == len(self.held)
        if len(self.table.last_seen):
            assert {int(k): int(s) for (k, *_), s in zip(rows, stamps, strict=True) if s} == self.stamps
        assert len(self.table.old) == growing

    @invariant()
    def every_key_is_found(self) -> None:
        """Nothing is lost and nothing else is there, wherever growth stands; nothing is told but what changed."""
        table, held = self.table, self.held
        assert len(table) == len(held)
        keys: U64 = np.array(list(held), np.uint64)
        rows = table.rows_of(keys)
        assert dict(zip(rows[:, 0].tolist(), rows[:, 1].tolist(), strict=True)) == held
        strangers = np.array([key for key in (*CROWD, 3, 2**64 - 1) if key not in held], np.uint64)
        assert not table.rows_of(strangers)[:, 1:].any()
        assert table.changed_keys().tolist() == self.fresh
        if len(table.last_seen):
            found, found_old = find_many(table.slots, keys), find_many(table.old, keys)
            both = zip(found, found_old, strict=True)
            stamps = [table.last_seen[row] if row >= 0 else table.old_last_seen[other] for row, other in both]
            assert stamps == [self.stamps.get(key, 0) for key in held]


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.tables.hash_table, "STEP", 100)
    monkeypatch.setattr(stream.tables.hash_table, "STAGED_MIN", 100)


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestTable: Any = Machine.TestCase  # a table is a dict that knows what changed, whatever is done, in whatever order


@pytest.mark.parametrize("home", [0, 511, 1023])
def test_keys_that_all_collide_are_all_found(home: int) -> None:
    """Forty keys of one slot stand beside each other, around the end too; some go, and all outlive growth."""
    machine = Machine()
    machine.change(crowd(home, 40), 5, 1)
    machine.every_key_is_found()
    machine.drop(crowd(home, 40)[3:30:4], 1_000)
    machine.every_key_is_found()
    machine.reserve(10_000)
    machine.every_key_is_found()


def test_growth_goes_in_steps_and_loses_nothing() -> None:
    """While rows move, those that are asked for are at hand; dropped and changed ones stay dropped and changed."""
    machine, middles = Machine(), 0
    machine.stamp()
    random = np.random.default_rng(1)
    for n in range(60):
        machine.change([int(key) for key in random.integers(1, 30_000, 20 if n % 3 else 400)], n, n + 1)
        middles += len(machine.table.old) > 1
        machine.rows()
        if n % 7 == 0:
            machine.drop([], 50)
            machine.take()
        machine.every_key_is_found()
    assert middles > 10
    machine.rows()


def test_while_nobody_asks_what_changed_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that come and go fill no memory: the list is lost, is known to be, and starts again when asked for."""
    monkeypatch.setattr(stream.tables.hash_table, "LISTED_MIN", 5_000)
    monkeypatch.setattr(stream.tables.hash_table, "CHUNK", 2_000)
    machine = Machine()
    for n in range(0, 30_000, 300):
        machine.change(list(range(n + 1, n + 301)), n, 1)
        machine.table.remove(np.arange(n + 1, n + 291).astype(np.uint64))
        assert len(machine.table.changed_keys()) <= 8_000
    table = machine.table
    assert table.overflowed
    table.take_changed()
    assert not table.overflowed
    assert not (table.slots[:, 1] & CHANGED).any()
    machine.held = {int(k): int(c) for k, c, _ in table.rows()}
    machine.fresh = []
    machine.change([5, 291], 9, 1)
    machine.every_key_is_found()


def test_nobody_asks_what_changed() -> None:
    """A table that isn't tracked keeps no list and marks nothing."""
    table = HashTable(3, tracked=False)
    table.reserve_for(np.array([5], np.uint64))
    row = find_or_insert(table.slots, np.uint64(5), table.counts)
    mark_changed(table.slots, row, table.dirty, table.counts)
    assert table.rows().tolist() == [[5, 0, 0]]
    assert len(table.changed_keys()) == 0


def test_order_is_that_of_hashes() -> None:
    """Rows lie in the order of their hashes, around the end but for those that were pushed over it."""
    table = HashTable(1)
    table.put(np.arange(1, 20_000, dtype=np.uint64).reshape(-1, 1))
    wanted = np.array([int(hash32(key)) * len(table.slots) >> 32 for key in table.rows()[:, 0]])
    places = np.flatnonzero(table.slots[:, 0])
    assert ((places - wanted) % len(table.slots) < 200).all()


@given(st.integers(0, 1 << 30))
def test_a_capacity_is_the_smallest_power_of_two_within_the_load(count: int) -> None:
    """At least 1,024, a power of two, and half of it would be too full."""
    capacity = capacity_for(count)
    assert capacity >= 1024
    assert capacity & (capacity - 1) == 0
    assert count <= capacity * LOAD_MAX
    assert capacity == 1024 or count > capacity / 2 * LOAD_MAX


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_mix_minds_the_order(one: int, other: int) -> None:
    """A hash of a chain of values tells which came first: salt, then one, then the other."""

    def chain(first: int, second: int) -> int:
        return int(mix(np.uint64(mix(np.uint64(7), np.uint64(first))), np.uint64(second)))

    assert (chain(one, other) == chain(other, one)) == (one == other)


def test_a_key_that_was_never_there_is_not_found() -> None:
    """An empty table answers too."""
    assert find(HashTable(1).slots, np.uint64(5)) == -1


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_has_changed(tmp_path: Path) -> None:
    """Whether its file imports that kernel by name or the module that has it: their editions are part of its own."""
    package = tmp_path / "called"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "by_name.py").write_text("from called.low import low\ndef top(): return low()\n")
    (package / "by_module.py").write_text("from called import low\ndef top(): return low.low()\n")
    program = "import called.by_name as a, called.by_module as b; from stream.tables.jit import edition as e; "
    found = []
    for value in (1, 2):
        source = f"from stream.tables.jit import kernel\n@kernel\ndef low(): return {value}\n"
        (package / "low.py").write_text(source)
        command = [sys.executable, "-B", "-c", program + "print(e(a.top), e(b.top))"]
        paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths}
        )
        found += [ran.stdout.split()]
    assert all(before != after for before, after in zip(*found, strict=True))


@pytest.mark.parametrize("count", [0, 1, 600, 5_000])
def test_a_table_of_rows_has_them_and_needs_no_next_array(count: int) -> None:
    """With their last sightings; no memory of a larger array is touched however full it would have been."""
    keys = np.random.default_rng(count).permutation(np.arange(1, count + 1, dtype=np.uint64))
    rows = np.column_stack([keys, keys + np.uint64(7), keys + np.uint64(9)])
    plain, stamped = HashTable.of_rows(3, rows), HashTable.of_rows(2, rows)
    assert np.array_equal(plain.rows_of(keys), rows)
    assert np.array_equal(stamped.rows_of(keys), rows[:, :2])
    assert len(plain) == len(stamped) == count
    assert np.array_equal(stamped.last_seen[find_many(stamped.slots, keys)], rows[:, 2])
    assert len(plain) <= STAGE * len(plain.slots)
    with pytest.raises(ValueError, match="wanted width 5"):
        HashTable.of_rows(5, rows)
