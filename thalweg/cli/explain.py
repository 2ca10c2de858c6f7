"""`thalweg explain`: why a user's page is as it is, asked of a ranker over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import SettingsError, StackError
from thalweg.cli.options import check_writable, inspect_settings, write_json
from thalweg.cli.tour import context_of

if TYPE_CHECKING:
    from stream.runtime.settings import Settings


def explain(
    user: Annotated[str, typer.Argument(help="User id.")],
    item: Annotated[str, typer.Argument(help="Explain it in full, on the page or not.", show_default="all")] = "",
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many items the page has.")] = 10,
    context: Annotated[
        list[str] | None, typer.Option(help="A column of the request's context, such as device=phone; repeat it.")
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="A rule's name, or a rule as JSON; repeat it.")] = None,
    model: Annotated[str, typer.Option(help="The model to rank by.", show_default="the ranker's first")] = "",
    http: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where a ranker answers over HTTP.", show_default="the one that runs here"
        ),
    ] = "",
    plot: Annotated[
        Path | None, typer.Option(callback=check_writable, help="Also draw the item's terms as a bar chart (PNG).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=check_writable, help="Also write the explanation to this file.")
    ] = None,
) -> None:
    """Explain a page that a user would get now.

    Without an item: each item's logit in parts (logit = bias + wide + deep, p = its sigmoid), what retrieved it, and
    its strongest terms. With one: the 20 largest weights of the wide part that fired, by name, and columns of the deep
    part with what knowing each adds, and the item's rank, or the rule that keeps it off. After `thalweg demo --world
    movielens --keep`:

    * `thalweg explain 259` - the page of user 259.
    * `thalweg explain 259 127 --plot why.png` - item 127 in full, and as a picture.
    * `thalweg explain 259 50 --rule '{"kind": "forbid", "items": ["50"]}'` - under a rule of one's own.

    A ranker must answer over HTTP: `thalweg run ranker --http 127.0.0.1:8080`, or a demo. docs/explain.md says how to
    read it.
    """
    import msgspec

    from thalweg.client.explanations import explain as ask
    from thalweg.views.explanation_plot import write_png
    from thalweg.views.explanation_tables import item_table, page_table
    from thalweg.views.tables import print_table, table_width

    if plot and not item:
        raise SettingsError("--plot draws one item: name it after the user")
    settings = inspect_settings()
    address, token = http or _ranker(settings), settings.http_token.get_secret_value()
    columns = {name: str(value) for name, value in context_of(context or ()).items()}
    try:
        found = ask(address, user, item, k=k, model=model, context=columns, rules=rule or (), token=token)
    except ValueError as bad:
        raise SettingsError(f"--http {address}: {bad}") from None
    print_table(item_table(found) if item else page_table(found, table_width()))
    if plot:
        write_png(plot, found)
    write_json(json_file, msgspec.to_builtins(found))


def _ranker(settings: "Settings") -> str:
    """The address of a ranker that runs here. Raises StackError."""
    from thalweg.stack.status import Service

    services = (Service.read(path) for path in sorted((settings.local / "run").glob("ranker-*.json")))
    addresses = [one.http for one in services if one and one.http and one.is_running]
    if not addresses:
        raise StackError(
            "no ranker answers over HTTP here: start one with `thalweg run ranker --http 127.0.0.1:8080`, or name "
            "another machine's with --http"
        )
    return addresses[0]
