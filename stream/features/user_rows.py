"""Rows whose keys have a user's id: found again, since a key is a hash from which nobody reads an id.

Keys of crosses of the user with another column are made again from all ids that may be the other one's. What isn't
found that way (crosses of three columns, ids that nobody knows any more) stays until it expires.
"""

from typing import Final

import numpy as np

from stream.features.cross_products import USER, CrossProducts
from stream.features.item_similarity import HEAD
from stream.features.page_features import Layout, id_of
from stream.features.statistics import Statistics
from stream.tables.dtypes import U64, Bools
from stream.tables.hash_table import HashTable

COLUMN: Final = "user.id"


def user_id_of(layout: Layout, user: str) -> np.uint64:
    """A user's id, as pages have it."""
    return np.uint64(id_of(layout.seeds[COLUMN], user))


def erase_statistics(statistics: Statistics, layout: Layout, user: np.uint64, others: U64) -> int:
    """Remove the user's rows, and memories of likenesses and lifts; returns how many there were. `others`: ids."""
    program = statistics.program
    keys = [keys for _, keys in user_keys(program.crosses, layout, user, others)]
    salts, neighbours = program.crosses.salts, program.rules.neighbours
    memories = [_memory_keys(salts[k], user, int(neighbours[k])) for k in program.memories]
    return remove_rows(statistics.table, keys) + remove_rows(statistics.likenesses, memories)


def user_keys(crosses: CrossProducts, layout: Layout, user: np.uint64, others: U64) -> list[tuple[int, U64]]:
    """By cross that has the user's id and at most one other column, its keys with each of these ids."""
    found = []
    for c, is_user in enumerate(_columns(crosses, layout)):
        if is_user.sum() == 1 and len(is_user) <= 2:
            keys = np.array([crosses.salts[c]])
            for is_id in is_user:
                keys = _mix(keys, np.array([user]) if is_id else others)
            found.append((c, keys))
    return found


def wider_crosses(crosses: CrossProducts, layout: Layout) -> list[int]:
    """Crosses of the user's id whose keys `user_keys` doesn't find: they have more columns."""
    return [c for c, is_user in enumerate(_columns(crosses, layout)) if is_user.any() and len(is_user) > 2]


def remove_rows(table: HashTable, keys: list[U64]) -> int:
    """Remove those of these keys that have a row that isn't all zeros; returns how many."""
    if not keys:
        return 0
    every = np.unique(np.concatenate(keys))
    present = every[table.rows_of(every)[:, 1:].any(axis=1)]
    if len(present):
        table.remove(present)
    return len(present)


def _columns(crosses: CrossProducts, layout: Layout) -> list[Bools]:
    """Of each cross, which of its columns is the user's id."""
    lists = layout.user_lists
    is_user = (crosses.sides == USER) & (crosses.indices == (lists.index(COLUMN) if COLUMN in lists else -1))
    return [is_user[crosses.offsets[c] : crosses.offsets[c + 1]] for c in range(len(crosses.salts))]


def _memory_keys(salt: np.uint64, user: np.uint64, neighbours: int) -> U64:
    """Keys of the user's memory in a likeness or lift: its head, then its places."""
    head = _mix(np.array([salt ^ HEAD]), np.array([user]))
    return np.append(head, _mix(head, np.arange(1, neighbours + 1, dtype=np.uint64)))


def _mix(hashes: U64, values: U64) -> U64:
    """`hash_kernels.mix` of arrays of one length, or of which one has length 1."""
    x: U64 = (hashes ^ values) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(29)
    return x
