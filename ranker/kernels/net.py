"""The deep part as kernels read it: inputs of a group, the first layer in three parts, the layers behind it.

    a₁ = relu(user part + item part + pair inputs · W_pair)      user part: x_user · W_user + bias, once a request
                                                                 item part: x_item · W_item, once a deep version
Buffers are flat float32. Each output is summed in an order that depends on nothing but the layer's width.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.packed_gemm import aligned, multiply, packed, padded
from ranker.kernels.plan import Plan
from stream.features.encoder import I64, count_ids, fill_deep
from stream.features.page_features import F32
from stream.features.quantiles import quantile
from stream.tables.delta_table import NONE, seen
from stream.tables.hash_kernels import find, mix
from stream.tables.hash_table import U64
from stream.tables.jit import kernel

ITEM_SEED: Final = np.uint64(0x9AE16A3B2F90404F)


class Embeddings(NamedTuple):
    """Vectors by id: rows of `vectors` by `base` [capacity, 2], entries of `fresh` by the view over it, or `unseen`."""

    base: U64
    heads: U64
    entries: U64
    limit: int
    vectors: F32
    fresh: F32
    unseen: F32


class Net(NamedTuple):
    """Layers: `user`, `item`, `pair` panels of the first, its `bias`; then `rest`, all others but the last, as
    `places` int64 [layers, 4] say: inputs, padded outputs, where panels and bias begin; `last` weights, `end` bias.

    Without hidden layers the first one's only output is the logit, and `last` is empty.
    """

    user: F32
    item: F32
    pair: F32
    bias: F32
    rest: F32
    places: I64
    last: F32
    end: float
    boundaries: F32


_NONE: Final[F32] = np.zeros(0, np.float32)
_NO_ROWS: Final = np.zeros((0, 2), np.uint64)
NO_EMBEDDINGS: Final = Embeddings(_NO_ROWS, _NO_ROWS, _NO_ROWS, 0, _NONE.reshape(0, 1), _NONE.reshape(0, 1), _NONE)
NO_NET: Final = Net(
    _NONE, _NONE, _NONE, _NONE, _NONE, np.zeros((0, 4), np.int64), _NONE, 0.0, np.zeros((0, 0), np.float32)
)


def net_of(plan: Plan, layers: Sequence[tuple[F32, F32]], boundaries: F32) -> Net:
    """Layers (weight [in, out], bias [out]) packed for kernels."""
    weight, bias = layers[0]
    user, item, pair = (packed(weight[plan.rows_of(g)]).ravel() for g in (plan.user, plan.item, plan.pair))
    first = aligned(padded(len(bias)))
    first[: len(bias)] = bias
    parts, places, at = [np.zeros(0, np.float32)], [], 0
    for weight, bias in layers[1:-1]:
        panels, wide = packed(weight).ravel(), np.zeros(padded(len(bias)), np.float32)
        wide[: len(bias)] = bias
        places.append((len(weight), len(wide), at, at + len(panels)))
        parts += [panels, wide]
        at += len(panels) + len(wide)
    rest = aligned(at)
    rest[:] = np.concatenate(parts)
    hidden = len(layers) > 1
    last = np.ascontiguousarray(layers[-1][0][:, 0]) if hidden else np.zeros(0, np.float32)
    return Net(
        user, item, pair, first, rest, np.array(places, np.int64).reshape(-1, 4), last,
        float(layers[-1][1][0]) if hidden else 0.0, np.ascontiguousarray(boundaries),
    )  # fmt: skip


def floats_for(net: Net, plan: Plan, items: int) -> int:
    """How many floats of scratch `tower` needs for so many items."""
    widest = max([0, *net.places[:, 1].tolist()])
    return int(items * (2 * len(plan.pair.columns) + len(net.bias) + 2 * widest))


@kernel
def _pool(ids: Any, low: Any, high: Any, base: Any, heads: Any, entries: Any, count: Any, vectors: Any, fresh: Any,
          unseen: Any, out: Any, at: Any) -> None:  # fmt: skip
    """Sum / √n of the vectors of ids[low:high], into out[at:], which is zero."""
    dim = unseen.shape[0]
    for i in range(low, high):
        entry = seen(heads, entries, count, ids[i])
        if entry >= 0:
            for c in range(dim):
                out[at + c] += fresh[entry, c]
            continue
        row = find(base, ids[i]) if entry == NONE else np.int64(-1)
        if row >= 0:
            row = np.int64(base[row, 1])
            for c in range(dim):
                out[at + c] += vectors[row, c]
        else:
            for c in range(dim):
                out[at + c] += unseen[c]
    if high - low > 1:
        scale = np.float32(1.0 / np.sqrt(np.float64(high - low)))
        for c in range(dim):
            out[at + c] *= scale


@kernel
def _quantised(x: Any, boundaries: Any, column: Any, out: Any, at: Any, flag: Any) -> None:
    out[at] = quantile(x, boundaries, column)
    out[flag] = np.float32(x != x)


@kernel
def given_of(words: Any, w32: Any, f32: Any, positions: Any, sizes: Any, group: Any) -> Any:
    """Ids, offsets and numbers of a group's inputs for some items of a page, as in `DeepInput`."""
    n, lists, numbers = positions.shape[0], group.sides.shape[0], group.kinds.shape[0]
    starts, page = np.zeros(1, np.int64), np.zeros(n, np.int64)
    offsets = np.zeros(n * lists + 1, np.int64)
    count_ids(words, w32, starts, page, positions, sizes, group.sides, group.places, offsets)
    ids, given = np.empty(offsets[-1], np.uint64), np.empty((n, numbers), np.float32)
    fill_deep(words, w32, f32, starts, page, positions, sizes, group.sides, group.places, group.kinds,
              group.number_places, np.float32(group.held), offsets, ids, given)  # fmt: skip
    return ids, offsets, given


