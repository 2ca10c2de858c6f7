"""Kernels of a page's columns: its sections located, validated, built, copied. `page_features.py` has the format."""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.types import ITEMS_MAX
from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.jit import kernel

FLOAT_MAX: Final = float(np.finfo(np.float32).max)
LIST_MAX: Final = 1_000  # ids of one list; longer ones are cut


class PageSizes(NamedTuple):
    """How many columns of each kind a layout has."""

    user_lists: int  # U
    item_lists: int  # I
    user_numbers: int  # UN
    item_numbers: int  # IN
    statistics: int  # S


class Sections(NamedTuple):
    """Where a page's sections begin: indices into the words of the section's own width."""

    items: int  # n, a count
    user_offsets: int  # u32[U + 1]
    item_offsets: int  # u32[n·I + 1]
    user_ids: int  # u64[last of user_offsets]
    item_ids: int  # u64[last of item_offsets]
    user_numbers: int  # f32[UN]
    base_rate: int  # f32
    item_numbers: int  # f32[n, IN]
    statistics: int  # f32[n, S]
    end: int  # the first 64-bit word after the page
    sizes: PageSizes


class Page(NamedTuple):
    """One page's words, seen in three widths."""

    words: U64
    w32: U32
    f32: F32
    at: Sections


class UserColumns(NamedTuple):
    """The user's part of a page."""

    ids: U64  # u64[ids]
    offsets: U32  # u32[U + 1]: list i has ids[offsets[i]:offsets[i + 1]]
    numbers: F32  # f32[UN]


class ItemColumns(NamedTuple):
    """Items, row by row."""

    ids: U64  # u64[ids]
    offsets: I64 | U32  # i64[rows·I + 1]; u32 in a page
    numbers: F32  # f32[rows, IN]


class UnknownItems(NamedTuple):
    """Items of which only the id is known: that of row −1 − i is ids[i]."""

    ids: U64  # u64[unknown]
    column: int  # index of the list of `item.id`


@kernel
def page_sizes(sizes: I64) -> PageSizes:
    """A layout's sizes by name. They come as an array: a named tuple costs a µs more in each call from Python."""
    return PageSizes(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])


@kernel
def locate(words: U64, w32: U32, start: int, size_array: I64) -> Sections:
    """The sections of the page that begins at word `start`; `words` may contain several, end to end."""
    sizes = page_sizes(size_array)
    n: Any = np.int64(words[start + 1])
    user_offsets = 2 * (start + 2)
    item_offsets = user_offsets + sizes.user_lists + 1
    user_ids = start + 2 + (sizes.user_lists + n * sizes.item_lists + 3) // 2
    item_ids: Any = user_ids + np.int64(w32[user_offsets + sizes.user_lists])
    floats = 2 * (item_ids + np.int64(w32[item_offsets + n * sizes.item_lists]))
    base = floats + sizes.user_numbers
    item_numbers = base + 1
    statistics = item_numbers + n * sizes.item_numbers
    end = (statistics + n * sizes.statistics + 1) // 2
    return Sections(
        n, user_offsets, item_offsets, user_ids, item_ids, floats, base, item_numbers, statistics, end, sizes
    )


@kernel
def open_page(words: U64, sizes: I64) -> Page:
    """A page by its words alone."""
    w32 = words.view(np.uint32)
    return Page(words, w32, words.view(np.float32), locate(words, w32, 0, sizes))


