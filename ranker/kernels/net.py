"""The deep part as kernels read it: inputs of a group, the first layer in three parts, the layers behind it.

    a₁ = relu(user part + item part + pair inputs · W_pair)      user part: x_user · W_user + bias, once a request
                                                                 item part: x_item · W_item, once a deep version
Buffers are flat float32. Each output is summed in an order that depends on nothing but the layer's width.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.packed_gemm import aligned, multiply, packed, padded
from ranker.kernels.plan import Group, Plan
from ranker.kernels.scratch import Scratch
from stream.features.cross_products import ITEM, list_at
from stream.features.encoder import OF_ITEM, STATISTIC, Batch, DeepInput, encode_deep
from stream.features.page_kernels import Page, Sections
from stream.features.quantiles import quantile
from stream.tables.delta_table import MISSING, lookup
from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.hash_kernels import find, mix
from stream.tables.jit import kernel

ITEM_SEED: Final = np.uint64(0x9AE16A3B2F90404F)


class Embeddings(NamedTuple):
    """Vectors by id: rows of `vectors` by `base`, entries of `delta` by the view over it, or the list's in `unseen`."""

    base: U64  # u64[capacity, 2]
    heads: U64
    entries: U64
    limit: int
    vectors: F32  # f32[rows, dim]
    delta: F32  # f32[room, dim]
    unseen: F32  # f32[F, dim]: of each list of a group


class InputLayer(NamedTuple):
    """A group's inputs, and its part of the first layer."""

    group: Group
    panels: F32  # as `packed`
    boundaries: F32  # f32[D, n_q − 1]


class ItemNet(NamedTuple):
    """What the deep part reads of items and pairs, and all layers behind it. Without hidden layers the first one's only
    output is the logit; `last` is empty.
    """

    lists: I64  # the items', as `DeepColumns.indices`
    numbers: I64  # as `DeepColumns.number_indices`
    pair_kinds: I64  # the pairs', as `DeepColumns.kinds`
    pair_numbers: I64
    pair_columns: I64  # as `Group.columns`
    boundaries: F32  # f32[D, n_q − 1]
    pair: F32  # panels of the first layer
    weights: F32  # panels and biases of all but the last layer
    shapes: I64  # i64[layers, 4]: inputs, padded outputs, where in `weights` panels and bias begin
    last: F32  # f32[inputs]
    last_bias: float


class Net(NamedTuple):
    """A deep version's layers, packed."""

    user: F32  # panels of the first layer's groups
    item: F32
    pair: F32
    bias: F32  # f32[padded width], of the first layer
    weights: F32  # as in `ItemNet`
    shapes: I64
    last: F32
    last_bias: float
    boundaries: F32

    def layer(self, group: Group, panels: F32) -> InputLayer:
        """A group with its panels."""
        return InputLayer(group, panels, self.boundaries)

    def for_items(self, plan: Plan) -> ItemNet:
        """As items are scored."""
        item, pair = plan.item.deep, plan.pair.deep
        return ItemNet(item.indices, item.number_indices, pair.kinds, pair.number_indices, plan.pair.columns,
                       self.boundaries, self.pair, self.weights, self.shapes, self.last, self.last_bias)  # fmt: skip


_NONE: Final[F32] = np.zeros(0, np.float32)
_NO_ROWS: Final = np.zeros((0, 2), np.uint64)
NO_EMBEDDINGS: Final = Embeddings(
    _NO_ROWS, _NO_ROWS, _NO_ROWS, 0, _NONE.reshape(0, 1), _NONE.reshape(0, 1), _NONE.reshape(0, 1)
)
NO_NET: Final = Net(
    _NONE, _NONE, _NONE, _NONE, _NONE, np.zeros((0, 4), np.int64), _NONE, 0.0, np.zeros((0, 0), np.float32)
)


