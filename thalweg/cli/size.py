"""`thalweg size`: what a deployment needs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stream.runtime.errors import DataError, SettingsError
from thalweg.cli.options import JsonFile, SpecFile, read_settings, read_spec, span_ms, warn, write_json

if TYPE_CHECKING:
    from stream.spec.spec import Spec

PAGES_A_DAY: Final = 20  # that a user sees, unless --users says how many there are
ITEMS: Final = 100_000
PAGE_ITEMS: Final = 10
SHARE: Final = 0.02
MANY: Final = 10**12
DIGITS: Final = 12  # of a number of values


def size(
    pages_per_second: Annotated[float, typer.Option(min=0.001, max=1e9, help="Pages that users see, at the peak.")],
    spec: SpecFile = None,
    events: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Events (JSON lines) or a data set, to count what isn't named here, but users."
        ),
    ] = "",
    page_items: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Items of a page.", show_default=f"--events, {PAGE_ITEMS}")
    ] = None,
    installs_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of shown items that are installed.", show_default=f"--events, {SHARE}"),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(min=1, max=MANY, help="Users.", show_default=f"as many as see {PAGES_A_DAY} pages a day each"),
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, max=MANY, help="Items.", show_default=f"--events, {ITEMS:,}")
    ] = None,
    values: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=N", help="Distinct values of a column; repeat it.")
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=36_525, help="How long keys accumulate.")] = 30.0,
    window: Annotated[str, typer.Option(help="Another window of labels: 30m, 6h, 7d.", show_default="the spec's")] = "",
    record_pages: Annotated[int, typer.Option(min=1, help="Pages that producers put into one record.")] = 1,
    machine_cores: Annotated[int, typer.Option(min=1, help="Cores of a machine.")] = 8,
    machine_gb: Annotated[int, typer.Option(min=1, help="Memory of a machine, GB.")] = 32,
    json_file: JsonFile = None,
) -> None:
    """Estimate machines, memory and disk for a rate of pages.

    By measured costs, from the spec's columns, crosses and bounds, and the settings THALWEG_PARTITIONS,
    THALWEG_REPLICATION, THALWEG_EVENTS_DAYS, THALWEG_EXAMPLES_DAYS, THALWEG_KEEP_VERSIONS and THALWEG_DEDUP_IDS.
    Nothing needs to run. docs/sizing.md says what was measured and what isn't linear.
    """
    import msgspec
    from rich.console import Console

    from stream.spec.spec_file import checked_spec
    from thalweg.onboarding.findings import first_lines
    from thalweg.sizing.load import Load
    from thalweg.sizing.observed import FIRST, observe
    from thalweg.sizing.plan import plan_for
    from thalweg.sizing.report import GB, Machine, figures, report
    from thalweg.sources.reading import read_source
    from thalweg.views.tables import UNLIMITED

    model, settings = read_spec(spec), read_settings(with_stack=False)
    if window:
        span_ms(window)
        label = msgspec.structs.replace(model.label, window=window)
        model = checked_spec(msgspec.to_builtins(msgspec.structs.replace(model, label=label)), "--window")
    named = distinct_of(values or (), model)
    observed = observe(read_source(events, settings)) if events else None
    if observed:
        pages, broken = observed.survey.pages, observed.survey.broken
        if broken.count:
            warn(f"{broken.count:,} lines can't be read: {first_lines(broken)}")
        if not pages:
            raise DataError(f"{events} has no page: name a file with impressions, or leave --events out")
        if pages < 2 * FIRST:
            warn(f"{events} has {pages} pages: by less than {2 * FIRST} nobody knows how numbers of values grow")
    found = observed.values(pages_per_second * 86_400 * days) if observed else {}
    load = Load(
        pages_per_second,
        users or max(1, round(pages_per_second * 86_400 / PAGES_A_DAY)),
        items or found.get("item.id", ITEMS),
        page_items or (observed.page_items if observed else PAGE_ITEMS),
        ((observed and observed.survey.base_rate) or SHARE) if installs_share is None else installs_share,
        days,
        record_pages,
        {name: count for name, count in found.items() if not name.endswith(".id")} | named,
        observed.lengths if observed else {},
    )
    plan, machine = plan_for(model, load, settings), Machine(machine_cores, machine_gb * GB)
    console = Console()
    (console if console.is_terminal else Console(width=UNLIMITED)).print(report(model, load, plan, machine))
    write_json(json_file, figures(load, plan, machine))


def distinct_of(texts: Sequence[str], spec: "Spec") -> dict[str, int]:
    """The numbers that `--values` names. Raises SettingsError."""
    from stream.spec.suggestions import near

    found, lists = {}, [n for n, one in spec.columns().items() if one.type in ("category", "categories")]
    counted = [name for name in lists if name not in ("user.id", "item.id")]
    for text in texts:
        column, _, number = text.partition("=")
        if not (column and number.isdecimal() and len(number) <= DIGITS and int(number)):
            raise SettingsError(f"--values takes COLUMN=N, such as item.category=40; not {text!r}")
        if column not in counted:
            ids = " (--users and --items say how many ids there are)" if column in lists else ""
            raise SettingsError(
                f"--values {column}: the spec has no such category or list{ids}; {near(column, counted)}"
            )
        found[column] = int(number)
    return found
