"""Copies of a table run by run: put together they are the table at the last copy, whatever happened between them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.tables import hash_table
from stream.tables.dtypes import U32, U64
from stream.tables.hash_kernels import MOVED, find_or_insert_moved, mark_changed, mark_run
from stream.tables.hash_table import HashTable
from stream.tables.table_runs import NO_VALUES, Layer, all_runs, bits_for, copy_all, copy_runs, merge, values_of

WIDTH = 3
KEYS = np.unique(np.random.default_rng(5).integers(1, 2**63, 4_000).astype(np.uint64))
KEYS[7] = MOVED  # a key like any other


@pytest.fixture(autouse=True)
def slow_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth moves a few rows at a time, so that most copies come in the middle of it."""
    monkeypatch.setattr(hash_table, "STEP", 16)


def ordered(rows: U64) -> list[list[int]]:
    """Rows by key."""
    return sorted(rows.tolist())


def learn(table: HashTable, keys: U64, value: int) -> None:
    """As kernels do that know their keys beforehand: change their rows, and add those that are new."""
    table.reserve_for(keys)
    for key in keys:
        row = find_or_insert_moved(table.slots, table.old, key, table.counts)
        mark_changed(table.slots, row, table.dirty, table.counts)
        table.slots[row, 2] += np.uint64(value)
        if len(table.last_seen):
            table.last_seen[row] = value


def find(table: HashTable, keys: U64, value: int) -> None:
    """As kernels do that don't: they mark the runs of what they change."""
    table.reserve_for(np.zeros(0, np.uint64), len(keys))
    for key in keys:
        row = find_or_insert_moved(table.slots, table.old, key, table.counts)
        mark_changed(table.slots, row, table.dirty, table.counts)
        mark_run(table.runs, key)
        table.slots[row, 2] += np.uint64(value)


class Copies:
    """Layers of a table, as a checkpoint writes them."""

    def __init__(self, table: HashTable, bits: int) -> None:
        self.table, self.bits = table, bits
        table.track_runs(bits)
        self.layers: list[list[tuple[U64, U32]]] = []  # the oldest first
        self.runs, self.next = all_runs(bits), 0

    def copy(self, slots: int) -> bool:
        """A slice of the newest layer; whether it is complete."""
        if self.next == 0:
            self.layers.append([])
        rows, emptied, self.next = copy_runs(self.table, self.runs, self.next, slots)
        self.layers[-1].append((rows, emptied))
        return self.next == 1 << self.bits

    def again(self) -> None:
        """The next layer is of what changed since the last one began."""
        self.runs, self.next = self.table.take_runs(), 0

    def merged(self) -> U64:
        """The rows that count."""
        pieces, layers, end = [], [], 0
        for slices in reversed(self.layers):
            begin = end
            pieces += [rows for rows, _ in slices]
            end += sum(len(rows) for rows, _ in slices)
            layers.append(Layer((begin, end), (0, 0), np.concatenate([emptied for _, emptied in slices])))
        return merge(np.concatenate(pieces), NO_VALUES, layers, self.bits)[0]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([10, 13]), st.booleans())
def test_layers_are_the_table_at_the_last_copy(seed: int, bits: int, is_stamped: bool) -> None:
    """Rows are added, changed, moved by growth and removed between slices, in every order."""
    random = np.random.default_rng(seed)
    table = HashTable(WIDTH)
    table.put(np.column_stack([KEYS[:500], np.ones((500, WIDTH - 1), np.uint64)]))
    if is_stamped:
        table.stamp()
    copies, known = Copies(table, bits), 500
    for _ in range(int(random.integers(1, 4))):
        is_done = False
        while not is_done:
            is_done = copies.copy(int(random.integers(64, 1_500)))
            known = min(len(KEYS), known + int(random.integers(0, 200)))
            chosen = random.choice(KEYS[:known], int(random.integers(0, 60)), replace=False)
            action = random.integers(4)
            if action == 0:
                table.remove(chosen)
            elif action == 1 and not is_stamped:
                find(table, chosen, 1)
            elif action == 2:
                table.take_changed()
            else:
                learn(table, chosen, 1)
        copies.again()
    while not copies.copy(int(random.integers(64, 1_500))):
        pass
    assert ordered(copies.merged()) == ordered(copy_all(table))
    width = WIDTH + is_stamped
    assert copies.merged().shape == (len(table), width)
    assert ordered(copy_all(table)[:, :WIDTH]) == ordered(table.rows())


def test_values_go_with_their_rows() -> None:
    """A newer layer's rows bring theirs; rows that it hides take theirs away; a row may have none."""
    old = np.array([[1, 1], [2, 0], [3, 2], [4, 3]], np.uint64)
    new = np.array([[3, 0], [4, 1]], np.uint64)
    array = np.array([[0], [10], [30], [40]], np.float32)
    rows, values = np.concatenate([new, old]), np.concatenate([array[[1]], values_of(old, array)])
    layers = [Layer((0, 2), (0, 1), np.zeros(0, np.uint32)), Layer((2, 6), (1, 4), np.zeros(0, np.uint32))]
    merged, of_rows = merge(rows, values, layers, 16)
    assert merged.tolist() == [[3, 0], [4, 1], [1, 1], [2, 0]]
    assert of_rows.tolist() == [[10], [10]]


def test_few_changes_are_few_rows() -> None:
    """Of a large table, the rows of changed runs: about as many as changed."""
    keys = np.arange(1, 100_001, dtype=np.uint64)
    table = HashTable(2)
    table.put(np.column_stack([keys, keys]))
    table.track_runs(bits_for(len(table)))
    table.reserve_for(keys[:100])
    rows = copy_runs(table, table.take_runs(), 0, 1 << 20).rows
    assert set(keys[:100].tolist()) <= set(rows[:, 0].tolist())
    assert len(rows) < 300


def test_a_table_whose_runs_nobody_takes_has_none() -> None:
    """Marking costs nothing then."""
    table = HashTable(2)
    table.reserve_for(KEYS)
    table.remove(KEYS[:3])
    assert len(table.runs) == 0
