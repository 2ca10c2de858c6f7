"""Items' parts of the first layer, cached for as long as the deep version that they belong to.

A part depends on what the deep part reads of the item and on nothing else, and its key is a hash of that:
so an item that changes gets another part, and items that look the same to the deep part share one.
"""

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ranker.kernels.net import Embeddings, Net, activations_of, inputs_of, item_key
from ranker.kernels.page import Activations
from ranker.kernels.plan import Plan
from stream.features.encoder import DeepColumns, DeepInput
from stream.features.page_kernels import open_page
from stream.tables.delta_table import empty_delta
from stream.tables.dtypes import F32, I64, U64
from stream.tables.hash_kernels import find_many
from stream.tables.jit import kernel

BYTES_MAX: Final = 32 * 1024 * 1024  # of one deep version's parts
ITEMS_MAX: Final = 65_536
HOTTEST: Final = 4_096  # parts that the next deep version begins with


class ItemInputs(NamedTuple):
    """What the deep part reads of items, under their keys."""

    keys: U64  # u64[n]
    deep: DeepInput

    def chosen(self, rows: I64, lists: int) -> "ItemInputs":
        """These items' inputs, of `lists` lists each."""
        ids, offsets = _chosen(self.deep.ids, self.deep.offsets, lists, rows)
        return ItemInputs(self.keys[rows], DeepInput(ids, offsets, self.deep.numbers[rows]))


class ActivationTable:
    """The parts of some items, with room for more. `table` has their rows by key, in `table.vectors`; `uses` counts
    how often each was used.
    """

    def __init__(self, items: int, width: int) -> None:
        self.table = empty_delta(1, items, width)
        self.uses = np.zeros(self.table.room, np.uint32)
        self.inputs: list[ItemInputs] = []

    @property
    def arrays(self) -> Activations:
        """As kernels read them."""
        return Activations(self.table.heads, self.table.vectors, self.uses)

    def put(self, inputs: ItemInputs, vectors: F32) -> None:
        """Add parts; the caller has checked that there's room and that none is there yet."""
        put = self.table.put(self.table.count, inputs.keys, np.zeros((len(inputs.keys), 0), np.uint64), vectors)
        assert put is not None, "there is room"
        self.inputs.append(inputs)

    def hottest(self, most: int, lists: int) -> tuple[ItemInputs, I64]:
        """Those that were used most, or all, and their rows."""
        inputs = joined(self.inputs)
        count = len(inputs.keys)
        if count <= most:
            return inputs, np.arange(1, 1 + count)
        uses = self.uses[1 : 1 + count]
        rows = np.argsort(-uses.astype(np.int64), kind="stable")[:most]
        return inputs.chosen(rows, lists), rows + 1


def joined(inputs: Sequence[ItemInputs]) -> ItemInputs:
    """One after the other, as one."""
    if not inputs:
        none = np.zeros(0, np.uint64)
        return ItemInputs(none, DeepInput(none, np.zeros(1, np.int64), np.zeros((0, 0), np.float32)))
    keys, deep = zip(*inputs, strict=True)
    ids, offsets, numbers = zip(*deep, strict=True)
    starts = np.cumsum([0, *map(len, ids)])
    ends = [np.zeros(1, np.int64), *(some[1:] + start for some, start in zip(offsets, starts, strict=False))]
    return ItemInputs(
        np.concatenate(keys), DeepInput(np.concatenate(ids), np.concatenate(ends), np.concatenate(numbers))
    )


NO_ACTIVATIONS: Final = ActivationTable(0, 0)  # of a version without a deep part


class ActivationCache:
    """All items' parts of one deep version: bounded, filled on use; when it's full, the most used ones stay."""

    def __init__(
        self,
        plan: Plan,
        embeddings: Embeddings,
        net: Net,
        before: "ActivationCache | None" = None,
        known: "tuple[ItemInputs, F32] | None" = None,
    ) -> None:
        """It begins with `known` parts, float32 [n, width], or computes those of the hottest items of `before`."""
        self.plan, self._embeddings = plan, embeddings
        self._layer = net.layer(plan.item, net.item)
        width = len(net.bias)
        self._room = min(ITEMS_MAX, max(1_024, BYTES_MAX // (4 * width)))
        self._start = np.zeros(width, np.float32)
        self._lock = threading.Lock()
        if known is None and before is not None and before.plan is plan:
            inputs = before.hottest()
            known = inputs, self.parts_of(inputs)
        self.live = ActivationTable(len(known[0].keys) if known else 0, width)
        if known and len(known[0].keys):
            self.live.put(*known)

    @property
    def _lists(self) -> int:
        return len(self.plan.item.deep.sides)

    def hottest(self) -> ItemInputs:
        """Inputs of the items that the next deep version begins with."""
        return self.live.hottest(min(HOTTEST, self._room // 2), self._lists)[0]

    def parts_of(self, inputs: ItemInputs) -> F32:
        """Their parts, float32 [n, width]."""
        return activations_of(inputs.deep, self._layer, self._embeddings, self._start)

    def admit(self, words: U64, first: int, last: int) -> ActivationTable:
        """A table with the parts of items first:last of a page; missing ones are computed."""
        plan, sizes = self.plan, self.plan.layout.size_array
        with self._lock:
            keys = _keys(words, first, last, sizes, plan.item.deep)
            live = self.live
            missing = find_many(live.table.heads, keys) < 0
            more = int(np.count_nonzero(missing))
            if live.table.count + more > min(self._room, live.table.room):
                live = self._renewed(more)
                missing = find_many(live.table.heads, keys) < 0
            new, indices = np.unique(keys[missing], return_index=True)
            positions = first + np.flatnonzero(missing)[indices]
            self._add(live, ItemInputs(new, inputs_of(words, positions, sizes, plan.item)))
            self.live = live
        return live

    def _renewed(self, more: int) -> ActivationTable:
        """A table with room for `more` parts: of all, or of the most used ones."""
        old = self.live
        most = old.table.count if old.table.count + more <= self._room else self._room // 4
        inputs, rows = old.hottest(most, self._lists)
        renewed = ActivationTable(len(inputs.keys) + more, len(self._start))
        renewed.put(inputs, old.table.vectors[rows])
        if most == old.table.count:  # else uses are counted from now on
            renewed.uses[1 : 1 + len(rows)] = old.uses[rows]
        return renewed

    def _add(self, table: ActivationTable, inputs: ItemInputs) -> None:
        if len(inputs.keys):
            table.put(inputs, self.parts_of(inputs))


@kernel
def _keys(words: U64, first: int, last: int, sizes: I64, deep: DeepColumns) -> U64:
    page = open_page(words, sizes)
    keys = np.empty(last - first, np.uint64)
    for item in range(first, last):
        keys[item - first] = item_key(page.words, page.w32, page.at, item, deep.indices, deep.number_indices)
    return keys


@kernel
def _chosen(ids: U64, ends: I64, lists: int, rows: I64) -> tuple[U64, I64]:
    """The lists of these rows: ids, offsets."""
    offsets = np.zeros(rows.shape[0] * lists + 1, np.int64)
    for r in range(rows.shape[0]):
        for f in range(lists):
            at = rows[r] * lists + f
            offsets[r * lists + f + 1] = offsets[r * lists + f] + ends[at + 1] - ends[at]
    chosen = np.empty(offsets[-1], np.uint64)
    for r in range(rows.shape[0]):
        begun, ended = ends[rows[r] * lists], ends[(rows[r] + 1) * lists]
        for i in range(begun, ended):
            chosen[offsets[r * lists] + i - begun] = ids[i]
    return chosen, offsets
