"""Reads a range of `examples` without passing over what retention has deleted."""

from collections.abc import Iterator
from contextlib import closing
from typing import Final

from stream.events.topics import EXAMPLES
from stream.log.protocol import Log, Record
from stream.runtime.errors import DataError, LogGap

POLL_S: Final = 0.2
RECORDS_MAX: Final = 200  # at once


def read_without_gap(log: Log, first: int, end: int) -> Iterator[list[Record]]:
    """Records first to `end`, exclusive, in order. Raises DataError at a gap, LogError, LogUnavailable."""
    if first >= end:
        return
    with closing(log.reader(EXAMPLES.name, {0: first})) as reader:
        while reader.positions()[0] < end:
            try:
                polled = reader.poll(POLL_S, RECORDS_MAX)
            except LogGap as gap:
                raise DataError(
                    f"the log has deleted records {gap.wanted} to {gap.start - 1} of `{EXAMPLES.name}`, which are "
                    "needed: raise THALWEG_EXAMPLES_DAYS, export more often, and start again"
                ) from None
            if found := [record for record in polled if record.offset < end]:
                yield found
