"""What a learner keeps for retrieval, moved by each install in the order of examples: so it's a function of the log.

A user's *memory* is their last installs, with or without a page. An install of an item that isn't in it counts pairs
with those that are (`co_installs.py`), trains vectors (`item_vectors.py`), and enters it. A retraction takes the item
out of a memory that has it, and its pairs; vectors stay.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from learner.retrieval.co_installs import LAST, move_pairs
from learner.retrieval.item_rows import (
    BIAS,
    FREE,
    LAST_COLUMNS,
    Columns,
    ItemRows,
    begin_vectors,
    columns_for,
    index_of,
    slot_for,
)
from learner.retrieval.item_vectors import RECENT, RecentInstalls, note_install, train
from stream.events.types import CORRECTIONS, Install, Organic
from stream.features.cross_products import compile_crosses
from stream.features.encoder import Batch
from stream.features.item_similarity import HEAD, Outcomes, examples_of, memory_rules
from stream.features.page_features import Layout, id_of
from stream.snapshots.payload import Array
from stream.spec.retrieval import Retrieval
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, F64, I64, U64
from stream.tables.eviction import Evictor
from stream.tables.hash_kernels import TableArrays, find, find_or_insert_moved, mark_run, mix
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

MEMORY: Final = 100  # installs of a user that are remembered
ITEM_WIDTH: Final = 4  # key; row; installs, event time in ms
MEMORY_COLUMNS: Final = 4  # key; how many items; nothing; event time in ms: then the items, newest first
HIGH_WATER, LOW_WATER = 15 / 16, 7 / 8  # shares of `max_items`: above the one, items are evicted down to the other
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)


class Installs(NamedTuple):
    """Installs in order, and retractions; arrays [n]."""

    users: U64
    items: U64
    signs: F64  # 1, or −1 for a retraction
    times: F64  # event time, ms


class ItemRetrieval:
    """Items' rows and users' memories. `items` and `memories` are their tables, `values` the rows' numbers."""

    def __init__(self, settings: Retrieval, layout: Layout) -> None:
        kept = settings.kept
        self.columns, self._items_max = columns_for(settings.list_length, settings.vector_dim), kept.max_items
        self._half_life_ms = float(duration_ms(kept.half_life)) if kept.half_life else 0.0
        self.items, self.memories = HashTable(ITEM_WIDTH), HashTable(MEMORY_COLUMNS + MEMORY, tracked=False)
        self.memory_evictor = Evictor(kept.max_users)
        self.values: F32 = np.zeros((self._items_max + 1, self.columns.width), np.float32)
        self._used: I64 = np.array([1, 0], np.int64)
        self._free: I64 = np.zeros(0, np.int64)
        self.recent = RecentInstalls(np.zeros(RECENT, np.uint64), np.zeros(1, np.int64))
        crosses = compile_crosses(layout, [["user.id", "item.id"]], ["retrieval"])
        self._rule = memory_rules(crosses, np.array([MEMORY]), np.array([0]))[0]
        self._sizes, self._seeds = layout.size_array, (layout.seeds["user.id"], layout.seeds["item.id"])

    def size(self) -> int:
        """How many items have a row."""
        return len(self.items)

    def learn(self, batch: Batch, outcomes: Outcomes) -> None:
        """Learn the installs among these examples, in order, and take back those that are retracted."""
        corrections = np.isin(outcomes.reasons, CORRECTIONS)
        signs = np.where(outcomes.labels > 0.0, 1.0, np.where(corrections, -1.0, 0.0))
        if signs.any():
            users, items, _ = examples_of(batch, self._sizes, self._rule, self.memories.slots)
            which = (signs != 0.0) & (users != 0)
            self.learn_installs(Installs(users[which], items[which], signs[which], outcomes.times[which]))

    def learn_named(self, installs: Sequence[Organic | Install]) -> None:
        """Learn installs that aren't on pages, and retractions, in order; the caller has dropped duplicates."""
        user_seed, item_seed = self._seeds
        users = memories_of(np.array([id_of(user_seed, one.user) for one in installs], np.uint64), self._rule)
        items = np.array([id_of(item_seed, one.item) for one in installs], np.uint64)
        times = np.array([one.time_ms for one in installs], np.float64)
        signs = np.array([-1.0 if isinstance(one, Install) and one.retracted else 1.0 for one in installs])
        self.learn_installs(Installs(users, items, signs, times))

    def erase(self, user: np.uint64) -> int:
        """Erase the memory of the user with this id; returns how many there were. What it taught items stays."""
        keys = memories_of(np.array([user]), self._rule)
        known = keys[self.memories.contains(keys)]
        self.memories.remove(known)
        return len(known)

    def is_quiet(self, examples: int) -> bool:
        """Whether these many examples, in whatever steps, are learned without an eviction."""
        return self._has_room(examples) and self.memory_evictor.is_quiet(self.memories, examples)

    def _has_room(self, items: int) -> bool:
        return len(self.items) + items <= HIGH_WATER * self._items_max

    def learn_installs(self, installs: Installs) -> None:
        """Learn installs and retractions in order; users by the keys of their memories."""
        count = len(installs.items)
        if not self._has_room(count):
            self._evict()
        self.memory_evictor.step(self.memories, count, 0)
        self.memories.reserve_for(NO_KEYS, count)
        self.items.reserve(count * (1 + LAST))
        _learn(installs, self.memories.arrays, self._rows(), self.recent)

    def _rows(self) -> ItemRows:
        slots, _, dirty, counts, runs = self.items.arrays
        return ItemRows(slots, dirty, counts, runs, self.values, self._used, self._free, self.columns,
                        self._half_life_ms)  # fmt: skip

    def _evict(self) -> None:
        """Evict the items that changed least recently, of those of one time the smallest ids."""
        rows = self.items.rows()
        excess = len(rows) - int(LOW_WATER * self._items_max)
        lost = rows[np.lexsort([rows[:, 0], rows[:, 3]])[: max(0, excess)]]  # positive float64 rise as their bits
        self.items.remove(lost[:, 0].copy())
        self._free = np.concatenate([self.free_rows(), lost[:, 1].astype(np.int64)])
        self._used[FREE] = len(self._free)

    def free_rows(self) -> I64:
        """Rows to reuse, the next one last."""
        return self._free[: self._used[FREE]].copy()

    def take_changed(self) -> U64 | None:
        """Items whose rows are due to be published, or that were evicted, since the last call; None: too many."""
        lost, rows = self.items.overflowed, self.items.take_changed()
        return None if lost else rows[:, 0]

    def payload(self, keys: U64 | None) -> dict[str, Array]:
        """The arrays of these items, or of all, as `stream/snapshots/retrieval_rows.py` says."""
        rows = self.items.rows() if keys is None else self.items.rows_of(keys)
        has_row, columns = rows[:, 1] != 0, self.columns
        found = rows[has_row]
        values, installs = self.values[found[:, 1].astype(np.int64)], found[:, 2].view(np.float64)
        arrays: dict[str, Array] = {
            "keys": found[:, 0],
            "installs": installs.astype(np.float32),
            "listed": np.ascontiguousarray(values[:, : columns.weights]).view(np.uint64),
            "weights": values[:, columns.weights : columns.inputs],
            "inputs": values[:, columns.inputs : columns.inputs + columns.dim],
            "outputs": values[:, columns.outputs : columns.outputs + columns.dim],
            "biases": values[:, columns.last + BIAS] + np.log1p(installs).astype(np.float32),
        }
        return arrays if keys is None else {**arrays, "dead": keys[~has_row]}

    def arrays(self) -> dict[str, Array]:
        """All state but the rows of tables, copied."""
        return {
            "retrieval_sweep": self.memory_evictor.state(),
            "retrieval_shape": np.array([self.columns.length, self.columns.dim], np.int64),
            "retrieval_free": self.free_rows(),
            "retrieval_recent": self.recent.items.copy(),
            "retrieval_installs": self.recent.installs.copy(),
        }

    def restore(self, arrays: Mapping[str, Array], items: U64, values: F32, memories: U64) -> None:
        """Go on with the state of `arrays`, and the rows of both tables. Raises KeyError, ValueError.

        Of a model with lists or vectors of another size it takes over what fits.
        """
        before = columns_for(*arrays["retrieval_shape"].tolist())
        rows, free = items[:, 1].astype(np.int64), arrays["retrieval_free"].astype(np.int64)
        if values.shape != (len(rows), before.width) or (np.append(rows, free) > len(rows) + len(free)).any():
            raise ValueError(f"items' rows of shape {values.shape}, wanted {len(rows)} of {before.width}")
        if len(rows) + len(free) > self._items_max:  # the bound is lower now: the newest stay
            newest = np.sort(np.lexsort([items[:, 0], items[:, 3]])[-int(LOW_WATER * self._items_max) :])
            items, values, rows, free = items[newest], values[newest], np.arange(1, len(newest) + 1), free[:0]
            items[:, 1] = rows
        self._free, self._used[:] = free.copy(), (1 + len(rows) + len(free), len(free))
        self.values[rows] = values if before == self.columns else _fitted(values, before, items[:, 0], self.columns)
        self.items = HashTable.of_rows(ITEM_WIDTH, items)
        self.memories = HashTable.of_rows(MEMORY_COLUMNS + MEMORY, memories, tracked=False)
        self.memory_evictor.restore(np.asarray(arrays["retrieval_sweep"], np.uint64))
        self.recent.items[:], self.recent.installs[:] = arrays["retrieval_recent"], arrays["retrieval_installs"]


