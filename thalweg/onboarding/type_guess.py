"""Guesses a column's type from its values, with the reason."""

import math
import re
from dataclasses import dataclass
from typing import Final

from stream.features.built_in_values import moment_ms
from stream.spec.values import ColumnType
from thalweg.onboarding.columns import LIST, NUMBER, ObservedColumn, Origin
from thalweg.onboarding.findings import share
from thalweg.onboarding.toml_text import quoted

CODE_NAME: Final = re.compile(
    r"(?:^|[_ .-])(?:id|ids|code|zip|plz|postcode|sku|isbn|ean|phone|key|hash|class|category|group|segment|type)$", re.I
)
FEW: Final = 12  # up to this many distinct whole numbers are probably categories
EACH: Final = 5  # ... if each occurs this often on average
CODE_DIGITS: Final = 5  # whole numbers of one width, from this many digits on, are probably codes
UNIQUE: Final = 0.9  # from this share of distinct values on, a column is no better than an id
UNIQUE_VALUES: Final = 50  # ... if there are this many values
BANDS: Final = 8
SHOWN_VALUES: Final = 3


@dataclass(frozen=True)
class Guess:
    """`kind` None: leave it out. `bands` cut a number. `distinct`: how many distinct values; `why`: for a person."""

    kind: ColumnType | None
    why: str
    bands: tuple[float, ...] = ()
    distinct: int = 0


def guess(name: str, column: ObservedColumn, origin: Origin, *, of_item: bool = False) -> Guess:
    """Guess the type of the column `name`; only items have dates."""
    if not column.values:
        return Guess(None, "always empty")
    distinct = len(column.distinct)
    how_many = f"{distinct:,}{' or more' if column.many else ''} different"
    missing = origin.entities - column.values
    gaps = f", missing in {share(missing, origin.entities)}" if missing > 0 else ""
    if column.constant and missing <= 0:
        return Guess(None, f"always {quoted(next(iter(column.distinct)))}: carries no signal")
    if column.counts[LIST]:
        each = f"{column.list_lengths.quantile(0.5):.0f} each (median)"
        return Guess("categories", f"lists of {how_many} texts, {each}{gaps}", distinct=distinct)
    if of_item and all(map(is_moment, column.distinct)):
        return Guess("date", f"{how_many} dates: the days from then to the page{gaps}", distinct=distinct)
    if column.counts[NUMBER] + column.numeric == column.values and column.counts[NUMBER]:
        return _number(name, column, gaps)
    if column.numeric == column.values and not column.whole:
        return _number(name, column, f", written as texts{gaps}")
    if _unique(column):
        return Guess(None, f"{how_many} texts in {column.values:,} values: no better than an id")
    common = ", ".join(quoted(value) for value, _ in column.most_common(SHOWN_VALUES))
    return Guess(
        "category", f"{how_many}: {common}{' ...' if distinct > SHOWN_VALUES else ''}{gaps}", distinct=distinct
    )


def _number(name: str, column: ObservedColumn, gaps: str) -> Guess:
    numbers, distinct = column.numbers, len(column.distinct)
    if column.whole:
        what = f"{distinct:,}{' or more' if column.many else ''} different whole numbers"
        codes = CODE_NAME.search(name) or (
            distinct > FEW and len(column.widths) == 1 and min(column.widths) >= CODE_DIGITS and not _is_time(column)
        )
        if codes and _unique(column):
            return Guess(None, f"{what} in {column.values:,} values: no better than an id")
        if CODE_NAME.search(name):
            return Guess("category", f"{what}, codes by its name{gaps}", distinct=distinct)
        if distinct <= FEW and column.values >= EACH * distinct:
            return Guess("category", f"only {what}{gaps}", distinct=distinct)
        if codes:
            return Guess("category", f"{what} of {min(column.widths)} digits each: codes{gaps}", distinct=distinct)
    why = f"{numbers.low:.6g} to {numbers.high:.6g}, median {numbers.quantile(0.5):.6g}{gaps}"
    return Guess("number", why, _bands(column), distinct)


def _unique(column: ObservedColumn) -> bool:
    """Whether nearly all values are distinct."""
    return column.values >= UNIQUE_VALUES and (column.many or len(column.distinct) >= UNIQUE * column.values)


def _is_time(column: ObservedColumn) -> bool:
    """Whether the values are seconds or milliseconds since 1970, in this century."""
    low, high = column.numbers.low, column.numbers.high
    return any(9e8 * unit <= low and high <= 4.2e9 * unit for unit in (1, 1_000))


def is_moment(value: str | float) -> bool:
    """Whether a date may say it: ISO 8601, or milliseconds since 1970, in this century.

    >>> is_moment("2026-01-31"), is_moment(1_769_817_600_000.0), is_moment(1_769_817_600.0), is_moment("20260131")
    (True, True, False, False)
    """
    if isinstance(value, str):
        return not value.isdigit() and not math.isnan(moment_ms(value))
    return 9e11 <= value <= 4.2e12


def _bands(column: ObservedColumn) -> tuple[float, ...]:
    """Rounded quantiles that each have values on both sides; none if there are few distinct values."""
    numbers = column.numbers
    if len(column.distinct) < BANDS or not math.isfinite(numbers.high - numbers.low):
        return ()
    cuts = sorted({_rounded(numbers.quantile(k / BANDS), numbers.high - numbers.low) for k in range(1, BANDS)})
    return tuple(cut for cut in cuts if numbers.low < cut <= numbers.high)


def _rounded(number: float, span: float) -> float:
    """The number to two digits of the span: bands must be readable, not exact."""
    digits = 2 - math.ceil(math.log10(span)) if span > 0 else 2
    return round(number, digits) + 0.0
