"""Items' parts of the first layer, kept for as long as the deep version that they belong to.

A part depends on what the deep part reads of the item and on nothing else, and it is named by a hash of that:
so an item that changes gets another part, and items that look the same to the deep part share one.
"""

import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.net import Embeddings, Net, given_of, item_key, part_of
from ranker.kernels.plan import Plan
from stream.features.encoder import I64
from stream.features.page_features import F32
from stream.features.page_kernels import locate
from stream.tables.delta_table import room_for
from stream.tables.hash_kernels import find_many
from stream.tables.hash_table import U64
from stream.tables.jit import kernel

BYTES_MAX: Final = 32 * 1024 * 1024  # of one deep version's parts
ITEMS_MAX: Final = 65_536
HOTTEST: Final = 4_096  # parts that the next deep version begins with


class Given(NamedTuple):
    """What the deep part reads of items, as `DeepInput`, under their keys."""

    keys: U64
    ids: U64
    offsets: I64
    numbers: F32


class Parts:
    """The parts of some items, with room for more. `table` names them by key, in `table.vectors`; `uses` counts how
    often each was used.
    """

    def __init__(self, items: int, width: int) -> None:
        self.table = room_for(1, items, width)
        self.uses = np.zeros(self.table.room, np.uint32)
        self.given: list[Given] = []

    def put(self, given: Given, vectors: F32) -> None:
        """Add parts; the caller has seen that there's room and that none is there yet."""
        put = self.table.put(self.table.count, given.keys, np.zeros((len(given.keys), 0), np.uint64), vectors)
        assert put is not None, "there is room"
        self.given.append(given)

    def hottest(self, most: int, lists: int) -> tuple[Given, I64]:
        """Those that were used most, or all, and which entries they are."""
        given = joined(self.given)
        count = len(given.keys)
        if count <= most:
            return given, np.arange(1, 1 + count)
        uses = self.uses[1 : 1 + count]
        rows = np.argsort(-uses.astype(np.int64), kind="stable")[:most]
        ids, offsets = _chosen(given.ids, given.offsets, lists, rows)
        return Given(given.keys[rows], ids, offsets, given.numbers[rows]), rows + 1


def joined(given: Sequence[Given]) -> Given:
    """One after the other, as one."""
    if not given:
        none = np.zeros(0, np.uint64)
        return Given(none, none, np.zeros(1, np.int64), np.zeros((0, 0), np.float32))
    keys, ids, offsets, numbers = zip(*given, strict=True)
    starts = np.cumsum([0, *map(len, ids)])
    ends = [np.zeros(1, np.int64), *(some[1:] + start for some, start in zip(offsets, starts, strict=False))]
    return Given(np.concatenate(keys), np.concatenate(ids), np.concatenate(ends), np.concatenate(numbers))


NO_PARTS: Final = Parts(0, 0)  # of a version without a deep part


class ItemParts:
    """All parts of one deep version: bounded, filled on use; when it's full, those stay that were used most."""

    def __init__(self, plan: Plan, embeddings: Embeddings, net: Net, before: "ItemParts | None" = None) -> None:
        self.plan, self._embeddings, self._net = plan, embeddings, net
        width = len(net.bias)
        self._room = min(ITEMS_MAX, max(1_024, BYTES_MAX // (4 * width)))
        self._start = np.zeros(width, np.float32)
        self._lock = threading.Lock()
        if before is None or before.plan is not plan:
            self.live = Parts(0, width)
            return
        given, _ = before.live.hottest(min(HOTTEST, self._room // 2), len(plan.item.sides))
        self.live = Parts(len(given.keys), width)
        self._add(self.live, given)

    def admit(self, words: U64, first: int, last: int) -> Parts:
        """Parts that have those of items first:last of a page; what lacked was computed."""
        plan = self.plan
        w32, f32 = words.view(np.uint32), words.view(np.float32)
        with self._lock:
            keys = _keys(words, w32, first, last, plan.sizes, plan.item)
            parts = self.live
            missing = find_many(parts.table.heads, keys) < 0
            more = int(np.count_nonzero(missing))
            if parts.table.count + more > min(self._room, parts.table.room):
                parts = self._renewed(more)
                missing = find_many(parts.table.heads, keys) < 0
            new, where = np.unique(keys[missing], return_index=True)
            positions = first + np.flatnonzero(missing)[where]
            ids, offsets, numbers = given_of(words, w32, f32, positions, plan.sizes, plan.item)
            self._add(parts, Given(new, ids, offsets, numbers))
            self.live = parts
        return parts

    def _renewed(self, more: int) -> Parts:
        """Parts with room for so many more: all, or those that were used most."""
        old = self.live
        most = old.table.count if old.table.count + more <= self._room else self._room // 4
        given, entries = old.hottest(most, len(self.plan.item.sides))
        fresh = Parts(len(given.keys) + more, len(self._start))
        fresh.put(given, old.table.vectors[entries])
        if most == old.table.count:  # else what counts is who is used from now on
            fresh.uses[1 : 1 + len(entries)] = old.uses[entries]
        return fresh

    def _add(self, parts: Parts, given: Given) -> None:
        if not len(given.keys):
            return
        parts.put(given, part_of(given.ids, given.offsets, given.numbers, self.plan.item, self._embeddings,
                                 self._net.boundaries, self._net.item, self._start))  # fmt: skip


@kernel
def _keys(words: Any, w32: Any, first: Any, last: Any, sizes: Any, group: Any) -> Any:
    lists, numbers = group.places, group.number_places
    place = locate(words, w32, 0, sizes)
    keys = np.empty(last - first, np.uint64)
    for item in range(first, last):
        keys[item - first] = item_key(words, w32, place, item, sizes, lists, numbers)
    return keys


@kernel
def _chosen(ids: Any, ends: Any, lists: Any, rows: Any) -> Any:
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
