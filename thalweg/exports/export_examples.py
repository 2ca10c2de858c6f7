"""Exports the topic `examples` to Parquet files by day. It can be killed at any time and run again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import polars as pl

from stream.events.topics import DAY_MS, EXAMPLES
from stream.history.erasing import read_erased
from stream.log.log_scan import OnProgress
from stream.log.protocol import Log, Record
from stream.runtime.errors import DataError
from thalweg.exports.example_rows import Erased, rows_of
from thalweg.exports.export_files import ExportFiles
from thalweg.exports.log_range import are_of, read_without_gap

FILE_BYTES: Final = 64 * 1024 * 1024  # of records in a file, about


@dataclass
class Exported:
    """What an export did. `missing`: records that the log no longer had, and no file has."""

    files: int = 0
    rows: int = 0
    records: int = 0
    invalid: int = 0
    missing: int = 0
    rewritten: int = 0
    end: int = 0


def export_examples(
    log: Log, folder: Path, begin_ms: int | None, end_ms: int | None,
    on_progress: OnProgress = lambda what, done, total: None, file_bytes: int = FILE_BYTES,
) -> Exported:  # fmt: skip
    """Write the records appended from `begin_ms` (None: the oldest) to `end_ms` (None: now), exclusive, that no file
    has. Files that have rows of users erased since then are written again without them.

    Raises DataError, also where files are of another log; LogError, LogUnavailable.
    """
    if begin_ms is not None and end_ms is not None and begin_ms >= end_ms:
        raise DataError("no day is from --from to --to: --to names the day to end before")
    files = ExportFiles(folder)
    with files.lock():
        erased = read_erased(log)
        done = Exported(rewritten=files.erase(erased))
        written = files.all()
        if not are_of(files, written, log):
            raise DataError(
                f"{folder} has records up to {written[-1].end} of another log than this `{EXAMPLES.name}` (a recreated "
                "topic?): name another folder"
            )
        start, last = log.starts(EXAMPLES.name)[0], log.ends(EXAMPLES.name)[0]
        at = {limit: log.offsets_at(EXAMPLES.name, limit)[0] for limit in (begin_ms, end_ms) if limit is not None}
        begin = start if begin_ms is None else max(start, at[begin_ms])
        if begin == start:  # what is asked for begins before what the log has: records since the files may be gone
            begin = min([start, *(one.end for one in written)])
        done.end = at[end_ms] if end_ms is not None else last
        for first, end in files.uncovered(begin, done.end):
            done.missing += max(0, min(start, end) - first)
            if max(first, start) < end:
                _export_range(log, files, (max(first, start), end), erased, done, on_progress, file_bytes)
    return done


def _export_range(
    log: Log, files: ExportFiles, offsets: tuple[int, int], erased: Erased, done: Exported, on_progress: OnProgress,
    file_bytes: int,
) -> None:  # fmt: skip
    """Files of the records in this range, of about `file_bytes` each, and none with two days."""
    (first, end), rows, size, began_ms = offsets, list[pl.DataFrame](), 0, None

    def finish(until: int) -> None:
        nonlocal first, rows, size
        if began_ms is not None:
            done.rows += files.write(pl.concat(rows), first, until, began_ms, erased)
            done.files += 1
        first, rows, size = until, [], 0

    for records in _days(read_without_gap(log, first, end)):
        on_progress(EXAMPLES.name, records[0].offset - offsets[0], end - offsets[0])
        time_ms = records[0].time_ms
        if began_ms is not None and (size >= file_bytes or time_ms // DAY_MS != began_ms // DAY_MS):
            finish(records[0].offset)
            began_ms = None
        began_ms = time_ms if began_ms is None else began_ms
        found, invalid = rows_of(records)
        rows.append(found)
        size += sum(len(record.value or b"") for record in records)
        done.records += len(records)
        done.invalid += invalid
    finish(end)
    on_progress(EXAMPLES.name, end - offsets[0], end - offsets[0])


def _days(read: Iterable[list[Record]]) -> Iterator[list[Record]]:
    """The same, none of them with records of two days."""
    for records in read:
        for _, of_day in groupby(records, lambda record: record.time_ms // DAY_MS):
            yield list(of_day)
