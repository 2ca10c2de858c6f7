"""The memory of example ids: duplicates of a re-read are dropped by it. Bounded, exact within its bound.

What joiners emit again comes behind anything that other partitions of `events` have led to meanwhile, but in its own
partition's order: so each partition's ids are remembered apart. Records without a source (those of earlier builds, dead
letters that were sent back) may hold ids of any: they're looked up everywhere, and their ids by everyone.
"""

from typing import Any, Final

import numpy as np

from stream.runtime.settings import DEDUP_IDS
from stream.tables.hash_kernels import find, find_many, place
from stream.tables.hash_table import U64, Table
from stream.tables.jit import kernel

NO_SOURCE: Final = -1
NO_SOURCE_IDS: Final = 500_000  # of all partitions together
SOURCES_MAX: Final = 1_024  # above it, the one that came longest ago is forgotten


def source_of(key: bytes | None) -> int:
    """The partition of `events` that a record of `examples` came of, by its key; NO_SOURCE where that is none."""
    return int(key) if key and key.isdigit() and len(key) < 10 else NO_SOURCE


class Seen:
    """Two generations of ids a source: when the young one is full it becomes the old one, and the old one goes."""

    def __init__(self, ids: int = DEDUP_IDS) -> None:
        self.ids_max = ids
        self.generations: dict[int, tuple[Table, Table]] = {}  # young and old, by source

    def new(self, ids: U64, source: int = NO_SOURCE) -> Any:
        """Which of these are new, as bool [B]; all are known from now on. A second one in the batch isn't new."""
        young, old = self.generations.pop(source) if source in self.generations else (Table(1), Table(1))
        others = self.generations if source == NO_SOURCE else self.generations.keys() & {NO_SOURCE}
        elsewhere = np.zeros(len(ids), np.bool_)
        for table in [table for other in others for table in self.generations[other] if len(table)]:
            elsewhere |= find_many(table.slots, np.maximum(ids, np.uint64(1))) >= 0
        if len(young) >= (self.ids_max if source != NO_SOURCE else max(self.ids_max, NO_SOURCE_IDS)):
            young, old = Table(1), young
        self.generations[source] = young, old
        if len(self.generations) > SOURCES_MAX:
            del self.generations[next(iter(self.generations))]
        young.reserve(len(ids))
        return _new(young.slots, young.counts, old.slots, ids) & ~elsewhere

    def arrays(self) -> dict[str, Any]:
        """All ids, uint64, a generation after the other, and a row of source, young and old ones' count each, int64."""
        rows = [(source, *self.generations[source]) for source in sorted(self.generations)]
        ids = [table.rows()[:, 0] for _, *tables in rows for table in tables]
        counts = [(source, len(young), len(old)) for source, young, old in rows]
        return {
            "seen_ids": np.concatenate([np.zeros(0, np.uint64), *ids]),
            "seen_counts": np.array(counts, np.int64).reshape(-1, 3),
        }

    def fill(self, arrays: dict[str, Any]) -> None:
        """Remember what these hold, and nothing else. Checkpoints of earlier builds don't know sources."""
        if "seen_ids" not in arrays:
            self.generations = {NO_SOURCE: (_table(arrays["young"]), _table(arrays["old"]))}
            return
        counts = arrays["seen_counts"]
        parts = iter(np.split(arrays["seen_ids"], np.cumsum(counts[:, 1:].ravel())))
        self.generations = {int(source): (_table(next(parts)), _table(next(parts))) for source in counts[:, 0]}


def _table(ids: U64) -> Table:
    table = Table(1)
    table.put(ids.reshape(-1, 1))
    return table


@kernel
def _new(young: Any, counts: Any, old: Any, ids: Any) -> Any:
    out = np.zeros(ids.shape[0], np.bool_)
    for i in range(ids.shape[0]):
        key = ids[i] if ids[i] != np.uint64(0) else np.uint64(1)
        if find(young, key) < 0 and find(old, key) < 0:
            place(young, key, counts)
            out[i] = True
    return out
