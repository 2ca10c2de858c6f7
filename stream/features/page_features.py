"""A page's features in columns: built once when it is ranked, logged in the impression, learned from as logged.

The bytes are 64-bit words, little-endian, so that kernels read them without a copy:

    word 0      layout: which columns, in which order, and what is encoded of them (a hash)
    word 1      n, the items of the page
    uint32      offsets of the user's lists [U+1], offsets of the items' lists [n·I+1]; padded to a word
    uint64      ids of the user's lists, ids of the items' lists
    float32     the user's numbers [UN], base label rate, the items' numbers [n·IN], statistics [n·S]; padded

A category is a list of one id, a missing one an empty list, a missing number NaN. An id is a 64-bit
hash of its column and text; a history has the ids of `item.id`. Whatever belongs to the request
(`context.*`) or the page (`page.*`) is among the user's. An item's date is a number: days from it to the page.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
import xxhash

from stream.events.types import ID_BYTES_MAX, ITEMS_MAX, Item, Value
from stream.features.built_in_values import PLACE, BuiltInValues, moment_ms
from stream.features.page_kernels import (
    FLOAT_MAX,
    LIST_MAX,
    ItemColumns,
    PageSizes,
    UnknownItems,
    UserColumns,
    all_valid,
    build,
    has_infinity,
    is_valid,
    open_page,
    select_items,
)
from stream.runtime.errors import BadEvent
from stream.spec.built_in_columns import NEWEST
from stream.spec.columns import NUMBERS, POSITION, Column
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, I64, U64

PAGE_BYTES_MAX: Final = 8 * 1024 * 1024  # a request's many candidates; an event's own limit is tighter


NO_IDS: Final[U64] = np.zeros(0, np.uint64)


def id_of(seed: int, text: str) -> int:
    """The 64-bit id of a text under its column's seed; never 0."""
    return xxhash.xxh3_64_intdigest(text.encode(), seed) or 1


_cached_id_of = lru_cache(65_536)(id_of)  # most texts come again and again


def cached_id_of(seed: int, text: str) -> int:
    """As `id_of`. Texts that are longer than ids aren't kept."""
    return _cached_id_of(seed, text) if len(text) <= ID_BYTES_MAX else id_of(seed, text)


def seed_of(column: str) -> int:
    """The seed of a column's ids."""
    return xxhash.xxh3_64_intdigest(column.encode())


def texts_of(value: Value | None) -> list[str]:
    """A category's values as texts; a whole number reads like an integer."""
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return value[:LIST_MAX]
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)]


def _number(value: Value | None) -> float:
    """The number if float32 can represent it; NaN (missing) for anything else."""
    try:
        number = float(value) if isinstance(value, str | float | int) else np.nan
    except (ValueError, OverflowError):
        return np.nan
    return number if abs(number) <= FLOAT_MAX else np.nan


