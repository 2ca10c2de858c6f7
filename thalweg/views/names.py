"""Names for hashed keys: which values a wide weight is of, found by trying all that are known.

A key can't be read back. But whoever has the items and users can make every key of a cross-product anew and look
which is the one: 1,700 items by 1,700 are three million, and take less than a second. Values that are only ever
in requests (`context.*`) aren't known here.
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
from stream.tables.hash_kernels import mix
from stream.tables.hash_table import U64
from stream.tables.jit import kernel
from thalweg.audit.log_scan import span

PRODUCTS_MAX: Final = 50_000_000  # of one cross: beyond that its keys stay nameless


E = TypeVar("E", Item, User)


def entities(log: Log, topic: str, kind: type[E]) -> Iterator[E]:
    """All entities of a compacted topic, a later one after an earlier one; what can't be read is left out."""
    ends = log.ends(topic)
    for record in span(log, topic, dict.fromkeys(ends, START), ends):
        if record.value is None:
            continue
        try:
            yield decode_entity(record.value, kind)
        except BadEvent:
            continue


class Names:
    """The values of a layout's categories by their ids."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.values: dict[str, dict[int, str]] = {name: {} for name in (*layout.user_lists, *layout.item_lists)}
        for name, column in layout.columns.items():
            if column.bands:
                self._bands(f"{name}_band", column.bands)

    @classmethod
    def read(cls, log: Log, layout: Layout) -> "Names":
        """Those of all items and users in the log."""
        names = cls(layout)
        for item in entities(log, ITEMS.name, Item):
            names.item(item)
        for user in entities(log, USERS.name, User):
            names.user(user)
        return names

    def item(self, item: Item) -> None:
        """What this item has; its id is a value of the history too, and its title names it."""
        said = f"{item.item} {item.title}".strip()
        for name in ("item.id", self.layout.history):
            if name in self.values:
                self.values[name][id_of(self.layout.seeds[name], item.item)] = said
        self._attributes("item", item.attributes)

    def user(self, user: User) -> None:
        """What this user has."""
        self.values["user.id"][id_of(self.layout.seeds["user.id"], user.user)] = user.user
        self._attributes("user", user.attributes)

    def of_keys(self, encoder: Encoder, keys: U64) -> dict[int, str]:
        """Names of wide keys, `column=value x column=value`; the cross alone where no known values make the key."""
        found: dict[int, str] = {}
        product, crosses = encoder.wide, encoder.cross_names
        for cross in range(len(crosses)):
            wanted = np.sort(keys[(keys & np.uint64(255)) == cross + 1])
            if not len(wanted):
                continue
            found.update({int(key): f"{crosses[cross]} = ?" for key in wanted})
            places = range(product.offsets[cross], product.offsets[cross + 1])
            sides = (self.layout.user_lists, self.layout.item_lists)
            columns = [sides[product.sides[p]][product.places[p]] for p in places]
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
            prefixes = mixed(prefixes, column)
        found: dict[int, str] = {}
        for prefix, last, key in _matches(prefixes, ids[-1], np.uint64(cross + 1), wanted):
            at, parts = int(prefix), [int(last)]
            for column in reversed(ids[:-1]):
                at, place = divmod(at, len(column))
                parts.insert(0, place)
            said = [
                f"{name}={self.values[name][int(column[p])]}"
                for name, column, p in zip(columns, ids, parts, strict=True)
            ]
            found[int(wanted[key])] = " x ".join(said)
        return found

    def _attributes(self, origin: str, attributes: Mapping[str, Value]) -> None:
        for key, value in attributes.items():
            name = f"{origin}.{key}"
            if name in self.values:
                self.values[name].update({id_of(self.layout.seeds[name], text): text for text in texts_of(value)})

    def _bands(self, name: str, bands: Sequence[float]) -> None:
        edges = ["", *(f"{band:g}" for band in bands), ""]
        for place in range(len(bands) + 1):
            self.values[name][id_of(self.layout.seeds[name], str(place))] = f"[{edges[place]}, {edges[place + 1]})"


@kernel
def mixed(prefixes: Any, ids: Any) -> Any:
    """Every prefix mixed with every id, prefix by prefix."""
    out = np.empty(prefixes.shape[0] * ids.shape[0], np.uint64)
    for p in range(prefixes.shape[0]):
        for i in range(ids.shape[0]):
            out[p * ids.shape[0] + i] = mix(prefixes[p], ids[i])
    return out


@kernel
def _matches(prefixes: Any, ids: Any, cross: Any, wanted: Any) -> Any:
    """[prefix, id, wanted] of every product whose key is one of `wanted` (sorted)."""
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
