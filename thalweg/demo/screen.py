"""The demo's live screen; without a terminal, a plain line every few seconds."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY_S: Final = 5.0


@dataclass
class Now:
    """What the screen shows; None: not known yet. Rates are per second."""

    phase: str = "starting"
    pages: int = 0
    pages_total: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    auc: float | None = None
    base_rate: float | None = None
    log_loss: float | None = None
    examples: int = 0
    duplicates: int = 0
    freshness_p50_ms: float | None = None
    freshness_p99_ms: float | None = None
    freshness_deep_p50_ms: float | None = None
    freshness_deep_p99_ms: float | None = None
    servable_p50_ms: float | None = None
    rank_p50_ms: float | None = None
    rank_p99_ms: float | None = None
    replies: int = 0
    errors: int = 0
    version: int = 0
    staleness_ms: int | None = None
    swaps: int = 0
    dead_letters: int = 0


class Rates:
    """Events per second of growing counts, over about the last two seconds."""

    def __init__(self, over_s: float = 2.0) -> None:
        self._over_s = over_s
        self._seen: dict[str, list[tuple[float, float]]] = {}

    def update(self, counts: Mapping[str, float], now_s: float) -> dict[str, float]:
        """Take the counts of now; returns the rates."""
        rates: dict[str, float] = {}
        for name, count in counts.items():
            seen = self._seen.setdefault(name, [])
            seen.append((now_s, count))
            while len(seen) > 2 and seen[1][0] < now_s - self._over_s:
                del seen[0]
            (then_s, then), span_s = seen[0], now_s - seen[0][0]
            rates[name] = (count - then) / span_s if span_s > 0 else 0.0
            assert then_s <= now_s
        return rates


class Screen:
    """Shows a Now, over and over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._line_s = -LINE_EVERY_S

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live:
            self._live.__exit__(None, None, None)

    def show(self, now: Now) -> None:
        """What is known now."""
        if self._live:
            self._live.update(drawn(now), refresh=True)
        elif time.monotonic() >= self._line_s + LINE_EVERY_S:
            self._line_s = time.monotonic()
            self._console.print(line(now), soft_wrap=True, highlight=False)


def line(now: Now) -> str:
    """One plain line."""
    return (
        f"{now.phase}: {now.pages}/{now.pages_total} pages, {now.examples} learned, auc {_digits(now.auc, 4)} "
        f"(labels {_digits(now.base_rate, 3)}), fresh p50 {_digits(now.freshness_p50_ms)} p99 "
        f"{_digits(now.freshness_p99_ms)} ms, deep p50 {_digits(now.freshness_deep_p50_ms)} p99 "
        f"{_digits(now.freshness_deep_p99_ms)} ms, rank p50 {_digits(now.rank_p50_ms, 1)} "
        f"p99 {_digits(now.rank_p99_ms, 1)} ms, "
        f"version {now.version}, {now.replies} replies, {now.errors} errors, {now.dead_letters} dead letters"
    )


def drawn(now: Now) -> Group:
    """The screen."""
    rooms = Table("room", "events/s", box=None, title="rooms", title_justify="left")
    rooms.columns[1].justify = "right"
    for name, rate in now.rates.items():
        rooms.add_row(name, f"{rate:,.0f}")
    model = Table(show_header=False, box=None, title="model", title_justify="left")
    model.add_row("examples learned", f"{now.examples:,}")
    model.add_row("AUC on arrival", _digits(now.auc, 4))
    model.add_row("log loss", _digits(now.log_loss, 4))
    model.add_row("share of installs", _digits(now.base_rate, 3))
    model.add_row("version (swaps)", f"{now.version} ({now.swaps})")
    model.add_row("dead letters", str(now.dead_letters))
    fresh = Table(show_header=False, box=None, title="freshness and ranking", title_justify="left")
    fresh.add_row("event → served, p50 / p99", f"{_digits(now.freshness_p50_ms)} / {_digits(now.freshness_p99_ms)} ms")
    deep = f"{_digits(now.freshness_deep_p50_ms)} / {_digits(now.freshness_deep_p99_ms)} ms"
    fresh.add_row("event → served by the deep part", deep)
    fresh.add_row("event → servable, p50", f"{_digits(now.servable_p50_ms)} ms")
    fresh.add_row("staleness now", f"{_digits(now.staleness_ms)} ms")
    fresh.add_row("rank latency, p50 / p99", f"{_digits(now.rank_p50_ms, 1)} / {_digits(now.rank_p99_ms, 1)} ms")
    fresh.add_row("replies (errors)", f"{now.replies:,} ({now.errors})")
    columns = Table.grid(padding=(0, 4))
    columns.add_row(rooms, model, fresh)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(now.phase, style="bold"),
        ProgressBar(total=max(1, now.pages_total), completed=now.pages, width=50),
        Text(f"{now.pages:,} of {now.pages_total:,} pages"),
    )
    return Group(bar, Text(), columns)


def _digits(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
