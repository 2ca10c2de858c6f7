"""Commands for data scientists: what they know of a world before anything runs in production."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.options import JsonFile, read_settings, read_spec, write_json

lab = typer.Typer()


@lab.command()
def check(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    spec: Annotated[Path, typer.Option("--spec", help="The world's spec (TOML).")],
    json_file: JsonFile = None,
) -> None:
    """Say what is wrong with events under a spec: counts, first lines, what to do. Exit code 1 on errors."""
    from thalweg.check import Check, figures, findings_table
    from thalweg.reading import read_through
    from thalweg.show import printed

    checked = Check(read_spec(spec))
    for line, event in read_through(source, read_settings()):
        checked.take(line, event)
    found = checked.findings()
    printed(findings_table(found))
    counts = figures(checked, found)
    write_json(json_file, counts)
    if counts["errors"]:
        raise typer.Exit(1)
