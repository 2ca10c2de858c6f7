"""Findings about columns: those that a spec names against those that events have."""

import difflib
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from stream.spec.columns import NUMBERS, POSITION, Column
from stream.spec.spec import ATTRIBUTE, Spec
from thalweg.onboarding.columns import LIST, NUMBER, ObservedColumn, Origin
from thalweg.onboarding.findings import Finding, problem_finding, share
from thalweg.onboarding.survey import Survey
from thalweg.onboarding.type_guess import is_moment

MISSING: Final = 0.9  # a column that is missing more often carries little
NAMED_MAX: Final = 12


def column_findings(survey: Survey, spec: Spec) -> Iterator[Finding]:
    """The columns that the spec names, against those that came."""
    unread: list[str] = []
    for origin, seen in survey.origins.items():
        built_in = spec.built_in_columns()
        named = {
            name.removeprefix(f"{origin}."): column
            for name, column in spec.readable_columns().items()
            if name.startswith(f"{origin}.") and not column.of and name not in (f"{origin}.id", POSITION, *built_in)
        }
        banded = {f"{short}_band" for short, column in named.items() if column.bands}
        extra = [name for name in seen.columns if name not in named and name not in ("id", "position")]
        unread += [f"{origin}.{name}" for name in extra]
        named = {short: column for short, column in named.items() if short not in banded or short in seen.columns}
        if named and not seen.entities and survey.pages:
            what = f"the spec has {len(named)} columns of {origin}s, but there are no {origin} lines"
            remedy = f"write a line for each {origin}, before the pages that need it (docs/events.md)"
            yield Finding("warning", f"no_{origin}s", 1, what, "", remedy)
            continue
        for short, column in named.items():
            yield from _one_column(f"{origin}.{short}", column, seen.columns.get(short), seen, extra)
        if seen.left_out:
            remedy = 'name columns, not values: {"tag_red": 1} is better written {"tags": ["red"]}'
            yield Finding("warning", f"many_{origin}_columns", seen.left_out, f"{origin}: too many columns", "", remedy)
    if unread:
        more = " and more" if len(unread) > NAMED_MAX else ""
        message = f"the spec doesn't read {', '.join(sorted(unread)[:NAMED_MAX])}{more}"
        yield Finding("fine", "unread", len(unread), message)
    if (survey.item.entities or survey.user.entities) and survey.undescribed.count:
        part = share(survey.undescribed.count, survey.shown)
        message, remedy = f"items ({part}) were shown before a line described them", "write items before their pages"
        yield from problem_finding(survey.undescribed, "warning", "undescribed", message, remedy)


def _one_column(
    name: str, spec: Column, seen: ObservedColumn | None, origin: Origin, extra: list[str]
) -> Iterator[Finding]:
    if not origin.entities:
        return
    if seen is None or not seen.values:
        near = difflib.get_close_matches(name.split(".", 1)[1], extra, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]!r}, which came?" if near else "write it, or drop it from the spec"
        yield Finding("warning", f"never:{name}", 1, f"{name} never came", "", remedy)
        return
    if spec.type == ATTRIBUTE:
        return  # rules read whatever there is
    first = ""
    odd = 0
    if spec.type == "number":
        odd = seen.values - seen.counts[NUMBER] - seen.numeric
        what, first = "aren't numbers", f"line {seen.first_non_number}"
        remedy = 'fix them (they count as missing), or make it a "category"'
    elif spec.type == "date":
        odd = seen.values - sum(count for value, count in seen.distinct.items() if is_moment(value))
        odd, what = 0 if seen.many else odd, "aren't dates"
        remedy = "fix them (they count as missing): 2026-01-31, 2026-01-31T12:00:00Z, or milliseconds since 1970"
    elif spec.type == "category" and seen.counts[LIST]:
        odd, what, first = seen.counts[LIST], "are lists", f"line {seen.first[LIST]}"
        remedy = 'make it "categories"'
    elif spec.type in ("category", "categories") and seen.counts[NUMBER] and not seen.whole:
        odd, what, first = seen.counts[NUMBER], "are numbers with fractions", f"line {seen.first[NUMBER]}"
        remedy = 'make it a "number", with bands if it is wanted in crosses'
    if odd:
        all_of_it = odd == seen.values and spec.type in NUMBERS
        message = f"{name}: {odd:,} of {seen.values:,} values {what}"
        yield Finding("error" if all_of_it else "warning", f"type:{name}", odd, message, first, remedy)
        return
    missing = origin.entities - seen.values
    bands = spec.bands if spec.type == "number" else []
    if seen.constant and not missing:
        message = f"{name} is always {next(iter(seen.distinct))!r}"
        yield Finding("warning", f"constant:{name}", seen.values, message, "", "drop it: it carries no signal")
    elif missing > MISSING * origin.entities:
        message = f"{name} is missing in {share(missing, origin.entities)}"
        yield Finding("warning", f"missing:{name}", missing, message, "", "write it more often, or drop it")
    elif bands and bisect_right(bands, seen.numbers.low) == bisect_right(bands, seen.numbers.high):
        message = f"{name}: all values ({seen.numbers.low:g} to {seen.numbers.high:g}) fall into one band"
        yield Finding("warning", f"band:{name}", seen.values, message, "", "choose bands within them")
