"""Statistics of the values in each column of a user's events: one pass, bounded memory."""

import heapq
import math
from collections.abc import Mapping
from typing import Final

from stream.events.types import Value

DISTINCT_MAX: Final = 10_000  # distinct values of a column that are counted
SAMPLE_MAX: Final = 4_096
COLUMNS_MAX: Final = 300  # of one origin; more are probably values used as names
NUMBER_STARTS: Final = frozenset("0123456789+-.")
TEXT, NUMBER, LIST, EMPTY = "text", "number", "list", "empty"


class Sample:
    """Every Nth number of a stream; N doubles so that 2,048 to 4,096 of them are retained."""

    __slots__ = ("_every", "_sample", "count", "high", "low")

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = float("inf"), float("-inf")
        self._every = 1
        self._sample: list[float] = []

    def add(self, number: float) -> None:
        """Add the next number."""
        if number < self.low:
            self.low = number
        if number > self.high:
            self.high = number
        if self.count % self._every == 0:
            self._sample.append(number)
            if len(self._sample) > SAMPLE_MAX:
                del self._sample[1::2]
                self._every *= 2
        self.count += 1

    def quantile(self, share: float) -> float:
        """The sample's quantile at `share`; 0 for an empty one.

        >>> sample = Sample()
        >>> for number in range(101): sample.add(number)
        >>> sample.quantile(0.5), sample.quantile(0.95)
        (50, 95)
        """
        numbers = sorted(self._sample)
        return numbers[min(len(numbers) - 1, int(share * len(numbers)))] if numbers else 0.0


class ObservedColumn:
    """The values of one attribute or context field.

    `counts` and `first` (the line of the first one) are by kind of value: text, number, list, empty. `numeric` counts
    texts that parse as numbers; `numbers` samples them, too.
    """

    __slots__ = ("counts", "distinct", "first", "first_non_number", "list_lengths", "numbers", "numeric", "whole",
                 "widths")  # fmt: skip

    def __init__(self) -> None:
        self.counts = {TEXT: 0, NUMBER: 0, LIST: 0, EMPTY: 0}
        self.first: dict[str, int] = {}
        self.first_non_number = 0  # the line of the first value that isn't a number
        self.distinct: dict[str | float, int] = {}
        self.numbers = Sample()
        self.numeric = 0
        self.whole = True
        self.widths: set[int] = set()  # how many digits its whole numbers have
        self.list_lengths = Sample()

    def add(self, value: Value, line: int) -> None:
        """Add the value in this line."""
        if isinstance(value, float | int):
            self._count(NUMBER, line)
            self._count_distinct(float(value))
            if math.isfinite(value):
                self._add_number(float(value))
        elif isinstance(value, str):
            self._count(TEXT if value else EMPTY, line)
            if value:
                self._add_text(value, line)
        else:
            self._count(LIST if value else EMPTY, line)
            self.first_non_number = self.first_non_number or line
            self.list_lengths.add(len(value))
            for text in value:
                self._count_distinct(text)

    def _count(self, kind: str, line: int) -> None:
        if not self.counts[kind]:
            self.first[kind] = line
        self.counts[kind] += 1

    def _add_text(self, text: str, line: int) -> None:
        self._count_distinct(text)
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
        self.first_non_number = self.first_non_number or line

    def _add_number(self, number: float) -> None:
        self.numbers.add(number)
        if self.whole:
            self.whole = number.is_integer()
            if self.whole and len(self.widths) < 20:
                self.widths.add(len(str(int(abs(number)))))

    def _count_distinct(self, value: str | float) -> None:
        known = self.distinct.get(value)
        if known is not None:
            self.distinct[value] = known + 1
        elif len(self.distinct) < DISTINCT_MAX:
            self.distinct[value] = 1

    @property
    def values(self) -> int:
        """How many non-empty values there were."""
        return self.counts[TEXT] + self.counts[NUMBER] + self.counts[LIST]

    @property
    def many(self) -> bool:
        """Whether there may be more distinct values than were counted."""
        return len(self.distinct) >= DISTINCT_MAX

    @property
    def constant(self) -> bool:
        """Whether it always has the same value (or a list of the same single element)."""
        return len(self.distinct) == 1 and self.counts[EMPTY] == 0 and self.list_lengths.high <= 1

    def most_common(self, n: int) -> list[tuple[str | float, int]]:
        """The `n` most frequent values with their counts; ties in the order of their texts."""
        return heapq.nsmallest(n, self.distinct.items(), key=lambda pair: (-pair[1], str(pair[0])))


class Origin:
    """The columns of users, items or requests. `entities`: how many lines or pages had them."""

    def __init__(self) -> None:
        self.entities = 0
        self.columns: dict[str, ObservedColumn] = {}
        self.left_out = 0  # values of columns beyond the limit

    def add(self, values: Mapping[str, Value], line: int) -> None:
        """Add the values of one user, item or request."""
        self.entities += 1
        for name, value in values.items():
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= COLUMNS_MAX:
                    self.left_out += 1
                    continue
                column = self.columns[name] = ObservedColumn()
            column.add(value, line)
