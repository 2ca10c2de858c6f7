"""Pages that were logged under an earlier spec, as pages of the spec that it evolved into.

What means the same in both is copied as it was logged. Columns that the page lacks are taken from what is known of its
user and items besides (`Attributes`: what the compacted topics say now), from its context, and from its time; bands and
ranks from the page's own numbers. What isn't known is missing. Statistics that the page lacks are missing, too: who
replays the log in order can compute them (`learner/retraining/statistics_replay.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.types import Impression, Item, Value
from stream.features.built_in_values import ranks_of
from stream.features.page_features import Catalogue, Layout, build_page, words_of
from stream.features.page_kernels import ItemColumns, UnknownItems, UserColumns, build, open_page
from stream.spec.built_in_columns import NEWEST, RANK
from stream.spec.spec import Spec
from stream.spec.spec_changes import SpecChanges
from stream.tables.dtypes import I64, U32, U64
from stream.tables.jit import kernel

BASE: Final = -1  # a source: the page that was built from what is known besides
LAST: Final = -2  # a source less k: the last id of list k of the logged page
ITEMS_MAX: Final = 100_000  # items whose columns are cached


class Attributes(NamedTuple):
    """What is known of users and items besides the page; None: nothing."""

    user: Callable[[str], Mapping[str, Value]]
    item: Callable[[str], Item | None]


UNKNOWN: Final = Attributes(lambda user: {}, lambda item: None)


class Sources(NamedTuple):
    """Where each column of a new page comes from, i64 arrays: an index in the logged page, BASE or LAST − k."""

    user_lists: I64
    item_lists: I64
    user_numbers: I64
    item_numbers: I64
    statistics: I64  # BASE: missing


class PageTranslator:
    """From the pages of one spec to those of another."""

    def __init__(self, old: Spec, new: Spec, attributes: Attributes = UNKNOWN) -> None:
        self.old, self.new = Layout(old), Layout(new)
        self._attributes, self._changes = attributes, SpecChanges(old, new)
        was, now = self.old, self.new
        self._sources = Sources(
            self._of(was.user_lists, now.user_lists),
            self._of(was.item_lists, now.item_lists),
            self._of(was.user_numbers, now.user_numbers),
            self._of(was.item_numbers, now.item_numbers),
            np.array(
                [was.statistics.index(n) if n in self._changes.logged_statistics else BASE for n in now.statistics],
                np.int64,
            ),
        )
        sources = self._sources
        self._user_bands = self._known_numbers(now.user_lists, sources.user_lists, was.user_numbers)
        self._item_bands = self._known_numbers(now.item_lists, sources.item_lists, was.item_numbers)
        self._ranks = [
            (place, now.item_numbers.index(name.removesuffix(RANK)))
            for place, name in enumerate(now.item_numbers)
            if name.endswith(RANK) and sources.item_numbers[place] == BASE and name in new.built_in_columns()
        ]
        history = now.user_lists.index(now.history) if now.history else -1
        self._history = np.array([history, now.history_last], np.int64)
        self._catalogue = Catalogue(self.new)

    @property
    def computed(self) -> list[int]:
        """Which of the new page's statistics the logged one lacks."""
        return np.flatnonzero(self._sources.statistics == BASE).tolist()

    def translate(self, page: Impression) -> U64:
        """The page's words in the new layout. Raises BadEvent when they aren't valid in the old one."""
        words = words_of(page.features, self.old, len(page.items))
        base = self._base(page, words)
        made: U64 = merge_page(words, self.old.size_array, base, self.new.size_array, self._sources, self._history)
        if self._ranks:
            self._rank(made)
        return made

    def _of(self, was: Sequence[str], now: Sequence[str]) -> I64:
        return np.array([self._source(name, was) for name in now], np.int64)

    def _source(self, name: str, was: Sequence[str]) -> int:
        if name in was and self._changes.is_shared(name):
            return was.index(name)
        history = name.removesuffix(NEWEST)
        if name.endswith(NEWEST) and history in was and self._changes.is_shared(history):
            return LAST - was.index(history)
        return BASE

    def _known_numbers(self, lists: Sequence[str], sources: I64, numbers: Sequence[str]) -> dict[str, int]:
        """The logged page's numbers, by name and index, whose bands it lacks."""
        wanted = [name.removesuffix("_band") for name, at in zip(lists, sources, strict=True) if at == BASE]
        return {name: numbers.index(name) for name in wanted if name in numbers and self._changes.is_shared(name)}

    def _base(self, page: Impression, words: U64) -> U64:
        """The new page as far as it is known without the logged one."""
        logged = open_page(words, self.old.size_array)
        user, at = dict(self._attributes.user(page.user)), logged.at
        for name, index in self._user_bands.items():
            if name.startswith("user."):
                user[name.removeprefix("user.")] = float(logged.f32[at.user_numbers + index])
        context = page.context | {
            name.removeprefix("context."): float(logged.f32[at.user_numbers + index])
            for name, index in self._user_bands.items()
            if name.startswith("context.")
        }
        numbers = logged.f32[at.item_numbers : at.statistics].reshape(at.items, at.sizes.item_numbers)
        rows = [self._row(item, numbers[i]) for i, item in enumerate(page.items)]
        columns = self.new.user(page.user, user, [], context)
        return build_page(self.new, columns, self._catalogue, np.array(rows, np.int64), page.time_ms)

    def _row(self, item: str, numbers: Any) -> int:
        """The item's row in the catalogue, made of what is known besides and of the logged numbers that have bands."""
        logged = {name.removeprefix("item."): float(numbers[index]) for name, index in self._item_bands.items()}
        key = f"{item}\0{[*logged.values()]}" if logged else item
        row = self._catalogue.row.get(key)
        if row is None:
            if len(self._catalogue) > ITEMS_MAX:
                self._catalogue = Catalogue(self.new)
            known = self._attributes.item(item) or Item(item)
            row = self._catalogue.put(Item(item, {**known.attributes, **logged}))
            self._catalogue.row[key] = row
        return row

    def _rank(self, words: U64) -> None:
        page = open_page(words, self.new.size_array)
        at = page.at
        numbers = page.f32[at.item_numbers : at.statistics].reshape(at.items, at.sizes.item_numbers)
        for target, source in self._ranks:
            numbers[:, target] = ranks_of(numbers[:, source])


