"""Tables of answers, services and figures."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream.events.types import RankReply
from thalweg.stack.server import ServerStatus

UNLIMITED: Final = 200  # columns, where no terminal limits them
NOTES = {
    "no_model": "there's no model yet: ordered by the items' static popularity",
    "no_history": "ranked without the user's history (Redis is slow, down, or was emptied)",
    "features_cut": "fewer items than asked for: with its features a longer page is over an event's 64 KiB",
    "rules_cut": "fewer items than asked for: rules removed others",
    "no_user": "this user isn't described in 'users', or Redis is slow or down: ranked without attributes",
    "deadline": "cut off by the deadline: not all candidates were scored",
}


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table, 200 columns wide where no terminal limits it."""
    console = console or Console()
    (console if console.is_terminal else Console(width=UNLIMITED)).print(table)


def table_width() -> int:
    """How wide a table may be that is printed now."""
    console = Console()
    return console.width if console.is_terminal else UNLIMITED


def reply_table(reply: RankReply, titles: Mapping[str, str]) -> Table:
    """One reply: rank, item, title, probability, what retrieved the item, what that adds to the logit that it's ordered
    by, how probable it was there if it was drawn; below, the version that ranked it.
    """
    by = f"version {reply.version}, {reply.staleness_ms} ms stale" if reply.version else "no version yet"
    notes = [NOTES.get(note, note) for note in reply.notes]
    removed = [f"removed by {name}: {count}" for name, count in reply.removed.items()]
    caption = "; ".join([f"{reply.scored} scored in {reply.rank_us / 1000:.1f} ms by {by}", *removed, *notes])
    found = [f"{source} {rank}" for source, rank in zip(reply.sources, reply.source_ranks, strict=True)]
    added = [f"{term:+.2f}" for term in reply.retrieval_terms]
    heads = ["", "item", "title", "p", *(["retrieved as"] if found else []), *(["to its logit"] if added else [])]
    heads += ["propensity"] if reply.propensities else []
    table = Table(*heads, title=escape(f"for user {reply.user}"), caption=escape(caption), title_justify="left",
                  caption_justify="left", min_width=min(100, len(caption)))  # fmt: skip
    for rank, (item, score) in enumerate(zip(reply.items, reply.scores, strict=True), 1):
        drawn = [f"{share:.3f}" for share in reply.propensities[rank - 1 : rank]]
        came_by = [*found[rank - 1 : rank], *added[rank - 1 : rank]]
        table.add_row(str(rank), escape(item), escape(titles.get(item, "")), f"{score:.3f}", *came_by, *drawn)
    return table


def moves_table(before: RankReply, after: RankReply, installed: str, titles: Mapping[str, str]) -> Table:
    """A user's page before and after an install, side by side, with each item's move."""
    heads = ("", f"before (version {before.version})", "p", f"after (version {after.version})", "p", "moved")
    title = escape(f"user {before.user} installs {titles.get(installed, installed)}")
    table = Table(*heads, title=title, title_justify="left")
    ranks = {item: rank for rank, item in enumerate(before.items, 1)}
    for rank in range(1, max(len(before.items), len(after.items)) + 1):
        old = before.items[rank - 1 : rank]
        new = after.items[rank - 1 : rank]
        row = [str(rank)]
        row += [_title_cell(old[0], titles, installed), f"{before.scores[rank - 1]:.3f}"] if old else ["", ""]
        row += [_title_cell(new[0], titles, ""), f"{after.scores[rank - 1]:.3f}"] if new else ["", ""]
        row.append(_move_cell(ranks.get(new[0]), rank) if new else "")
        table.add_row(*row)
    return table


def _title_cell(item: str, titles: Mapping[str, str], installed: str) -> str:
    title = escape(titles.get(item) or item)
    return f"[bold green]{title}  ← installed[/]" if item == installed else title


def _move_cell(before: int | None, now: int) -> str:
    if before is None:
        return "[green]new[/]"
    if before == now:
        return ""
    return f"[green]▲ {before - now}[/]" if before > now else f"[red]▼ {now - before}[/]"


def status_table(found: Sequence[ServerStatus]) -> Table:
    """Servers and services, one a row."""
    table = Table("", "what", "address", "pid", "behind", "says", title="thalweg status", title_justify="left")
    colours = {"up": "green", "starting": "yellow"}
    for one in found:
        state = f"[{colours.get(one.state, 'red')}]{one.state}[/]"
        table.add_row(state, one.name, one.address, str(one.pid), "\n".join(map(str, one.lags)), one.message)
    if not found:
        table.add_row("", "nothing runs here: `thalweg up`, then `thalweg run ...`; or `thalweg demo`", "", "", "", "")
    return table


def summary_table(figures: Mapping[str, float | None], meanings: Mapping[str, str]) -> Table:
    """Figures, one a row, each with its meaning."""
    table = Table("", "", "what it is", title="summary", title_justify="left")
    for name, value in figures.items():
        table.add_row(name, format_figure(value), meanings.get(name, ""))
    return table


def format_time(time_ms: int) -> str:
    """A time in the local time zone, to the millisecond."""
    return f"{datetime.fromtimestamp(time_ms / 1000):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def format_figure(value: float | None) -> str:
    """A number with the digits that a person reads; - for None."""
    if value is None:
        return "-"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.1f}"
