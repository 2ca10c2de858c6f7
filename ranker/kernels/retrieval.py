"""What a version has of items for retrieval, and the kernels that read it.

A row of `LayeredTable.vectors` is float32 [3K + 2D + 2]: ids of the list (two columns each), their weights, input and
output vector, installs and bias, as `stream/snapshots/retrieval_rows.py` describes them.
"""

from typing import Final, NamedTuple

import numpy as np

from ranker.kernels.layered_table import LayeredTable
from stream.tables.delta_table import MISSING, lookup
from stream.tables.dtypes import F32, F64, I64, U64
from stream.tables.hash_kernels import find, hash32
from stream.tables.jit import kernel

LAST: Final = 20  # of the user's items are looked at
FADE: Final = np.float32(0.9)  # of each further one
PRIOR: Final = np.float32(5.0)  # installs: what is installed less than that says little of others


class RetrievalRows(NamedTuple):
    """Rows by item."""

    base: U64  # u64[capacity, 2]: as `Embeddings`
    heads: U64
    entries: U64
    limit: int
    vectors: F32  # f32[rows, width]
    delta: F32  # f32[room, width]
    length: int  # K
    dim: int  # D


class AttributeLists(NamedTuple):
    """`values` uint64 [V] rise; value v has slots[starts[v] : starts[v + 1]], with their keys, in no order."""

    values: U64
    starts: I64  # [V + 1]
    slots: I64
    keys: F64


class ItemVectors(NamedTuple):
    """Output vectors of all n items, by component, so that they are multiplied side by side."""

    ids: U64  # u64[n]
    outputs: F32  # f32[D, n]
    biases: F32  # f32[n]


def rows_of(table: LayeredTable, length: int, dim: int) -> RetrievalRows:
    """The rows of a table as kernels read them."""
    base, heads, entries, limit, _ = table.view
    return RetrievalRows(base, heads, entries, limit, table.vectors, table.delta.vectors, length, dim)


@kernel
def _row(rows: RetrievalRows, item: np.uint64) -> F32:
    """An item's row; empty: it has none."""
    base, heads, entries, limit, vectors, delta, _, _ = rows
    entry = lookup(heads, entries, limit, item)
    if entry >= 0:
        return delta[entry]  # type: ignore[no-any-return]  # a kernel
    found = find(base, item) if entry == MISSING else np.int64(-1)
    return vectors[np.int64(base[found, 1])] if found >= 0 else delta[0][:0]  # type: ignore[no-any-return]  # a kernel


@kernel
def together_with(rows: RetrievalRows, items: U64) -> tuple[U64, F32]:
    """Items that are installed together with a user's, newest first: ids [n], scores [n], in no order.

    The k-th (from 0) adds FADE^k · weight / (installs + PRIOR) for each item of its list.
    """
    length, last = rows.length, min(items.shape[0], LAST)
    capacity = 64
    while capacity < 2 * last * length:
        capacity *= 2
    ids, scores, filled = np.zeros(capacity, np.uint64), np.zeros(capacity, np.float32), np.empty(capacity, np.int64)
    count, share = 0, np.float32(1.0)
    for k in range(last):
        row = _row(rows, items[k])
        if row.shape[0]:
            listed, scale = row[: 2 * length].view(np.uint64), share / (row[row.shape[0] - 2] + PRIOR)
            for j in range(length):
                if listed[j] == np.uint64(0):
                    break
                slot = (hash32(listed[j]) * np.uint64(capacity)) >> np.uint64(32)
                while ids[slot] != np.uint64(0) and ids[slot] != listed[j]:
                    slot = (slot + np.uint64(1)) & np.uint64(capacity - 1)
                if ids[slot] == np.uint64(0):
                    ids[slot] = listed[j]
                    filled[count] = slot
                    count += 1
                scores[slot] += scale * row[2 * length + j]
        share *= FADE
    return ids[filled[:count]], scores[filled[:count]]


