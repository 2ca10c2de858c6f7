"""The demo's live screen; without a terminal, a plain line every few seconds."""

import time
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thalweg.demo.acquisition import CONTROL, LATELY, MODEL, ORACLE, Acquired, Acquisition, sparkline

POINTS: Final = 50  # of a plot
LINE_EVERY_S: Final = 5.0


@dataclass
class ScreenState:
    """What the screen shows. `figures`: by the summary's names, missing or None: not known yet."""

    phase: str = "starting"
    pages: int = 0
    pages_total: int = 0
    version: int = 0
    staleness_ms: int | None = None
    rates: dict[str, float] = field(default_factory=dict)  # per second, by service
    figures: dict[str, float | None] = field(default_factory=dict)
    acquisition: Acquisition | None = None  # of a store's arms

    def number(self, name: str, digits: int = 0) -> str:
        """A figure with this many decimals; - while it isn't known."""
        return _number(self.figures.get(name), digits)

    def p50_p99(self, name: str, digits: int = 0) -> str:
        """Both percentiles of a delay, in ms."""
        return f"{self.number(f'{name}_p50_ms', digits)} / {self.number(f'{name}_p99_ms', digits)} ms"


class Screen(Live):
    """Shows ScreenStates."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, auto_refresh=False, transient=not console.is_terminal)
        self._next_line_s = 0.0

    def show(self, state: ScreenState) -> None:
        """Draw the state; without a terminal at most one line in LINE_EVERY_S."""
        if self.console.is_terminal:
            self.update(panel(state), refresh=True)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self.console.print(line(state), soft_wrap=True, highlight=False)


def line(state: ScreenState) -> str:
    """The state as one plain line."""
    number, count = state.number, state.figures.get
    return (
        f"{state.phase}: {state.pages}/{state.pages_total} pages, {count('examples_learned', 0)} learned, "
        f"auc {number('auc_arrival', 4)} (labels {number('base_rate', 3)}), fresh p50 {number('freshness_p50_ms')} "
        f"p99 {number('freshness_p99_ms')} ms, deep p50 {number('freshness_deep_p50_ms')} "
        f"p99 {number('freshness_deep_p99_ms')} ms, rank p50 {number('rank_p50_ms', 1)} "
        f"p99 {number('rank_p99_ms', 1)} ms, version {state.version}, {count('rank_replies', 0)} replies, "
        f"{count('rank_errors', 0)} errors, {count('dead_letters', 0)} dead letters"
        + (acquisition_line(state.acquisition) if state.acquisition else "")
    )


def acquisition_line(acquisition: Acquisition) -> str:
    """What the arms show, as the end of a plain line."""
    lately, overall = acquisition.lately(), acquisition.overall()
    return (
        f"; expected installs per 1,000 shown, last {LATELY} s (all): "
        f"{CONTROL} {_number(lately.control, 1)} ({_number(overall.control, 1)}), "
        f"{MODEL} {_number(lately.model, 1)} ({_number(overall.model, 1)}), "
        f"gain {_percent(lately.gain)} ({_percent(overall.gain)}), oracle {_number(lately.oracle)}"
    )


def acquisition_table(acquisition: Acquisition) -> Table:
    """The arms side by side: lately, overall, and over time on one scale."""
    lately, overall, over_time = acquisition.lately(), acquisition.overall(), acquisition.over_time(POINTS)
    title = "acquisition: expected installs per 1,000 shown items"
    table = Table("arm", f"last {LATELY} s", "all", "over time", box=None, title=title, title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"
    shown = [value for one in over_time for value in (one.control, one.model) if value is not None]
    low, high = min(shown, default=0.0), max(shown, default=0.0)

    def values(of: Acquired) -> dict[str, float | None]:
        return {CONTROL: of.control, MODEL: of.model, ORACLE: of.oracle}

    for name in (CONTROL, MODEL):
        plot = sparkline([value for one in over_time if (value := values(one)[name]) is not None], low, high)
        style = "bold green" if name == MODEL else ""
        table.add_row(name, _number(values(lately)[name], 1), _number(values(overall)[name], 1), plot, style=style)
    table.add_row(f"gain of {MODEL}", _percent(lately.gain), _percent(overall.gain), f"scale: {low:.1f} to {high:.1f}")
    table.add_row(f"{ORACLE} (the ceiling)", _number(lately.oracle, 1), _number(overall.oracle, 1))
    return table


def panel(state: ScreenState) -> Group:
    """The state as a progress bar over three tables."""
    services = Table("service", "events/s", box=None, title="services", title_justify="left")
    services.columns[1].justify = "right"
    for name, rate in state.rates.items():
        services.add_row(name, f"{rate:,.0f}")
    model = Table(show_header=False, box=None, title="model", title_justify="left")
    model.add_row("examples learned", state.number("examples_learned"))
    model.add_row("AUC on arrival", state.number("auc_arrival", 4))
    model.add_row("log loss", state.number("log_loss", 4))
    model.add_row("share of installs", state.number("base_rate", 3))
    model.add_row("version (swaps)", f"{state.version} ({state.number('swaps')})")
    model.add_row("dead letters", state.number("dead_letters"))
    fresh = Table(show_header=False, box=None, title="freshness and ranking", title_justify="left")
    fresh.add_row("event → served, p50 / p99", state.p50_p99("freshness"))
    fresh.add_row("event → served by the deep part", state.p50_p99("freshness_deep"))
    fresh.add_row("event → servable, p50", f"{state.number('servable_p50_ms')} ms")
    fresh.add_row("staleness now", f"{_number(state.staleness_ms)} ms")
    fresh.add_row("rank latency, p50 / p99", state.p50_p99("rank", 1))
    fresh.add_row("replies (errors)", f"{state.number('rank_replies')} ({state.number('rank_errors')})")
    columns = Table.grid(padding=(0, 4))
    columns.add_row(services, model, fresh)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(state.phase, style="bold"),
        ProgressBar(total=max(1, state.pages_total), completed=state.pages, width=50),
        Text(f"{state.pages:,} of {state.pages_total:,} pages"),
    )
    if state.acquisition is None:
        return Group(bar, Text(), columns)
    return Group(bar, Text(), columns, Text(), acquisition_table(state.acquisition))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
