"""Names for hashed feature keys: the values behind a wide weight, found by hashing all known values.

A key can't be inverted. But all keys of a cross-product can be computed from the known items and users and compared:
1,700 items by 1,700 are three million, and take less than a second. Values that only requests have (`context.*`) are
named in the topic `feature.names`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, TypeVar

import numpy as np

from stream.events.codec import decode_entity
from stream.events.topics import ITEMS, NAMES, USERS
from stream.events.types import FeatureName, Item, User
from stream.features.encoder import Encoder
from stream.features.page_features import Layout
from stream.features.value_names import ValueNames
from stream.log.log_scan import read_range
from stream.log.protocol import START, Log
from stream.runtime.errors import BadEvent
from stream.tables.dtypes import U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

PRODUCTS_MAX: Final = 50_000_000  # of one cross: the keys of a larger one stay unnamed


E = TypeVar("E", Item, User, FeatureName)


def read_entities(log: Log, topic: str, kind: type[E]) -> Iterator[E]:
    """All entities of a compacted topic, without those that a tombstone deletes; what can't be decoded is left out."""
    ends = log.ends(topic)
    values: dict[bytes | None, list[bytes]] = {}  # by key
    for record in read_range(log, topic, dict.fromkeys(ends, START), ends):
        if record.value is None:
            values.pop(record.key, None)
        else:
            values.setdefault(record.key, []).append(record.value)
    for value in chain.from_iterable(values.values()):
        try:
            yield decode_entity(value, kind)
        except BadEvent:
            continue


class FeatureNames(ValueNames):
    """The values of a layout's categories, and the names of the wide keys that they make."""

    @classmethod
    def read(cls, log: Log, layout: Layout) -> "FeatureNames":
        """Those of all items and users in the log, and of requests lately. Raises LogError."""
        names = cls(layout)
        for item in read_entities(log, ITEMS.name, Item):
            names.add_item(item)
        for user in read_entities(log, USERS.name, User):
            names.add_user(user)
        for named in read_entities(log, NAMES.name, FeatureName):
            names.add(named.column, named.text)
        return names

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
