"""From logged pages to what the model reads: wide keys, deep ids, numbers. One encoder for learner and ranker.

Everything works on a batch of (page, position) pairs over pages laid end to end in one array of words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.features.page_features import F32, Layout, seed_of
from stream.features.page_kernels import locate
from stream.runtime.errors import SpecError
from stream.spec.spec import CROSSES_MAX, POSITION, Spec
from stream.tables.hash_kernels import mix
from stream.tables.hash_table import U64
from stream.tables.jit import kernel

I64 = npt.NDArray[np.int64]
KEYS_MAX: Final = 4_096  # of one cross-product of one item: one that has more is left out


@dataclass(frozen=True)
class Batch:
    """Examples over pages: `page` and `position` int64 [B], `starts` int64 [pages] into `words`."""

    words: U64
    starts: I64
    page: I64
    position: I64

    def __len__(self) -> int:
        return len(self.page)


@dataclass(frozen=True)
class WideKeys:
    """`keys` uint64 [K]; example b owns offsets[b]:offsets[b+1]. A key's low byte is 1 + its cross's index."""

    keys: U64
    offsets: I64

    def part(self, first: int, last: int) -> "WideKeys":
        """Examples first:last."""
        ends = self.offsets[first : last + 1]
        return WideKeys(self.keys[ends[0] : ends[-1]], ends - ends[0])


@dataclass(frozen=True)
class DeepInput:
    """`ids` uint64 [N], list (b, f) owns offsets[b·F+f]:offsets[b·F+f+1]; `numbers` float32 [B, D], NaN: missing."""

    ids: U64
    offsets: I64
    numbers: F32

    def part(self, first: int, last: int) -> "DeepInput":
        """Examples first:last."""
        lists = (len(self.offsets) - 1) // max(1, len(self.numbers))
        ends = self.offsets[first * lists : last * lists + 1]
        return DeepInput(self.ids[ends[0] : ends[-1]], ends - ends[0], self.numbers[first:last])


class Product:
    """A list of cross-products, compiled for kernels: which columns each takes, and its salt."""

    def __init__(self, layout: Layout, crosses: Sequence[Sequence[str]], salts: Sequence[str]) -> None:
        sides, places, offsets = [], [], [0]
        for cross in crosses:
            for name in cross:
                side, place = place_of(layout, name)
                sides.append(side)
                places.append(place)
            offsets.append(len(sides))
        self.sides = np.array(sides, np.int64)
        self.places = np.array(places, np.int64)
        self.offsets = np.array(offsets, np.int64)
        self.salts = np.array([seed_of(salt) for salt in salts], np.uint64)


def place_of(layout: Layout, name: str) -> tuple[int, int]:
    """(0 for the user's lists, 1 for the items'), index. Raises SpecError."""
    for side, names in enumerate((layout.user_lists, layout.item_lists)):
        if name in names:
            return side, names.index(name)
    raise SpecError(f"{name!r} is no category of this spec")


class Encoder:
    """Compiles a spec's wide crosses and deep features against its layout."""

    def __init__(self, spec: Spec, layout: Layout) -> None:
        self.layout = layout
        self.sizes = np.array(layout.sizes, np.int64)
        crosses = spec.crosses() if "wide" in spec.parts else []
        assert len(crosses) <= CROSSES_MAX
        self.cross_names = [*(" x ".join(c.of) for c in crosses), "bias"]
        wide = spec.wide
        alphas = [*(c.alpha or wide.alpha for c in crosses), wide.bias_alpha or wide.alpha]
        self.alphas = np.array(alphas, np.float32)
        self.wide = Product(layout, [*(c.of for c in crosses), []], [f"wide {n}" for n in self.cross_names])
        names = spec.deep_features() if "deep" in spec.parts else []
        self.deep_lists = [n for n in names if n in (*layout.user_lists, *layout.item_lists)]
        self.deep_numbers = [n for n in names if n not in self.deep_lists]
        refs = [place_of(layout, n) for n in self.deep_lists]
        self._sides = np.array([s for s, _ in refs], np.int64)
        self._places = np.array([p for _, p in refs], np.int64)
        kinds = [self._number_place(n) for n in self.deep_numbers]
        self.number_kinds = np.array([k for k, _ in kinds], np.int64)
        self.number_places = np.array([p for _, p in kinds], np.int64)
        position = layout.columns[POSITION].serve_as if POSITION in layout.columns else None
        self.serve_position = None if position is None else float(position)

    def _number_place(self, name: str) -> tuple[int, int]:
        """(0 user's, 1 item's, 2 statistic, 3 position), index."""
        layout = self.layout
        if name == POSITION:
            return 3, 0
        if name.startswith("statistics."):
            return 2, layout.statistics.index(name.removeprefix("statistics."))
        if name in layout.user_numbers:
            return 0, layout.user_numbers.index(name)
        return 1, layout.item_numbers.index(name)

    def wide_keys(self, batch: Batch) -> WideKeys:
        """The wide part's keys of each example, bias last."""
        product = self.wide
        w32 = batch.words.view(np.uint32)
        offsets = _count_keys(
            batch.words,
            w32,
            batch.starts,
            batch.page,
            batch.position,
            self.sizes,
            product.offsets,
            product.sides,
            product.places,
        )
        keys = np.empty(offsets[-1], np.uint64)
        _fill_keys(batch.words, w32, batch.starts, batch.page, batch.position, self.sizes,
                   product.offsets, product.sides, product.places, product.salts, offsets, keys)  # fmt: skip
        return WideKeys(keys, offsets)

    def deep_input(self, batch: Batch, *, serving: bool = False) -> DeepInput:
        """The deep part's ids and numbers; `serving` holds the position still; other columns, `served.as_served`."""
        w32 = batch.words.view(np.uint32)
        b, f, d = len(batch), len(self._sides), len(self.number_kinds)
        offsets = np.zeros(b * f + 1, np.int64)
        count_ids(
            batch.words, w32, batch.starts, batch.page, batch.position, self.sizes, self._sides, self._places, offsets
        )
        ids = np.empty(offsets[-1], np.uint64)
        numbers = np.empty((b, d), np.float32)
        held = self.serve_position if serving and self.serve_position is not None else np.nan
        fill_deep(batch.words, w32, batch.words.view(np.float32), batch.starts, batch.page, batch.position, self.sizes,
                   self._sides, self._places, self.number_kinds, self.number_places, np.float32(held),
                   offsets, ids, numbers)  # fmt: skip
        return DeepInput(ids, offsets, numbers)


