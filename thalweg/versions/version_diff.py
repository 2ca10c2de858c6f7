"""What a version consists of, and what changed between two: layers of each part merged, then compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash

from stream.snapshots.item_names import ITEMS_PART, unpack_names
from stream.snapshots.manifest import Manifest
from stream.snapshots.payload import Array
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.snapshots.store import SnapshotStore, fetch
from stream.tables.dtypes import F64, U64

TOP: Final = 20


@dataclass(frozen=True)
class Rows:
    """A vector for each key; keys in ascending order."""

    keys: U64  # [K]
    vectors: F64  # [K, n]


@dataclass(frozen=True)
class VersionTables:
    """A version's tables: rows by part, dense arrays by name."""

    manifest: Manifest
    rows: Mapping[str, Rows]
    dense: Mapping[str, F64]


@dataclass(frozen=True)
class PartChange:
    """How the rows of one part differ: counts before and after, of new, removed and changed ones."""

    part: str
    before: int
    after: int
    new: int
    removed: int
    changed: int
    norm: float  # of the whole change
    top: list[tuple[int, float, float, float]]  # the largest: key, size of the change, before, after


def load_tables(store: SnapshotStore, manifest: Manifest) -> VersionTables:
    """All tables of a version. Raises BadSnapshot, StoreUnavailable."""
    rows, dense = {}, {}
    for part, version in manifest.parts.items():
        payloads = [fetch(store, digests) for digests in version.payloads()]
        rows[part] = _merge([_rows_of(part, payload) for payload in payloads])
        if part == "deep":
            dense = {name: array.astype(np.float64) for name, array in payloads[-1].items()
                     if name.startswith(("weight_", "bias_", "boundaries"))}  # fmt: skip
    return VersionTables(manifest, rows, dense)


def _rows_of(part: str, payload: Mapping[str, Array]) -> Rows:
    """A payload's rows; NaN for tombstones. An item's name is a row whose key is its hash."""
    if part == ITEMS_PART:
        names = [xxhash.xxh3_64_intdigest(name.encode()) for name in unpack_names(payload)]
        return Rows(np.array(names, np.uint64), np.ones((len(names), 1)))
    if part == "statistics":  # column 1, the weight of labels: the others depend on the kind of statistic
        rows = np.ascontiguousarray(payload["rows"]).view(np.uint64)
        values = rows.view(np.float64)
        keys, vectors = rows[:, 0].copy(), np.where(values[:, 3:4] < 0, np.nan, values[:, 1:2])
    elif part == "wide":
        keys, weights = payload["keys"].view(np.uint64), payload["weights"].astype(np.float64)[:, None]
        vectors = np.where(weights == 0, np.nan, weights)
    elif part == RETRIEVAL_PART:  # lists and vectors are as long as the spec says, which may change between versions
        keys, vectors = payload["keys"].view(np.uint64), payload["installs"].astype(np.float64)[:, None]
    else:
        keys, vectors = payload["keys"].view(np.uint64), payload["vectors"].astype(np.float64)
    dead = payload.get("dead", np.zeros(0, np.uint64)).view(np.uint64)
    return Rows(np.concatenate([keys, dead]), np.concatenate([vectors, np.full((len(dead), vectors.shape[1]), np.nan)]))


def _merge(layers: list[Rows]) -> Rows:
    """Later rows replace earlier ones; tombstones are left out."""
    keys = np.concatenate([layer.keys for layer in layers])[::-1]
    vectors = np.concatenate([layer.vectors for layer in layers])[::-1]
    unique, first = np.unique(keys, return_index=True)
    newest = vectors[first]
    is_live = ~np.isnan(newest).all(axis=1)
    return Rows(unique[is_live], newest[is_live])


def changes(before: VersionTables, after: VersionTables) -> Iterator[PartChange]:
    """The change of each part that both versions have."""
    for part in after.rows:
        if part in before.rows:
            yield _change(part, before.rows[part], after.rows[part])


def _change(part: str, a: Rows, b: Rows) -> PartChange:
    both, in_a, in_b = np.intersect1d(a.keys, b.keys, assume_unique=True, return_indices=True)
    step = b.vectors[in_b] - a.vectors[in_a]
    removed, new = np.setdiff1d(a.keys, b.keys, assume_unique=True), np.setdiff1d(b.keys, a.keys, assume_unique=True)
    removed_vectors = a.vectors[np.searchsorted(a.keys, removed)]
    new_vectors = b.vectors[np.searchsorted(b.keys, new)]
    keys = np.concatenate([both, removed, new])
    sizes = np.linalg.norm(np.concatenate([step, removed_vectors, new_vectors]), axis=1)
    was = np.concatenate([_magnitudes(a.vectors[in_a]), _magnitudes(removed_vectors), np.zeros(len(new))])
    now = np.concatenate([_magnitudes(b.vectors[in_b]), np.zeros(len(removed)), _magnitudes(new_vectors)])
    order = np.argsort(-sizes, kind="stable")[:TOP]
    top = [(int(keys[i]), float(sizes[i]), float(was[i]), float(now[i])) for i in order if sizes[i] > 0]
    changed = int((np.linalg.norm(step, axis=1) > 0).sum())
    norm = float(np.linalg.norm(sizes))
    return PartChange(part, len(a.keys), len(b.keys), len(new), len(removed), changed, norm, top)


def _magnitudes(vectors: F64) -> F64:
    """One number a row: a weight itself, else the vector's length."""
    magnitudes: F64 = vectors[:, 0] if vectors.shape[1] == 1 else np.linalg.norm(vectors, axis=1)
    return magnitudes


def part_sizes(store: SnapshotStore, manifest: Manifest) -> dict[str, list[int]]:
    """Bytes of each payload, part by part."""
    return {
        part: [sum(len(store.get_blob(digest)) for digest in digests) for digests in version.payloads()]
        for part, version in manifest.parts.items()
    }
