"""Kernels that score a page: what is the user's is taken once, then items in batches, on any number of threads."""

from typing import Any, NamedTuple

import numpy as np

from ranker.kernels.crossing import Prefixes, add_wide, fill_statistics, prefixes_of, read_rows
from ranker.kernels.net import given_of, item_key, part_of, tower
from ranker.kernels.pair_cache import NOWHERE, Square, place_of, places_of
from ranker.kernels.plan import Crosses, Measures
from ranker.kernels.similarity import fill_likenesses, memories_of
from stream.features.encoder import I64, list_at
from stream.features.page_kernels import locate
from stream.features.statistic_reads import base_rate
from stream.features.statistics import F64
from stream.tables.delta_table import Rows
from stream.tables.hash_kernels import find
from stream.tables.hash_table import U64
from stream.tables.jit import kernel


class Crossed(NamedTuple):
    """The crosses of a plan: `wide`, and the statistics with what is made of them; page sizes as in `locate`.

    `squares`: which square of weights is a wide cross's, or NOWHERE. `history`, `item_id`: the user's list of items, or
    −1, and the item's list of its id.
    """

    sizes: I64
    wide: Crosses
    squares: I64
    statistics: Crosses
    measures: Measures
    history: int
    item_id: int


class Tables(NamedTuple):
    """A version's tables, and what is kept of pairs: items' `places`, and squares of both tables."""

    wide: Rows
    statistics: Rows
    places: U64
    weights: Square
    likenesses: Square


class Memories(NamedTuple):
    """What a user remembers for statistic k: items[ends[k]:ends[k + 1]], their residuals, and places among pairs."""

    items: U64
    residuals: F64
    ends: I64
    near: I64


class Taken(NamedTuple):
    """What was taken of a page's user; `now` is NaN when statistics stay as they were logged.

    `near`: places among pairs of the items that the user has.
    """

    wide: Prefixes
    statistics: Prefixes
    near: I64
    memories: Memories
    now: float
    base: float
    total: float


@kernel
def begin(words: Any, w32: Any, f32: Any, now: Any, crossed: Any, tables: Any, base_key: Any, group: Any,
          embeddings: Any, net: Any, deep: Any, admits: Any, scratch: Any) -> Any:  # fmt: skip
    """Take what is the user's: `Taken`; if `deep`, its part of the first layer; if `admits`, what lacks a place.

    One kernel for all: a call from Python costs as much as hundreds of keys, and other threads wait for it.
    """
    taken = _take(words, w32, f32, now, crossed, tables, base_key, scratch)
    user = user_part(words, w32, f32, crossed.sizes, group, embeddings, net) if deep else np.empty(0, np.float32)
    return taken, user, _unplaced(words, w32, taken, crossed, tables.places) if admits else np.empty(0, np.uint64)


@kernel
def _take(words: Any, w32: Any, f32: Any, now: Any, crossed: Any, tables: Any, base_key: Any, scratch: Any) -> Any:
    """`Taken`. Unless `now` is NaN, writes base rate and the user's statistics to the page."""
    sizes = crossed.sizes
    place = locate(words, w32, 0, sizes)
    wide_keys, wide_ends = prefixes_of(words, w32, place, sizes, crossed.wide)
    statistic_keys, statistic_ends = prefixes_of(words, w32, place, sizes, crossed.statistics)
    wide, statistics = Prefixes(wide_keys, wide_ends), Prefixes(statistic_keys, statistic_ends)
    had, until = history_of(w32, place, crossed)
    near = places_of(tables.places, words[had:until])
    total, base = np.zeros(1, np.float64), np.nan
    add_wide(words, w32, place, sizes, crossed.wide, wide, tables.wide, crossed.squares, tables.weights, tables.places,
             near, 0, 1, True, scratch, total)  # fmt: skip
    items, residuals, ends = np.empty(0, np.uint64), np.empty(0, np.float64), np.zeros(1, np.int64)
    if now == now:
        items, residuals, ends = memories_of(words, w32, place, sizes, crossed.statistics, crossed.measures,
                                             tables.statistics, scratch)  # fmt: skip
        scratch.keys[0] = base_key
        read_rows(scratch.keys, scratch.hashes, 1, tables.statistics, now, 0.0, scratch.n, scratch.s, scratch.t)
        base = base_rate(scratch.n[0], scratch.s[0])
        f32[place[6]] = base
        fill_statistics(words, w32, f32, place, sizes, crossed.statistics, crossed.measures, statistics,
                        tables.statistics, now, base, 0, 1, True, scratch)  # fmt: skip
        for k in range(sizes[4]):
            if crossed.statistics.offsets[k] + crossed.statistics.fixed[k] == crossed.statistics.offsets[k + 1]:
                for item in range(1, place[0]):
                    f32[place[8] + item * sizes[4] + k] = f32[place[8] + k]
    memories = Memories(items, residuals, ends, places_of(tables.places, items))
    return Taken(wide, statistics, near, memories, now, base, total[0])


@kernel
def history_of(w32: Any, place: Any, crossed: Any) -> Any:
    """First and past-last word of the items that the user has."""
    if crossed.history < 0:
        return np.int64(0), np.int64(0)
    return list_at(w32, place, 0, crossed.history, 0, crossed.sizes)


