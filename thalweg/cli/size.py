"""`thalweg size`: what a deployment needs."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from stream.runtime.errors import SettingsError
from thalweg.cli.options import JsonFile, SpecFile, read_settings, read_spec, span_ms, write_json

PAGES_A_DAY: Final = 20  # that a user sees, unless --users says how many there are
ITEMS: Final = 100_000
PAGE_ITEMS: Final = 10
SHARE: Final = 0.02


def size(
    pages_per_second: Annotated[float, typer.Option(min=0.001, help="Pages that users see, at the peak.")],
    spec: SpecFile = None,
    events: Annotated[
        str, typer.Option(metavar="FILE", help="Events (JSON lines) or a data set, to count what isn't named here.")
    ] = "",
    page_items: Annotated[
        int, typer.Option(min=0, max=1000, help="Items of a page.", show_default=f"--events, {PAGE_ITEMS}")
    ] = 0,
    installs_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of shown items that are installed.", show_default=f"--events, {SHARE}"),
    ] = 0.0,
    users: Annotated[
        int, typer.Option(min=0, help="Users.", show_default=f"as many as see {PAGES_A_DAY} pages a day each")
    ] = 0,
    items: Annotated[int, typer.Option(min=0, help="Items.", show_default=f"--events, {ITEMS:,}")] = 0,
    values: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=N", help="Distinct values of a column; repeat it.")
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, help="How long keys accumulate.")] = 30.0,
    window: Annotated[str, typer.Option(help="Another window of labels: 30m, 6h, 7d.", show_default="the spec's")] = "",
    record_pages: Annotated[int, typer.Option(min=1, help="Pages that producers put into one record.")] = 1,
    machine_cores: Annotated[int, typer.Option(min=1, help="Cores of a machine.")] = 8,
    machine_gb: Annotated[int, typer.Option(min=1, help="Memory of a machine, GB.")] = 32,
    json_file: JsonFile = None,
) -> None:
    """Estimate machines, memory and disk for a rate of pages.

    By measured costs, from the spec's columns, crosses and bounds, and the settings THALWEG_PARTITIONS,
    THALWEG_REPLICATION (3 where none is set), THALWEG_EVENTS_DAYS, THALWEG_EXAMPLES_DAYS, THALWEG_KEEP_VERSIONS and
    THALWEG_DEDUP_IDS. Nothing needs to run. docs/sizing.md says what was measured and what isn't linear.
    """
    from msgspec.structs import replace
    from rich.console import Console

    from thalweg.sizing.load import Load
    from thalweg.sizing.observed import observe
    from thalweg.sizing.plan import plan_for
    from thalweg.sizing.report import GB, Machine, figures, report
    from thalweg.sources.reading import read_source
    from thalweg.views.tables import UNLIMITED

    model, settings = read_spec(spec), read_settings(with_stack=False)
    if window:
        span_ms(window)
        model = replace(model, label=replace(model.label, window=window))
    observed = observe(read_source(events, settings)) if events else None
    found = observed.values(pages_per_second * 86_400 * days) if observed else {}
    load = Load(
        pages_per_second,
        users or max(1, round(pages_per_second * 86_400 / PAGES_A_DAY)),
        items or found.get("item.id", ITEMS),
        page_items or (observed.page_items if observed else PAGE_ITEMS),
        installs_share or (observed.survey.base_rate if observed else 0.0) or SHARE,
        days,
        record_pages,
        {name: count for name, count in found.items() if not name.endswith(".id")} | distinct_of(values or ()),
        observed.lengths if observed else {},
    )
    plan, machine = plan_for(model, load, settings), Machine(machine_cores, machine_gb * GB)
    console = Console()
    (console if console.is_terminal else Console(width=UNLIMITED)).print(report(model, load, plan, machine))
    write_json(json_file, figures(load, plan, machine))


def distinct_of(texts: Sequence[str]) -> dict[str, int]:
    """The numbers that `--values` names. Raises SettingsError."""
    found = {}
    for text in texts:
        column, _, number = text.partition("=")
        if not (column and number.isdecimal() and int(number)):
            raise SettingsError(f"--values takes COLUMN=N, such as item.category=40; not {text!r}")
        found[column] = int(number)
    return found
