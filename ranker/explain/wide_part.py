"""The wide part, weight by weight: which fired for an item, and which values each is of."""

from math import prod
from typing import NamedTuple

import numpy as np

from ranker.kernels.scratch import new_scratch
from ranker.kernels.table_reads import read_weights
from ranker.versions.model import Version
from stream.features.cross_products import KEYS_MAX, list_at
from stream.features.encoder import Batch
from stream.features.page_kernels import open_page
from stream.features.value_names import ValueNames
from stream.tables.dtypes import F64, I64, U64


class WideWeight(NamedTuple):
    """A weight that isn't 0: the cross that it is of, and an id of each of its columns."""

    weight: float
    cross: int
    ids: tuple[int, ...]


class WidePart(NamedTuple):
    """An item's wide part: its logit is `bias` + `total`. `weights`: the largest first."""

    bias: float
    total: float
    weights: list[WideWeight]


def wide_parts(version: Version, words: U64, positions: I64) -> list[WidePart]:
    """The wide part of some items of a page, which is as it's served."""
    n = len(positions)
    batch = Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), positions)
    keys, offsets = version.plan.encoder.wide_keys(batch)
    weights, ends = weights_of(version, keys), offsets.tolist()
    return [
        _wide_part(version, words, position, weights[first:last])
        for position, first, last in zip(positions.tolist(), ends[:-1], ends[1:], strict=True)
    ]


def _wide_part(version: Version, words: U64, position: int, weights: F64) -> WidePart:
    """Of one item, by the weights of its keys in their order: crosses in turn, then the bias. `weights` float64 [K]."""
    fired, start, chosen = list[WideWeight](), 0, np.flatnonzero(weights[:-1])
    for cross, lists in enumerate(_lists_of(version, words, position)):
        shape = [len(ids) for ids in lists]
        size = prod(shape)
        if not 0 < size <= KEYS_MAX:
            continue
        low, high = np.searchsorted(chosen, (start, start + size)).tolist()
        places = np.unravel_index(chosen[low:high] - start, shape)
        ids = zip(*(one[at].tolist() for one, at in zip(lists, places, strict=True)), strict=True)
        found = weights[chosen[low:high]].tolist()
        fired += [WideWeight(weight, cross, of) for weight, of in zip(found, ids, strict=True)]
        start += size
    assert start == len(weights) - 1, "the keys are those of the crosses, and the bias"
    fired.sort(key=lambda one: -abs(one.weight))
    return WidePart(float(weights[-1]), float(weights[:-1].sum()), fired)


def _lists_of(version: Version, words: U64, position: int) -> list[list[U64]]:
    """Of each cross but the bias: the ids of its columns."""
    crosses, page = version.plan.encoder.wide, open_page(words, version.plan.layout.size_array)
    spans = [
        list_at(page.w32, page.at, side, index, position)
        for side, index in zip(crosses.sides, crosses.indices, strict=True)
    ]
    lists = [words[low:high] for low, high in spans]
    return [lists[a:z] for a, z in zip(crosses.offsets[:-2], crosses.offsets[1:-1], strict=True)]


def weights_of(version: Version, keys: U64) -> F64:
    """The version's weights of these keys, float64 [K]; 0 of those that it doesn't have."""
    scratch, found = new_scratch(0), np.empty(len(keys))
    for first in range(0, len(keys), len(scratch.keys)):
        part = keys[first : first + len(scratch.keys)]
        scratch.keys[: len(part)] = part
        read_weights(scratch, len(part), version.wide.view, found[first:])
    return found


def name_of(version: Version, weight: WideWeight, names: ValueNames) -> str:
    """`column=value x column=value`."""
    columns = version.plan.encoder.cross_names[weight.cross].split(" x ")
    return " x ".join(
        f"{column}={names.text(column, value)}" for column, value in zip(columns, weight.ids, strict=True)
    )
