"""A version's table: a big base that all versions of a chain share, and over it a delta of what changed since.

The cost of applying a payload to a table is that of the rows it contains. A delta whose room runs out is compacted in a
thread of its own: the next version takes the compacted one and applies what came meanwhile.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from stream.runtime.errors import BadSnapshot, StoreUnavailable
from stream.tables.delta_table import Allocate, DeltaTable, TableView, cache_aligned, empty_delta
from stream.tables.dtypes import F32, U32, U64
from stream.tables.hash_kernels import KEYS, insert_rows
from stream.tables.hash_table import capacity_for, distinct

log = logging.getLogger(__name__)

PayloadId = tuple[str, ...]  # the digests of its blobs
COMPACT_SHARE: Final = 0.75  # of the room: a delta that is fuller is compacted
DUPLICATE: Final = "a key is twice in a payload: which of the two rows counts?"
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)
NO_VECTORS: Final[F32] = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Change:
    """A payload's rows: `keys` uint64 [n] with `columns` uint64 [n, width − 1] or `vectors` [n, dim]; `removed` keys.

    `unseen`: the vector of ids that have none, float32 [dim], if the payload has it.
    """

    keys: U64
    columns: U64
    vectors: F32 = field(default_factory=lambda: NO_VECTORS)
    removed: U64 = field(default_factory=lambda: NO_KEYS)
    unseen: F32 | None = None


class Predecessor(NamedTuple):
    """The delta that this one replaced.

    A view of it with at most `limit` entries equals this delta's first `settled` entries, except for keys that its
    `latest` marks as newer.
    """

    latest: U32
    limit: int
    settled: int


@dataclass(frozen=True)
class LayeredTable:
    """`payload_ids`: the payloads applied, in order; after a merge, their ids in the newer manifest.

    `origin`: the payload that `base` was made of. `vectors` are the base's; the delta has its own. `unseen`: the
    vector of ids that have none, float32 [dim], zeros where no payload has it; `unseen_of_base`: what it was in the
    base.
    """

    payload_ids: tuple[PayloadId, ...]
    origin: PayloadId
    base: U64
    vectors: F32
    unseen_of_base: F32
    delta: DeltaTable
    count: int
    unseen: F32
    predecessor: Predecessor | None = None

    @property
    def view(self) -> TableView:
        """The table as kernels read it."""
        return TableView(self.base, self.delta.heads, self.delta.entries, self.count, self.delta.marks)

    def with_change(self, payload_id: PayloadId, change: Change) -> "LayeredTable":
        """This table with one more payload. Raises BadSnapshot when it has a key twice."""
        check_distinct(change)
        table = _put(self, change.keys, change.columns, change.vectors, tombstones=False)
        if len(change.removed):
            nothing = np.zeros((len(change.removed), self.delta.width - 1), np.uint64)
            no_vectors = np.zeros((len(nothing), self.delta.dim), np.float32)
            table = _put(table, change.removed, nothing, no_vectors, tombstones=True)
        unseen = self.unseen if change.unseen is None else change.unseen
        return replace(table, payload_ids=(*self.payload_ids, payload_id), unseen=unseen)

    def base_only(self) -> "LayeredTable":
        """The base alone."""
        delta = empty_delta(self.delta.width, dim=self.delta.dim, allocate=self.delta.allocate)
        return _on_base(self.origin, self.base, self.vectors, self.unseen_of_base, delta)

    def compacted(self, extra: int = 0) -> "LayeredTable":
        """The same, with room again, for `extra` rows at least."""
        delta = self.delta.compacted(self.count, extra)
        return replace(self, delta=delta, count=delta.count).succeeding(self)

    def succeeding(self, table: "LayeredTable") -> "LayeredTable":
        """This table, which has the same rows as `table`: caches of that one stay valid."""
        return replace(self, predecessor=Predecessor(table.delta.latest, table.count, self.count))


def check_distinct(change: Change) -> None:
    """Raises BadSnapshot when a key is twice among those of a payload."""
    keys = np.concatenate([change.keys, change.removed])
    if len(distinct(keys)) != len(keys):
        raise BadSnapshot(DUPLICATE)


def based_on(payload_id: PayloadId, change: Change, allocate: Allocate = cache_aligned) -> LayeredTable:
    """A base: a table of the payload's rows; key → row in `vectors` where it has vectors.

    Raises BadSnapshot when the payload has a key twice: the count of rows shows it, without sorting them.
    """
    dim = change.vectors.shape[1]
    columns = np.arange(len(change.keys), dtype=np.uint64)[:, None] if dim else change.columns
    rows = np.concatenate([change.keys[:, None], columns], axis=1)
    slots, counts = allocate((capacity_for(len(rows)), rows.shape[1]), np.uint64), np.zeros(2, np.int64)
    insert_rows(slots, rows, counts)
    if counts[KEYS] != len(rows):
        raise BadSnapshot(DUPLICATE)
    vectors = allocate(change.vectors.shape, np.float32)
    vectors[:] = change.vectors
    unseen = np.zeros(dim, np.float32) if change.unseen is None else change.unseen
    delta = empty_delta(1 if dim else rows.shape[1], dim=dim, allocate=allocate)
    return _on_base(payload_id, slots, vectors, unseen, delta)


def _on_base(payload_id: PayloadId, base: U64, vectors: F32, unseen: F32, delta: DeltaTable) -> LayeredTable:
    """A base with an empty delta."""
    return LayeredTable((payload_id,), payload_id, base, vectors, unseen, delta, delta.count, unseen)


def _put(table: LayeredTable, keys: U64, columns: U64, vectors: F32, *, tombstones: bool) -> LayeredTable:
    """Put rows into the delta; into a compacted one when there is no room for all."""
    delta, count = table.delta, table.count
    if count != delta.count or count + len(keys) > delta.room:  # or a version that was rejected has put more
        table = table.compacted(len(keys))
        delta, count = table.delta, table.count
    more = delta.put(count, keys, columns, vectors if delta.dim else None, tombstones=tombstones)
    assert more is not None, "there is room, and nobody else puts after that view"
    return replace(table, count=more)


def _applied(
    payload_ids: tuple[PayloadId, ...],
    table: LayeredTable | None,
    read: Callable[[PayloadId], Change],
    allocate: Allocate,
) -> LayeredTable:
    """The table of these payloads, from `table`, which has the first of them, or from nothing."""
    if table is None:
        table = based_on(payload_ids[0], read(payload_ids[0]), allocate)
    for payload_id in payload_ids[len(table.payload_ids) :]:
        table = table.with_change(payload_id, read(payload_id))
    return table


class TableBuilder:
    """Builds one part's tables, version by version, each from the one before, in arrays from `allocate`. One thread."""

    def __init__(self, allocate: Allocate = cache_aligned) -> None:
        self._allocate = allocate
        self._pending: Future[LayeredTable] | None = None
        self._tried: PayloadId | None = None  # the base that was built last, or that couldn't be
        self._spare: LayeredTable | None = None  # a base that was built, while its deltas were merged

    def build(
        self, payload_ids: tuple[PayloadId, ...], previous: LayeredTable | None, read: Callable[[PayloadId], Change]
    ) -> LayeredTable:
        """The table of these payloads, reusing what `previous` has of them. `read` reads one.

        It may be called in another thread, for a new base of payloads that `previous` has in another form.
        """
        table = self._start(payload_ids, previous)
        if table is not None and table.payload_ids == payload_ids:
            return table
        table = _applied(payload_ids, table, read, self._allocate)
        self._prepare(table, read)
        return table

    def _start(self, payload_ids: tuple[PayloadId, ...], previous: LayeredTable | None) -> LayeredTable | None:
        """What to build on: what was prepared meanwhile, all of `previous`, its base alone, or nothing."""
        if previous is not None and previous.payload_ids == payload_ids:
            return previous
        prepared = self._take_prepared()
        if prepared is not None:
            if payload_ids[: len(prepared.payload_ids)] == prepared.payload_ids:
                return prepared
            self._spare = prepared.base_only() if prepared.origin == payload_ids[0] else None
        if previous is None:
            return None
        if payload_ids[: len(previous.payload_ids)] == previous.payload_ids:
            return previous
        return previous.base_only() if payload_ids[0] == previous.origin else None

    def _take_prepared(self) -> LayeredTable | None:
        if self._pending is None or not self._pending.done():
            return None
        pending, self._pending = self._pending, None
        try:
            return pending.result()
        except StoreUnavailable as bad:
            self._tried = None
            log.warning("a new base is unavailable, ranking continues with the current one: %s", bad)
        except Exception:  # whatever it is, no version waits for it
            log.exception("a new base can't be built, ranking continues with the current one")
        return None

    def _prepare(self, table: LayeredTable, read: Callable[[PayloadId], Change]) -> None:
        """In another thread: build this table on the base that its manifest names, or compact it."""
        if self._pending is not None:
            return
        base, spare, self._spare = table.payload_ids[0], self._spare, None
        if spare is not None and spare.origin != base:
            spare = None
        if base != table.origin and (spare is not None or base != self._tried):
            self._tried = base
            self._submit(lambda: _applied(table.payload_ids, spare, read, self._allocate).succeeding(table))
        elif table.count > COMPACT_SHARE * table.delta.room:
            self._submit(table.compacted)

    def _submit(self, work: Callable[[], LayeredTable]) -> None:
        pending = self._pending = Future[LayeredTable]()

        def run() -> None:
            try:
                pending.set_result(work())
            except BaseException as bad:  # noqa: BLE001  # whoever takes the result gets it
                pending.set_exception(bad)

        threading.Thread(target=run, name="layers", daemon=True).start()  # a process that ends doesn't wait for it
