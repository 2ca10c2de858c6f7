"""What is in a version, and what changed between two: parts laid together from their contents, then compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from stream.snapshots.contents import Array, Digests
from stream.snapshots.manifest import Manifest
from stream.snapshots.shown_items import PART as ITEMS
from stream.snapshots.shown_items import unpack_names
from stream.snapshots.store import SnapshotStore, fetch
from stream.tables.hash_table import U64

TOP: Final = 20
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Keys, rising, and a vector for each: float64 [K, n]."""

    keys: U64
    vectors: F64


@dataclass(frozen=True)
class Laid:
    """A version's parts: rows by part, dense arrays by name."""

    manifest: Manifest
    rows: Mapping[str, Rows]
    dense: Mapping[str, F64]


@dataclass(frozen=True)
class Change:
    """Rows of one part that differ. `top`: (key, size of the change, before, after) of the largest, largest first."""

    part: str
    before: int
    after: int
    new: int
    gone: int
    moved: int
    norm: float  # of all that changed
    top: list[tuple[int, float, float, float]] = field(default_factory=list)


def lay(store: SnapshotStore, manifest: Manifest) -> Laid:
    """All of a version. Raises BadSnapshot, StoreUnavailable."""
    rows, dense = {}, {}
    for part, version in manifest.parts.items():
        contents = [fetch(store, digests) for digests in version.contents()]
        rows[part] = _together([_rows_of(part, content) for content in contents])
        if part == "deep":
            dense = {name: array.astype(np.float64) for name, array in contents[-1].items()
                     if name.startswith(("weight_", "bias_", "boundaries"))}  # fmt: skip
    return Laid(manifest, rows, dense)


def _rows_of(part: str, content: Mapping[str, Array]) -> Rows:
    """A content's rows; NaN for what it takes away. An item's name is a key, its hash."""
    if part == ITEMS:
        names = [xxhash.xxh3_64_intdigest(name.encode()) for name in unpack_names(content)]
        return Rows(np.array(names, np.uint64), np.ones((len(names), 1)))
    if part == "statistics":  # the weight of labels; what else a row holds depends on its statistic
        rows = np.ascontiguousarray(content["rows"]).view(np.uint64)
        values = rows.view(np.float64)
        keys, vectors = rows[:, 0].copy(), np.where(values[:, 3:4] < 0, np.nan, values[:, 1:2])
    elif part == "wide":
        keys, weights = content["keys"].view(np.uint64), content["weights"].astype(np.float64)[:, None]
        vectors = np.where(weights == 0, np.nan, weights)
    else:
        keys, vectors = content["keys"].view(np.uint64), content["vectors"].astype(np.float64)
    dead = content.get("dead", np.zeros(0, np.uint64)).view(np.uint64)
    return Rows(np.concatenate([keys, dead]), np.concatenate([vectors, np.full((len(dead), vectors.shape[1]), np.nan)]))


def _together(layers: list[Rows]) -> Rows:
    """Later rows replace earlier ones; what was taken away is left out."""
    keys = np.concatenate([layer.keys for layer in layers])[::-1]
    vectors = np.concatenate([layer.vectors for layer in layers])[::-1]
    unique, first = np.unique(keys, return_index=True)
    held = vectors[first]
    there = ~np.isnan(held).all(axis=1)
    return Rows(unique[there], held[there])


def changes(before: Laid, after: Laid) -> Iterator[Change]:
    """Part by part."""
    for part in after.rows:
        if part in before.rows:
            yield _change(part, before.rows[part], after.rows[part])


def _change(part: str, a: Rows, b: Rows) -> Change:
    both, in_a, in_b = np.intersect1d(a.keys, b.keys, assume_unique=True, return_indices=True)
    step = b.vectors[in_b] - a.vectors[in_a]
    old, new = np.setdiff1d(a.keys, b.keys, assume_unique=True), np.setdiff1d(b.keys, a.keys, assume_unique=True)
    kept_old = a.vectors[np.searchsorted(a.keys, old)]
    kept_new = b.vectors[np.searchsorted(b.keys, new)]
    keys = np.concatenate([both, old, new])
    sizes = np.linalg.norm(np.concatenate([step, kept_old, kept_new]), axis=1)
    was = np.concatenate([_said(a.vectors[in_a]), _said(kept_old), np.zeros(len(new))])
    now = np.concatenate([_said(b.vectors[in_b]), np.zeros(len(old)), _said(kept_new)])
    order = np.argsort(-sizes, kind="stable")[:TOP]
    top = [(int(keys[i]), float(sizes[i]), float(was[i]), float(now[i])) for i in order if sizes[i] > 0]
    moved = int((np.linalg.norm(step, axis=1) > 0).sum())
    return Change(part, len(a.keys), len(b.keys), len(new), len(old), moved, float(np.linalg.norm(sizes)), top)


def _said(vectors: F64) -> F64:
    """One number for a row: a weight itself, else its length."""
    said: F64 = vectors[:, 0] if vectors.shape[1] == 1 else np.linalg.norm(vectors, axis=1)
    return said


def sizes(store: SnapshotStore, manifest: Manifest) -> dict[str, list[int]]:
    """Bytes of each content, part by part."""
    return {part: [_size(store, digests) for digests in version.contents()] for part, version in manifest.parts.items()}


def _size(store: SnapshotStore, digests: Digests) -> int:
    return sum(len(store.get_blob(digest)) for digest in digests)
