"""Erases a user from a model: the rows whose keys can be told from the user's id. Depends on the model's state alone.

A key is a hash, from which nobody reads an id. So the keys of crosses of the user with another column are made again:
with every id that the vocabulary counts (the deep part's categories) and every item that was shown lately. What isn't
found that way (crosses of three columns, values of columns that the deep part lacks) stays until it expires.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

import numpy as np

from learner.training.model_state import ModelState
from stream.features.cross_products import USER, CrossProducts
from stream.features.item_similarity import HEAD
from stream.features.page_features import id_of
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable

LOW_BYTE: Final = np.uint64(255)
COLUMN: Final = "user.id"


def erase_user(model: ModelState, user: str) -> int:
    """Erase a user at this point of the log; returns how many rows went."""
    return erase_ids(model, [id_of(model.layout.seeds[COLUMN], user)])


def erase_ids(model: ModelState, user_ids: Iterable[int]) -> int:
    """Erase users by their ids as pages have them; returns how many rows went."""
    removed, others = 0, _other_ids(model)
    for user_id in user_ids:
        user = np.uint64(user_id)
        crosses = model.encoder.wide
        wide = [keys & ~LOW_BYTE | np.uint64(c + 1) for c, keys in _keys(model, crosses, user, others)]
        removed += _remove(model.wide.table, wide)
        program = model.statistics.program
        removed += _remove(model.statistics.table, [keys for _, keys in _keys(model, program.crosses, user, others)])
        salts, neighbours = program.crosses.salts, program.rules.neighbours
        memories = [_memory_keys(salts[k], user, int(neighbours[k])) for k in program.memories]
        removed += _remove(model.statistics.likenesses, memories)
        if model.deep:
            removed += model.deep.vocabulary.remove(np.array([user]))
        model.recent_pages.remove(partial(_has_word, user))
        model.erased.append(int(user))
    return removed


def _has_word(word: np.uint64, page: bytes) -> bool:
    return bool((np.frombuffer(page, np.uint64) == word).any())


def _other_ids(model: ModelState) -> U64:
    """Ids that a user may have been crossed with, ascending."""
    shown = [id_of(model.layout.seeds["item.id"], name) for name in model.shown.names]
    counted = model.deep.vocabulary.table.rows()[:, 0] if model.deep else np.zeros(0, np.uint64)
    return np.unique(np.concatenate([np.array(shown, np.uint64), counted]))


def _keys(model: ModelState, crosses: CrossProducts, user: np.uint64, others: U64) -> list[tuple[int, U64]]:
    """By cross that has the user's id and at most one other column, its keys."""
    found, lists = [], model.layout.user_lists
    index = lists.index(COLUMN) if COLUMN in lists else -1
    for c, salt in enumerate(crosses.salts):
        columns = range(crosses.offsets[c], crosses.offsets[c + 1])
        is_user = [bool(crosses.sides[r] == USER and crosses.indices[r] == index) for r in columns]
        if sum(is_user) == 1 and len(is_user) <= 2:
            keys = np.array([salt])
            for is_id in is_user:
                keys = _mix(keys, np.array([user]) if is_id else others)
            found.append((c, keys))
    return found


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


def _remove(table: HashTable, keys: list[U64]) -> int:
    """Remove those of these keys that have a row that isn't all zeros."""
    if not keys:
        return 0
    every = np.unique(np.concatenate(keys))
    present = every[table.rows_of(every)[:, 1:].any(axis=1)]
    if len(present):
        table.remove(present)
    return len(present)
