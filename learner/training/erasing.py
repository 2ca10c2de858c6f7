"""Erases a user from a model: the rows whose keys follow from the user's id. Depends on the model's state alone.

Keys of crosses of the user with another column are made again (`user_rows.py`) with every id that the vocabulary counts
(the deep part's categories) and every item that was shown lately.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from learner.training.model_state import ModelState
from stream.features.page_features import id_of
from stream.features.user_rows import erase_statistics, remove_rows, user_id_of, user_keys
from stream.tables.dtypes import U64

LOW_BYTE: Final = np.uint64(255)
NO_KEYS: Final[U64] = np.zeros(0, np.uint64)


class RemovedRows(NamedTuple):
    """What an erasure removed from a model: rows of each part, and pages."""

    wide: int = 0
    statistics: int = 0  # memories of likenesses and lifts among them
    embeddings: int = 0
    retrieval: int = 0  # memories of last installs
    pages: int = 0  # recent ones, and those held out


def erase_user(model: ModelState, user: str) -> RemovedRows:
    """Erase a user at this point of the log."""
    return erase_ids(model, [int(user_id_of(model.layout, user))])


def erase_ids(model: ModelState, user_ids: Iterable[int]) -> RemovedRows:
    """Erase users by their ids as pages have them."""
    removed, others = np.zeros(len(RemovedRows._fields), np.int64), _other_ids(model)
    for user_id in user_ids:
        user = np.uint64(user_id)
        crosses = user_keys(model.encoder.wide, model.layout, user, others)
        wide = [keys & ~LOW_BYTE | np.uint64(c + 1) for c, keys in crosses]
        removed += (
            remove_rows(model.wide.table, wide),
            erase_statistics(model.statistics, model.layout, user, others),
            model.deep.vocabulary.remove(np.array([user])) if model.deep else 0,
            model.retrieval.erase(user) if model.retrieval else 0,
            model.recent_pages.erase(user) + model.held_out.erase(user, np.concatenate([NO_KEYS, *wide])),
        )
        model.erased.append(int(user))
    return RemovedRows(*removed.tolist())


def _other_ids(model: ModelState) -> U64:
    """Ids that a user may have been crossed with, ascending."""
    shown = [id_of(model.layout.seeds["item.id"], name) for name in model.shown.names]
    counted = model.deep.vocabulary.table.rows()[:, 0] if model.deep else NO_KEYS
    return np.unique(np.concatenate([np.array(shown, np.uint64), counted]))
