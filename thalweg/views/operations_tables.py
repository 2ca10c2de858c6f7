"""Tables for operators: audits, page traces, dead letters."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from stream.log.dead_letters import decode_prefix
from thalweg.views.dead_letters import DeadLetterRecord, hex_dump
from thalweg.views.tables import format_time

if TYPE_CHECKING:
    from thalweg.audit.findings import AuditReport
    from thalweg.views.trace import PageTrace

AUDITED: Final = {
    "pages": "pages in that range of `events`",
    "installs": "installs, retractions among them",
    "bad_events": "can't be decoded or break a limit: dead letters",
    "future_events": "too far ahead of their own arrival: dead letters",
    "late": "pages and installs that arrived too late to be joined",
    "repeated_pages": "duplicate pages",
    "extended_pages": "further pages under a request id: their new items belong to the first page",
    "labels": "labels that there should be, one an item",
    "positives": "of them with an install",
    "settled": "of pages that are final by the joiner's commit: these are judged",
    "shed": "not as they should be, of pages that may have been closed early because memory was full: not judged",
    "pending": "of pages that can still be corrected",
    "behind": "the joiner hasn't committed so far yet",
    "unsure": "may be decided by events that the log no longer has: not judged",
    "reused": "of pages whose request id was used again later: their examples have the same ids, not judged",
    "emitted": "labels and corrections in `examples`",
    "emitted_again": "in `examples` with an id that occurred before: learned once while the learner remembers it",
    "organic": "installs that no page claimed and that the joiner must have emitted by now, where the spec wants them",
    "organic_emitted": "installs in `organic`, repetitions among them",
    "organic_in_examples": "installs in `examples`, repetitions among them",
}


def audit_table(found: "AuditReport") -> Table:
    """The figures of an audit, faults last."""
    from thalweg.audit.findings import FAULTS

    rules = found.rules
    title = f"audit by {rules.policy}, window {rules.window_ms} ms, lateness {rules.lateness_ms} ms"
    table = Table("", "", "what it is", title=title, title_justify="left")
    for name, meaning in (AUDITED | FAULTS).items():
        figure = f"{found.figures[name]:,}"
        table.add_row(name, f"[red]{figure}[/]" if name in FAULTS and found.figures[name] else figure, meaning)
    return table


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr where that is a terminal. Call the yielded function with a task's name, done, and total."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def on_progress(task: str, done: int, total: int) -> None:
            if task not in bars:
                bars[task] = progress.add_task(task)
            progress.update(bars[task], completed=done, total=total)

        yield on_progress


def reasons_table(records: Iterable[DeadLetterRecord]) -> Table:
    """By source and reason: how many dead letters, how many were never replayed, first and last."""
    groups: dict[tuple[str, str], list[DeadLetterRecord]] = {}
    for record in records:
        groups.setdefault((record.dead_letter.topic, record.kind), []).append(record)
    heads = ("from", "reason", "dead letters", "waiting", "first", "last")
    table = Table(*heads, title="dead letters", title_justify="left")
    for (topic, reason), group in sorted(groups.items()):
        times = [record.time_ms for record in group]
        first, last = format_time(min(times)), format_time(max(times))
        waiting = sum(not record.replayed_ms for record in group)
        table.add_row(topic, escape(reason), str(len(group)), str(waiting), first, last)
    return table


def dead_letters_table(records: Iterable[DeadLetterRecord]) -> Table:
    """Dead letters, one a row."""
    table = Table("number", "from", "written", "bytes", "reason", "sent back", title_justify="left")
    for record in records:
        replayed = format_time(record.replayed_ms) if record.replayed_ms else ""
        reason = escape(record.reason[:100])
        size = str(len(record.dead_letter.original))
        table.add_row(str(record.number), record.source, format_time(record.time_ms), size, reason, replayed)
    return table


def dead_letter_lines(record: DeadLetterRecord) -> Iterator[str]:
    """All of one dead letter."""
    dead_letter = record.dead_letter
    yield f"number     {record.number}"
    yield f"from       {record.source}  (topic partition:offset)"
    yield f"written    {format_time(record.time_ms)}"
    yield f"reason     {record.reason}"
    yield f"sent back  {format_time(record.replayed_ms) if record.replayed_ms else 'never'}"
    values, rest = decode_prefix(dead_letter.original)
    yield f"original   {len(dead_letter.original)} bytes; decoded, one value a line:"
    for value in values:
        yield f"  {_json(value)[:2_000]}"
    if rest:
        yield f"then {len(rest)} bytes that can't be decoded:" if values else "nothing of it can be decoded:"
        yield from (f"  {line}" for line in hex_dump(rest))


def trace_table(traced: "PageTrace") -> Table:
    """A page's trace, a step a row."""
    table = Table("what", "where", "when", "after", "", title=f"page {traced.request_id}", title_justify="left")
    for step in traced.steps:
        has_delay = traced.page is not None and step.kind != "page"
        after = f"{step.time_ms - traced.appended_ms:+,} ms" if has_delay else ""
        table.add_row(step.kind, step.location, format_time(step.time_ms), after, escape(step.text))
    return table


def _json(value: object) -> str:
    """As JSON where that is possible: a broken event may have keys of any type."""
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return repr(value)