@kernel
def _unplaced(words: Any, w32: Any, taken: Any, crossed: Any, places: Any) -> Any:
    """Those of the page's items, and of the items that its user has or remembers, that have no place. uint64."""
    sizes, remembered = crossed.sizes, taken.memories.items
    place = locate(words, w32, 0, sizes)
    had, until = history_of(w32, place, crossed)
    lacking, count = np.empty(place[0] + until - had + remembered.shape[0], np.uint64), 0
    for m in range(remembered.shape[0]):
        if taken.memories.near[m] == NOWHERE:
            lacking[count] = remembered[m]
            count += 1
    for m in range(until - had):
        if taken.near[m] == NOWHERE:
            lacking[count] = words[had + m]
            count += 1
    for position in range(place[0]):
        item, end = list_at(w32, place, 1, crossed.item_id, position, sizes)
        if end > item and place_of(places, words[item]) == NOWHERE:
            lacking[count] = words[item]
            count += 1
    return lacking[:count]


@kernel
def same_for_all(words: Any, w32: Any, crossed: Any) -> Any:
    """Whether a logged page's statistics of the user alone are the same, bit for bit, for all its items."""
    sizes = crossed.sizes
    place = locate(words, w32, 0, sizes)
    for k in range(sizes[4]):
        if crossed.statistics.offsets[k] + crossed.statistics.fixed[k] == crossed.statistics.offsets[k + 1]:
            for item in range(1, place[0]):
                if w32[place[8] + item * sizes[4] + k] != w32[place[8] + k]:
                    return False
    return True


@kernel
def user_part(words: Any, w32: Any, f32: Any, sizes: Any, group: Any, embeddings: Any, net: Any) -> Any:
    """The user's part of the first layer, its bias included. float32 [width]."""
    ids, offsets, numbers = given_of(words, w32, f32, np.zeros(1, np.int64), sizes, group)
    return part_of(ids, offsets, numbers, group, embeddings, net.boundaries, net.user, net.bias)[0]


@kernel
def fill_items(words: Any, w32: Any, f32: Any, first: Any, last: Any, taken: Any, crossed: Any, tables: Any,
               scratch: Any) -> None:  # fmt: skip
    """Write the statistics of items first:last, but those of the user alone, unless they stay as logged."""
    if taken.now == taken.now:
        place = locate(words, w32, 0, crossed.sizes)
        fill_statistics(words, w32, f32, place, crossed.sizes, crossed.statistics, crossed.measures, taken.statistics,
                        tables.statistics, taken.now, taken.base, first, last, False, scratch)  # fmt: skip
        fill_likenesses(words, w32, f32, place, crossed.sizes, crossed.statistics, crossed.measures, taken.memories,
                        tables.statistics, tables.likenesses, tables.places, first, last, scratch)  # fmt: skip


@kernel
def score_wide(words: Any, w32: Any, f32: Any, first: Any, last: Any, taken: Any, crossed: Any, tables: Any,
               scratch: Any, logits: Any) -> None:  # fmt: skip
    """Statistics, then the wide part's logits, of items first:last (at most BUFFER)."""
    place = locate(words, w32, 0, crossed.sizes)
    fill_items(words, w32, f32, first, last, taken, crossed, tables, scratch)
    totals = scratch.totals[: last - first]
    totals[:] = taken.total
    add_wide(words, w32, place, crossed.sizes, crossed.wide, taken.wide, tables.wide, crossed.squares, tables.weights,
             tables.places, taken.near, first, last, False, scratch, totals)  # fmt: skip
    for i in range(last - first):
        logits[first + i] = np.float32(totals[i])


@kernel
def score_deep(words: Any, w32: Any, f32: Any, first: Any, last: Any, sizes: Any, item: Any, pair: Any, net: Any,
               user: Any, heads: Any, parts: Any, uses: Any, scratch: Any, logits: Any) -> Any:  # fmt: skip
    """Add the deep part's logits of items first:last. False, and nothing is added, when an item's part is lacking."""
    place = locate(words, w32, 0, sizes)
    lists, numbers, rows = item.places, item.number_places, scratch.ends[: last - first]
    for i in range(last - first):
        head = find(heads, item_key(words, w32, place, first + i, sizes, lists, numbers))
        if head < 0:
            return False
        rows[i] = np.int64(heads[head, 1])
        uses[rows[i]] += np.uint32(1)
    totals = scratch.totals[: last - first]
    totals[:] = 0.0
    tower(f32, place, sizes, first, last, pair, net, user, parts, rows, scratch.floats, totals)
    for i in range(last - first):
        logits[first + i] += np.float32(totals[i])
    return True


@kernel
def score_items(words: Any, w32: Any, f32: Any, first: Any, last: Any, taken: Any, crossed: Any, tables: Any, deep: Any,
                item: Any, pair: Any, net: Any, user: Any, heads: Any, parts: Any, uses: Any, scratch: Any,
                logits: Any) -> Any:  # fmt: skip
    """Logits of items first:last, of both parts if `deep`; False when an item's part is lacking: then of one alone."""
    score_wide(words, w32, f32, first, last, taken, crossed, tables, scratch, logits)
    return not deep or score_deep(words, w32, f32, first, last, crossed.sizes, item, pair, net, user, heads, parts,
                                  uses, scratch, logits)  # fmt: skip
