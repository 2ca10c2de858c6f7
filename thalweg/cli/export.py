"""`thalweg export`: topics as files, for as long as you keep them."""

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import JsonFile, inspect_settings, write_json

export_app = typer.Typer(no_args_is_help=True, help="Export topics to files.")
DAY = ["%Y-%m-%d"]


@export_app.callback()  # else a group of one command would be that command
def _group() -> None:
    pass


@export_app.command("examples")
def export_examples(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where files are written: a folder.")],
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=DAY, help="The first day (UTC, by append time).", show_default="the oldest"),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=DAY, help="The day to end before.", show_default="now")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Export the topic examples to Parquet files by day.

    Run it again to add what is new: daily, say, and more often than THALWEG_EXAMPLES_DAYS. A file is complete or
    absent. Examples of erased users are left out, and files that have some are written again. Polars and DuckDB read
    the files as they are, and `thalweg retrain --from DIR` learns them. docs/export.md has every column.

    Exit code 1 when records are missing: the log had deleted them before they were exported.
    """
    from stream.log.kafka_log import KafkaLog
    from thalweg.exports import export_examples as exporting
    from thalweg.views.operations_tables import progress_bars

    begin_ms, end_ms = (round(day.replace(tzinfo=UTC).timestamp() * 1_000) if day else None for day in (since, until))
    with closing(KafkaLog(inspect_settings())) as log, progress_bars() as on_progress:
        done = exporting.export_examples(log, folder, begin_ms, end_ms, on_progress)
    print(f"{done.records:,} records in {done.files} new files, up to offset {done.end:,}: {done.rows:,} rows")
    if done.invalid:
        print(f"{done.invalid:,} invalid events are left out; `thalweg dlq ls --topic examples` has them")
    if done.rewritten:
        print(f"{done.rewritten} files written again without users who were erased since")
    write_json(json_file, asdict(done))
    if done.missing:
        print(f"{done.missing:,} records are missing: the log had deleted them; export more often, or raise "
              "THALWEG_EXAMPLES_DAYS")  # fmt: skip
        raise typer.Exit(1)
