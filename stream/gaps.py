"""Offsets at which a log has no record: markers of transactions, what compaction took. Known from how it was read.

Who reads a partition in order from a position knows that nothing lies between two records that follow each other. Who
is only given the records doesn't: one that isn't the next may have come before its turn. `Gaps` keeps what the reader
knew for whoever is given the records, maybe in another thread.
"""

from collections.abc import Hashable, Sequence
from typing import Final

GAPS_MAX: Final = 10_000  # that are kept at least: more than there are records on their way


class Gaps:
    """Which records follow a gap, per partition. One thread notes, others may ask: a record may come more than once."""

    def __init__(self) -> None:
        self._begins: dict[tuple[Hashable, int], int] = {}
        self._read: dict[Hashable, tuple[int, int]] = {}  # behind the last record, and the position, maybe markers on

    def note(self, partition: Hashable, position: int, offsets: Sequence[int], reached: int) -> None:
        """From `position` these records were read in order, and nothing else up to before `reached`."""
        behind, end = self._read.get(partition, (position, position))
        expected = behind if end == position else position
        if offsets and offsets[-1] - expected + 1 != len(offsets):
            for offset in offsets:
                if offset != expected:
                    self._begins[partition, offset] = expected
                expected = offset + 1
            if len(self._begins) > 2 * GAPS_MAX:
                for oldest in list(self._begins)[:-GAPS_MAX]:
                    del self._begins[oldest]
        elif offsets:
            expected = offsets[-1] + 1
        self._read[partition] = expected, reached

    def begin(self, partition: Hashable, offset: int) -> int:
        """The offset from which on the log holds nothing before this record: its own where there is no gap."""
        return self._begins.get((partition, offset), offset)
