"""From manifests to versions: contents fetched once, laid over what the live version already has, then tried out.

A version whose manifest begins with the same contents as the previous one's costs what is new; one with the
same base costs its deltas. Nothing is served before `try_out`: shapes fit the spec, all is finite, and the
golden rows score as its publisher says.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ranker.model import ROW_WIDTH, WIDE_WIDTH, Layers, Name, Plan, Tower, Version, score_features
from stream.errors import BadEvent, BadSnapshot, SpecError
from stream.features import F32
from stream.snapshot import Content, Manifest, VersionReader, fetch
from stream.spec_file import decode_spec
from stream.statistics import WIDTH as STATISTICS_WIDTH
from stream.table import U64, Table, find_many

GOLDEN_DIFFERENCE_MAX: Final = 1e-4
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)

Read = Callable[[Name], Content]


def load_version(store: VersionReader, model: str, number: int) -> Version:
    """One version of a model, from nothing. Raises BadSnapshot, StoreUnavailable."""
    return Loader(store, model).load(number)


class Loader:
    """Loads versions of one model, each from the one before. One thread only."""

    def __init__(self, store: VersionReader, model: str) -> None:
        self._store = store
        self._model = model
        self._deltas: dict[Name, Content] = {}  # of the newest manifest: the next ones name most of them again

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, tried out. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        manifest = self._store.manifest(number)
        if (manifest.model, manifest.version) != (self._model, number):
            raise BadSnapshot(f"manifest {number} of {self._model} says it is {manifest.version} of {manifest.model}")
        version = self._build(manifest, previous)
        try_out(version)
        return version

    def _build(self, manifest: Manifest, previous: Version | None) -> Version:
        plan = _plan(manifest, previous)
        parts = {"wide", "statistics"} | ({"deep"} if "deep" in plan.spec.parts else set())
        if missing := parts - set(manifest.parts):
            raise BadSnapshot(f"version {manifest.version} lacks {', '.join(sorted(missing))}, which its spec asks for")
        named = {part: tuple(map(tuple, manifest.parts[part].contents())) for part in parts}
        small = {tuple(d) for part in parts for d in manifest.parts[part].deltas}
        self._deltas = {name: content for name, content in self._deltas.items() if name in small}

        def read(name: Name) -> Content:
            if name in self._deltas:
                return self._deltas[name]
            content = fetch(self._store, name)
            if name in small:
                self._deltas[name] = content
            return content

        wide = lay_rows(named["wide"], previous.wide if previous else None, lambda n: wide_rows(read(n)), WIDE_WIDTH)
        statistics = lay_rows(
            named["statistics"],
            previous.statistics if previous else None,
            lambda n: statistic_rows(read(n)),
            STATISTICS_WIDTH,
        )
        tower = lay_tower(named["deep"], previous.tower if previous else None, read, plan) if "deep" in parts else None
        return Version(manifest, plan, wide, statistics, tower)


def _plan(manifest: Manifest, previous: Version | None) -> Plan:
    if previous is not None and previous.manifest.spec == manifest.spec:
        plan = previous.plan
    else:
        try:
            plan = Plan(decode_spec(manifest.spec))
        except SpecError as bad:
            raise BadSnapshot(f"version {manifest.version}: {bad}") from None
    if plan.spec.fingerprint() != manifest.fingerprint:
        raise BadSnapshot(f"version {manifest.version} is of spec {manifest.fingerprint}, but carries another")
    return plan


def _shared(names: tuple[Name, ...], before: tuple[Name, ...]) -> int:
    """How many of these contents can be taken over: all of `before`, its base alone, or none."""
    if names[: len(before)] == before:
        return len(before)
    return 1 if before and names[0] == before[0] else 0


def lay_rows(names: tuple[Name, ...], previous: Layers | None, rows: Callable[[Name], U64], width: int) -> Layers:
    """Rows of contents, laid over what `previous` already has of them."""
    nothing: U64 = np.zeros((1, width), np.uint64)
    shared = _shared(names, previous.names if previous else ())
    if previous is not None and shared == len(names) == len(previous.names):
        return previous
    if previous is not None and shared:
        base, overlay = previous.base, previous.overlay if shared == len(previous.names) else nothing
    else:
        base, overlay, shared = laid_over(nothing, [rows(names[0])]), nothing, 1
    return Layers(names, base, laid_over(overlay, map(rows, names[shared:])))


def laid_over(slots: U64, news: Iterable[U64]) -> U64:
    """The slots of a new table: those rows, replaced by these in order. The old table stays as it is."""
    rows = [r for r in news if len(r)]
    if not rows:
        return slots
    table = Table.restored(slots, NO_KEYS) if len(slots) > 1 else Table(slots.shape[1], sum(map(len, rows)))
    for more in rows:
        table.put(more)
    return table.slots


def lay_tower(names: tuple[Name, ...], previous: Tower | None, read: Read, plan: Plan) -> Tower:
    """The deep part of contents, laid over what `previous` already has of them."""
    dim = plan.spec.deep.embedding_dim
    nothing: U64 = np.zeros((1, ROW_WIDTH), np.uint64)
    shared = _shared(names, previous.rows.names if previous else ())
    if previous is not None and shared == len(names) == len(previous.rows.names):
        return previous
    content: Content = {}
    if previous is not None and shared:
        base, vectors, unseen = previous.rows.base, previous.vectors, previous.unseen
        kept = shared == len(previous.rows.names)
        overlay, fresh = (previous.rows.overlay, previous.fresh) if kept else (nothing, unseen)
    else:
        content, shared = read(names[0]), 1
        base, vectors, unseen = _base_rows(content, dim)
        overlay, fresh = nothing, unseen
    for name in names[shared:]:
        content = read(name)
        overlay, fresh = _lay_vectors(overlay, fresh, content, dim)
    layers, boundaries = _dense(content or read(names[-1]), plan)
    return Tower(Layers(names, base, overlay), vectors, unseen, fresh, layers, boundaries)


def _base_rows(content: Content, dim: int) -> tuple[U64, F32, F32]:
    """Slots key → row, the vectors, and among them that of unseen ids, [1, dim]."""
    keys, vectors = _vectors(content, dim)
    rows = np.stack([keys, np.arange(len(keys), dtype=np.uint64)], axis=1)[keys != 0]
    unseen = vectors[keys == 0] if (keys == 0).any() else np.zeros((1, dim), np.float32)
    return laid_over(np.zeros((1, ROW_WIDTH), np.uint64), [rows]), vectors, unseen


def _lay_vectors(overlay: U64, fresh: F32, content: Content, dim: int) -> tuple[U64, F32]:
    """Overlay with these rows: known keys keep their row in a copy of `fresh`, new ones are appended."""
    keys, vectors = _vectors(content, dim)
    dead = _array(content, "dead", "<u8", 1) if "dead" in content else NO_KEYS
    found = find_many(overlay, keys)
    rows = np.where(found >= 0, overlay[found, 1], np.uint64(0))
    rows[keys == 0] = 0
    new = (rows == 0) & (keys != 0)
    rows[new] = np.arange(len(fresh), len(fresh) + np.count_nonzero(new), dtype=np.uint64)
    grown = np.concatenate([fresh, np.empty((np.count_nonzero(new), dim), np.float32)])
    grown[rows.astype(np.int64)] = vectors
    gone = np.stack([dead, np.zeros_like(dead)], axis=1)
    return laid_over(overlay, [np.stack([keys, rows], axis=1)[keys != 0], gone[dead != 0]]), grown


def _dense(content: Content, plan: Plan) -> tuple[tuple[tuple[F32, F32], ...], F32]:
    deep, encoder = plan.spec.deep, plan.encoder
    numbers = len(encoder.deep_numbers)
    widths = [len(encoder.deep_lists) * deep.embedding_dim + 2 * numbers, *deep.hidden_units, 1]
    layers = []
    for i, shape in enumerate(pairwise(widths)):
        layers.append((_floats(content, f"weight_{i}", shape), _floats(content, f"bias_{i}", shape[1:])))
    boundaries = _array(content, "boundaries", "<f4", 2)
    if boundaries.shape not in ((0, 0), (numbers, deep.quantiles - 1)):
        raise BadSnapshot(f"boundaries of shape {boundaries.shape} aren't {numbers} times {deep.quantiles - 1}")
    if (np.diff(boundaries, axis=1) < 0).any():
        raise BadSnapshot("boundaries of quantiles must rise")
    return tuple(layers), boundaries.copy()


def wide_rows(content: Content) -> U64:
    """Rows of the wide table: key; weight as float32 in the low half. Raises BadSnapshot."""
    keys, weights = _keys(content), _array(content, "weights", "<f4", 1)
    if len(keys) != len(weights):
        raise BadSnapshot(f"{len(keys)} wide keys have {len(weights)} weights")
    rows = np.zeros((len(keys), WIDE_WIDTH), np.uint64)
    rows[:, 0] = keys
    rows.view(np.float32)[:, 2] = weights
    return rows


def statistic_rows(content: Content) -> U64:
    """Rows of the statistics' table: key; n, s, t as float64. Raises BadSnapshot."""
    rows = _array(content, "rows", "<u8", 2)
    if rows.shape[1] != STATISTICS_WIDTH or not (rows[:, 0] != 0).all():
        raise BadSnapshot(f"statistics of shape {rows.shape} aren't rows of {STATISTICS_WIDTH} with a key")
    rows = np.array(rows)
    if not np.isfinite(rows.view(np.float64)[:, 1:]).all():
        raise BadSnapshot("a statistic isn't finite")
    return rows


