"""Many keys looked up in a version's table: rows are prefetched, so that they're near when they are read."""

import numpy as np

from ranker.kernels.prefetch import AHEAD, prefetch_slot
from ranker.kernels.scratch import Scratch
from stream.features.statistic_reads import GONE_MS, StatisticRows, faded
from stream.tables.delta_table import MISSING, TableView, lookup_hashed, may_have_entry
from stream.tables.dtypes import F64, U64
from stream.tables.hash_kernels import find_hashed, hash32
from stream.tables.jit import kernel


@kernel
def _prefetch(base: U64, heads: U64, marks: U64, hashed: np.uint64) -> None:
    """Prefetch a key's rows: those of the base, and of the delta if it may have any."""
    prefetch_slot(base, hashed)
    if may_have_entry(marks, hashed):
        prefetch_slot(heads, hashed)


@kernel
def _hash(keys: U64, count: int, base: U64, heads: U64, marks: U64, hashes: U64) -> None:
    """Hash keys, and prefetch the rows of the first ones."""
    for k in range(count):
        hashes[k] = hash32(keys[k])
    for k in range(min(AHEAD, count)):
        _prefetch(base, heads, marks, hashes[k])


@kernel
def read_weights(scratch: Scratch, count: int, table: TableView, found: F64) -> None:
    """The weights of the first `count` of scratch.keys, to `found`; 0 of a missing one."""
    keys, hashes = scratch.keys, scratch.hashes
    base, heads, entries, limit, marks = table
    weights, delta = base.view(np.float32), entries.view(np.float32)
    _hash(keys, count, base, heads, marks, hashes)
    # The same search as in `read_rows`: one kernel for both would count references at each key, a tenth of the time.
    for k in range(count):
        if k + AHEAD < count:
            _prefetch(base, heads, marks, hashes[k + AHEAD])
        entry = MISSING
        if may_have_entry(marks, hashes[k]):
            entry = lookup_hashed(heads, entries, limit, keys[k], hashes[k])
        found[k] = 0.0
        if entry >= 0:
            found[k] = np.float64(delta[entry, 2])
        elif entry == MISSING:
            row = find_hashed(base, keys[k], hashes[k])
            if row >= 0:
                found[k] = np.float64(weights[row, 2])


@kernel
def read_rows(
    keys: U64, hashes: U64, count: int, table: TableView, now: float, fade: float, rows: StatisticRows
) -> None:
    """The first `count` keys' rows, faded to now; zeros and GONE_MS of a missing one. `hashes`: scratch."""
    base, heads, entries, limit, marks = table
    n, s, t = rows
    values, delta = base.view(np.float64), entries.view(np.float64)
    _hash(keys, count, base, heads, marks, hashes)
    for k in range(count):
        if k + AHEAD < count:
            _prefetch(base, heads, marks, hashes[k + AHEAD])
        entry = MISSING
        if may_have_entry(marks, hashes[k]):
            entry = lookup_hashed(heads, entries, limit, keys[k], hashes[k])
        n[k], s[k], t[k] = 0.0, 0.0, GONE_MS
        if entry >= 0:
            n[k], s[k], t[k] = faded(delta[entry, 1], delta[entry, 2], delta[entry, 3], now, fade)
        elif entry == MISSING:
            row = find_hashed(base, keys[k], hashes[k])
            if row >= 0:
                n[k], s[k], t[k] = faded(values[row, 1], values[row, 2], values[row, 3], now, fade)
