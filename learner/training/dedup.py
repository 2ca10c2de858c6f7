"""Deduplication by example id: bounded, and exact within its bound.

A joiner repeats a partition's output in order, after any amount of other partitions' output. So ids are remembered per
partition. A record without a source (from earlier builds, or a replayed dead letter) may contain ids of any partition:
it is checked against all partitions, and its ids are remembered for all of them.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from stream.runtime.settings import DEDUP_IDS
from stream.tables.dtypes import I64, U64
from stream.tables.hash_kernels import find, find_many, find_or_insert
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

NO_SOURCE: Final = -1
NO_SOURCE_IDS: Final = 500_000  # of all partitions together
NO_IDS: Final[U64] = np.zeros(0, np.uint64)
SOURCES_MAX: Final = 1_024  # above it, the least recently used source is dropped


def source_of(key: bytes | None) -> int:
    """The partition of `events` that a record of `examples` came from, by its key; NO_SOURCE without one."""
    return int(key) if key and key.isdigit() and len(key) < 10 else NO_SOURCE


class RecentIds:
    """Two generations of ids per source: a full young one becomes the old one, and the old one is dropped."""

    def __init__(self, ids_max: int = DEDUP_IDS) -> None:
        self.ids_max = ids_max
        self.generations: dict[int, tuple[HashTable, HashTable]] = {}  # young and old, by source
        self._numbers: dict[int, int] = {}  # of the young ones: how many were full before, by source

    def add(self, ids: U64, source: int = NO_SOURCE) -> Any:
        """Remember these ids. Returns which were new, bool [B]; a duplicate within the batch isn't."""
        young, old = self.generations.pop(source) if source in self.generations else (_table(NO_IDS), _table(NO_IDS))
        others = self.generations if source == NO_SOURCE else self.generations.keys() & {NO_SOURCE}
        elsewhere = [table.slots for other in others for table in self.generations[other] if len(table)]
        if len(young) >= self._ids_max(source):
            young, old = _table(NO_IDS), young
            self._numbers[source] = self._numbers.get(source, 0) + 1
        self.generations[source] = young, old
        if len(self.generations) > SOURCES_MAX:
            dropped = next(iter(self.generations))
            del self.generations[dropped]
            self._numbers.pop(dropped, None)
        young.reserve(len(ids))
        young.mark_runs(np.maximum(ids, np.uint64(1)))
        new = _add(young.slots, young.counts, old.slots, ids)
        for slots in elsewhere:
            new &= find_many(slots, np.maximum(ids, np.uint64(1))) < 0
        return new

    def add_records(self, ids: U64, ends: I64, sources: Sequence[int]) -> Any:
        """As `add` for each record in turn: record r has ids[ends[r]:ends[r + 1]]. Returns which were new, bool [B]."""
        found, first = [], 0
        for r in range(1, len(sources) + 1):
            if r < len(sources) and sources[r] == sources[first]:
                continue
            young = self.generations[sources[first]][0] if sources[first] in self.generations else ()
            room = self._ids_max(sources[first]) - len(young)
            cuts = ends[[first, r]] if ends[r] - ends[first] < room else ends[first : r + 1]
            found += [self.add(ids[a:b], sources[first]) for a, b in pairwise(cuts.tolist())]
            first = r
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _ids_max(self, source: int) -> int:
        return self.ids_max if source != NO_SOURCE else max(self.ids_max, NO_SOURCE_IDS)

    def tables(self) -> dict[str, HashTable]:
        """The generations, by names that no later one has: a table's ids only ever grow in number."""
        found: dict[str, HashTable] = {}
        for source, (young, old) in self.generations.items():
            number = self._numbers.get(source, 0)
            found |= {f"ids.{source}.{number}": young, f"ids.{source}.{number - 1}": old}
        return found

    def sources(self) -> I64:
        """(source, number of its young generation), the least recently used first: with `tables` all there is."""
        return np.array([(s, self._numbers.get(s, 0)) for s in self.generations], np.int64).reshape(-1, 2)

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Restore what `sources` (as `id_sources`) and the rows of `tables` were. Earlier builds' checkpoints have all
        ids in one array, or no sources. Raises KeyError, ValueError.
        """
        if "id_sources" in arrays:
            self._numbers = {int(source): int(number) for source, number in arrays["id_sources"]}
            self.generations = {
                source: (_table(arrays[f"ids.{source}.{number}"]), _table(arrays[f"ids.{source}.{number - 1}"]))
                for source, number in self._numbers.items()
            }
        elif "seen_ids" in arrays:
            counts = arrays["seen_counts"]
            parts = iter(np.split(arrays["seen_ids"], np.cumsum(counts[:, 1:].ravel())))
            self.generations = {int(source): (_table(next(parts)), _table(next(parts))) for source in counts[:, 0]}
        else:
            self.generations = {NO_SOURCE: (_table(arrays["young"]), _table(arrays["old"]))}


def _table(ids: U64) -> HashTable:
    table = HashTable(1, tracked=False)
    table.put(ids.reshape(-1, 1))
    return table


@kernel
def _add(young: Any, counts: Any, old: Any, ids: Any) -> Any:
    new = np.zeros(ids.shape[0], np.bool_)
    for i in range(ids.shape[0]):
        key = ids[i] if ids[i] != np.uint64(0) else np.uint64(1)
        if find(young, key) < 0 and find(old, key) < 0:
            find_or_insert(young, key, counts)
            new[i] = True
    return new
