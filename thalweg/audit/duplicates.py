"""Finds what was emitted again in `examples`, and what of it a learner with a bounded memory of ids learns twice.

Organic installs have ids like examples and count as such: a learner remembers their ids, too, if its statistics use
them.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.jit import kernel
from thalweg.audit.emitted import Emitted, EmittedOrganic

ORDER_BITS: Final = 44  # low bits of a position; the source is in the high bits
ORDER_MASK: Final = (1 << ORDER_BITS) - 1


class EmissionRef(NamedTuple):
    """Refers to an example or organic install: the bucket of its user, its source, and its index within the source."""

    bucket: int
    source: int
    order: int


class DuplicateIds:
    """Add what was emitted bucket by bucket: only ids that occur more than once are retained."""

    def __init__(self) -> None:
        self.emitted_again = 0
        self._ids = 0  # how many occur more than once; they are numbered
        self._numbers: list[Any] = [np.zeros(0, np.uint32)]
        self._positions: list[Any] = [np.zeros(0, np.int64)]  # source and order
        self._buckets: list[Any] = [np.zeros(0, np.uint8)]

    def add(self, bucket: int, emitted: Sequence[Emitted | EmittedOrganic]) -> None:
        """Add all of a bucket; an id is in one bucket only."""
        ids = np.fromiter((id_ for one in emitted for id_ in one.ids), np.uint64)
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) == len(ids):
            return
        self.emitted_again += len(ids) - len(distinct)
        again = distinct[counts > 1]
        sizes = np.fromiter((len(one.ids) for one in emitted), np.int64)
        begins = np.fromiter((one.source << ORDER_BITS | one.order for one in emitted), np.int64)
        positions = np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(ids))
        is_duplicate = np.isin(ids, again)
        self._numbers.append((np.searchsorted(again, ids[is_duplicate]) + self._ids).astype(np.uint32))
        self._positions.append(positions[is_duplicate])
        self._buckets.append(np.full(int(is_duplicate.sum()), bucket, np.uint8))
        self._ids += len(again)

    def learned_twice(self, memory: int, first: int) -> tuple[int, list[EmissionRef]]:
        """How many are learned again, and the `first` of them.

        The learner remembers an id, by source, until `memory` others of its source were learned after it. A duplicate
        that it drops isn't learned, and doesn't refresh the id.
        """
        positions = np.concatenate(self._positions)
        order = np.argsort(positions)
        known = np.zeros(self._ids, np.int64)
        twice = order[_learned_twice(np.concatenate(self._numbers), positions, order, known, memory)]
        buckets = np.concatenate(self._buckets)
        found = [
            EmissionRef(int(buckets[k]), int(positions[k]) >> ORDER_BITS, int(positions[k]) & ORDER_MASK)
            for k in twice[:first]
        ]
        return len(twice), found


@kernel
def _learned_twice(numbers: Any, positions: Any, order: Any, known: Any, memory: Any) -> Any:
    """Which examples, in the order of positions, are learned a second time, as bool [examples].

    `numbers` uint32, `positions` int64, `order` int64, all [examples]; `known` int64 [ids], zeros: each id's last
    learning (its source, and how many were learned there before it) + 1.
    """
    found = np.zeros(order.shape[0], np.bool_)
    source = dropped = np.int64(0)
    for n in range(order.shape[0]):
        position, number = positions[order[n]], numbers[order[n]]
        if position >> ORDER_BITS != source:
            source, dropped = position >> ORDER_BITS, np.int64(0)
        learned = position - dropped
        before = known[number] - 1
        if before >= 0 and before >> ORDER_BITS == source and learned - before - 1 < memory:
            dropped += 1
            continue
        found[n] = before >= 0
        known[number] = learned + 1
    return found
