"""Reads a range of `examples` without passing over what retention has deleted; are files of this log?"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

from stream.events.topics import EXAMPLES
from stream.log.protocol import Log, Record
from stream.runtime.errors import DataError, LogGap
from thalweg.exports.export_files import ExportFile, ExportFiles

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


def are_of(files: ExportFiles, found: Sequence[ExportFile], log: Log) -> bool:
    """Whether the log's record at the offset of the last one in files was appended when files say, unless it's gone.

    Raises DataError, LogError, LogUnavailable.
    """
    start, end = log.starts(EXAMPLES.name)[0], log.ends(EXAMPLES.name)[0]
    if found and found[-1].end > end:
        return False
    for file in reversed(found):
        last = files.read(file, ("offset", "append_time"))[-1:]
        if last.is_empty():
            continue
        offset, time_ms = last["offset"][0], last["append_time"].dt.epoch("ms")[0]
        if offset < start:
            break
        read = next(read_without_gap(log, offset, offset + 1), [])
        return [(record.offset, record.time_ms) for record in read] == [(offset, time_ms)]
    return True
