"""All examples there are: those of exported files, then those of the log, as one sequence of records."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stream.events.topics import EXAMPLES
from stream.history.erasing import read_erased
from stream.log.protocol import Log, Record
from stream.runtime.errors import DataError
from thalweg.exports.example_rows import Erased, records_of, without_erased
from thalweg.exports.export_files import ExportFile, ExportFiles
from thalweg.exports.log_range import RECORDS_MAX, are_of, read_without_gap

Past = Callable[[int], Iterator[Sequence[Record]]]


def past_of(folder: Path, log: Log) -> Past:
    """Reads the folder's records, and the log's from their end on, up to an offset that it is given, exclusive.

    What users did who are erased by now is left out of files. Raises DataError where records are missing between the
    files or behind them, or the files are of another log; LogError, LogUnavailable.
    """
    files = ExportFiles(folder)
    found, start = files.check_contiguous(), log.starts(EXAMPLES.name)[0]
    reached = found[-1].end
    if reached < start:
        raise DataError(
            f"{folder} ends at offset {reached} of `{EXAMPLES.name}`, and the log begins at {start}: what lay between "
            "is gone. Export again from another copy of the log; or learn without what came before: move these files "
            f"elsewhere, and `thalweg export examples {folder}`"
        )
    if not are_of(files, found, log):
        raise DataError(
            f"{folder} isn't of this log: its records up to {reached} aren't those of `{EXAMPLES.name}` (a recreated "
            "topic?); point to the log that they were exported from, or export this one into another folder"
        )
    erased = read_erased(log)
    return lambda until: _records(files, found, log, erased, until)


def _records(
    files: ExportFiles, found: Sequence[ExportFile], log: Log, erased: Erased, until: int
) -> Iterator[Sequence[Record]]:
    for file in found:
        some = list[Record]()
        for record in records_of(without_erased(files.read(file), erased)):
            if record.offset < until:
                some.append(record)
            if len(some) == RECORDS_MAX:
                yield some
                some = []
        yield some
    yield from read_without_gap(log, found[-1].end, until)
