"""Carries the tower's weights over, with AdaGrad's sums: the first layer by the names of its inputs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from learner.deep.deep_model import DeepModel
from stream.tables.dtypes import F32, I64

Inputs = tuple[Sequence[str], Sequence[str]]  # names of lists and of numbers


def carry_tower(before: DeepModel, deep: DeepModel, was: Inputs, now: Inputs) -> None:
    """Copy the weights between units that both towers have.

    Weights from units that the old tower didn't have are 0: what it computed stays the same. Their sums are the mean of
    those beside them: a new input, such as a flag that is always set at first, moves a unit no faster than others do.
    Where towers have not as many layers, those behind the first start fresh.
    """
    sources = {unit: row for row, unit in enumerate(_input_units(was, before.spec.embedding_dim)) if unit.name}
    rows = np.array([sources.get(unit, -1) for unit in _input_units(now, deep.spec.embedding_dim)], np.int64)
    old_flat, old_squares = before.tower.flat, before.tower.squares
    flat, squares = deep.tower.flat, deep.tower.squares
    old_layers = list(zip(before.tower.layers(old_flat), before.tower.layers(old_squares), strict=True))
    layers = list(zip(deep.tower.layers(flat), deep.tower.layers(squares), strict=True))
    if len(layers) != len(old_layers):
        layers = layers[:1]
    for (weights, sums), (old_weights, old_sums) in zip(layers, old_layers, strict=False):
        _copy_layer(weights, old_weights, rows)
        _copy_layer(sums, old_sums, rows)
        weights[0][rows < 0] = 0.0
        both = min(len(sums[1]), len(old_sums[1]))
        if (rows >= 0).any():
            sums[0][rows < 0, :both] = old_sums[0][rows[rows >= 0], :both].mean(axis=0)
        width = weights[0].shape[1]
        rows = np.where(np.arange(width) < old_weights[0].shape[1], np.arange(width), -1)
    deep.tower.restore(flat, squares)


def _copy_layer(target: tuple[F32, F32], source: tuple[F32, F32], rows: I64) -> None:
    """`rows`: of each input of the target its index in the source; −1: it's new."""
    (weight, bias), (old_weight, old_bias) = target, source
    both, known = min(len(bias), len(old_bias)), rows >= 0
    weight[known, :both] = old_weight[rows[known], :both]
    bias[:both] = old_bias[:both]


class _Unit(NamedTuple):
    """An input of the tower: component of a list, a number's value, or the flag that it's missing."""

    kind: str
    name: str
    component: int = 0


def _input_units(inputs: Inputs, dim: int) -> list[_Unit]:
    """The first layer's rows, in order. A name that is empty stands for an input that nobody shares."""
    lists, numbers = inputs
    units = [_Unit("list", name, c) for name in lists for c in range(dim)]
    return units + [_Unit(kind, name) for kind in ("number", "missing") for name in numbers]
