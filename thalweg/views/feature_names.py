"""Names for hashed feature keys: the values behind a wide weight, found by hashing all known values.

A key can't be inverted. But all keys of a cross-product can be computed from the known items and users and compared:
1,700 items by 1,700 are three million, and take less than a second. Values that only requests have (`context.*`)
aren't known here.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final, TypeVar

import numpy as np

from stream.events.codec import decode_entity
from stream.events.topics import ITEMS, USERS
from stream.events.types import Item, User, Value
from stream.features.encoder import Encoder
from stream.features.page_features import Layout, id_of, texts_of
from stream.log.protocol import START, Log
from stream.runtime.errors import BadEvent
from stream.spec.built_in_columns import HOUR, WEEKDAY
from stream.tables.dtypes import U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel
from thalweg.audit.log_scan import read_range

PRODUCTS_MAX: Final = 50_000_000  # of one cross: the keys of a larger one stay unnamed


E = TypeVar("E", Item, User)


def read_entities(log: Log, topic: str, kind: type[E]) -> Iterator[E]:
    """All entities of a compacted topic, in log order; tombstones and what can't be decoded are left out."""
    ends = log.ends(topic)
    for record in read_range(log, topic, dict.fromkeys(ends, START), ends):
        if record.value is None:
            continue
        try:
            yield decode_entity(record.value, kind)
        except BadEvent:
            continue


class FeatureNames:
    """The values of a layout's categories, by column and id."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.values: dict[str, dict[int, str]] = {name: {} for name in (*layout.user_lists, *layout.item_lists)}
        for name, column in layout.columns.items():
            if column.bands:
                self._add_bands(f"{name}_band", column.bands)
        for name, count in ((HOUR, 24), (WEEKDAY, 7)):
            if name in self.values:
                self.values[name] = {id_of(layout.seeds[name], str(value)): str(value) for value in range(count)}
        self._of_items = [name for name in self.values if layout.seeds[name] == layout.seeds["item.id"]]

    @classmethod
    def read(cls, log: Log, layout: Layout) -> "FeatureNames":
        """Those of all items and users in the log."""
        names = cls(layout)
        for item in read_entities(log, ITEMS.name, Item):
            names.add_item(item)
        for user in read_entities(log, USERS.name, User):
            names.add_user(user)
        return names

    def add_item(self, item: Item) -> None:
        """Add an item's values; its id is a value of the history and its newest too, and is shown with the title."""
        shown = f"{item.item} {item.title}".strip()
        for name in self._of_items:
            self.values[name][id_of(self.layout.seeds[name], item.item)] = shown
        self._add_attributes("item", item.attributes)

    def add_user(self, user: User) -> None:
        """Add a user's values."""
        self.values["user.id"][id_of(self.layout.seeds["user.id"], user.user)] = user.user
        self._add_attributes("user", user.attributes)

    def of_keys(self, encoder: Encoder, keys: U64) -> dict[int, str]:
        """Names of wide keys, `column=value x column=value`; the cross alone where no known values make the key."""
        found: dict[int, str] = {}
        product, crosses = encoder.wide, encoder.cross_names
        for cross in range(len(crosses)):
            wanted = np.sort(keys[(keys & np.uint64(255)) == cross + 1])
            if not len(wanted):
                continue
            found.update({int(key): f"{crosses[cross]} = ?" for key in wanted})
            indices = range(product.offsets[cross], product.offsets[cross + 1])
            sides = (self.layout.user_lists, self.layout.item_lists)
            columns = [sides[product.sides[i]][product.indices[i]] for i in indices]
            if columns:
                found.update(self._search(columns, product.salts[cross], cross, wanted))
            else:
                found.update({int(key): crosses[cross] for key in wanted})
        return found

    def _search(self, columns: Sequence[str], salt: Any, cross: int, wanted: U64) -> dict[int, str]:
        ids = [np.fromiter(self.values[name], np.uint64, len(self.values[name])) for name in columns]
        if prod(map(len, ids)) > PRODUCTS_MAX or not all(map(len, ids)):
            return {}
        prefixes = np.array([salt], np.uint64)
        for column in ids[:-1]:
            prefixes = mix_product(prefixes, column)
        found: dict[int, str] = {}
        for prefix, last, key in _matches(prefixes, ids[-1], np.uint64(cross + 1), wanted):
            indices = [*np.unravel_index(prefix, [len(column) for column in ids[:-1]]), last]
            values = [
                f"{name}={self.values[name][int(column[i])]}"
                for name, column, i in zip(columns, ids, indices, strict=True)
            ]
            found[int(wanted[key])] = " x ".join(values)
        return found

    def _add_attributes(self, origin: str, attributes: Mapping[str, Value]) -> None:
        for key, value in attributes.items():
            name = f"{origin}.{key}"
            if name in self.values:
                self.values[name].update({id_of(self.layout.seeds[name], text): text for text in texts_of(value)})

    def _add_bands(self, name: str, bands: Sequence[float]) -> None:
        edges = ["", *(f"{band:g}" for band in bands), ""]
        for band in range(len(bands) + 1):
            self.values[name][id_of(self.layout.seeds[name], str(band))] = f"[{edges[band]}, {edges[band + 1]})"


@kernel
def mix_product(prefixes: Any, ids: Any) -> Any:
    """Every prefix mixed with every id, prefix by prefix: uint64 [P], [N] → [P * N]."""
    out = np.empty(prefixes.shape[0] * ids.shape[0], np.uint64)
    for p in range(prefixes.shape[0]):
        for i in range(ids.shape[0]):
            out[p * ids.shape[0] + i] = mix(prefixes[p], ids[i])
    return out


@kernel
def _matches(prefixes: Any, ids: Any, cross: Any, wanted: Any) -> Any:
    """Indices [prefix, id, wanted] of every product whose key is one of `wanted` (sorted)."""
    found = np.empty((wanted.shape[0], 3), np.int64)
    count = 0
    for p in range(prefixes.shape[0]):
        for i in range(ids.shape[0]):
            key = (mix(prefixes[p], ids[i]) & ~np.uint64(255)) | cross
            at = np.searchsorted(wanted, key)
            if at < wanted.shape[0] and wanted[at] == key and count < wanted.shape[0]:
                found[count, 0], found[count, 1], found[count, 2] = p, i, at
                count += 1
    return found[:count]