def _keys(content: Content) -> U64:
    keys = _array(content, "keys", "<u8", 1)
    if not keys.all():
        raise BadSnapshot("a key is 0, which means none")
    return keys


def _vectors(content: Content, dim: int) -> tuple[U64, F32]:
    keys, vectors = _array(content, "keys", "<u8", 1), _floats(content, "vectors", None)
    if vectors.shape != (len(keys), dim):
        raise BadSnapshot(f"vectors of shape {vectors.shape} aren't {len(keys)} rows of {dim}")
    if len(np.unique(keys)) != len(keys):
        raise BadSnapshot("an embedding row's key stands twice")
    return keys, vectors


def _floats(content: Content, name: str, shape: tuple[int, ...] | None) -> F32:
    """A copy, since kernels are compiled for writable arrays and contents are read-only."""
    array = _array(content, name, "<f4", 2 if shape is None else len(shape))
    if shape is not None and array.shape != shape:
        raise BadSnapshot(f"{name} of shape {array.shape} should have {shape}")
    return np.array(array, np.float32)


def _array(content: Content, name: str, dtype: str, dimensions: int) -> npt.NDArray[Any]:
    array = content.get(name)
    if array is None or array.dtype.str != dtype or array.ndim != dimensions:
        found = "nothing" if array is None else f"{array.dtype.str} {list(array.shape)}"
        raise BadSnapshot(f"{name} should be {dtype} of {dimensions} dimensions, found {found}")
    return array


def try_out(version: Version) -> None:
    """The dry run: every golden row scores as its publisher says. Raises BadSnapshot with the reason."""
    for golden in version.manifest.golden:
        try:
            scores = score_features(version, golden.features, len(golden.scores))
        except BadEvent as bad:
            raise BadSnapshot(f"version {version.number}: a golden page can't be scored: {bad}") from None
        off = float(np.abs(scores - np.array(golden.scores, np.float64)).max())
        if not off <= GOLDEN_DIFFERENCE_MAX:
            raise BadSnapshot(
                f"version {version.number}: a golden page's scores are off by {off:.3g}, over {GOLDEN_DIFFERENCE_MAX}"
            )
