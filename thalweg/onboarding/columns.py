"""What values the columns of a person's events have had: counted in one pass, in bounded memory."""

import math
from bisect import insort
from collections.abc import Mapping
from typing import Final

from stream.events.types import Value

DISTINCT_MAX: Final = 10_000  # different values of a column that are told apart
SAMPLE_MAX: Final = 4_096
COLUMNS_MAX: Final = 300  # of one origin; more are rather values that stand where names should
NUMBER_STARTS: Final = frozenset("0123456789+-.")
TEXT, NUMBER, LIST, EMPTY = "text", "number", "list", "empty"


class Sample:
    """Every so many-th of the numbers it is given: between 2,048 and 4,096 of them, evenly spread over the stream."""

    __slots__ = ("_every", "_kept", "count", "high", "low")

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = float("inf"), float("-inf")
        self._every = 1
        self._kept: list[float] = []

    def add(self, number: float) -> None:
        """Take the next number."""
        if number < self.low:
            self.low = number
        if number > self.high:
            self.high = number
        if self.count % self._every == 0:
            self._kept.append(number)
            if len(self._kept) > SAMPLE_MAX:
                del self._kept[1::2]
                self._every *= 2
        self.count += 1

    def quantile(self, share: float) -> float:
        """The number below which this share of the sample lies; 0 without any.

        >>> sample = Sample()
        >>> for number in range(101): sample.add(number)
        >>> sample.quantile(0.5), sample.quantile(0.95)
        (50, 95)
        """
        kept = sorted(self._kept)
        return kept[min(len(kept) - 1, int(share * len(kept)))] if kept else 0.0


class Column:
    """One attribute's or context field's values.

    `counts` and `first` are by kind of value (text, number, list, empty: none that says anything), `first` being
    where the first stood. A text that reads as a number counts in `numeric`, and so do its quantiles.
    """

    __slots__ = ("counts", "distinct", "first", "first_odd", "list_lengths", "numbers", "numeric", "shortest", "whole",
                 "widths")  # fmt: skip

    def __init__(self) -> None:
        self.counts = {TEXT: 0, NUMBER: 0, LIST: 0, EMPTY: 0}
        self.first: dict[str, int] = {}
        self.first_odd = 0  # where the first value stood that isn't a number
        self.distinct: dict[str | float, int] = {}
        self.numbers = Sample()
        self.numeric = 0
        self.whole = True
        self.widths: set[int] = set()  # digits of its whole numbers
        self.list_lengths = Sample()

    def add(self, value: Value, line: int) -> None:
        """Take the value that stands in this line."""
        if isinstance(value, float | int):
            self._count(NUMBER, line)
            self._tell_apart(float(value))
            if math.isfinite(value):
                self._add_number(float(value))
        elif isinstance(value, str):
            self._count(TEXT if value else EMPTY, line)
            if value:
                self._add_text(value, line)
        else:
            self._count(LIST if value else EMPTY, line)
            self.first_odd = self.first_odd or line
            self.list_lengths.add(len(value))
            for text in value:
                self._tell_apart(text)

    def _count(self, kind: str, line: int) -> None:
        if not self.counts[kind]:
            self.first[kind] = line
        self.counts[kind] += 1

    def _add_text(self, text: str, line: int) -> None:
        self._tell_apart(text)
        if text[0] in NUMBER_STARTS:
            try:
                number = float(text)
            except ValueError:
                pass
            else:
                if math.isfinite(number):
                    self.numeric += 1
                    self._add_number(number)
                    return
        self.first_odd = self.first_odd or line

    def _add_number(self, number: float) -> None:
        self.numbers.add(number)
        if self.whole:
            self.whole = number.is_integer()
            if self.whole and len(self.widths) < 20:
                self.widths.add(len(str(int(abs(number)))))

    def _tell_apart(self, value: str | float) -> None:
        known = self.distinct.get(value)
        if known is not None:
            self.distinct[value] = known + 1
        elif len(self.distinct) < DISTINCT_MAX:
            self.distinct[value] = 1

    @property
    def values(self) -> int:
        """How many values there were, empty ones aside."""
        return self.counts[TEXT] + self.counts[NUMBER] + self.counts[LIST]

    @property
    def many(self) -> bool:
        """Are there more different values than are told apart?"""
        return len(self.distinct) >= DISTINCT_MAX

    @property
    def constant(self) -> bool:
        """Is it always the same? (A list that always has the same single element, too.)"""
        return len(self.distinct) == 1 and self.counts[EMPTY] == 0 and self.list_lengths.high <= 1

    def common(self, most: int) -> list[tuple[str | float, int]]:
        """The values that came most often, with their counts."""
        best: list[tuple[int, str, str | float]] = []
        for value, count in self.distinct.items():
            if len(best) < most or (-count, str(value)) < best[-1][:2]:
                insort(best, (-count, str(value), value), key=lambda row: row[:2])
                del best[most:]
        return [(value, -count) for count, _, value in best]


class Origin:
    """The columns of users, items or requests: `entities` lines or pages, and what each named."""

    def __init__(self) -> None:
        self.entities = 0
        self.columns: dict[str, Column] = {}
        self.left_out = 0  # values of columns beyond the limit

    def add(self, values: Mapping[str, Value], line: int) -> None:
        """Take what one user, item or request says of itself."""
        self.entities += 1
        for name, value in values.items():
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= COLUMNS_MAX:
                    self.left_out += 1
                    continue
                column = self.columns[name] = Column()
            column.add(value, line)