class Layout:
    """Where each declared column is in a page's bytes."""

    def __init__(self, spec: Spec) -> None:
        columns = spec.columns()
        self.columns: dict[str, Column] = columns
        lists = [n for n, c in columns.items() if c.of or c.type in ("category", "categories")]
        numbers = [n for n, c in columns.items() if c.type in NUMBERS and n != POSITION]
        self.item_lists = tuple(n for n in lists if n.startswith("item."))
        self.user_lists = tuple(n for n in lists if not n.startswith("item."))
        self.item_numbers = tuple(n for n in numbers if n.startswith("item."))
        self.user_numbers = tuple(n for n in numbers if not n.startswith("item."))
        self.statistics = tuple(spec.statistics)
        self.history = next((n for n, c in columns.items() if c.of), "")
        self.history_last = columns[self.history].last if self.history else 0
        newest = self.history + NEWEST
        self._newest = newest if newest in columns and newest in spec.built_in_columns() else ""
        names = (self.user_lists, self.item_lists, self.user_numbers, self.item_numbers, self.statistics)
        # A band's id is its number's, and a history has its last few: other bounds give the same ids another meaning.
        cuts = [[columns[name].bands for name in numbers], self.history_last]
        of_items = {self.history, self._newest}
        self.seeds = {n: seed_of("item.id" if n in of_items else n) for n in (*self.user_lists, *self.item_lists)}
        self.built_in = BuiltInValues(spec, self.user_lists, self.item_lists, self.item_numbers, self._ids_of)
        statistics = [one.layout_text() for one in spec.statistics.values()]
        encoded = [*names, statistics, *cuts, *self.built_in.meaning]
        self.hash = xxhash.xxh3_64_intdigest(msgspec.json.encode(encoded))
        self.item_id = self.item_lists.index("item.id")
        self.sizes = PageSizes(*map(len, names))
        self.size_array = np.array(self.sizes, np.int64)  # for kernels
        sources = {n: n.removesuffix("_band") for n in self.seeds}
        self._banded = {n: of for n, of in sources.items() if of != n and columns.get(of, Column()).bands}
        self.fixed = spec.served_columns()
        served = {n: c.serve_as for n, c in columns.items() if c.serve_as is not None}
        self.served_user = self.user("", {}, [], {n.removeprefix("context."): value for n, value in served.items()})

    def user(
        self, user: str, attributes: Mapping[str, Value], history: Sequence[str], context: Mapping[str, Value]
    ) -> UserColumns:
        """The user's (and the request's) part of a page. `history`: item ids, newest last."""
        given: dict[str, Value] = {f"user.{k}": v for k, v in attributes.items()}
        given.update({f"context.{k}": v for k, v in context.items()})
        given["user.id"] = user
        if self.history:
            given[self.history] = list(history)[-self.history_last :]
        if self._newest:
            given[self._newest] = list(history[-1:])
        given |= dict.fromkeys(self.built_in.times, PLACE)
        ids, offsets, numbers = self.encode(given, self.user_lists, self.user_numbers)
        return UserColumns(np.array(ids, np.uint64), np.array(offsets, np.uint32), np.array(numbers, np.float32))

    def _ids_of(self, name: str, n: int) -> U64:
        """Ids of a category's texts "0" to n − 1."""
        return np.array([id_of(self.seeds[name], str(value)) for value in range(n)], np.uint64)

    def encode(
        self, given: Mapping[str, Value], lists: Sequence[str], numbers: Sequence[str]
    ) -> tuple[list[int], list[int], list[float]]:
        """ids, offsets [lists+1], numbers of one entity."""
        ids: list[int] = []
        offsets = [0]
        for name in lists:
            seed, source = self.seeds[name], self._banded.get(name)
            value = given.get(name)
            if source is not None:
                number = _number(given.get(source))
                value = None if np.isnan(number) else str(bisect_right(self.columns[source].bands, number))
            if type(value) is str and value:
                ids.append(cached_id_of(seed, value))
            elif value is not None:
                ids += [cached_id_of(seed, text) for text in texts_of(value)]
            offsets.append(len(ids))
        return ids, offsets, [_number(given.get(name)) for name in numbers]


class Catalogue:
    """Items in columns, row by row; an item that is put again gets a new row. Row 0 is an unknown item.

    One thread puts; others may read rows they were given, since rows never change.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.row: dict[str, int] = {}
        self.items: list[str] = [""]
        self.titles: list[str] = [""]
        width = len(layout.item_lists)
        self.ids: U64 = np.zeros(1024, np.uint64)
        self.offsets = np.zeros(1024 * width + 1, np.int64)
        self.numbers: F32 = np.full((1024, len(layout.item_numbers)), np.nan, np.float32)
        self.moments: F64 = np.full((1024, len(layout.built_in.dates)), np.nan)  # ms since 1970

    def __len__(self) -> int:
        return len(self.items)

    def put(self, item: Item) -> int:
        """Add or replace; returns the item's row."""
        given: dict[str, Value] = {f"item.{k}": v for k, v in item.attributes.items()}
        given["item.id"] = item.item
        moments = {name: moment_ms(given.get(name)) for name in self.layout.built_in.dates}
        given |= moments
        ids, offsets, numbers = self.layout.encode(given, self.layout.item_lists, self.layout.item_numbers)
        row, width = len(self.items), len(self.layout.item_lists)
        self._grow(row, len(ids))
        start = int(self.offsets[row * width])
        self.ids[start : start + len(ids)] = ids
        self.offsets[row * width : (row + 1) * width + 1] = [start + offset for offset in offsets]
        self.numbers[row] = numbers
        if moments:
            self.moments[row] = [*moments.values()]
        self.items.append(item.item)
        self.titles.append(item.title)
        self.row[item.item] = row
        return row

    def remove(self, item: str) -> None:
        """Remove an item (a tombstone); its row stays for pages that are being ranked."""
        self.row.pop(item, None)

    def rows(self, items: Sequence[str]) -> I64:
        """Rows of items; an unknown one gets a row with its id only."""
        rows = [*map(self.row.get, items)]
        if None in rows:
            rows = [self.row[i] if i in self.row else self.put(Item(i)) for i in items]
        return np.array(rows, np.int64)

    def lookup(self, items: Sequence[str]) -> tuple[I64, U64]:
        """Rows of items as `build_page` reads them: negative for unknown ones, whose ids are the second array.

        It changes nothing, so threads may call it while one puts.
        """
        rows, unknown = [*map(self.row.get, items)], list[int]()
        if None in rows:
            for at, row in enumerate(rows):
                if row is None:
                    unknown.append(cached_id_of(self.layout.seeds["item.id"], items[at]))
                    rows[at] = -len(unknown)
        return np.array(rows, np.int64), np.array(unknown, np.uint64)

    def _grow(self, row: int, extra: int) -> None:
        width = len(self.layout.item_lists)
        if row + 1 >= len(self.numbers):
            self.offsets = np.concatenate([self.offsets, np.zeros(len(self.numbers) * width, np.int64)])
            self.numbers = np.concatenate([self.numbers, np.full_like(self.numbers, np.nan)])
            self.moments = np.concatenate([self.moments, np.full_like(self.moments, np.nan)])
        while self.offsets[row * width] + extra > len(self.ids):
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)])