def one_page(words: U64) -> Batch:
    """All items of one page as a batch."""
    n = int(words[1])
    return Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), np.arange(n))


@kernel
def list_at(w32: Any, place: Any, side: Any, index: Any, position: Any, sizes: Any) -> Any:
    """First and past-last word of a list's ids; `place` is what `locate` returned."""
    if side == 0:
        at = place[1] + index
        ids = place[3]
    else:
        at = place[2] + position * sizes[1] + index
        ids = place[4]
    return ids + np.int64(w32[at]), ids + np.int64(w32[at + 1])


@kernel
def count_product(
    w32: Any, place: Any, position: Any, sizes: Any, first: Any, last: Any, sides: Any, places: Any
) -> Any:
    """How many keys a cross-product (columns first:last) has for the item at position; none when over KEYS_MAX."""
    count = 1
    for r in range(first, last):
        low, high = list_at(w32, place, sides[r], places[r], position, sizes)
        count *= high - low
    return count if count <= KEYS_MAX else 0


@kernel
def expand_product(words: Any, w32: Any, place: Any, position: Any, sizes: Any, first: Any, last: Any,
                   sides: Any, places: Any, out: Any, at: Any, count: Any) -> Any:  # fmt: skip
    """Cross the `count` keys at out[at:] with columns first:last, in place, column by column; returns the new count."""
    for r in range(first, last):
        low, high = list_at(w32, place, sides[r], places[r], position, sizes)
        m = high - low
        for i in range(count - 1, -1, -1):
            h = out[at + i]
            for j in range(m - 1, -1, -1):
                out[at + i * m + j] = mix(h, words[low + j])
        count *= m
    return count


@kernel
def fill_product(words: Any, w32: Any, place: Any, position: Any, sizes: Any, first: Any, last: Any,
                 sides: Any, places: Any, salt: Any, out: Any, at: Any) -> Any:  # fmt: skip
    """Write the cross-product's keys to out[at:]; returns the count."""
    out[at] = salt
    return expand_product(words, w32, place, position, sizes, first, last, sides, places, out, at, 1)


@kernel
def _lay_out(w32: Any, place: Any, position: Any, sizes: Any, anew: Any, lows: Any, lengths: Any) -> None:
    """First word and length of each list: the user's (when the page is `anew`), then those of the item at position."""
    users, items = sizes[0], sizes[1]
    if anew:
        for i in range(users):
            low = np.int64(w32[place[1] + i])
            lows[i], lengths[i] = place[3] + low, np.int64(w32[place[1] + i + 1]) - low
    for i in range(items):
        at = place[2] + position * items + i
        low = np.int64(w32[at])
        lows[users + i], lengths[users + i] = place[4] + low, np.int64(w32[at + 1]) - low


