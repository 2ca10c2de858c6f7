"""From logged pages to what the model reads: wide keys, deep ids, numbers. One encoder for learner and ranker.

Everything works on a batch of (page, position) pairs over pages that lie end to end in one array of words.
"""

from typing import NamedTuple

import numpy as np

from stream.features.cross_products import (
    ITEM,
    KEYS_MAX,
    USER,
    CrossProducts,
    column_of,
    compile_crosses,
    fill_product,
    has_too_many,
    list_at,
)
from stream.features.page_features import Layout, seed_of
from stream.features.page_kernels import Page, Sections, locate, page_sizes
from stream.spec.columns import CROSSES_MAX, POSITION
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

OF_USER, OF_ITEM, STATISTIC, RANK = range(4)  # kinds of numbers; RANK: the item's position on its page, from 1


class Batch(NamedTuple):
    """Examples over pages."""

    words: U64  # u64[words of all pages]
    starts: I64  # i64[pages], into `words`
    page: I64  # i64[B]
    position: I64  # i64[B]


class WideKeys(NamedTuple):
    """The wide part's keys. A key's low byte is 1 + its cross's index."""

    keys: U64  # u64[K]
    offsets: I64  # i64[B + 1]: example b has keys[offsets[b]:offsets[b + 1]]

    def part(self, first: int, last: int) -> "WideKeys":
        """Examples first:last."""
        ends = self.offsets[first : last + 1]
        return WideKeys(self.keys[ends[0] : ends[-1]], ends - ends[0])


class DeepInput(NamedTuple):
    """The deep part's ids and numbers: F lists and D numbers an example."""

    ids: U64  # u64[N]
    offsets: I64  # i64[B·F + 1]: list (b, f) has ids[offsets[b·F + f]:offsets[b·F + f + 1]]
    numbers: F32  # f32[B, D]; NaN: missing

    def part(self, first: int, last: int) -> "DeepInput":
        """Examples first:last."""
        lists = (len(self.offsets) - 1) // max(1, len(self.numbers))
        ends = self.offsets[first * lists : last * lists + 1]
        return DeepInput(self.ids[ends[0] : ends[-1]], ends - ends[0], self.numbers[first:last])


class DeepColumns(NamedTuple):
    """Which lists and numbers of a page are the deep part's."""

    sides: I64  # i64[F]: USER or ITEM
    indices: I64  # i64[F]: which list of that side
    kinds: I64  # i64[D]: OF_USER, OF_ITEM, STATISTIC or RANK
    number_indices: I64  # i64[D]: which number of that kind
    rank: float  # what RANK reads as; NaN: as it is
    unseen: U64  # u64[F]: key of the embedding row of each list's ids that have none


class Encoder:
    """Compiles a spec's wide crosses and deep features against its layout."""

    def __init__(self, spec: Spec, layout: Layout) -> None:
        self.layout = layout
        crosses = spec.crosses() if "wide" in spec.parts else []
        assert len(crosses) <= CROSSES_MAX
        self.cross_names = [*(" x ".join(c.of) for c in crosses), "bias"]
        wide = spec.wide
        alphas = [*(c.alpha or wide.alpha for c in crosses), wide.bias_alpha or wide.alpha]
        self.alphas = np.array(alphas, np.float32)
        self.wide = compile_crosses(layout, [*(c.of for c in crosses), []], [f"wide {n}" for n in self.cross_names])
        columns = spec.columns()
        self._has_long_crosses = any(columns[n].type == "categories" or columns[n].of for c in crosses for n in c.of)
        names = spec.deep_features() if "deep" in spec.parts else []
        self.deep_lists = [n for n in names if n in (*layout.user_lists, *layout.item_lists)]
        self.deep_numbers = [n for n in names if n not in self.deep_lists]
        self.deep = self.deep_columns(names)
        position = layout.columns[POSITION].serve_as if POSITION in layout.columns else None
        self.serve_position = None if position is None else float(position)

    def deep_columns(self, names: list[str]) -> DeepColumns:
        """These deep features, in this order, for kernels."""
        lists = [column_of(self.layout, name) for name in names if name in self.deep_lists]
        numbers = [self._number(name) for name in names if name not in self.deep_lists]
        sides, indices = np.array(lists, np.int64).reshape(-1, 2).T.copy()
        kinds, number_indices = np.array(numbers, np.int64).reshape(-1, 2).T.copy()
        unseen = [seed_of(f"unseen {name}") for name in names if name in self.deep_lists]
        return DeepColumns(sides, indices, kinds, number_indices, np.nan, np.array(unseen, np.uint64))

    def _number(self, name: str) -> tuple[int, int]:
        """A number's kind and index."""
        layout = self.layout
        if name == POSITION:
            return RANK, 0
        if name.startswith("statistics."):
            return STATISTIC, layout.statistics.index(name.removeprefix("statistics."))
        if name in layout.user_numbers:
            return OF_USER, layout.user_numbers.index(name)
        return OF_ITEM, layout.item_numbers.index(name)

    @property
    def bias_key(self) -> int:
        """The wide part's key that every example has."""
        return int(self.wide.salts[-1]) & ~255 | len(self.cross_names)

    def wide_keys(self, batch: Batch) -> WideKeys:
        """The wide part's keys of each example, bias last."""
        return encode_wide(batch, self.layout.size_array, self.wide)

    def left_out(self, batch: Batch) -> I64 | None:
        """How many crosses of each example have no key, since they'd have over KEYS_MAX. int64 [B]; None: none can."""
        return count_left_out(batch, self.layout.size_array, self.wide) if self._has_long_crosses else None

    def deep_input(self, batch: Batch, *, serving: bool = False) -> DeepInput:
        """The deep part's ids and numbers. `serving` fixes the position at its `serve_as`; for columns: `as_served`."""
        columns = self.deep
        if serving and self.serve_position is not None:
            columns = columns._replace(rank=self.serve_position)
        return encode_deep(batch, self.layout.size_array, columns)