def build_page(
    layout: Layout, user: UserColumns, catalogue: Catalogue, rows: I64, time_ms: int | None = None,
    unknown: U64 = NO_IDS,
) -> U64:  # fmt: skip
    """A page of these catalogue rows as words; statistics and base rate are NaN until `Statistics.fill`.

    `rows`, and `unknown` where some are negative, are those of `Catalogue.lookup`.
    `time_ms` is what columns of the page's time go by: only a spec that has none can do without.
    """
    items = ItemColumns(catalogue.ids, catalogue.offsets, catalogue.numbers)
    only_ids = UnknownItems(unknown, layout.item_id)
    words: U64 = build(user, items, rows, only_ids, np.uint64(layout.hash), layout.size_array)
    if not layout.built_in.is_empty:
        moments = catalogue.moments[np.maximum(rows, 0)]  # row 0 is an unknown item
        layout.built_in.write(words, moments, time_ms, layout.size_array)
    return words


def select(layout: Layout, words: U64, positions: Sequence[int] | I64) -> U64:
    """The page that has only these items of `words`, in this order."""
    return select_items(words, np.asarray(positions, np.int64), layout.size_array)


def words_of(raw: bytes, layout: Layout, items: int) -> U64:
    """A logged page's words, validated: the layout's, of `items` items, sizes within bounds. Raises BadEvent."""
    if not raw:
        raise BadEvent("the page has no features: replay computes them, or copy those of the ranked reply")
    if len(raw) % 8 or not 16 <= len(raw) <= PAGE_BYTES_MAX:
        raise BadEvent(f"{len(raw)} bytes are no page of features")
    words: U64 = np.frombuffer(raw, np.uint64)
    if int(words[0]) != layout.hash:
        raise BadEvent(f"features were made for another spec (layout {int(words[0]):016x}, here {layout.hash:016x})")
    if int(words[1]) != items or not 1 <= items <= ITEMS_MAX:
        raise BadEvent(f"features are of {int(words[1])} items, the page has {items}")
    if not is_valid(words, layout.size_array):
        raise BadEvent("features are truncated or garbled")
    if has_infinity(words, layout.size_array):
        raise BadEvent("features contain an infinite number")
    return words


def statistics_of(layout: Layout, words: U64) -> F32:
    """A page's base rate and, item by item, its statistics. float32 [1 + n·S]."""
    _, _, f32, at = open_page(words, layout.size_array)
    count = at.items * layout.sizes.statistics
    return np.concatenate([f32[at.base_rate : at.base_rate + 1], f32[at.statistics : at.statistics + count]])


def pages_of(pages: Sequence[tuple[bytes, int]], layout: Layout) -> tuple[U64, I64] | None:
    """Logged pages (bytes, count of items) end to end: words, and at which one each page begins.

    None when `words_of` rejects any of them: call it for the reason.
    """
    raws = [raw for raw, _ in pages]
    lengths = [len(raw) for raw in raws]
    if any(length % 8 or not 16 <= length <= PAGE_BYTES_MAX for length in lengths):
        return None
    words: U64 = np.frombuffer(bytearray().join(raws), np.uint64) if raws else np.zeros(0, np.uint64)
    ends = np.cumsum([0, *lengths]) // 8
    items = np.array([count for _, count in pages], np.int64)
    if not all_valid(words, ends, items, np.uint64(layout.hash), layout.size_array):
        return None
    return words, ends[:-1]