@kernel
def _count_keys(
    words: Any, w32: Any, starts: Any, page: Any, position: Any, sizes: Any, cross_offsets: Any, sides: Any, places: Any
) -> Any:
    lists = sides * sizes[0] + places
    lows, lengths = np.empty(sizes[0] + sizes[1], np.int64), np.empty(sizes[0] + sizes[1], np.int64)
    offsets = np.zeros(page.shape[0] + 1, np.int64)
    for b in range(page.shape[0]):
        place = locate(words, w32, starts[page[b]], sizes)
        _lay_out(w32, place, position[b], sizes, b == 0 or page[b] != page[b - 1], lows, lengths)
        total = 0
        for c in range(cross_offsets.shape[0] - 1):
            count = 1
            for r in range(cross_offsets[c], cross_offsets[c + 1]):
                count *= lengths[lists[r]]
            total += count if count <= KEYS_MAX else 0
        offsets[b + 1] = offsets[b] + total
    return offsets


@kernel
def _fill_keys(words: Any, w32: Any, starts: Any, page: Any, position: Any, sizes: Any, cross_offsets:
               Any, sides: Any, places: Any, salts: Any, offsets: Any, keys: Any) -> None:  # fmt: skip
    lists = sides * sizes[0] + places
    lows, lengths = np.empty(sizes[0] + sizes[1], np.int64), np.empty(sizes[0] + sizes[1], np.int64)
    for b in range(page.shape[0]):
        place = locate(words, w32, starts[page[b]], sizes)
        _lay_out(w32, place, position[b], sizes, b == 0 or page[b] != page[b - 1], lows, lengths)
        at = offsets[b]
        for c in range(cross_offsets.shape[0] - 1):
            first, last = cross_offsets[c], cross_offsets[c + 1]
            count = 1
            for r in range(first, last):
                count *= lengths[lists[r]]
            if count == 0 or count > KEYS_MAX:
                continue
            if last - first == 2:
                _fill_pairs(words, lows, lengths, lists[first], lists[first + 1], salts[c], keys, at)
            elif last - first == 1:
                for i in range(count):
                    keys[at + i] = mix(salts[c], words[lows[lists[first]] + i])
            else:
                fill_product(words, w32, place, position[b], sizes, first, last, sides, places, salts[c], keys, at)
            for i in range(at, at + count):
                keys[i] = (keys[i] & ~np.uint64(255)) | np.uint64(c + 1)
            at += count


@kernel
def _fill_pairs(words: Any, lows: Any, lengths: Any, one: Any, other: Any, salt: Any, keys: Any, at: Any) -> None:
    """As `fill_product`, of two lists."""
    for i in range(lows[one], lows[one] + lengths[one]):
        h = mix(salt, words[i])
        for j in range(lows[other], lows[other] + lengths[other]):
            keys[at] = mix(h, words[j])
            at += 1


@kernel
def count_ids(
    words: Any, w32: Any, starts: Any, page: Any, position: Any, sizes: Any, sides: Any, places: Any, offsets: Any
) -> None:
    """Where each example's lists end among its ids: see DeepInput. `offsets` starts as zeros."""
    f = sides.shape[0]
    for b in range(page.shape[0]):
        place = locate(words, w32, starts[page[b]], sizes)
        for i in range(f):
            low, high = list_at(w32, place, sides[i], places[i], position[b], sizes)
            offsets[b * f + i + 1] = offsets[b * f + i] + high - low


@kernel
def fill_deep(words: Any, w32: Any, f32: Any, starts: Any, page: Any, position: Any, sizes: Any, sides:
               Any, places: Any, kinds: Any, number_places: Any, held: Any, offsets: Any, ids: Any,
               numbers: Any) -> None:  # fmt: skip
    """Write the examples' ids and numbers: see DeepInput. `held`: what the position is, unless NaN."""
    f = sides.shape[0]
    for b in range(page.shape[0]):
        place = locate(words, w32, starts[page[b]], sizes)
        for i in range(f):
            low, high = list_at(w32, place, sides[i], places[i], position[b], sizes)
            at = offsets[b * f + i]
            for j in range(low, high):
                ids[at + j - low] = words[j]
        for i in range(kinds.shape[0]):
            index = number_places[i]
            if kinds[i] == 0:
                numbers[b, i] = f32[place[5] + index]
            elif kinds[i] == 1:
                numbers[b, i] = f32[place[7] + position[b] * sizes[3] + index]
            elif kinds[i] == 2:
                numbers[b, i] = f32[place[8] + position[b] * sizes[4] + index]
            else:
                numbers[b, i] = held if held == held else position[b] + 1
