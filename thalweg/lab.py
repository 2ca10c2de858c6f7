"""Commands for data scientists: what they know of a world before anything runs in production."""

from pathlib import Path
from typing import Annotated

import typer

from stream.errors import DataError
from thalweg.options import JsonFile, read_settings, read_spec, say, write_json

lab = typer.Typer()


@lab.command()
def init(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    out: Annotated[Path | None, typer.Option(help="Write the spec here; without it, print it.")] = None,
    name: Annotated[str, typer.Option(help="The model's name; else it's made of the file's.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Draft a spec from events: columns with types, statistics, crosses, labels, each line with its reason."""
    from thalweg.draft import drafted

    if out and out.exists() and not force:
        raise DataError(f"{out} is there already: name another file with --out, or write over it with --force")
    text = drafted(source, read_settings(), name, say)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as bad:
        raise DataError(f"{out} can't be written: {bad.strerror}; name another file with --out") from None
    say(f"{out} is written; next: thalweg check {source} --spec {out}")


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
