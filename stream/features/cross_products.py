"""Cross-products of a page's lists: one 64-bit key for each combination of an id of every column."""

import itertools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.features.page_features import Layout, seed_of
from stream.features.page_kernels import Page, Sections
from stream.runtime.errors import SpecError
from stream.tables.dtypes import I64, U32, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

USER, ITEM = 0, 1  # sides of lists
KEYS_MAX: Final = 4_096  # of one cross-product of one item: one that has more is left out


class CrossProducts(NamedTuple):
    """Cross-products, compiled for kernels: cross c is of columns offsets[c]:offsets[c + 1]."""

    offsets: I64  # i64[crosses + 1]
    sides: I64  # i64[columns]: USER or ITEM
    indices: I64  # i64[columns]: which list of that side
    salts: U64  # u64[crosses]
    user_columns: I64  # i64[crosses]: how many of a cross's leading columns are the user's


def compile_crosses(layout: Layout, crosses: Sequence[Sequence[str]], salts: Sequence[str]) -> CrossProducts:
    """The cross-products of these columns. Raises SpecError for a column that is no category."""
    columns = [column_of(layout, name) for cross in crosses for name in cross]
    sides, indices = np.array(columns, np.int64).reshape(-1, 2).T.copy()
    offsets = np.cumsum([0, *map(len, crosses)])
    leading = [int(np.argmax([*sides[first:last], ITEM])) for first, last in itertools.pairwise(offsets)]
    salt_ids = np.array([seed_of(salt) for salt in salts], np.uint64)
    return CrossProducts(offsets, sides, indices, salt_ids, np.array(leading, np.int64))


def column_of(layout: Layout, name: str) -> tuple[int, int]:
    """A category's side (USER or ITEM) and index. Raises SpecError."""
    for side, names in enumerate((layout.user_lists, layout.item_lists)):
        if name in names:
            return side, names.index(name)
    raise SpecError(f"{name!r} is no category of this spec")


@kernel
def list_at(w32: U32, at: Sections, side: int, index: int, position: int) -> Any:
    """First and past-last word of a list's ids."""
    if side == USER:
        offset = at.user_offsets + index
        ids = at.user_ids
    else:
        offset = at.item_offsets + position * at.sizes.item_lists + index
        ids = at.item_ids
    return ids + np.int64(w32[offset]), ids + np.int64(w32[offset + 1])


@kernel
def count_product(page: Page, position: int, crosses: CrossProducts, c: int) -> int:
    """How many keys cross c has for the item at `position`; 0 when over KEYS_MAX."""
    count = 1
    for r in range(crosses.offsets[c], crosses.offsets[c + 1]):
        low, high = list_at(page.w32, page.at, crosses.sides[r], crosses.indices[r], position)
        count *= high - low
    return count if count <= KEYS_MAX else 0


@kernel
def has_too_many(page: Page, position: int, crosses: CrossProducts, c: int) -> bool:
    """Whether cross c of the item at `position` is left out, since it would have over KEYS_MAX keys."""
    count = 1
    for r in range(crosses.offsets[c], crosses.offsets[c + 1]):
        low, high = list_at(page.w32, page.at, crosses.sides[r], crosses.indices[r], position)
        count *= high - low
    return count > KEYS_MAX


@kernel
def expand_product(
    page: Page, position: int, crosses: CrossProducts, first: int, last: int, keys: U64, start: int, count: int
) -> int:
    """Cross the `count` keys at keys[start:] with columns first:last, in place; returns the new count."""
    words, w32, at, sides, indices = page.words, page.w32, page.at, crosses.sides, crosses.indices
    for r in range(first, last):
        low, high = list_at(w32, at, sides[r], indices[r], position)
        m = high - low
        for i in range(count - 1, -1, -1):
            h = keys[start + i]
            for j in range(m - 1, -1, -1):
                keys[start + i * m + j] = mix(h, words[low + j])
        count *= m
    return count


@kernel
def fill_product(page: Page, position: int, crosses: CrossProducts, c: int, keys: U64, start: int) -> int:
    """Write cross c's keys to keys[start:]; returns the count."""
    keys[start] = crosses.salts[c]
    return expand_product(page, position, crosses, crosses.offsets[c], crosses.offsets[c + 1], keys, start, 1)
