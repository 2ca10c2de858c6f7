"""Faults for the publish gate to find, planted into a model that has learned."""

import math

import numpy as np

from learner.training.model import Model
from stream.features.page_features import Layout
from stream.features.page_kernels import UserColumns, rebuild, user_columns
from stream.tables.dtypes import U64


def make_nan(model: Model) -> None:
    """One weight of the tower is no number."""
    assert model.deep is not None
    model.deep.tower.layers()[0][0][0, 0] = math.nan


def make_wide_nan(model: Model) -> None:
    """The bias of the wide part is no number."""
    _scale_wide(model, math.nan, bias=True)


def invert(model: Model) -> None:
    """What was ranked first comes last."""
    _scale_wide(model, -1.0)
    if model.deep:
        model.deep.tower.layers()[-1][0][:] *= -1


def flatten(model: Model) -> None:
    """All items score the same."""
    _scale_wide(model, 0.0)
    if model.deep:
        model.deep.tower.layers()[-1][0][:] = 0


def raise_rate(model: Model, times: float) -> None:
    """All odds are so many times what they were."""
    assert model.deep is not None
    model.deep.tower.layers()[-1][1][:] += math.log(times)


def blow_up(model: Model, times: float = 10.0) -> None:
    """Embeddings are so many times as long, and what reads them as much shorter: scores stay the same."""
    assert model.deep is not None
    vocabulary, deep = model.deep.vocabulary, model.deep
    vocabulary.embeddings[:, : vocabulary.dim] *= times
    deep.tower.layers()[0][0][: deep.lists * vocabulary.dim] /= times


def without_user_numbers(layout: Layout, words: U64) -> U64:
    """The page, but nothing is known of the user's numbers and their bands."""
    user = user_columns(words, layout.size_array)
    lists = [
        np.zeros(0, np.uint64) if name.endswith("_band") else user.ids[user.offsets[i] : user.offsets[i + 1]]
        for i, name in enumerate(layout.user_lists)
    ]
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.uint32)
    columns = UserColumns(np.concatenate(lists), offsets, np.full_like(user.numbers, np.nan))
    return rebuild(words, columns, np.arange(int(words[1])), layout.size_array)


def _scale_wide(model: Model, factor: float, *, bias: bool = False) -> None:
    """Multiply the wide weights; or that of the bias alone."""
    rows = model.wide.table.rows()
    rows = rows[(rows[:, 0] == np.uint64(model.encoder.bias_key)) == bias]
    rows.view(np.float32)[:, 2] *= factor
    model.wide.table.put(rows)
