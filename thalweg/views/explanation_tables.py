"""Explanations as tables: a page in short, one item in full with a bar for each term."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from rich.bar import Bar
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stream.events.named_explanations import Explanation, ItemExplanation
from thalweg.views.tables import NOTES, format_time

WIDE, DEEP, BIAS, REST, RULE, RETRIEVAL = "wide", "deep", "bias", "more", "rule", "retrieval"
COLOURS: Final = {WIDE: "cyan", DEEP: "magenta", BIAS: "white", REST: "bright_black"}
ORDER: Final = (RULE, RETRIEVAL)  # parts that are added to the logit for the order
BAR_WIDTH: Final = 40
STRONGEST: Final = 3  # terms of an item of a page
PARTS: Final = ("= bias", "+ wide", "+ deep")
PARTS_WIDTH: Final = 120


class Term(NamedTuple):
    """One line of an item's explanation: what it adds to the logit; of the deep part a column's contribution."""

    part: str
    name: str
    value: float


def terms_of(one: ItemExplanation) -> Iterator[Term]:
    """The bias, the weights that fired, those that aren't listed as one, the columns of the deep part; then what else
    orders a page: retrieval and boosts.
    """
    yield Term(BIAS, "bias", one.bias)
    itself = f"item.id={one.item} {one.title}".strip()
    for weight in one.wide_terms:
        factors = ["this item" if factor == itself else factor for factor in weight.name.split(" x ")]
        yield Term(WIDE, " x ".join(factors), weight.weight)
    if more := one.wide_fired - len(one.wide_terms):
        yield Term(REST, f"{more:,} more weights", one.wide - sum(weight.weight for weight in one.wide_terms))
    for column in one.deep_terms:
        yield Term(DEEP, f"{column.column}={column.value}", column.contribution)
    if one.retrieval:
        yield Term(RETRIEVAL, f"{source_of(one)}: the order is by the logit and this", one.retrieval)
    for rule, boost in one.boosts.items():
        yield Term(RULE, f"{rule}: the order is by the logit and this", boost)


def page_table(found: Explanation, width: int = PARTS_WIDTH) -> Table:
    """Each item of a page: its logit in parts, where it came from, its strongest terms. A terminal of less `width` than
    PARTS_WIDTH has no room for the parts: an item's own explanation has them.
    """
    heads = PARTS if width >= PARTS_WIDTH else ()
    table = Table("", "item", "title", "p", "logit", *heads, "retrieved by", "strongest terms",
                  title=escape(f"why user {found.user} gets this page"), caption=escape(origin(found)),
                  title_justify="left", caption_justify="left")  # fmt: skip
    table.columns[-1].overflow = "fold"
    for one in found.items:
        parts = [f"{part:+.2f}" for part in (one.logit, one.bias, one.wide, one.deep)][: 1 + len(heads)]
        terms = [term for term in terms_of(one) if term.part in (WIDE, DEEP, RULE)]
        by = (
            f"{source_of(one)} {one.retrieval:+.2f}"
            if any(other.retrieval for other in found.items)
            else source_of(one)
        )
        strongest = sorted(terms, key=lambda term: -abs(term.value))[:STRONGEST]
        named = ", ".join(f"{term.name} {term.value:+.2f}" for term in strongest)
        table.add_row(
            str(one.rank), escape(one.item), escape(one.title), f"{one.score:.3f}", *parts, escape(by), escape(named)
        )
    return table


def item_table(found: Explanation) -> Table:
    """One item: every term with its bar. `found` has this item alone."""
    (one,) = found.items
    table = Table("part", "value", "logit", "", title=escape(title_of(found)), caption=escape(origin(found)),
                  title_justify="left", caption_justify="left")  # fmt: skip
    terms = list(terms_of(one))
    largest = max(abs(term.value) for term in terms if term.part not in ORDER) or 1.0
    for term in terms:
        begin, end = sorted((largest, largest + term.value))
        colour = COLOURS.get(term.part)  # none: what only the order is by may be far larger than a logit
        bar = Bar(2 * largest, begin, end, width=BAR_WIDTH, color=colour) if colour else ""
        table.add_row(term.part, Text(term.name, overflow="fold"), f"{term.value:+.3f}", bar)
    return table


def title_of(found: Explanation) -> str:
    """The one item in `found`: its place, and its logit in parts."""
    (one,) = found.items
    ordered = order_of(one)
    return (
        f"{one.title or one.item} for user {found.user}: {place_of(one, found)}\n"
        f"p = {one.score:.3f}; logit {one.logit:+.3f} = {one.bias:+.3f} bias {one.wide:+.3f} wide {one.deep:+.3f} deep"
        + (f"\n{ordered}" if ordered else "")
    )


def order_of(one: ItemExplanation) -> str:
    """What the item is ordered by, if that isn't its logit alone."""
    added = ({RETRIEVAL: one.retrieval} if one.retrieval else {}) | one.boosts
    if not added:
        return ""
    named = " ".join(f"{value:+.3f} {name}" for name, value in added.items())
    return f"ordered by {one.logit + sum(added.values()):+.3f} = {one.logit:+.3f} logit {named}"


def place_of(one: ItemExplanation, found: Explanation) -> str:
    """Where the item stands."""
    if not one.rank and one.removed_by:
        return f"no candidate for this page, by the rule {', '.join(one.removed_by)}"
    if not one.rank:
        return "no candidate for this page: nothing retrieves it, or a rule keeps it off"
    place = f"{one.rank} of {found.scored} candidates"
    source = f", retrieved by {source_of(one)}" if one.source else ""
    return place + source + ("" if one.on_page else "; not on the page")


def source_of(one: ItemExplanation) -> str:
    """What retrieved it, and its rank there."""
    return f"{one.source} ({one.source_rank})" if one.source else ""


def origin(found: Explanation) -> str:
    """The version, its age, what it has learned; what rules removed; what was left out."""
    lines = [
        f"version {found.version} of {found.model}, {found.version_age_ms / 1000:.1f} s old, of {found.examples:,} "
        f"examples; the newest page in it is of {format_time(found.newest_event_ms)}"
    ]
    if found.removed:
        rules = ", ".join(f"{rule} {count}" for rule, count in found.removed.items())
        lines.append(f"candidates that rules removed: {rules}")
    if found.retrieval_version:
        lines.append(f"vectors of version {found.retrieval_version} retrieved")
    return "\n".join([*lines, *(NOTES.get(note, note) for note in found.notes)])
