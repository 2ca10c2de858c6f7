"""What operators see: tables of audits, pages' lives, dead letters."""

from typing import Final

from rich.table import Table

from thalweg.audit import FAULTS, Audit

AUDITED: Final = {
    "pages": "pages in that stretch of `events`",
    "installs": "installs, retractions among them",
    "bad_events": "can't be decoded or break a limit: dead letters",
    "future_events": "too far ahead of their own arrival: dead letters",
    "late": "pages and installs older than anything that is remembered: they count for nothing",
    "repeated_pages": "pages that came again",
    "labels": "labels that there should be, one an item",
    "positives": "of them with an install",
    "settled": "of pages that the joiner is finished with: these are judged",
    "pending": "of pages that can still be corrected",
    "behind": "the joiner hasn't committed so far yet",
    "told": "labels and corrections in `examples`",
    "duplicates": "told again with the same id: learned once",
    "bad_examples": "records of `examples` that can't be read",
    **FAULTS,
}


def audit_table(found: Audit) -> Table:
    """The figures of an audit, faults last."""
    rules = found.rules
    title = f"audit by {rules.policy}, window {rules.window_ms} ms, lateness {rules.lateness_ms} ms"
    table = Table("", "", "what it is", title=title, title_justify="left")
    for name, says in AUDITED.items():
        figure = f"{found.figures[name]:,}"
        table.add_row(name, f"[red]{figure}[/]" if name in FAULTS and found.figures[name] else figure, says)
    return table