def net_of(plan: Plan, layers: Sequence[tuple[F32, F32]], boundaries: F32) -> Net:
    """Layers (weight [in, out], bias [out]) packed for kernels."""
    weight, bias = layers[0]
    user, item, pair = (packed(weight[plan.rows_of(g)]).ravel() for g in (plan.user, plan.item, plan.pair))
    first = aligned(padded(len(bias)))
    first[: len(bias)] = bias
    parts, shapes, size = [np.zeros(0, np.float32)], [], 0
    for weight, bias in layers[1:-1]:
        panels, wide = packed(weight).ravel(), np.zeros(padded(len(bias)), np.float32)
        wide[: len(bias)] = bias
        shapes.append((len(weight), len(wide), size, size + len(panels)))
        parts += [panels, wide]
        size += len(panels) + len(wide)
    rest = aligned(size)
    rest[:] = np.concatenate(parts)
    hidden = len(layers) > 1
    last = np.ascontiguousarray(layers[-1][0][:, 0]) if hidden else np.zeros(0, np.float32)
    return Net(
        user, item, pair, first, rest, np.array(shapes, np.int64).reshape(-1, 4), last,
        float(layers[-1][1][0]) if hidden else 0.0, np.ascontiguousarray(boundaries),
    )  # fmt: skip


def floats_for(net: Net, plan: Plan, items: int) -> int:
    """How many floats of scratch `tower` needs for `items` items."""
    widest = max([0, *net.shapes[:, 1].tolist()])
    return int(items * (2 * len(plan.pair.columns) + len(net.bias) + 2 * widest))


@kernel
def _pool(ids: U64, embeddings: Embeddings, f: int, out: F32) -> None:
    """Sum / √n of the vectors of the `ids` of list f, into `out`, which is zero."""
    base, heads, entries, limit, vectors, delta, unseen = embeddings
    dim = unseen.shape[1]
    for key in ids:
        entry = lookup(heads, entries, limit, key)
        if entry >= 0:
            for c in range(dim):
                out[c] += delta[entry, c]
            continue
        row = find(base, key) if entry == MISSING else np.int64(-1)
        if row >= 0:
            row = np.int64(base[row, 1])
            for c in range(dim):
                out[c] += vectors[row, c]
        else:
            for c in range(dim):
                out[c] += unseen[f, c]
    if ids.shape[0] > 1:
        scale = np.float32(1.0 / np.sqrt(np.float64(ids.shape[0])))
        for c in range(dim):
            out[c] *= scale


@kernel
def vectors_of(ids: U64, embeddings: Embeddings) -> F32:
    """The vector of an id of each list, float32 [F, dim]."""
    out = np.zeros_like(embeddings.unseen)
    for f in range(ids.shape[0]):
        _pool(ids[f : f + 1], embeddings, f, out[f])
    return out


@kernel
def inputs_of(words: U64, positions: I64, sizes: I64, group: Group) -> DeepInput:
    """A group's ids and numbers for some items of a page."""
    start, page = np.zeros(1, np.int64), np.zeros(positions.shape[0], np.int64)
    return encode_deep(Batch(words, start, page, positions), sizes, group.deep)


@kernel
def dense_inputs(inputs: DeepInput, layer: InputLayer, embeddings: Embeddings) -> F32:
    """What a group's panels are multiplied with: pooled vectors, values, flags. float32 [n · width], flat."""
    ids, offsets, numbers = inputs
    boundaries, chosen = layer.boundaries, layer.group.columns
    n, lists, dim = numbers.shape[0], layer.group.deep.sides.shape[0], embeddings.unseen.shape[1]
    pooled, columns = lists * dim, chosen.shape[0]
    width = pooled + 2 * columns
    x = np.zeros(n * width, np.float32)
    for r in range(n):
        row = x[r * width : (r + 1) * width]
        for f in range(lists):
            own = ids[offsets[r * lists + f] : offsets[r * lists + f + 1]]
            _pool(own, embeddings, f, row[f * dim : (f + 1) * dim])
        for c in range(columns):
            number = numbers[r, c]
            row[pooled + c] = quantile(number, boundaries, chosen[c])
            row[pooled + columns + c] = np.float32(number != number)
    return x