def one_page(words: U64) -> Batch:
    """All items of one page as a batch."""
    n = int(words[1])
    return Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), np.arange(n))


@kernel
def _find_lists(w32: U32, at: Sections, position: int, new_page: bool, lows: I64, lengths: I64) -> None:
    """First word and length of each list: the user's (on a new page only), then those of the item at `position`."""
    users, items = at.sizes.user_lists, at.sizes.item_lists
    if new_page:
        for i in range(users):
            low, high = list_at(w32, at, USER, i, 0)
            lows[i], lengths[i] = low, high - low
    for i in range(items):
        low, high = list_at(w32, at, ITEM, i, position)
        lows[users + i], lengths[users + i] = low, high - low


@kernel
def encode_wide(batch: Batch, size_array: I64, crosses: CrossProducts) -> WideKeys:
    """The keys of each example, cross by cross."""
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    ends, salts, sizes = crosses.offsets, crosses.salts, page_sizes(size_array)
    columns = crosses.sides * sizes.user_lists + crosses.indices  # i64[columns], into `lows`
    lists = sizes.user_lists + sizes.item_lists
    lows, lengths = np.empty(lists, np.int64), np.empty(lists, np.int64)
    offsets = np.zeros(pages.shape[0] + 1, np.int64)
    for b in range(pages.shape[0]):
        at = locate(words, w32, starts[pages[b]], size_array)
        _find_lists(w32, at, positions[b], b == 0 or pages[b] != pages[b - 1], lows, lengths)
        total = 0
        for c in range(salts.shape[0]):
            count = 1
            for r in range(ends[c], ends[c + 1]):
                count *= lengths[columns[r]]
            total += count if count <= KEYS_MAX else 0
        offsets[b + 1] = offsets[b] + total
    keys = np.empty(offsets[-1], np.uint64)
    for b in range(pages.shape[0]):
        at = locate(words, w32, starts[pages[b]], size_array)
        _find_lists(w32, at, positions[b], b == 0 or pages[b] != pages[b - 1], lows, lengths)
        start = offsets[b]
        for c in range(salts.shape[0]):
            first, last = ends[c], ends[c + 1]
            count = 1
            for r in range(first, last):
                count *= lengths[columns[r]]
            if count == 0 or count > KEYS_MAX:
                continue
            if last - first == 2:
                _fill_pairs(words, lows, lengths, columns[first], columns[first + 1], salts[c], keys, start)
            elif last - first == 1:
                for i in range(count):
                    keys[start + i] = mix(salts[c], words[lows[columns[first]] + i])
            else:
                fill_product(Page(words, w32, f32, at), positions[b], crosses, c, keys, start)
            for i in range(start, start + count):
                keys[i] = (keys[i] & ~np.uint64(255)) | np.uint64(c + 1)
            start += count
    return WideKeys(keys, offsets)


@kernel
def count_left_out(batch: Batch, size_array: I64, crosses: CrossProducts) -> I64:
    """How many crosses of each example would have over KEYS_MAX keys: `encode_wide` leaves them out. int64 [B]."""
    words, starts, pages, positions = batch
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    found = np.zeros(pages.shape[0], np.int64)
    for b in range(pages.shape[0]):
        page = Page(words, w32, f32, locate(words, w32, starts[pages[b]], size_array))
        for c in range(crosses.salts.shape[0]):
            found[b] += has_too_many(page, positions[b], crosses, c)
    return found


@kernel
def _fill_pairs(
    words: U64, lows: I64, lengths: I64, one: int, other: int, salt: np.uint64, keys: U64, start: int
) -> None:
    """As `fill_product`, of two lists."""
    for i in range(lows[one], lows[one] + lengths[one]):
        h = mix(salt, words[i])
        for j in range(lows[other], lows[other] + lengths[other]):
            keys[start] = mix(h, words[j])
            start += 1


@kernel
def encode_deep(batch: Batch, size_array: I64, columns: DeepColumns) -> DeepInput:
    """The examples' ids and numbers."""
    words, starts, pages, positions = batch
    sides, indices, kinds, number_indices, rank, _ = columns
    w32, f32 = words.view(np.uint32), words.view(np.float32)
    n, lists = pages.shape[0], sides.shape[0]
    offsets = np.zeros(n * lists + 1, np.int64)
    for b in range(n):
        at = locate(words, w32, starts[pages[b]], size_array)
        for i in range(lists):
            low, high = list_at(w32, at, sides[i], indices[i], positions[b])
            offsets[b * lists + i + 1] = offsets[b * lists + i] + high - low
    ids, numbers = np.empty(offsets[-1], np.uint64), np.empty((n, kinds.shape[0]), np.float32)
    for b in range(n):
        at = locate(words, w32, starts[pages[b]], size_array)
        for i in range(lists):
            low, high = list_at(w32, at, sides[i], indices[i], positions[b])
            start = offsets[b * lists + i]
            for j in range(low, high):
                ids[start + j - low] = words[j]
        for i in range(kinds.shape[0]):
            index = number_indices[i]
            if kinds[i] == OF_USER:
                numbers[b, i] = f32[at.user_numbers + index]
            elif kinds[i] == OF_ITEM:
                numbers[b, i] = f32[at.item_numbers + positions[b] * at.sizes.item_numbers + index]
            elif kinds[i] == STATISTIC:
                numbers[b, i] = f32[at.statistics + positions[b] * at.sizes.statistics + index]
            else:
                numbers[b, i] = rank if rank == rank else positions[b] + 1
    return DeepInput(ids, offsets, numbers)