@kernel
def shared_with(values: U64, lists: AttributeLists) -> tuple[I64, I64, F64]:
    """Items of these values' lists: slots [n], how many of `values` each shares, and their keys, in no order.

    A value that comes twice counts twice.
    """
    entries, capacity = 0, 64
    indices = np.searchsorted(lists.values, values)
    for v in range(values.shape[0]):
        if indices[v] == lists.values.shape[0] or lists.values[indices[v]] != values[v]:
            indices[v] = -1
        else:
            entries += lists.starts[indices[v] + 1] - lists.starts[indices[v]]
    while capacity < 2 * entries:
        capacity *= 2
    at = np.full(capacity, -1, np.int64)  # by a slot's hash: its index in `found`
    found, shared, count = np.empty(entries, np.int64), np.zeros(entries, np.int64), 0
    for v in range(values.shape[0]):
        if indices[v] < 0:
            continue
        for e in range(lists.starts[indices[v]], lists.starts[indices[v] + 1]):
            h = (hash32(np.uint64(lists.slots[e])) * np.uint64(capacity)) >> np.uint64(32)
            while at[h] >= 0 and lists.slots[found[at[h]]] != lists.slots[e]:
                h = (h + np.uint64(1)) & np.uint64(capacity - 1)
            if at[h] < 0:
                at[h], found[count] = count, e
                count += 1
            shared[at[h]] += 1
    return lists.slots[found[:count]], shared[:count], lists.keys[found[:count]]


@kernel
def user_vector(rows: RetrievalRows, items: U64) -> F32:
    """The mean of the input vectors of a user's items, newest first and counting most, [D]; empty: none has any."""
    first, dim = 3 * rows.length, rows.dim
    user, total, share = np.zeros(dim, np.float32), np.float32(0.0), np.float32(1.0)
    for k in range(min(items.shape[0], LAST)):
        row = _row(rows, items[k])
        if row.shape[0]:
            total += share
            user += share * row[first : first + dim]
        share *= FADE
    return user / total if total > 0.0 else user[:0]


@kernel
def vectors_of(rows: RetrievalRows) -> ItemVectors:
    """The vectors of all items, in an order that depends on the tables' layout."""
    base, heads, entries, limit, _, _, _, _ = rows
    ids, count = np.empty(base.shape[0] + heads.shape[0], np.uint64), 0
    for s in range(base.shape[0]):
        if base[s, 0] != np.uint64(0) and lookup(heads, entries, limit, base[s, 0]) == MISSING:
            ids[count] = base[s, 0]
            count += 1
    for s in range(heads.shape[0]):
        if heads[s, 0] != np.uint64(0) and lookup(heads, entries, limit, heads[s, 0]) >= 0:
            ids[count] = heads[s, 0]
            count += 1
    return vectors_at(rows, ids[:count])


@kernel
def vectors_at(rows: RetrievalRows, ids: U64) -> ItemVectors:
    """The vectors of those of these items that have some."""
    found, first = np.empty(ids.shape[0], np.uint64), 3 * rows.length + rows.dim
    outputs, biases, count = np.empty((ids.shape[0], rows.dim), np.float32), np.empty(ids.shape[0], np.float32), 0
    for i in range(ids.shape[0]):
        row = _row(rows, ids[i])
        if row.shape[0]:
            found[count], biases[count] = ids[i], row[row.shape[0] - 1]
            outputs[count] = row[first : first + rows.dim]
            count += 1
    return ItemVectors(found[:count], np.ascontiguousarray(outputs[:count].T), biases[:count])


@kernel
def changes_between(before: RetrievalRows, after: RetrievalRows, is_same_base: bool) -> tuple[U64, U64]:
    """Items whose output vector or bias is another one, or new, and items that have none any more.

    Keys are looked up among those of both deltas, and unless both tables have one base, of both bases.
    """
    ids = np.empty(after.heads.shape[0] + before.heads.shape[0] + after.base.shape[0] + before.base.shape[0], np.uint64)
    tables, changed, lost = (after.heads, before.heads, after.base, before.base), 0, 0
    for t in range(2 if is_same_base else 4):
        for s in range(tables[t].shape[0]):
            key = tables[t][s, 0]
            is_judged = key == np.uint64(0)
            for other in range(t):
                is_judged |= find(tables[other], key) >= 0
            if is_judged:
                continue
            old, new = _row(before, key), _row(after, key)
            if new.shape[0] and not (old.shape[0] and _is_same_vector(old, new, after)):
                ids[changed] = key
                changed += 1
            elif old.shape[0] and not new.shape[0]:
                lost += 1
                ids[ids.shape[0] - lost] = key
    return ids[:changed].copy(), ids[ids.shape[0] - lost :].copy()


@kernel
def _is_same_vector(old: F32, new: F32, rows: RetrievalRows) -> bool:
    first = 3 * rows.length + rows.dim
    for d in range(first, first + rows.dim):
        if old[d] != new[d]:
            return False
    return old[old.shape[0] - 1] == new[new.shape[0] - 1]  # type: ignore[no-any-return]  # a kernel