class _Lists(NamedTuple):
    """Where one side's lists of a page are: list i has words[ids + w32[first + i]:ids + w32[first + i + 1]]."""

    words: U64
    w32: U32
    first: int
    ids: int


@kernel
def _span(lists: _Lists, k: int) -> Any:
    """First and past-last word of list k."""
    return lists.ids + np.int64(lists.w32[lists.first + k]), lists.ids + np.int64(lists.w32[lists.first + k + 1])


@kernel
def _merge_lists(logged: _Lists, base: _Lists, width: int, sources: I64, items: int, history: I64) -> tuple[U64, I64]:
    """Ids, and offsets i64[items · lists + 1]; of each item the logged page has `width` lists."""
    lists = sources.shape[0]
    spans, is_logged = np.empty((items * lists, 2), np.int64), np.empty(items * lists, np.bool_)
    offsets = np.zeros(items * lists + 1, np.int64)
    for item in range(items):
        for i in range(lists):
            k, source = item * lists + i, sources[i]
            is_logged[k] = source != BASE
            if source == BASE:
                low, high = _span(base, k)
            else:
                low, high = _span(logged, item * width + (source if source >= 0 else LAST - source))
                if source < BASE:
                    low = max(low, high - 1)
            if i == history[0]:
                low = max(low, high - history[1])
            spans[k, 0], spans[k, 1] = low, high
            offsets[k + 1] = offsets[k] + high - low
    ids = np.empty(offsets[-1], np.uint64)
    for k in range(items * lists):
        words = logged.words if is_logged[k] else base.words
        ids[offsets[k] : offsets[k + 1]] = words[spans[k, 0] : spans[k, 1]]
    return ids, offsets


@kernel
def merge_page(words: U64, sizes: I64, base: U64, new_sizes: I64, sources: Sources, history: I64) -> U64:
    """The new page: columns of `words`, a page of `sizes`, and of `base`, one of `new_sizes`, by their `sources`.

    `history` i64[2]: which of the user's lists is the history, −1: none, and how many items it has at most.
    """
    was, now = open_page(words, sizes), open_page(base, new_sizes)
    at, of = was.at, now.at
    ids, offsets = _merge_lists(
        _Lists(words, was.w32, at.user_offsets, at.user_ids), _Lists(base, now.w32, of.user_offsets, of.user_ids),
        at.sizes.user_lists, sources.user_lists, 1, history,
    )  # fmt: skip
    item_ids, item_offsets = _merge_lists(
        _Lists(words, was.w32, at.item_offsets, at.item_ids), _Lists(base, now.w32, of.item_offsets, of.item_ids),
        at.sizes.item_lists, sources.item_lists, at.items, np.full(2, -1),
    )  # fmt: skip
    user_numbers, item_numbers = (
        np.empty(of.sizes.user_numbers, np.float32),
        np.empty((at.items, of.sizes.item_numbers), np.float32),
    )
    for i in range(user_numbers.shape[0]):
        k = sources.user_numbers[i]
        user_numbers[i] = now.f32[of.user_numbers + i] if k == BASE else was.f32[at.user_numbers + k]
    for item in range(at.items):
        for i in range(item_numbers.shape[1]):
            k = sources.item_numbers[i]
            if k == BASE:
                item_numbers[item, i] = now.f32[of.item_numbers + item * of.sizes.item_numbers + i]
            else:
                item_numbers[item, i] = was.f32[at.item_numbers + item * at.sizes.item_numbers + k]
    made = build(
        UserColumns(ids, offsets.astype(np.uint32), user_numbers), ItemColumns(item_ids, item_offsets, item_numbers),
        np.arange(at.items), UnknownItems(item_ids[:0], 0), base[0], new_sizes,
    )  # fmt: skip
    page = open_page(made, new_sizes)
    page.f32[page.at.base_rate] = was.f32[at.base_rate]
    for item in range(at.items):
        for i in range(of.sizes.statistics):
            k = sources.statistics[i]
            if k != BASE:
                value = was.f32[at.statistics + item * at.sizes.statistics + k]
                page.f32[page.at.statistics + item * of.sizes.statistics + i] = value
    return made
