"""A page as it's ranked and as it's logged: `serve_as` columns are held still in the one, as given in the other.

They stand with the user's columns, so a page becomes the other with another user's part. Statistics don't go by them,
and are the same in both. (The position is in no page: the encoder holds it.)
"""

import numpy as np

from stream.features.page_features import Layout, UserColumns, size_of
from stream.features.page_kernels import locate
from stream.tables.hash_table import U64


def as_served(layout: Layout, words: U64) -> U64:
    """The page with its `serve_as` columns held still: new words, or the same where the spec has none."""
    if not layout.held:
        return words
    given, held = _user_of(layout, words), layout.held_user
    lists = [held if name in layout.held else given for name in layout.user_lists]
    ids = [user.ids[user.offsets[i] : user.offsets[i + 1]] for i, user in enumerate(lists)]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.uint32)
    numbers = [(held if name in layout.held else given).numbers[i] for i, name in enumerate(layout.user_numbers)]
    return _with_user(layout, words, UserColumns(np.concatenate(ids), offsets, np.array(numbers, np.float32)))


def as_logged(layout: Layout, page: U64, words: U64) -> U64:
    """The page with the `serve_as` columns of `words`, which are as they were given."""
    return _with_user(layout, page, _user_of(layout, words)) if layout.held else page


def _user_of(layout: Layout, words: U64) -> UserColumns:
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    at = locate(words, w32, 0, np.array(layout.sizes, np.int64))
    return UserColumns(words[at[3] : at[4]], w32[at[1] : at[2]], f32[at[5] : at[6]])


def _with_user(layout: Layout, words: U64, user: UserColumns) -> U64:
    """The same items and statistics with this user's columns."""
    sizes, w32 = np.array(layout.sizes, np.int64), words.view(np.uint32)
    at = locate(words, w32, 0, sizes)
    item_offsets = w32[at[2] : at[2] + at[0] * sizes[1] + 1]
    item_ids, rest = words[at[4] : at[4] + item_offsets[-1]], w32[at[6] : at[8] + at[0] * sizes[4]]
    page: U64 = np.zeros(size_of(layout.sizes, at[0], len(user.ids), len(item_ids)), np.uint64)
    page[:2] = words[:2]
    heads = np.concatenate([user.offsets, item_offsets])
    page.view(np.uint32)[4 : 4 + len(heads)] = heads
    ids = np.concatenate([user.ids, item_ids])
    first = 2 + (len(heads) - 1 + 2) // 2
    page[first : first + len(ids)] = ids
    floats = np.concatenate([user.numbers.view(np.uint32), rest])
    first = 2 * (first + len(ids))
    page.view(np.uint32)[first : first + len(floats)] = floats
    return page