def _fitted(values: F32, before: Columns, items: U64, columns: Columns) -> F32:
    """Rows in other columns: as much of lists as fits, and vectors if they are of the same size, else new ones."""
    fitted = np.zeros((len(values), columns.width), np.float32)
    count, last = min(before.length, columns.length), np.s_[:, -LAST_COLUMNS:]
    fitted[:, : 2 * count] = values[:, : 2 * count]
    fitted[:, columns.weights : columns.weights + count] = values[:, before.weights : before.weights + count]
    fitted[last] = values[last]
    if before.dim == columns.dim:
        fitted[:, columns.inputs : columns.last] = values[:, before.inputs : before.last]
    else:
        fitted[:, columns.last + BIAS] = 0.0
        for row, item in zip(fitted, items, strict=True):
            begin_vectors(row, item, columns)
    return fitted


@kernel
def memories_of(users: U64, rule: I64) -> U64:
    """The keys of users' memories, as `examples_of` has them. uint64 [n]."""
    keys = np.empty_like(users)
    for b in range(users.shape[0]):
        keys[b] = mix(np.uint64(rule[0]) ^ HEAD, users[b])
    return keys


@kernel
def _learn(installs: Installs, memories: TableArrays, rows: ItemRows, recent: RecentInstalls) -> None:
    """Learn installs in order. `memories` has room for as many new users, `rows` for as many items."""
    slots, old, _, counts, runs = memories
    for b in range(installs.users.shape[0]):
        user, item, time_ms = installs.users[b], installs.items[b], installs.times[b]
        m = find_or_insert_moved(slots, old, user, counts)
        mark_run(runs, user)
        slots.view(np.float64)[m, 3] = max(slots.view(np.float64)[m, 3], time_ms)
        items = slots[m, MEMORY_COLUMNS : MEMORY_COLUMNS + np.int64(slots[m, 1])]
        place = index_of(item, items)
        if installs.signs[b] < 0.0 and place >= 0:
            slot = find(rows.slots, item)
            if slot >= 0:
                move_pairs(rows, slot, items, place, time_ms, -1.0)
            items[place:-1] = items[place + 1 :].copy()
            slots[m, 1] -= np.uint64(1)
        if installs.signs[b] < 0.0 or place >= 0:
            continue
        slot = slot_for(rows, item, time_ms)
        if slot >= 0:
            train(rows, slot, items, LAST, recent)
            note_install(recent, item)
            move_pairs(rows, slot, items, -1, time_ms, 1.0)
        slots[m, 1] = np.uint64(min(MEMORY, items.shape[0] + 1))
        memory = slots[m, MEMORY_COLUMNS:]
        memory[1:] = memory[:-1].copy()
        memory[0] = item
