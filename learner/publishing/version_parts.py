"""A model's parts as delta chains read them: which keys changed, and the payload of some keys or all."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.retrieval.item_retrieval import ItemRetrieval
from learner.training.model import Model
from stream.features.statistic_reads import GONE_MS
from stream.snapshots.coarse_sums import codes_of
from stream.snapshots.payload import Array
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable


class PartSource(NamedTuple):
    """One part of a model.

    `take_changed`: keys that changed since the last call; None: too many to list, only a base is complete.
    `payload`: the arrays of these keys; of all when None. `size`: how many keys there are.
    """

    take_changed: Callable[[], U64 | None]
    payload: Callable[[U64 | None], dict[str, Array]]
    size: Callable[[], int]


def wide_source(model: Model) -> PartSource:
    """The wide weights; a weight of 0 is left out of a base and is a tombstone in a delta.

    Where the spec explores by uncertainty, keys of `explored_crosses` have their sums of squared gradients beside.
    """
    table, spec = model.wide.table, model.spec
    is_explored = np.zeros(256, np.bool_)  # by the low byte of a key
    is_explored[[c + 1 for c in spec.explored_crosses()]] = spec.explore.needs_uncertainty

    def payload(keys: U64 | None) -> dict[str, Array]:
        rows = table.rows() if keys is None else table.rows_of(keys)
        weights, explored = model.wide.weights(rows), is_explored[rows[:, 0] & np.uint64(255)]
        included = (weights != 0) | explored if keys is None else np.ones(len(rows), np.bool_)
        arrays: dict[str, Array] = {"keys": rows[included, 0], "weights": weights[included]}
        if spec.explore.needs_uncertainty:
            arrays["sums"] = codes_of(np.where(explored, model.wide.sums(rows), 0)[included])
        return arrays

    return PartSource(partial(_take_changed, table), payload, table.__len__)


def statistics_source(model: Model) -> PartSource:
    """The statistics' rows, likenesses' too; an evicted one is a tombstone in a delta.

    No key is in both tables. A ranker has one for them all: it evicts nothing by itself.
    """
    table, likenesses = model.statistics.table, model.statistics.likenesses

    def payload(keys: U64 | None) -> dict[str, Array]:
        if keys is None:
            return {"rows": model.statistics.rows()}
        rows = table.rows_of(keys)
        if len(likenesses):
            elsewhere = rows[:, 3] == 0
            rows[elsewhere] = likenesses.rows_of(keys[elsewhere])
        values = rows.view(np.float64)
        values[values[:, 3] == 0.0, 3] = GONE_MS
        return {"rows": rows}

    def take_changed() -> U64 | None:
        changed = [_take_changed(table), _take_changed(likenesses)]
        return None if any(keys is None for keys in changed) else np.concatenate(changed)  # type: ignore[arg-type]

    return PartSource(take_changed, payload, lambda: len(table) + len(likenesses))


def deep_source(deep: DeepModel) -> PartSource:
    """All dense arrays, and embedding rows; key 0 is the row of unseen ids. Evicted keys are dead in a delta."""
    vocabulary = deep.vocabulary

    def payload(keys: U64 | None) -> dict[str, Array]:
        rows = vocabulary.live() if keys is None else vocabulary.rows_of(keys)
        alive = np.ones(len(rows), np.bool_) if keys is None else (rows != 0) | (keys == 0)
        arrays: dict[str, Array] = {"keys": vocabulary.keys[rows[alive]], "vectors": vocabulary.vectors[rows[alive]],
                                    "boundaries": deep.boundaries}  # fmt: skip
        for i, (weight, bias) in enumerate(deep.layers()):
            arrays[f"weight_{i}"], arrays[f"bias_{i}"] = weight, bias
        return arrays if keys is None else {**arrays, "dead": keys[~alive]}

    return PartSource(vocabulary.take_changed, payload, vocabulary.__len__)


def retrieval_source(retrieval: ItemRetrieval) -> PartSource:
    """Items' lists and vectors; evicted items are dead in a delta. A row goes out when enough pairs came to it."""
    return PartSource(retrieval.take_changed, retrieval.payload, retrieval.size)


def _take_changed(table: HashTable) -> U64 | None:
    lost, rows = table.overflowed, table.take_changed()
    return None if lost else rows[:, 0]
