"""An export writes what no file has: complete files, by day, in bounded pieces, without users who were erased."""

import re
from pathlib import Path

import duckdb
import polars as pl
import pytest

from stream.events.codec import decode_examples
from stream.events.topics import DAY_MS, EXAMPLES
from stream.events.types import Impression
from stream.log.protocol import Record
from stream.runtime.errors import DataError
from tests.support.exported_log import PAGES, STEP_MS, T, day_log, erase_in, exported, fill, names, other_log, whole
from thalweg.exports import export_files
from thalweg.exports.example_rows import SCHEMA
from thalweg.exports.export_examples import export_examples
from thalweg.exports.export_files import ExportFiles

DOCS = Path(__file__).parents[3] / "docs" / "export.md"


def test_files_are_of_one_day_and_have_the_log(tmp_path: Path) -> None:
    """In its order, by the day of their append time."""
    log = day_log()
    done = export_examples(log, tmp_path, None, None)
    assert names(tmp_path) == [
        "day=2023-11-14/part-000000000000-000000000020.parquet",
        "day=2023-11-15/part-000000000020-000000000040.parquet",
        "day=2023-11-16/part-000000000040-000000000050.parquet",
    ]
    assert exported(tmp_path) == whole(log)
    assert (done.records, done.files, done.rows, done.missing, done.end) == (50, 3, 150, 0, 50)