@kernel
def part_of(ids: Any, offsets: Any, numbers: Any, group: Any, embeddings: Any, boundaries: Any, panels: Any,
            start: Any) -> Any:  # fmt: skip
    """A group's part of the first layer: `start` + inputs · weights. float32 [n, len(start)]."""
    base, heads, entries, count, vectors, fresh, unseen = embeddings
    n, lists, dim, chosen = numbers.shape[0], group.sides.shape[0], unseen.shape[0], group.columns
    pooled, columns = lists * dim, chosen.shape[0]
    width = pooled + 2 * columns
    x = np.zeros(n * width, np.float32)
    for r in range(n):
        at = r * width
        for f in range(lists):
            _pool(ids, offsets[r * lists + f], offsets[r * lists + f + 1], base, heads, entries, count, vectors, fresh,
                  unseen, x, at + f * dim)  # fmt: skip
        for c in range(columns):
            place = at + pooled + c
            _quantised(numbers[r, c], boundaries, chosen[c], x, place, place + columns)
    out = np.empty((n, start.shape[0]), np.float32)
    for r in range(n):
        out[r] = start
    multiply(x, width, n, panels, width, out, start.shape[0], False)
    return out


@kernel
def item_key(words: Any, w32: Any, place: Any, item: Any, sizes: Any, lists: Any, numbers: Any) -> Any:
    """A hash of all that an item's part depends on but the deep version; never 0.

    `lists`, `numbers`: which of the item's, as in `Group.places` and `Group.number_places`.
    """
    h = ITEM_SEED
    for f in range(lists.shape[0]):
        at = place[2] + item * sizes[1] + lists[f]
        low, high = place[4] + np.int64(w32[at]), place[4] + np.int64(w32[at + 1])
        h = mix(h, np.uint64(high - low))
        for i in range(low, high):
            h = mix(h, words[i])
    for c in range(numbers.shape[0]):
        h = mix(h, np.uint64(w32[place[7] + item * sizes[3] + numbers[c]]))
    return h if h != 0 else ITEM_SEED


@kernel
def _number(f32: Any, place: Any, item: Any, sizes: Any, kind: Any, index: Any) -> Any:
    """A pair's number: a statistic, or where the item stands."""
    return f32[place[8] + item * sizes[4] + index] if kind == 2 else np.float32(item + 1)


@kernel
def tower(f32: Any, place: Any, sizes: Any, first: Any, last: Any, group: Any, net: Any, user: Any, parts: Any,
          rows: Any, floats: Any, totals: Any) -> None:  # fmt: skip
    """Add to totals[i] what the deep part says of item first + i; `rows[i]`: of its part in `parts`.

    `group`: the pairs' inputs. `floats`: scratch, as `floats_for` says.
    """
    chosen, kinds, numbers, boundaries = group.columns, group.kinds, group.number_places, net.boundaries
    rest, places, end = net.rest, net.places, net.last
    n, columns, width, hidden = last - first, chosen.shape[0], user.shape[0], end.shape[0] > 0
    x, a = floats[: n * 2 * columns], floats[n * 2 * columns : n * (2 * columns + width)]
    for r in range(n):
        at = r * 2 * columns
        for c in range(columns):
            number = _number(f32, place, first + r, sizes, kinds[c], numbers[c])
            _quantised(number, boundaries, chosen[c], x, at + c, at + columns + c)
        for c in range(width):
            a[r * width + c] = user[c] + parts[rows[r], c]
    multiply(x, 2 * columns, n, net.pair, 2 * columns, a, width, hidden)
    used = n * (2 * columns + width)
    room = (floats.shape[0] - used) // 2
    for k in range(places.shape[0]):
        inputs, outputs, panels, bias = places[k, 0], places[k, 1], places[k, 2], places[k, 3]
        begun = used + (k % 2) * room
        out = floats[begun : begun + n * outputs]
        for r in range(n):
            for c in range(outputs):
                out[r * outputs + c] = rest[bias + c]
        multiply(a, width, n, rest[panels:], inputs, out, outputs, True)
        a, width = out, outputs
    for r in range(n):
        totals[r] += _end(a, r * width, end) + net.end if hidden else np.float64(a[r * width])


@kernel
def _end(a: Any, at: Any, weights: Any) -> Any:
    """a[at:] · weights, in eight sums: one would wait for itself."""
    s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    s4, s5, s6, s7 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    whole = weights.shape[0] // 8 * 8
    for c in range(0, whole, 8):
        s0 += a[at + c] * weights[c]
        s1 += a[at + c + 1] * weights[c + 1]
        s2 += a[at + c + 2] * weights[c + 2]
        s3 += a[at + c + 3] * weights[c + 3]
        s4 += a[at + c + 4] * weights[c + 4]
        s5 += a[at + c + 5] * weights[c + 5]
        s6 += a[at + c + 6] * weights[c + 6]
        s7 += a[at + c + 7] * weights[c + 7]
    for c in range(whole, weights.shape[0]):
        s0 += a[at + c] * weights[c]
    return np.float64(((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)))
