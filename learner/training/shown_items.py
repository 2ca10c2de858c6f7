"""Names of items shown lately, for rankers to retrieve from. Bounded in number and in event time."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import xxhash

from stream.snapshots.item_names import ITEMS_MAX
from stream.tables.dtypes import I64, U64
from stream.tables.hash_kernels import find
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

GENERATION_MAX: Final = 5_000  # items
GENERATION_MS: Final = 84 * 3_600_000  # of event time: a name expires about a week after it was last shown


class ShownPages(NamedTuple):
    """P pages and the names of their items, M of these and other pages, as they lie in `text`."""

    text: bytes  # UTF-8
    spans: I64  # i64[M, 2]: begin and end of each name in `text`
    hashes: U64  # u64[M]: xxh3 of each name
    ends: I64  # i64[P + 1]: page p has names ends[p]:ends[p + 1]
    times_ms: I64  # i64[P], event time

    def part(self, first: int, last: int) -> "ShownPages":
        """Pages first:last."""
        return self._replace(ends=self.ends[first : last + 1], times_ms=self.times_ms[first:last])

    def name(self, index: int) -> str:
        """A name as text."""
        begin, end = self.spans[index]
        return self.text[begin:end].decode()


def shown_pages(pages: Sequence[tuple[Sequence[str], int]]) -> ShownPages:
    """Pages from (names of items, event time)."""
    names = [name.encode() for items, _ in pages for name in items]
    ends = np.cumsum([0, *map(len, names)])
    hashes = np.array([_hash(name) for name in names], np.uint64)
    times_ms = np.array([time_ms for _, time_ms in pages], np.int64)
    page_ends = np.cumsum([0, *(len(items) for items, _ in pages)])
    return ShownPages(b"".join(names), np.stack([ends[:-1], ends[1:]], 1), hashes, page_ends, times_ms)


def _hash(name: bytes) -> int:
    return xxhash.xxh3_64_intdigest(name) or 1


class ShownItems:
    """Two generations of names: a full or old young one becomes the old one, and the old one is dropped.

    So an item stays while fewer than 5,000 others are shown, for 84 hours at least. `changed`: whether `names` may
    have changed since its owner last set it to False.
    """

    def __init__(self, young: Iterable[str] = (), old: Iterable[str] = (), since_ms: int = 0) -> None:
        self.young, self.old, self.since_ms = set(young), set(old), since_ms
        self.changed = True
        self._known = HashTable(1, tracked=False)  # hashes of `young`
        self._put([_hash(name.encode()) for name in self.young])

    def add(self, items: Sequence[str], time_ms: int) -> None:
        """A page of these items (at most 1,000) was learned; `time_ms`: its event time."""
        self.add_pages(shown_pages([(items, time_ms)]))

    def add_pages(self, pages: ShownPages) -> None:
        """These pages were learned, in order."""
        if not len(pages.times_ms):
            return
        unknown = _unknown(self._known.slots, pages.hashes, pages.ends[0], pages.ends[-1])
        if len(self.young) + len(unknown) < GENERATION_MAX and not self._outlived(int(pages.times_ms.max())):
            self._add(pages, unknown)  # no generation ends within these pages
            return
        for page, time_ms in enumerate(pages.times_ms.tolist()):
            if len(self.young) >= GENERATION_MAX or self._outlived(time_ms):
                self.young, self.old, self.since_ms, self.changed = set(), self.young, time_ms, True
                self._known = HashTable(1, tracked=False)
            self._add(pages, _unknown(self._known.slots, pages.hashes, *pages.ends[page : page + 2]))

    @property
    def names(self) -> set[str]:
        """The names of both generations."""
        names = self.young | self.old
        assert len(names) <= ITEMS_MAX, "two generations and a page are fewer"
        return names

    def _outlived(self, time_ms: int) -> bool:
        return time_ms - self.since_ms > GENERATION_MS

    def _add(self, pages: ShownPages, indices: I64) -> None:
        """Add names that aren't in the young generation."""
        if len(indices):
            self._put(pages.hashes[indices])
            self.young.update(map(pages.name, indices.tolist()))
            self.changed = True

    def _put(self, hashes: Sequence[int] | U64) -> None:
        self._known.put(np.array(hashes, np.uint64).reshape(-1, 1))


@kernel
def _unknown(slots: U64, hashes: U64, first: int, last: int) -> I64:
    """Indices of the hashes among first:last that the table doesn't have."""
    found = np.empty(last - first, np.int64)
    count = 0
    for i in range(first, last):
        if find(slots, hashes[i]) < 0:
            found[count] = i
            count += 1
    return found[:count]
