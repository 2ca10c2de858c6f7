"""`thalweg console`: the loop on a web page."""

from typing import Annotated

import typer

from thalweg.cli.extras import missing_package
from thalweg.cli.options import ModelSpec, inspect_settings, model_name
from thalweg.cli.tour import context_of


def console(
    spec: ModelSpec = None,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the page is; port 0: any free one.")
    ] = "127.0.0.1:8088",
    rooms: Annotated[
        str,
        typer.Option(
            metavar="ROOM=HOST:PORT,...", help="Where rooms export metrics.", show_default="those that run here"
        ),
    ] = "",
    ranker: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where a ranker answers over HTTP.", show_default="the one that runs here"
        ),
    ] = "",
    context: Annotated[
        list[str] | None, typer.Option(help="A column that users' pages come with, such as device=phone; repeat it.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Let who opens the page make installs.")] = False,
    published_on_loopback: Annotated[
        bool,
        typer.Option(
            "--published-on-loopback",
            help="Listen on all addresses without tokens: in a container whose port is on its host's loopback only.",
        ),
    ] = False,
) -> None:
    """Show the loop on a web page: rates, versions, users' pages.

    It reads only. To pin a version or roll back there, set THALWEG_HTTP_TOKENS to a file with a token of the scope
    `admin`, and give that token to the page.
    """
    settings = inspect_settings()
    try:
        from thalweg.console.rooms import parse_rooms
        from thalweg.console.serve import ConsoleOptions, run_console
    except ModuleNotFoundError as bad:
        raise missing_package(bad, "console") from None
    columns = {name: str(value) for name, value in context_of(context or ()).items()}
    options = ConsoleOptions(
        http, model_name(settings, spec), parse_rooms(rooms), ranker, demo, columns, published_on_loopback
    )
    run_console(settings, options)
