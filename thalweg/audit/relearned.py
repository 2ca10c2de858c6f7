"""Examples that were emitted again, and those of them that a learner with so large a memory of ids learns twice."""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thalweg.audit.emitted import Emitted


class Place(NamedTuple):
    """An example: the bucket of its user, its partition of `examples`, and its number there."""

    bucket: int
    partition: int
    order: int


class Repetitions:
    """Take what was emitted bucket by bucket: only examples whose id stands there more than once are kept."""

    def __init__(self) -> None:
        self.emitted_again = 0
        self._ids, self._orders = array("Q"), array("q")
        self._buckets, self._partitions = array("H"), array("H")

    def take(self, bucket: int, emitted: Sequence[Emitted]) -> None:
        """All examples of a bucket; an id is in one bucket only."""
        ids = np.fromiter((id_ for one in emitted for id_ in one.ids), np.uint64)
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) == len(ids):
            return
        self.emitted_again += len(ids) - len(distinct)
        again = set(distinct[counts > 1].tolist())
        for one in emitted:
            for row, id_ in enumerate(one.ids):
                if id_ in again:
                    self._ids.append(id_)
                    self._orders.append(one.order + row)
                    self._buckets.append(bucket)
                    self._partitions.append(one.partition)

    def learned_twice(self, memory: int) -> list[Place]:
        """What a learner learns again that surely remembers an id until `memory` others were learned after it.

        Each partition of `examples` has a learner of its own. What it drops as a duplicate isn't learned, and is no
        newer to it than before.
        """
        found: list[Place] = []
        learned: dict[int, tuple[int, int]] = {}  # by id: partition, and how many the learner had learned before
        dropped: Counter[int] = Counter()
        for k in np.lexsort((np.frombuffer(self._orders, np.int64), np.frombuffer(self._partitions, np.uint16))):
            id_, partition, order = self._ids[k], self._partitions[k], self._orders[k]
            number = order - dropped[partition]
            before = learned.get(id_)
            if before is not None and before[0] == partition and number - before[1] - 1 < memory:
                dropped[partition] += 1
                continue
            learned[id_] = (partition, number)
            if before is not None:
                found.append(Place(self._buckets[k], partition, order))
        return found
