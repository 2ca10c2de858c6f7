"""What a page's built-in columns and its items' dates say: computed when the page is built, logged in it.

They depend on the page's time or on its other items, so no user's or item's row has them. There each has a place: a
list of one id, or a number, that is overwritten here.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from stream.events.types import Value
from stream.features.page_kernels import Page, open_page
from stream.spec.built_in_columns import HOUR, RANK, WEEKDAY
from stream.spec.spec import Spec
from stream.spec.values import UNIT_MS
from stream.tables.dtypes import F32, F64, I64, U64

DAY_MS: Final = UNIT_MS["d"]
HOUR_MS: Final = UNIT_MS["h"]
MOMENT_MAX: Final = 1e16  # ms: 300,000 years
MONDAY: Final = 3  # days since 1970-01-01, a Thursday, plus this are weekdays from Monday on
PLACE: Final = "0"  # text of a list's id until that is overwritten


def moment_ms(value: Value | None) -> float:
    """A date's ms since 1970: ISO 8601, UTC unless it says otherwise, or a number of ms; NaN for anything else.

    >>> moment_ms("1970-01-02"), moment_ms("1970-01-01T01:00:00+02:00"), moment_ms(5.0), moment_ms("soon")
    (86400000.0, -3600000.0, 5.0, nan)
    """
    if isinstance(value, float | int):
        return float(value) if abs(value) <= MOMENT_MAX else np.nan
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return np.nan
    if moment is None:
        return np.nan
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (known - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000


class BuiltInValues:
    """Where a layout's built-in columns and dates are. `ids_of(name, n)`: ids of a category's texts "0" to n − 1."""

    def __init__(
        self,
        spec: Spec,
        user_lists: Sequence[str],
        item_lists: Sequence[str],
        item_numbers: Sequence[str],
        ids_of: Callable[[str, int], U64],
    ) -> None:
        columns, built_in = spec.columns(), spec.built_in_columns()
        place = {name: i for i, name in enumerate(item_numbers)}
        self.dates = tuple(name for name in item_numbers if columns[name].type == "date")
        self.times = tuple(name for name in user_lists if name in (HOUR, WEEKDAY))
        self._offset_ms = spec.page.offset_ms() if self.times else 0
        self._ages = [place[name] for name in self.dates]
        self._bands = [
            (d, item_lists.index(f"{name}_band"), columns[name].bands, ids_of(f"{name}_band", len(bands) + 1))
            for d, name in enumerate(self.dates)
            if (bands := columns[name].bands)
        ]
        self._ranks = [(place[n.removesuffix(RANK)], place[n]) for n in item_numbers if n in built_in]
        self.of_pages = frozenset([*self.dates, *(item_numbers[target] for _, target in self._ranks)])  # items' numbers
        self.is_empty = not (self.dates or self.times or self._ranks)
        self._times = [(user_lists.index(name), ids_of(name, 24 if name == HOUR else 7)) for name in self.times]

    @property
    def meaning(self) -> list[object]:
        """What a layout's hash covers besides names; empty where no value depends on the page's time."""
        return [self.dates, self._offset_ms] if self.dates or self.times else []

    def write(self, words: U64, moments: F64, time_ms: int | None, sizes: I64) -> None:
        """Overwrite the places in a page that was just built. `moments`: its items' dates, float64 [n, dates], ms."""
        page = open_page(words, sizes)
        at = page.at
        if self.dates or self.times:
            assert time_ms is not None, "the spec has columns of the page's time"
            self._write_times(page, time_ms)
            self._write_ages(page, (time_ms - moments) / DAY_MS)
        numbers = page.f32[at.item_numbers : at.statistics].reshape(at.items, at.sizes.item_numbers)
        for source, target in self._ranks:
            numbers[:, target] = ranks_of(numbers[:, source])

    def _write_times(self, page: Page, time_ms: int) -> None:
        hours = (time_ms + self._offset_ms) // HOUR_MS
        for name, (index, ids) in zip(self.times, self._times, strict=True):
            value = hours % 24 if name == HOUR else (hours // 24 + MONDAY) % 7
            page.words[page.at.user_ids + page.w32[page.at.user_offsets + index]] = ids[value]

    def _write_ages(self, page: Page, days: F64) -> None:
        at = page.at
        n, numbers, lists = at.items, at.sizes.item_numbers, at.sizes.item_lists
        page.f32[at.item_numbers : at.statistics].reshape(n, numbers)[:, self._ages] = days
        starts = page.w32[at.item_offsets : at.item_offsets + n * lists]
        for d, index, bands, ids in self._bands:
            known = ~np.isnan(days[:, d])  # others have no id to overwrite
            place = at.item_ids + starts.reshape(n, lists)[known, index].astype(np.int64)
            page.words[place] = ids[np.searchsorted(bands, days[known, d], side="right")]


def ranks_of(values: F32) -> F32:
    """The rank of each, 1 for the highest, equal ones alike; NaN stays. float32 [n].

    >>> ranks_of(np.array([2, 9, np.nan, 9, 1], np.float32)).tolist()
    [3.0, 1.0, nan, 1.0, 4.0]
    """
    known = ~np.isnan(values)
    ordered = np.sort(values[known])
    ranks = np.full(len(values), np.nan, np.float32)
    ranks[known] = 1 + len(ordered) - np.searchsorted(ordered, values[known], side="right")
    return ranks