def test_running_it_again_adds_what_is_new(tmp_path: Path) -> None:
    """And touches nothing that is there."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    before = {one.path: one.path.stat().st_mtime_ns for one in ExportFiles(tmp_path).all()}
    assert export_examples(log, tmp_path, None, None).files == 0
    fill(log, 50, 70)
    log.truncate(EXAMPLES.name, 0, 45)
    done = export_examples(log, tmp_path, None, None)
    assert (done.records, done.files, done.missing) == (20, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert exported(tmp_path) == whole(day_log(0, 70))


def test_a_range_of_days_then_the_rest(tmp_path: Path) -> None:
    """Days that were left out are added where they belong."""
    log = day_log(0, 80)
    done = export_examples(log, tmp_path, T + DAY_MS, T + 2 * DAY_MS)
    assert (done.records, done.end) == (20, 40)
    assert names(tmp_path) == ["day=2023-11-15/part-000000000020-000000000040.parquet"]
    export_examples(log, tmp_path, T + 3 * DAY_MS, None)
    with pytest.raises(DataError, match="has no records 40 to 59"):
        ExportFiles(tmp_path).check_contiguous()
    export_examples(log, tmp_path, T, None)
    assert len(ExportFiles(tmp_path).check_contiguous()) == 4
    assert exported(tmp_path) == whole(log)


def test_a_range_without_a_day_is_refused(tmp_path: Path) -> None:
    """Its last day may have been meant to be a part of it."""
    for until_ms in (T, T - DAY_MS):
        with pytest.raises(DataError, match="no day is from --from to --to"):
            export_examples(day_log(), tmp_path, T, until_ms)


def test_large_days_are_several_files(tmp_path: Path) -> None:
    """So memory is bounded."""
    log = day_log()
    export_examples(log, tmp_path, None, None, file_bytes=1)
    assert len(names(tmp_path)) == 3  # records are turned into rows in pieces of up to 200
    assert exported(tmp_path) == whole(log)


def test_an_export_that_is_killed_leaves_complete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one removes what it was writing, and goes on."""
    log, write = day_log(), pl.DataFrame.write_parquet
    written = 0

    def killed(rows: pl.DataFrame, draft: object, **options: object) -> None:
        nonlocal written
        written += 1
        if written == 2:
            (tmp_path / "day=2023-11-15" / "part-x.parquet.1.part").write_bytes(b"half")
            raise KeyboardInterrupt
        write(rows, draft, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pl.DataFrame, "write_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        export_examples(log, tmp_path, None, None)
    assert len(exported(tmp_path)) == 20
    export_examples(log, tmp_path, None, None)
    assert exported(tmp_path) == whole(log)
    assert not list(tmp_path.glob("day=*/*.part"))


def test_what_the_log_has_lost_is_said(tmp_path: Path) -> None:
    """What it still has is exported; the gap stays, and is counted each time."""
    log = day_log()
    export_examples(log, tmp_path, None, T + DAY_MS)
    log.truncate(EXAMPLES.name, 0, 25)
    assert [export_examples(log, tmp_path, None, None).missing for _ in range(2)] == [5, 5]
    assert [record.offset for record in exported(tmp_path)] == [*range(20), *range(25, 50)]
    assert export_examples(log, tmp_path, T + DAY_MS, None).missing == 5
    assert export_examples(log, tmp_path, T + 2 * DAY_MS, None).missing == 0


def test_another_log_is_refused(tmp_path: Path) -> None:
    """One that ends before the files do, and a longer one; who was erased there is taken out all the same."""
    export_examples(day_log(), tmp_path, None, None)
    for log in (day_log(0, 49), other_log()):
        with pytest.raises(DataError, match="another log"):
            export_examples(log, tmp_path, None, None)
    assert exported(tmp_path) == whole(day_log())
    erase_in(log, "u3", PAGES[-1][-1].page.time_ms)
    with pytest.raises(DataError, match="another log"):
        export_examples(log, tmp_path, None, None)
    assert not any(page.user == "u3" for one in exported(tmp_path) for page in _pages(one))


def test_another_log_is_found_by_files_that_have_rows(tmp_path: Path) -> None:
    """The last one may have none: all of it was erased, or invalid."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    log.send(EXAMPLES.name, 0, b"?", b"0")
    done = export_examples(log, tmp_path, None, None)
    assert (done.files, done.rows, done.invalid) == (1, 0, 1)
    with pytest.raises(DataError, match="another log"):
        export_examples(other_log(), tmp_path, None, None)


def test_a_file_that_isnt_what_its_name_says_is_refused(tmp_path: Path) -> None:
    """Renamed, damaged, or of somebody else; with what to do."""
    export_examples(day_log(), tmp_path, None, None)
    first, *_ = ExportFiles(tmp_path).all()
    first.path.rename(first.path.with_name("part-000000000000-000000000019.parquet"))
    with pytest.raises(DataError, match="delete it"):
        exported(tmp_path)
    damaged = ExportFiles(tmp_path).all()[0]
    damaged.path.write_bytes(damaged.path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"can't be read or written.*export again"):
        exported(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pl.col("offset").cast(pl.String),
        pl.lit(None, pl.Int64).alias("offset"),
        pl.col("offset") + 1,
        pl.col("offset").reverse(),
        pl.col("append_time").dt.cast_time_unit("us"),
        pl.lit(None, pl.List(pl.UInt64)).alias("features"),
        pl.lit(None, pl.Binary).alias("before"),
        pl.col("features").list.eval(pl.element() + 1),
        pl.col("append_time").dt.offset_by("1ms"),
        pl.lit(b"1").alias("key"),
    ],
    ids=str,
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, change: pl.Expr) -> None:
    """Though it says that it is an export's: other types, nulls, values, records elsewhere or in another order."""
    export_examples(day_log(), tmp_path, None, None)
    path = ExportFiles(tmp_path).all()[0].path
    about = {key: said for key, said in pl.read_parquet_metadata(path).items() if key.startswith("thalweg.")}
    pl.read_parquet(path, hive_partitioning=False).with_columns(change).write_parquet(path, metadata=about)
    with pytest.raises(DataError, match="other rows or columns than"):
        exported(tmp_path)


def test_two_exports_dont_write_one_folder(tmp_path: Path) -> None:
    """The second is refused."""
    with ExportFiles(tmp_path).lock(), pytest.raises(DataError, match="another export"):
        export_examples(day_log(), tmp_path, None, None)


def test_erased_users_are_left_out_and_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of new files, and of those that were written before; what was written by the same ledger isn't searched."""
    log = day_log()
    export_examples(log, tmp_path, None, T + DAY_MS)
    theirs = [one.page for record in PAGES[:50] for one in record if one.page.user == "u3"]
    until_ms = theirs[-2].time_ms
    erase_in(log, "u3", until_ms)
    done = export_examples(log, tmp_path, None, None)
    assert (done.rewritten, done.records) == (1, 31)
    assert done.rows == 91 - sum(one.page in theirs[:-1] for record in PAGES[20:50] for one in record)
    left = [page for record in exported(tmp_path) for page in _pages(record)]
    assert [page for page in left if page.user == "u3"] == theirs[-1:]
    assert len(left) == 150 - len(theirs) + 1
    rows = pl.read_parquet(tmp_path)
    assert rows.filter(user="u3", kind="erase").height == 1
    monkeypatch.setattr(export_files, "without_erased", None)
    assert export_examples(log, tmp_path, None, None).rewritten == 0


def _pages(record: Record) -> list[Impression]:
    return [one.page for one in decode_examples(record.value or b"")[0]]


def _duckdb(query: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def test_polars_and_duckdb_read_the_folder_as_it_is(tmp_path: Path) -> None:
    """With the day as a column; an element of the lists is an example."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    expected = [
        (one.page.user, one.page.items[position], label)
        for record in PAGES[:50]
        for one in record
        for position, label in zip(one.positions, one.labels, strict=True)
    ]
    rows = pl.scan_parquet(tmp_path / "**/*.parquet", hive_partitioning=True).filter(kind="examples")
    one = rows.explode("positions", "labels").with_columns(item=pl.col("items").list.get("positions"))
    polars = one.sort("offset", maintain_order=True).select("user", "item", "labels").collect().rows()
    assert polars == expected
    files = f"read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)"
    pairs = f'select "offset", user, items, unnest(positions) as p, unnest(labels) as l from {files}'
    found = _duckdb(f"select user, items[p + 1], l from ({pairs}) ")
    assert sorted(found) == sorted(expected)
    days = _duckdb(f"select day::varchar, count(*) from {files} group by 1 order by 1")
    assert days == [("2023-11-14", 60), ("2023-11-15", 60), ("2023-11-16", 30)]
    times = _duckdb(f"select epoch_ms(min(append_time)), epoch_ms(max(append_time)) from {files}")
    assert times == [(T, T + 49 * STEP_MS)]


def test_the_docs_queries_run_and_its_table_has_every_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """docs/export.md says what the files are."""
    text = DOCS.read_text()
    monkeypatch.chdir(tmp_path)
    export_examples(day_log(), Path("exported"), None, None)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    assert "2023-11-16" in capfd.readouterr().out
    columns = [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(columns) == sorted(["day", *SCHEMA])
