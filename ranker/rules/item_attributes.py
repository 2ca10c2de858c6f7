"""Items' attributes as rules read them: arrays by a catalogue's rows, filled when a row is first asked for.

So an attribute needn't be a feature, and a large catalogue costs nothing until its items are candidates.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from stream.events.types import Item, Value
from stream.features.page_features import Catalogue, cached_id_of, seed_of, texts_of
from stream.tables.dtypes import F64, I64, U64, Bools

VALUES_MAX: Final = 64  # of one attribute of an item that rules read; further ones of a list are ignored
_NUMBER: Final = re.compile(r"\s*([-+]?\d+(\.\d+)?)")


def ids_of(column: str, value: Value | None) -> list[int]:
    """Ids of an attribute's distinct texts, of an item or as something that items are compared with."""
    seed = seed_of(column)
    return [cached_id_of(seed, text) for text in dict.fromkeys(texts_of(value)[:VALUES_MAX])]


def number_of(value: Value | None) -> float:
    """A number, or the one that a text begins with; NaN: there's none.

    >>> number_of(3), number_of("12+"), number_of("unrated")
    (3.0, 12.0, nan)
    """
    if isinstance(value, str):
        found = _NUMBER.match(value)
        return float(found.group(1)) if found else np.nan
    return np.nan if value is None or isinstance(value, list) else float(value)


class AttributeArrays(NamedTuple):
    """Attributes in arrays. Of rows that weren't asked for they have nothing."""

    starts: I64  # (rows, texts) where a row's ids begin
    counts: I64  # (rows, texts)
    ids: U64  # of texts
    numbers: F64  # (rows, numbers) NaN: none
    known: Bools  # (rows,)


class ItemAttributes:
    """The attributes that rules name (full names, such as item.category), by rows of one catalogue.

    Row 0, an unknown item, has none. Threads may share it.
    """

    def __init__(
        self, catalogue: Catalogue, items: Mapping[str, Item], texts: Sequence[str], numbers: Sequence[str]
    ) -> None:
        self.catalogue = catalogue
        self.texts, self.numbers = tuple(texts), tuple(numbers)
        self._items = items
        self._lock = threading.Lock()
        self._used = 0
        self._arrays = AttributeArrays(
            np.zeros((1, len(texts)), np.int64), np.zeros((1, len(texts)), np.int64), np.zeros(64, np.uint64),
            np.full((1, len(numbers)), np.nan), np.ones(1, bool),
        )  # fmt: skip

    def of(self, rows: I64) -> AttributeArrays:
        """Arrays that have these rows [n], none negative."""
        known = self._arrays.known
        if len(rows) and (rows.max() >= len(known) or not known[rows].all()):
            with self._lock:
                self._read(rows)
        return self._arrays  # at least as new as `known`

    def _read(self, rows: I64) -> None:
        if rows.max() >= len(self._arrays.known):
            self._grow(max(len(self.catalogue), int(rows.max()) + 1, 2 * len(self._arrays.known)))
        for row in rows[~self._arrays.known[rows]].tolist():
            item = self._items.get(self.catalogue.items[row])
            self._put(row, item.attributes if item else {})

    def _put(self, row: int, attributes: Mapping[str, Value]) -> None:
        for at, name in enumerate(self.texts):
            ids = ids_of(name, attributes.get(name.removeprefix("item.")))
            while self._used + len(ids) > len(self._arrays.ids):
                more = np.concatenate([self._arrays.ids, np.zeros_like(self._arrays.ids)])
                self._arrays = self._arrays._replace(ids=more)
            arrays = self._arrays
            arrays.ids[self._used : self._used + len(ids)] = ids
            arrays.starts[row, at], arrays.counts[row, at] = self._used, len(ids)
            self._used += len(ids)
        numbers = [number_of(attributes.get(name.removeprefix("item."))) for name in self.numbers]
        self._arrays.numbers[row] = numbers
        self._arrays.known[row] = True  # last: another thread may read the row from now on

    def _grow(self, rows: int) -> None:
        old = self._arrays
        sizes = (rows, len(self.texts)), (rows, len(self.texts)), (rows, len(self.numbers)), (rows,)
        starts, counts, numbers, known = (
            np.zeros(size, kind) for size, kind in zip(sizes, (np.int64, np.int64, np.float64, bool), strict=True)
        )
        n = len(old.known)
        starts[:n], counts[:n], numbers[:n], known[:n] = old.starts, old.counts, old.numbers, old.known
        self._arrays = AttributeArrays(starts, counts, old.ids, numbers, known)