@kernel
def is_valid(words: U64, size_array: I64) -> bool:
    """Whether offsets rise within bounds, lists are within LIST_MAX, the length is exact, and no id is 0."""
    w32 = words.view(np.uint32)
    n, sizes = np.int64(words[1]), page_sizes(size_array)
    heads = sizes.user_lists + n * sizes.item_lists + 2
    if 4 + heads > w32.shape[0]:
        return False
    for section in range(2):
        first = 4 if section == 0 else 5 + sizes.user_lists
        last = first + (sizes.user_lists if section == 0 else n * sizes.item_lists)
        if w32[first] != 0:
            return False
        for i in range(first, last):
            if w32[i + 1] < w32[i] or w32[i + 1] - w32[i] > LIST_MAX:
                return False
    at = locate(words, w32, 0, size_array)
    if at.end != words.shape[0]:
        return False
    for i in range(at.user_ids, at.user_numbers // 2):  # noqa: SIM110  # numba has no generators
        if words[i] == 0:  # marks an empty slot in hash tables
            return False
    return True


@kernel
def has_infinity(words: U64, sizes: I64) -> bool:
    """Whether one of a valid page's numbers is infinite."""
    page = open_page(words, sizes)
    for i in range(page.at.user_numbers, page.f32.shape[0]):  # noqa: SIM110  # numba has no generators
        if np.isinf(page.f32[i]):
            return True
    return False


@kernel
def all_valid(words: U64, ends: I64, items: I64, layout_hash: np.uint64, sizes: I64) -> bool:
    """Would `words_of` accept every page? Page p has `items[p]` items and words[ends[p]:ends[p + 1]]."""
    for p in range(items.shape[0]):
        page = words[ends[p] : ends[p + 1]]
        if page[0] != layout_hash or not 1 <= items[p] <= ITEMS_MAX or page[1] != np.uint64(items[p]):
            return False
        if not is_valid(page, sizes) or has_infinity(page, sizes):
            return False
    return True


@kernel
def build(
    user: UserColumns, items: ItemColumns, rows: I64, unknown: UnknownItems, layout_hash: np.uint64, size_array: I64
) -> U64:
    """A page of the user's columns and those of the items in `rows`; base rate and statistics are NaN."""
    sizes = page_sizes(size_array)
    n, width = rows.shape[0], sizes.item_lists
    item_ids, ids, column = np.int64(0), unknown.ids, unknown.column
    for r in rows:
        if r >= 0:
            item_ids += np.int64(items.offsets[(r + 1) * width]) - np.int64(items.offsets[r * width])
        else:
            item_ids += 1
    first_id = 2 + (sizes.user_lists + n * width + 3) // 2
    floats = 2 * (first_id + user.ids.shape[0] + item_ids)
    numbers = sizes.user_numbers + 1 + n * (sizes.item_numbers + sizes.statistics)
    words = np.zeros(floats // 2 + (numbers + 1) // 2, np.uint64)
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    words[0], words[1] = layout_hash, n
    w32[4 : 5 + sizes.user_lists] = user.offsets
    words[first_id : first_id + user.ids.shape[0]] = user.ids
    first_id += user.ids.shape[0]
    copied = np.int64(0)
    for r in range(n):
        if rows[r] < 0:
            for f in range(width):
                w32[6 + sizes.user_lists + r * width + f] = copied + (1 if f >= column else 0)
            words[first_id + copied] = ids[-1 - rows[r]]
            copied += 1
            continue
        first = np.int64(items.offsets[rows[r] * width])
        for f in range(width):
            end = np.int64(items.offsets[rows[r] * width + f + 1])
            w32[6 + sizes.user_lists + r * width + f] = copied + end - first
        for i in range(first, np.int64(items.offsets[(rows[r] + 1) * width])):
            words[first_id + copied] = items.ids[i]
            copied += 1
    f32[floats : floats + numbers] = np.nan
    f32[floats : floats + sizes.user_numbers] = user.numbers
    floats += sizes.user_numbers + 1
    for r in range(n):
        if rows[r] >= 0:
            for i in range(sizes.item_numbers):
                f32[floats + r * sizes.item_numbers + i] = items.numbers[rows[r], i]
    return words


@kernel
def user_columns(words: U64, sizes: I64) -> UserColumns:
    """The user's part of a page; views of its words."""
    page = open_page(words, sizes)
    at = page.at
    return UserColumns(
        words[at.user_ids : at.item_ids],
        page.w32[at.user_offsets : at.item_offsets],
        page.f32[at.user_numbers : at.base_rate],
    )


@kernel
def rebuild(words: U64, user: UserColumns, positions: I64, sizes: I64) -> U64:
    """A page with this user's columns and these of a page's items, with their statistics and base rate."""
    page = open_page(words, sizes)
    at = page.at
    numbers = page.f32[at.item_numbers : at.statistics].reshape(at.items, at.sizes.item_numbers)
    last = at.item_offsets + at.items * at.sizes.item_lists + 1
    items = ItemColumns(words[at.item_ids : at.user_numbers // 2], page.w32[at.item_offsets : last], numbers)
    out = build(user, items, positions, UnknownItems(words[:0], 0), words[0], sizes)
    copy = open_page(out, sizes)
    copy.f32[copy.at.base_rate] = page.f32[at.base_rate]
    for r in range(positions.shape[0]):
        for i in range(at.sizes.statistics):
            source = at.statistics + positions[r] * at.sizes.statistics + i
            copy.f32[copy.at.statistics + r * at.sizes.statistics + i] = page.f32[source]
    return out


@kernel
def select_items(words: U64, positions: I64, sizes: I64) -> U64:
    """A page with these of its items."""
    return rebuild(words, user_columns(words, sizes), positions, sizes)
