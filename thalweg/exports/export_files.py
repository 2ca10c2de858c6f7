"""The folder of exported examples: `day=YYYY-MM-DD/part-FIRST-END.parquet`, by the offsets that a file covers."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
from polars.exceptions import PanicException, PolarsError

from stream.events.topics import EXAMPLES
from stream.runtime.durable_files import DRAFT, replacing
from stream.runtime.errors import DataError
from thalweg.exports.example_rows import RECORD_COLUMNS, SCHEMA, Erased, digest_of, without_erased

NAME: Final = re.compile(r"part-(\d{12})-(\d{12})\.parquet")
FORMAT: Final = "1"
ROW_GROUP: Final = 4_096


class ExportFile(NamedTuple):
    """A file that has all that was learnable of records `first` to `end`, exclusive, of the topic `examples`."""

    first: int
    end: int
    path: Path


def day_of(time_ms: int) -> str:
    """The day of an append time, UTC: YYYY-MM-DD."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d")


class ExportFiles:
    """The files of a folder. A file is complete or absent. Raises DataError where one can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While this runs no other export writes here, and what one that was killed was writing is gone.

        The folder itself is locked: readers of the whole folder want nothing but Parquet files in it.
        """
        with _translated(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"another export writes to {self.folder}: wait until it ends") from None
            for draft in self.folder.glob(f"day=*/*{DRAFT}"):
                draft.unlink(missing_ok=True)
            yield
        finally:
            os.close(folder)

    def all(self) -> list[ExportFile]:
        """All files, in the log's order."""
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("day=*/part-*.parquet")]
        return sorted(ExportFile(int(name[1]), int(name[2]), path) for name, path in found if name)

    def uncovered(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Ranges of offsets in [begin, end) that no file covers."""
        found, reached = list[tuple[int, int]](), begin
        for file in self.all():
            if file.first > reached:
                found.append((reached, min(file.first, end)))
            reached = max(reached, file.end)
        return [(first, last) for first, last in [*found, (reached, end)] if first < last]

    def write(self, rows: pl.DataFrame, first: int, end: int, time_ms: int, erased: Erased) -> int:
        """Write the rows of these records but those of erased users. `time_ms`: append time of the first one.

        Returns how many were written.
        """
        path = self.folder / f"day={day_of(time_ms)}" / f"part-{first:012d}-{end:012d}.parquet"
        with _translated(path):
            path.parent.mkdir(exist_ok=True)
        return self._write(ExportFile(first, end, path), rows, erased)

    def read(self, file: ExportFile, columns: Sequence[str] = RECORD_COLUMNS) -> pl.DataFrame:
        """Its rows in order. Raises DataError, also where the file isn't what its name says."""
        with _translated(file.path):
            about = self._about(file)
            rows = pl.read_parquet(file.path, columns=list(columns), hive_partitioning=False)
        whole = set(RECORD_COLUMNS) <= set(columns)
        if not _is_sound(file, rows) or (whole and digest_of(rows) != about.get("thalweg.records")):
            raise DataError(
                f"{file.path} has other rows or columns than `thalweg export` wrote: take it from a copy; or delete "
                "it, and export again while the log has its records"
            )
        return rows

    def check_contiguous(self) -> list[ExportFile]:
        """All files, the first to the last without a gap, and no record twice. Raises DataError."""
        files = self.all()
        if not files:
            remedy = f"`thalweg export examples {self.folder}` writes some"
            raise DataError(f"{self.folder} has no exported examples: {remedy}")
        for one, following in pairwise(files):
            if following.first > one.end:
                raise DataError(
                    f"{self.folder} has no records {one.end} to {following.first - 1} of `{EXAMPLES.name}`: "
                    f"`thalweg export examples {self.folder}` adds them while the log has them; else move the files "
                    f"before {following.path.parent.name}/{following.path.name} elsewhere, to begin there"
                )
            if following.first < one.end:
                raise DataError(
                    f"{one.path} and {following.path} both have record {following.first} of `{EXAMPLES.name}`: move "
                    "one of them elsewhere"
                )
        return files

    def erase(self, erased: Erased) -> int:
        """Write the files again that have rows of these users, without them. Returns how many files those are.

        A file says by which ledger it was written; one that was written by this one isn't searched.
        """
        found, ledger = 0, _digest(erased)
        for file in self.all():
            if self._about(file).get("thalweg.erased") == ledger:
                continue
            whose = self.read(file, ("kind", "user", "event_time"))
            if len(without_erased(whose, erased)) < len(whose):
                self._write(file, self.read(file, [*SCHEMA]), erased)
                found += 1
        return found

    def _about(self, file: ExportFile) -> Mapping[str, str]:
        with _translated(file.path):
            about = pl.read_parquet_metadata(file.path)
        said = about.get("thalweg.format"), about.get("thalweg.first"), about.get("thalweg.end")
        if said != (FORMAT, str(file.first), str(file.end)):
            raise DataError(
                f"{file.path} isn't a file of `thalweg export` with this name (it says {said}): delete it, and export "
                "again while the log has its records"
            )
        return about

    def _write(self, file: ExportFile, rows: pl.DataFrame, erased: Erased) -> int:
        left = without_erased(rows, erased)
        about = {"format": FORMAT, "first": file.first, "end": file.end, "erased": _digest(erased)}
        about["records"] = digest_of(left)
        with _translated(file.path), replacing(file.path) as draft:
            left.write_parquet(
                draft, compression="zstd", row_group_size=ROW_GROUP,
                metadata={f"thalweg.{name}": str(value) for name, value in about.items()},
            )  # fmt: skip
        return len(left)


def _is_sound(file: ExportFile, rows: pl.DataFrame) -> bool:
    """Whether rows have the types that were written, no null in what records are made from, and the file's offsets."""
    if rows.dtypes != [SCHEMA[name] for name in rows.columns]:
        return False
    needed = [rows[name] for name in RECORD_COLUMNS if name in rows.columns and name != "key"]
    if any(column.null_count() for column in needed):
        return False
    offsets = rows["offset"] if "offset" in rows.columns else pl.Series([file.first])
    return offsets.is_empty() or (offsets.is_sorted() and file.first <= offsets[0] and offsets[-1] < file.end)


def _digest(erased: Erased) -> str:
    return hashlib.blake2b(json.dumps(sorted(erased.items())).encode(), digest_size=16).hexdigest()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, PolarsError, PanicException) as bad:  # Polars panics at some damaged files
        reason = bad.strerror if isinstance(bad, OSError) and bad.strerror else bad
        raise DataError(
            f"{path} can't be read or written ({reason}): free space and check its rights; delete a damaged file and "
            "export again while the log has its records"
        ) from None
