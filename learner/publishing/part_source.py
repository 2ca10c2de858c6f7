"""A model's parts as delta chains read them: which keys changed, and the payload of some keys or all."""

from typing import Protocol

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.training.model import Model
from stream.features.statistic_reads import GONE_MS
from stream.snapshots.payload import Array
from stream.tables.hash_table import U64, Table


class PartSource(Protocol):
    """One part of a model."""

    def take_changed(self) -> U64 | None:
        """Keys that changed since the last call; None: too many to list, only a base is complete."""
        ...

    def payload(self, keys: U64 | None) -> dict[str, Array]:
        """The arrays of these keys; of all when None."""
        ...

    def __len__(self) -> int: ...


class WideSource:
    """The wide weights; a weight of 0 is left out of a base and is a tombstone in a delta."""

    def __init__(self, model: Model) -> None:
        self._wide = model.wide

    def take_changed(self) -> U64 | None:
        """See PartSource."""
        return _changed_keys(self._wide.table)

    def payload(self, keys: U64 | None) -> dict[str, Array]:
        """See PartSource."""
        table = self._wide.table
        rows = table.rows() if keys is None else table.rows_of(keys)
        weights = self._wide.weights(rows)
        kept = weights != 0 if keys is None else np.ones(len(rows), np.bool_)
        return {"keys": rows[kept, 0], "weights": weights[kept]}

    def __len__(self) -> int:
        return len(self._wide.table)


class StatisticsSource:
    """The statistics' rows; an evicted one is a tombstone in a delta."""

    def __init__(self, model: Model) -> None:
        self._table = model.statistics.table

    def take_changed(self) -> U64 | None:
        """See PartSource."""
        return _changed_keys(self._table)

    def payload(self, keys: U64 | None) -> dict[str, Array]:
        """See PartSource."""
        if keys is None:
            return {"rows": self._table.rows()}
        rows = self._table.rows_of(keys)
        values = rows.view(np.float64)
        values[values[:, 3] == 0.0, 3] = GONE_MS
        return {"rows": rows}

    def __len__(self) -> int:
        return len(self._table)


class DeepSource:
    """All dense arrays, and embedding rows."""

    def __init__(self, deep: DeepModel) -> None:
        self._deep = deep

    def take_changed(self) -> U64:
        """See PartSource. Key 0 is the row of unseen ids."""
        return self._deep.vocabulary.take_changed()

    def payload(self, keys: U64 | None) -> dict[str, Array]:
        """See PartSource. Keys without a row are dead: their ids were evicted."""
        deep, vocabulary = self._deep, self._deep.vocabulary
        rows = vocabulary.live() if keys is None else vocabulary.rows_of(keys)
        alive = np.ones(len(rows), np.bool_) if keys is None else (rows != 0) | (keys == 0)
        payload: dict[str, Array] = {"keys": vocabulary.keys[rows[alive]], "vectors": vocabulary.vectors[rows[alive]],
                                     "boundaries": deep.boundaries}  # fmt: skip
        for i, (weight, bias) in enumerate(deep.layers()):
            payload[f"weight_{i}"], payload[f"bias_{i}"] = weight, bias
        return payload if keys is None else {**payload, "dead": keys[~alive]}

    def __len__(self) -> int:
        return len(self._deep.vocabulary)


def _changed_keys(table: Table) -> U64 | None:
    lost, rows = table.lost, table.take_fresh()
    return None if lost else rows[:, 0]
