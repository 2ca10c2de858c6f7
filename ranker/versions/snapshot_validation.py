"""Validates a snapshot's payloads against its spec: shapes, types, keys, ranges. All functions raise BadSnapshot."""

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ranker.kernels.layered_table import NO_KEYS, Change
from ranker.kernels.plan import Plan
from stream.events.types import TIME_MS_MAX
from stream.features.statistic_reads import GONE_MS
from stream.features.statistics import WIDTH as STATISTICS_WIDTH
from stream.runtime.errors import BadSnapshot
from stream.snapshots.coarse_sums import sums_of
from stream.snapshots.payload import Payload
from stream.tables.dtypes import F32, U64
from stream.tables.hash_table import distinct

SUM_MAX: Final = 1e18  # of a statistic: 2⁴⁰ labels of weight a million


def wide_change(payload: Payload) -> Change:
    """Keys and weights (float32 in the low half of a column; in the high half sums of squared gradients, 0 if there are
    none). A weight of 0 equals an absent key.
    """
    keys, weights = _keys(payload, "keys"), _array(payload, "weights", "<f4", 1)
    if len(keys) != len(weights):
        raise BadSnapshot(f"{len(keys)} wide keys have {len(weights)} weights")
    columns = np.zeros((len(keys), 1), np.uint64)
    columns.view(np.float32)[:, 0] = weights
    if "sums" in payload:
        codes = _array(payload, "sums", "|u1", 1)
        if len(codes) != len(keys):
            raise BadSnapshot(f"{len(keys)} wide keys have {len(codes)} sums")
        columns.view(np.float32)[:, 1] = sums_of(codes)
    return Change(keys, columns, removed=_dead(payload))


def statistic_change(payload: Payload, plan: Plan) -> Change:
    """Keys and n, s, t (float64), within the range that labels can produce.

    A likeness or lift stores items' ids in column s: where the spec has one, s isn't checked. A window's n and s are
    two float32 each: where the spec has one, a sum may be within the range as either.
    """
    rows = _array(payload, "rows", "<u8", 2)
    if rows.shape[1] != STATISTICS_WIDTH or not (rows[:, 0] != 0).all():
        raise BadSnapshot(f"statistics of shape {rows.shape} aren't rows of {STATISTICS_WIDTH} with a key")
    columns = np.array(rows[:, 1:])
    numbers = columns.view(np.float64)
    sums = numbers[:, :1] if plan.program.memories else numbers[:, :2]
    within = np.abs(sums) <= SUM_MAX  # NaN fails, too
    if (plan.program.rules.fades < 0).any():
        pairs = np.ascontiguousarray(sums).view(np.float32).reshape(*sums.shape, 2)
        within |= (np.abs(pairs) <= SUM_MAX).all(axis=2)
    if not within.all():
        raise BadSnapshot(f"a statistic's sum isn't finite, or over {SUM_MAX:g}")
    times = numbers[:, 2]
    if not ((times >= 0) & (times < TIME_MS_MAX) | (times == GONE_MS)).all():
        raise BadSnapshot("a statistic's time is not between 1970 and 2100")
    return Change(np.array(rows[:, 0]), columns, removed=_dead(payload))


def embedding_change(payload: Payload, dim: int) -> Change:
    """Ids and their embedding vectors, and the vector of unseen ids (key 0) if the payload has one."""
    keys, vectors = np.array(_array(payload, "keys", "<u8", 1)), _floats(payload, "vectors", None)
    if vectors.shape != (len(keys), dim):
        raise BadSnapshot(f"vectors of shape {vectors.shape} aren't {len(keys)} rows of {dim}")
    if len(distinct(keys)) != len(keys):
        raise BadSnapshot("an embedding table has a key twice")
    known = keys != 0
    unseen = None if known.all() else vectors[~known][0]
    keys, vectors = keys[known], vectors[known]
    return Change(keys, np.zeros((len(keys), 0), np.uint64), vectors, _dead(payload), unseen)


def retrieval_change(payload: Payload, length: int, dim: int) -> Change:
    """Items' rows as `ranker/kernels/retrieval.py` reads them, with lists of this length and vectors of this size."""
    keys, listed = _keys(payload, "keys"), _array(payload, "listed", "<u8", 2)
    n = len(keys)
    if listed.shape != (n, length):
        raise BadSnapshot(f"lists of shape {listed.shape} should have {(n, length)}")
    numbers = [_floats(payload, "weights", (n, length)), _floats(payload, "inputs", (n, dim)),
               _floats(payload, "outputs", (n, dim)), _floats(payload, "installs", (n,))[:, None],
               _floats(payload, "biases", (n,))[:, None]]  # fmt: skip
    if (numbers[0] < 0).any() or (numbers[3] < 0).any():
        raise BadSnapshot("a weight in a list, or a count of installs, is below 0")
    rows = np.concatenate([np.ascontiguousarray(listed).view(np.float32).reshape(n, 2 * length), *numbers], axis=1)
    return Change(keys, np.zeros((n, 0), np.uint64), rows, _dead(payload))


def dense_layers(payload: Payload, plan: Plan) -> tuple[list[tuple[F32, F32]], F32]:
    """Layers (weight [in, out], bias [out]) and quantile boundaries [numbers, quantiles - 1] or [0, 0]; float32."""
    deep, encoder = plan.spec.deep, plan.encoder
    numbers = len(encoder.deep_numbers)
    widths = [len(encoder.deep_lists) * deep.embedding_dim + 2 * numbers, *deep.hidden_units, 1]
    layers = [
        (_floats(payload, f"weight_{i}", shape), _floats(payload, f"bias_{i}", shape[1:]))
        for i, shape in enumerate(pairwise(widths))
    ]
    boundaries = _array(payload, "boundaries", "<f4", 2)
    if boundaries.shape not in ((0, 0), (numbers, deep.quantiles - 1)):
        raise BadSnapshot(f"boundaries of shape {boundaries.shape} aren't {numbers} times {deep.quantiles - 1}")
    if (np.diff(boundaries, axis=1) < 0).any():
        raise BadSnapshot("boundaries of quantiles must not decrease")
    return layers, np.array(boundaries, np.float32)


def _dead(payload: Payload) -> U64:
    """Keys of deleted rows: expired or evicted."""
    return _keys(payload, "dead") if "dead" in payload else NO_KEYS


def _keys(payload: Payload, name: str) -> U64:
    """A writable copy: payloads are read-only, and kernels are compiled for writable arrays."""
    keys = _array(payload, name, "<u8", 1)
    if not keys.all():
        raise BadSnapshot("a key is 0, which marks an empty slot")
    return np.array(keys, np.uint64)


def _floats(payload: Payload, name: str, shape: tuple[int, ...] | None) -> F32:
    array = _array(payload, name, "<f4", 2 if shape is None else len(shape))
    if shape is not None and array.shape != shape:
        raise BadSnapshot(f"{name} of shape {array.shape} should have {shape}")
    return np.array(array, np.float32)


def _array(payload: Payload, name: str, dtype: str, dimensions: int) -> npt.NDArray[Any]:
    array = payload.get(name)
    if array is None or array.dtype.str != dtype or array.ndim != dimensions:
        found = "nothing" if array is None else f"{array.dtype.str} {list(array.shape)}"
        raise BadSnapshot(f"{name} should be {dtype} of {dimensions} dimensions, found {found}")
    return array
