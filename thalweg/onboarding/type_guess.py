"""What type a column is best taken for, by the values it has had, and why."""

import json
import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, NamedTuple

from stream.spec.spec import ColumnType
from thalweg.onboarding.columns import LIST, NUMBER, Column, Origin
from thalweg.onboarding.findings import share

CODE_NAME: Final = re.compile(
    r"(?:^|[_ .-])(?:id|ids|code|zip|plz|postcode|sku|isbn|ean|phone|key|hash|class|category|group|segment|type)$", re.I
)
FEW: Final = 12  # so few different whole numbers are rather names of things than amounts
EACH: Final = 5  # ... if each comes about so often at least
CODE_DIGITS: Final = 5  # whole numbers that all have so many digits are rather codes
UNIQUE: Final = 0.9  # a text that differs in so many values tells no more than an id
UNIQUE_VALUES: Final = 50  # ... if there are so many values
BANDS: Final = 8
SHOWN_VALUES: Final = 3


@dataclass(frozen=True)
class Guess:
    """`kind` None: better left out. `bands` cut a number. `distinct`: different values; `why`, for a person."""

    kind: ColumnType | None
    why: str
    bands: tuple[float, ...] = ()
    distinct: int = 0


class Named(NamedTuple):
    """A column by its full name, as crosses and statistics name it, and how many values it has."""

    name: str
    values: int

    @property
    def short(self) -> str:
        """A word for a statistic's name."""
        return re.sub(r"\W+", "_", self.name.split(".", 1)[1]).strip("_") or "column"


def guess(name: str, column: Column, origin: Origin) -> Guess:
    """What the column `name` is taken for."""
    if not column.values:
        return Guess(None, "always empty")
    told = len(column.distinct)
    much = f"{told:,}{' or more' if column.many else ''} different"
    missing = origin.entities - column.values
    gaps = f", missing in {share(missing, origin.entities)}" if missing > 0 else ""
    if column.constant and missing <= 0:
        return Guess(None, f"always {quoted(next(iter(column.distinct)))}: tells nothing apart")
    if column.counts[LIST]:
        each = f"{column.list_lengths.quantile(0.5):.0f} each (median)"
        return Guess("categories", f"lists of {much} texts, {each}{gaps}", distinct=told)
    if column.counts[NUMBER] + column.numeric == column.values and column.counts[NUMBER]:
        return _number(name, column, gaps)
    if column.numeric == column.values and not column.whole:
        return _number(name, column, f", written as texts{gaps}")
    if _unique(column):
        return Guess(None, f"{much} texts in {column.values:,} values: tells no more than an id")
    common = ", ".join(quoted(value) for value, _ in column.common(SHOWN_VALUES))
    return Guess("category", f"{much}: {common}{' ...' if told > SHOWN_VALUES else ''}{gaps}", distinct=told)


def _number(name: str, column: Column, gaps: str) -> Guess:
    numbers, told = column.numbers, len(column.distinct)
    if column.whole:
        what = f"{told:,}{' or more' if column.many else ''} different whole numbers"
        codes = CODE_NAME.search(name) or (
            told > FEW and len(column.widths) == 1 and min(column.widths) >= CODE_DIGITS and not _is_time(column)
        )
        if codes and _unique(column):
            return Guess(None, f"{what} in {column.values:,} values: tells no more than an id")
        if CODE_NAME.search(name):
            return Guess("category", f"{what}, codes by its name{gaps}", distinct=told)
        if told <= FEW and column.values >= EACH * told:
            return Guess("category", f"only {what}{gaps}", distinct=told)
        if codes:
            return Guess("category", f"{what} of {min(column.widths)} digits each: codes{gaps}", distinct=told)
    why = f"{_plain(numbers.low)} to {_plain(numbers.high)}, median {_plain(numbers.quantile(0.5))}{gaps}"
    return Guess("number", why, _bands(column), told)


def _unique(column: Column) -> bool:
    """Is nearly every value another one?"""
    return column.values >= UNIQUE_VALUES and (column.many or len(column.distinct) >= UNIQUE * column.values)


def _is_time(column: Column) -> bool:
    """Seconds or milliseconds since 1970, of this century?"""
    low, high = column.numbers.low, column.numbers.high
    return any(9e8 * unit <= low and high <= 4.2e9 * unit for unit in (1, 1_000))


def _bands(column: Column) -> tuple[float, ...]:
    """Rounded eighths of the values, each with something on both sides; none where there are few values."""
    numbers = column.numbers
    if len(column.distinct) < BANDS or not math.isfinite(numbers.high - numbers.low):
        return ()
    cuts = sorted({_rounded(numbers.quantile(k / BANDS), numbers.high - numbers.low) for k in range(1, BANDS)})
    return tuple(cut for cut in cuts if numbers.low < cut <= numbers.high)


def _rounded(number: float, span: float) -> float:
    """The number to two digits of the span: bands needn't be exact, but readable."""
    digits = 2 - math.ceil(math.log10(span)) if span > 0 else 2
    return round(number, digits) + 0.0


def band_count(bands: tuple[float, ...]) -> int:
    """How many categories bands make."""
    return bisect_right(bands, math.inf) + 1 if bands else 0


def _plain(number: float) -> str:
    return f"{number:.6g}"


def quoted(value: str | float) -> str:
    """A value in a comment: on one line, cut where it's long."""
    text = value if isinstance(value, str) else _plain(value)
    return toml_text(text if len(text) <= 24 else text[:23] + "…")


def toml_text(text: str) -> str:
    """A basic string of TOML.

    >>> toml_text('a "b"')
    '"a \\\\"b\\\\""'
    """
    whole = text.encode("utf-8", "replace").decode()  # a file's name may hold what isn't text
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """A key of TOML, quoted only where it must be.

    >>> toml_key("age"), toml_key("shoe size")
    ('age', '"shoe size"')
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_text(name)
