"""What kernels share while a page is ranked: a version's tables, and what was computed of the page's user."""

from typing import NamedTuple

from ranker.kernels.pair_cache import Matrix
from stream.tables.delta_table import TableView
from stream.tables.dtypes import F64, I64, U64


class Tables(NamedTuple):
    """A version's tables, and its cache of pairs: items' slots, and matrices of both tables."""

    wide: TableView
    statistics: TableView
    slots: U64  # u64[capacity, 2]: item → its slot + 1
    weights: Matrix
    likenesses: Matrix


class UserContext(NamedTuple):
    """What was computed of a page's user. Flat: a nested tuple costs a µs in each call from Python."""

    wide_keys: U64  # keys of the crosses' user columns: cross c continues from wide_keys[wide_ends[c]:wide_ends[c + 1]]
    wide_ends: I64  # i64[crosses + 1]
    statistic_keys: U64  # the statistics' keys
    statistic_ends: I64  # i64[S + 1]
    slots: I64  # of the items of the user's history
    memory_items: U64  # the memory for statistic k: memory_items[memory_ends[k]:memory_ends[k + 1]]
    memory_residuals: F64  # of a lift: the items' own counts
    memory_ends: I64  # i64[S + 1]
    memory_slots: I64  # of the items
    now: float  # ms; NaN: statistics stay as they were logged
    base: float  # base rate
    total: float  # weights of the crosses of the user alone
