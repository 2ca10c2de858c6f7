"""A page as it is served and as it is logged: `serve_as` columns are fixed in the one, as given in the other.

They are among the user's columns, so one page becomes the other by replacing its user's part. Statistics don't depend
on them and are the same in both. (The position is in no page: the encoder fixes it.)
"""

import numpy as np

from stream.features.page_features import Layout
from stream.features.page_kernels import UserColumns, rebuild, user_columns
from stream.tables.dtypes import U64


def as_served(layout: Layout, words: U64) -> U64:
    """The page with its `serve_as` columns fixed: new words, or the same where the spec has none."""
    if not layout.fixed:
        return words
    given, served = user_columns(words, layout.size_array), layout.served_user
    lists = [served if name in layout.fixed else given for name in layout.user_lists]
    ids = [user.ids[user.offsets[i] : user.offsets[i + 1]] for i, user in enumerate(lists)]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.uint32)
    numbers = [(served if name in layout.fixed else given).numbers[i] for i, name in enumerate(layout.user_numbers)]
    return _with_user(layout, words, UserColumns(np.concatenate(ids), offsets, np.array(numbers, np.float32)))


def as_logged(layout: Layout, page: U64, words: U64) -> U64:
    """The page with the `serve_as` columns of `words`, which are as they were given."""
    return _with_user(layout, page, user_columns(words, layout.size_array)) if layout.fixed else page


def _with_user(layout: Layout, words: U64, user: UserColumns) -> U64:
    return rebuild(words, user, np.arange(int(words[1])), layout.size_array)
