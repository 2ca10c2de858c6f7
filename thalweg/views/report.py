"""What operators see: tables of audits, pages' lives, dead letters."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from thalweg.views.dead_letters import Letter, decoded, hex_lines

if TYPE_CHECKING:
    from thalweg.audit.findings import Audit
    from thalweg.views.trace import Life

AUDITED: Final = {
    "pages": "pages in that stretch of `events`",
    "installs": "installs, retractions among them",
    "bad_events": "can't be decoded or break a limit: dead letters",
    "future_events": "too far ahead of their own arrival: dead letters",
    "late": "pages and installs older than anything that is remembered: they count for nothing",
    "repeated_pages": "pages that came again",
    "extended_pages": "further pages under a request id: their new items belong to the first page",
    "labels": "labels that there should be, one an item",
    "positives": "of them with an install",
    "settled": "of pages that the joiner is finished with: these are judged",
    "shed": "not as they should be, of pages that may have been closed early because memory was full: not judged",
    "pending": "of pages that can still be corrected",
    "behind": "the joiner hasn't committed so far yet",
    "unsure": "may be decided by events that the log no longer holds: not judged",
    "reused": "of pages whose request id was used again later: their examples have the same ids, not judged",
    "emitted": "labels and corrections in `examples`",
    "emitted_again": "in `examples` with an id that stands there before: learned once while the learner remembers it",
    "organic": "installs that no page claimed and that the joiner must have emitted by now, where the spec wants them",
    "organic_emitted": "installs in `organic`, repetitions among them",
    "organic_in_examples": "installs in `examples`, repetitions among them",
}


def at(time_ms: int) -> str:
    """An append time, for a person."""
    return f"{datetime.fromtimestamp(time_ms / 1000):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def audit_table(found: "Audit") -> Table:
    """The figures of an audit, faults last."""
    from thalweg.audit.findings import FAULTS

    rules = found.rules
    title = f"audit by {rules.policy}, window {rules.window_ms} ms, lateness {rules.lateness_ms} ms"
    table = Table("", "", "what it is", title=title, title_justify="left")
    for name, says in (AUDITED | FAULTS).items():
        figure = f"{found.figures[name]:,}"
        table.add_row(name, f"[red]{figure}[/]" if name in FAULTS and found.figures[name] else figure, says)
    return table


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr where that is a terminal: call what is yielded with what is done, how many, of how many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what)
            progress.update(bars[what], completed=done, total=total)

        yield on_progress


def reasons_table(letters: Iterable[Letter]) -> Table:
    """How many letters of each source and reason, how many of them were never sent back, first and last."""
    kinds: dict[tuple[str, str], list[Letter]] = {}
    for letter in letters:
        kinds.setdefault((letter.held.topic, letter.reason), []).append(letter)
    table = Table("from", "reason", "letters", "waiting", "first", "last", title="dead letters", title_justify="left")
    for (topic, reason), some in sorted(kinds.items()):
        times = [letter.time_ms for letter in some]
        waiting = sum(not letter.replayed_ms for letter in some)
        table.add_row(topic, escape(reason), str(len(some)), str(waiting), at(min(times)), at(max(times)))
    return table


def letters_table(letters: Iterable[Letter]) -> Table:
    """Letters in a row each."""
    table = Table("number", "from", "written", "bytes", "reason", "sent back", title_justify="left")
    for one in letters:
        back = at(one.replayed_ms) if one.replayed_ms else ""
        why = escape(f"{one.held.error}: {one.held.message}"[:100])
        table.add_row(str(one.number), one.place, at(one.time_ms), str(len(one.held.original)), why, back)
    return table


def letter_lines(letter: Letter) -> Iterator[str]:
    """All of one letter."""
    held = letter.held
    yield f"number     {letter.number}"
    yield f"from       {letter.place}  (topic partition:offset)"
    yield f"written    {at(letter.time_ms)}"
    yield f"reason     {held.error}: {held.message}"
    yield f"sent back  {at(letter.replayed_ms) if letter.replayed_ms else 'never'}"
    values, rest = decoded(held.original)
    yield f"original   {len(held.original)} bytes; decoded, one value a line:"
    for value in values:
        yield f"  {_json(value)[:2_000]}"
    if rest:
        yield f"then {len(rest)} bytes that can't be read:" if values else "nothing of it can be read:"
        yield from (f"  {line}" for line in hex_lines(rest))


def life_table(life: "Life") -> Table:
    """A page's life, a step a row."""
    table = Table("what", "where", "when", "after", "", title=f"page {life.request_id}", title_justify="left")
    for step in life.steps:
        after = f"{step.time_ms - life.appended_ms:+,} ms" if life.page is not None and step.what != "page" else ""
        table.add_row(step.what, step.where, at(step.time_ms), after, escape(step.says))
    return table


def _json(value: object) -> str:
    """As JSON where JSON has it: keys may be anything in what could not be taken in."""
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return repr(value)
