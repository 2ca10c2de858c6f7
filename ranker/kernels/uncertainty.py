"""What a version doesn't know of a page's items, from the sums of squared gradients beside its wide weights."""

import numpy as np

from ranker.kernels.prefetch import prefetch_slot
from ranker.kernels.scratch import BUFFER, Scratch
from stream.features.cross_products import CrossProducts, count_product, fill_product
from stream.features.page_kernels import open_page
from stream.tables.delta_table import MISSING, TableView, lookup_hashed, may_have_entry
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import find_hashed, hash32
from stream.tables.jit import kernel


@kernel
def add_variances(
    words: U64, sizes: I64, positions: I64, crosses: CrossProducts, explored: I64, table: TableView, prior: float,
    scratch: Scratch, variances: F64,
) -> None:  # fmt: skip
    """Add Σ 1 / (prior + n) over the keys of the `explored` crosses of the items at `positions` to `variances` [n]."""
    page, keys, owners, count = open_page(words, sizes), scratch.keys, scratch.ends, 0
    for c in explored:
        for i in range(positions.shape[0]):
            more = count_product(page, positions[i], crosses, c)
            if count + more > BUFFER:
                _add(scratch, count, table, prior, variances)
                count = 0
            if more > 0:
                fill_product(page, positions[i], crosses, c, keys, count)
            for k in range(count, count + more):
                keys[k] = (keys[k] & ~np.uint64(255)) | np.uint64(c + 1)
                owners[k] = i
            count += more
    _add(scratch, count, table, prior, variances)


@kernel
def _add(scratch: Scratch, count: int, table: TableView, prior: float, variances: F64) -> None:
    """Add those of the first `count` of scratch.keys, to the items in scratch.ends."""
    keys, hashes, owners = scratch.keys, scratch.hashes, scratch.ends
    base, heads, entries, limit, marks = table
    sums, delta = base.view(np.float32), entries.view(np.float32)
    for k in range(count):
        hashes[k] = hash32(keys[k])
        prefetch_slot(base, hashes[k])
        if may_have_entry(marks, hashes[k]):
            prefetch_slot(heads, hashes[k])
    for k in range(count):
        entry, n = MISSING, np.float32(0.0)
        if may_have_entry(marks, hashes[k]):
            entry = lookup_hashed(heads, entries, limit, keys[k], hashes[k])
        if entry >= 0:
            n = delta[entry, 3]
        elif entry == MISSING:
            row = find_hashed(base, keys[k], hashes[k])
            if row >= 0:
                n = sums[row, 3]
        variances[owners[k]] += 1.0 / (prior + np.float64(n))
