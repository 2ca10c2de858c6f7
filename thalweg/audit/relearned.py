"""What was emitted again in `examples`, and what of it a learner with so large a memory of ids learns twice.

Organic installs have ids as examples do, and count among them: a learner remembers theirs where its statistics use
them, so it surely remembers no more than this of others.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.jit import kernel
from thalweg.audit.emitted import Emitted, EmittedOrganic

ORDER_BITS: Final = 44  # of a place: its source lies above
ORDER_MASK: Final = (1 << ORDER_BITS) - 1


class Place(NamedTuple):
    """An example or organic install: the bucket of its user, its source, and its number among what came of that."""

    bucket: int
    source: int
    order: int


class Repetitions:
    """Take what was emitted bucket by bucket: only that whose id stands there more than once is kept."""

    def __init__(self) -> None:
        self.emitted_again = 0
        self._ids = 0  # that stand there more than once; they are numbered
        self._numbers: list[Any] = [np.zeros(0, np.uint32)]
        self._places: list[Any] = [np.zeros(0, np.int64)]  # source and order
        self._buckets: list[Any] = [np.zeros(0, np.uint8)]

    def take(self, bucket: int, emitted: Sequence[Emitted | EmittedOrganic]) -> None:
        """All of a bucket; an id is in one bucket only."""
        ids = np.fromiter((id_ for one in emitted for id_ in one.ids), np.uint64)
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) == len(ids):
            return
        self.emitted_again += len(ids) - len(distinct)
        again = distinct[counts > 1]
        sizes = np.fromiter((len(one.ids) for one in emitted), np.int64)
        begins = np.fromiter((one.source << ORDER_BITS | one.order for one in emitted), np.int64)
        places = np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(ids))
        kept = np.isin(ids, again)
        self._numbers.append((np.searchsorted(again, ids[kept]) + self._ids).astype(np.uint32))
        self._places.append(places[kept])
        self._buckets.append(np.full(int(kept.sum()), bucket, np.uint8))
        self._ids += len(again)

    def learned_twice(self, memory: int, first: int) -> tuple[int, list[Place]]:
        """How many a learner learns again that surely remembers an id until `memory` others were learned after it.

        And the `first` of them. It remembers each source's ids apart. What it drops as a duplicate isn't learned, and
        is no newer to it than before.
        """
        places = np.concatenate(self._places)
        order = np.argsort(places)
        known = np.zeros(self._ids, np.int64)
        twice = order[_learned_twice(np.concatenate(self._numbers), places, order, known, memory)]
        buckets = np.concatenate(self._buckets)
        found = [
            Place(int(buckets[k]), int(places[k]) >> ORDER_BITS, int(places[k]) & ORDER_MASK) for k in twice[:first]
        ]
        return len(twice), found


@kernel
def _learned_twice(numbers: Any, places: Any, order: Any, known: Any, memory: Any) -> Any:
    """Which of the examples, in order of places, are learned though they were learned before, as bool [examples].

    `numbers` uint32, `places` int64, `order` int64, all [examples]; `known` int64 [ids], zeros: where each id was
    learned last (its source, and how many were learned there before it), + 1.
    """
    found = np.zeros(order.shape[0], np.bool_)
    source = dropped = np.int64(0)
    for n in range(order.shape[0]):
        place, number = places[order[n]], numbers[order[n]]
        if place >> ORDER_BITS != source:
            source, dropped = place >> ORDER_BITS, np.int64(0)
        learned = place - dropped
        before = known[number] - 1
        if before >= 0 and before >> ORDER_BITS == source and learned - before - 1 < memory:
            dropped += 1
            continue
        found[n] = before >= 0
        known[number] = learned + 1
    return found
