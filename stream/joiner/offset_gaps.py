"""Offsets at which a log has no record: markers of transactions, what compaction took. Known from how it was read.

Who reads a partition in order from a position knows that nothing lies between two records that follow each other. Who
is only given the records doesn't: one that isn't the next may have come before its turn. `Gaps` keeps what the reader
knew for whoever is given the records, maybe in another thread.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence


class Gaps:
    """Which records follow a gap, per partition. One thread notes, another asks."""

    def __init__(self) -> None:
        self._begins: defaultdict[Hashable, dict[int, int]] = defaultdict(dict)  # of records on their way
        self._read: dict[Hashable, tuple[int, int]] = {}  # behind the last record, and the position, maybe markers on

    def note(self, partition: Hashable, position: int, offsets: Sequence[int], reached: int) -> None:
        """From `position` these records were read in order, and nothing else up to before `reached`."""
        behind, end = self._read.get(partition, (position, position))
        expected = behind
        if end != position:  # a seek: what is on its way comes again
            expected, self._begins[partition] = position, {}
        if offsets and offsets[-1] - expected + 1 != len(offsets):
            begins = self._begins[partition]
            for offset in offsets:
                if offset != expected:
                    begins[offset] = expected
                expected = offset + 1
        elif offsets:
            expected = offsets[-1] + 1
        self._read[partition] = expected, reached

    def begin(self, partition: Hashable, offset: int) -> int:
        """The offset from which on the log holds nothing before this record: its own where there is no gap."""
        return self._begins[partition].get(offset, offset)

    def taken(self, partition: Hashable, offset: int) -> None:
        """This record had its turn: nobody asks for it again, unless it is read again."""
        self._begins[partition].pop(offset, None)

    def end(self, partition: Hashable, end: int) -> int:
        """The offset behind the last record before `end`; `end` itself while not all is read up to there."""
        behind, reached = self._read.get(partition, (end, 0))
        return behind if reached >= end else end