@kernel
def activations_of(inputs: DeepInput, layer: InputLayer, embeddings: Embeddings, start: F32) -> F32:
    """A group's part of the first layer: `start` + inputs · weights. float32 [n, len(start)]."""
    n, outputs = inputs.numbers.shape[0], start.shape[0]
    width = layer.group.deep.sides.shape[0] * embeddings.unseen.shape[1] + 2 * layer.group.columns.shape[0]
    x = dense_inputs(inputs, layer, embeddings)
    out = np.empty((n, outputs), np.float32)
    for r in range(n):
        out[r] = start
    multiply(x, width, n, layer.panels, width, out, outputs, False)
    return out


@kernel
def item_key(words: U64, w32: U32, at: Sections, item: int, lists: I64, numbers: I64) -> np.uint64:
    """A hash of all that an item's part depends on but the deep version; never 0. `lists`, `numbers`: see `ItemNet`."""
    h = ITEM_SEED
    for f in range(lists.shape[0]):
        low, high = list_at(w32, at, ITEM, lists[f], item)
        h = mix(h, np.uint64(high - low))
        for i in range(low, high):
            h = mix(h, words[i])
    for c in range(numbers.shape[0]):
        h = mix(h, np.uint64(w32[at.item_numbers + item * at.sizes.item_numbers + numbers[c]]))
    return h if h != 0 else ITEM_SEED


@kernel
def tower(page: Page, first: int, last: int, net: ItemNet, user: F32, parts: F32, scratch: Scratch) -> None:
    """Write the deep part's logits of items first:last to scratch.totals.

    `user`: the user's part, float32 [width]. The part of item first + i is row scratch.ends[i] of
    `parts`, float32 [rows, width]. scratch.floats: as `floats_for` says.
    """
    f32, at, boundaries, chosen = page.f32, page.at, net.boundaries, net.pair_columns
    kinds, indices = net.pair_kinds, net.pair_numbers
    floats, rows, totals = scratch.floats, scratch.ends, scratch.totals
    weights, shapes, end = net.weights, net.shapes, net.last
    n, columns, width, has_hidden = last - first, chosen.shape[0], user.shape[0], end.shape[0] > 0
    x, a = floats[: n * 2 * columns], floats[n * 2 * columns : n * (2 * columns + width)]
    for r in range(n):
        row = r * 2 * columns
        for c in range(columns):
            number = np.float32(first + r + 1)
            if kinds[c] == STATISTIC:
                number = f32[at.statistics + (first + r) * at.sizes.statistics + indices[c]]
            elif kinds[c] == OF_ITEM:
                number = f32[at.item_numbers + (first + r) * at.sizes.item_numbers + indices[c]]
            x[row + c] = quantile(number, boundaries, chosen[c])
            x[row + columns + c] = np.float32(number != number)
        for c in range(width):
            a[r * width + c] = user[c] + parts[rows[r], c]
    multiply(x, 2 * columns, n, net.pair, 2 * columns, a, width, has_hidden)
    used = n * (2 * columns + width)
    room = (floats.shape[0] - used) // 2
    for k in range(shapes.shape[0]):
        inputs, outputs, panels, bias = shapes[k, 0], shapes[k, 1], shapes[k, 2], shapes[k, 3]
        begun = used + (k % 2) * room
        out = floats[begun : begun + n * outputs]
        for r in range(n):
            for c in range(outputs):
                out[r * outputs + c] = weights[bias + c]
        multiply(a, width, n, weights[panels:], inputs, out, outputs, True)
        a, width = out, outputs
    for r in range(n):
        totals[r] = _dot(a, r * width, end) + net.last_bias if has_hidden else np.float64(a[r * width])


@kernel
def _dot(a: F32, at: int, weights: F32) -> Any:
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
