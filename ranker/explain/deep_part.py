"""The deep part in numpy: its inputs column by column, and by how much its logit falls when a column is removed.

A column is removed as the model itself encodes what it doesn't know: a category becomes one that has no embedding, a
number is missing. Integrated gradients agree less with what happens to the logit then, for 30 times the work (decision
0043).
"""

from collections.abc import Sequence

import numpy as np

from ranker.kernels.net import Net, dense_inputs, inputs_of
from ranker.kernels.packed_gemm import unpacked
from ranker.kernels.plan import GROUPS, Plan
from ranker.versions.model import ServingTower, embeddings_of
from stream.tables.dtypes import F32, F64, I64, U64


class DeepPart:
    """The deep part of a version. Its inputs [I] are in the order of its columns.

    `names` [C]: its columns, the user's, then the items', then the pairs'; `inputs_of` [C]: which inputs each of them
    is; `layers`: weights [in, out] and biases [out], first to last; `removed`: the inputs [I] of an item of which the
    model knows nothing.
    """

    def __init__(self, plan: Plan, tower: ServingTower) -> None:
        self.tower, self._sizes = tower, plan.layout.size_array
        net = tower.net
        groups = zip((plan.user, plan.item, plan.pair), (net.user, net.item, net.pair), strict=True)
        self._layers = [net.layer(group, panels) for group, panels in groups]
        self._embeddings = [embeddings_of(tower.embeddings, layer.group.deep.unseen) for layer in self._layers]
        self._widths = [len(plan.rows_of(layer.group)) for layer in self._layers]
        self.names, indices = _columns(plan)
        self._are_categories = [name in plan.encoder.deep_lists for name in self.names]
        self._order = np.concatenate(indices)  # inputs by column, as they stand in the groups
        ends = np.cumsum([len(index) for index in indices]).tolist()
        self.inputs_of = [slice(end - len(index), end) for end, index in zip(ends, indices, strict=True)]
        (weight, bias), *rest = _unpacked(net, self._widths)
        self.layers = [(weight[self._order], bias), *rest]
        self.removed = self._of_nothing()[self._order]

    def inputs(self, words: U64, positions: I64) -> F32:
        """What some items of a page, which is as it's served, put into the first layer. float32 [n, I]."""
        found = []
        for layer, embeddings, width in zip(self._layers, self._embeddings, self._widths, strict=True):
            inputs = inputs_of(words, positions, self._sizes, layer.group)
            found.append(dense_inputs(inputs, layer, embeddings).reshape(len(positions), width))
        return np.concatenate(found, axis=1)[:, self._order]

    def contributions(self, x: F32) -> tuple[F64, F64]:
        """The logits of inputs [n, I], and by how much they fall when one column is removed: float64 [n] and [n, C].

        A category that the page lacks is removed already, as a missing number is: it contributes 0.
        """
        (weight, bias), steps = self.layers[0], self.removed - x
        sums = np.empty((1 + len(self.names), len(x), len(bias)), np.float32)  # of the item, then without each column
        np.matmul(x, weight, out=sums[0])
        sums[0] += bias
        for of, is_category, without in zip(self.inputs_of, self._are_categories, sums[1:], strict=True):
            if is_category:
                steps[~x[:, of].any(axis=1), of] = 0.0  # no vector: the page has none
            np.matmul(steps[:, of], weight[of], out=without)
            without += sums[0]
        logits = self._logits(sums.reshape(-1, len(bias))).reshape(sums.shape[:2])
        return logits[0], (logits[0] - logits[1:]).T

    def _logits(self, a: F32) -> F64:
        """Logits of the first layer's sums [n, out], which it overwrites."""
        for weight, bias in self.layers[1:]:
            np.maximum(a, 0, out=a)
            a = a @ weight
            a += bias
        return a[:, 0].astype(np.float64)

    def _of_nothing(self) -> F32:
        """Inputs of unseen categories and missing numbers, float32 [I], in the groups' order."""
        parts = list[F32]()
        for layer, embeddings, width in zip(self._layers, self._embeddings, self._widths, strict=True):
            pooled, numbers = len(layer.group.deep.sides) * embeddings.unseen.shape[1], len(layer.group.columns)
            part = np.zeros(width, np.float32)
            part[:pooled] = embeddings.unseen.ravel()[:pooled]
            part[pooled + numbers :] = 1.0  # flags
            parts.append(part)
        return np.concatenate(parts)


def _unpacked(net: Net, widths: Sequence[int]) -> list[tuple[F32, F32]]:
    """All layers, first to last, without the columns that fill up panels."""
    groups = zip((net.user, net.item, net.pair), widths, strict=True)
    weights = [np.concatenate([unpacked(panels, width) for panels, width in groups if width])]
    biases = [net.bias]
    for inputs, outputs, panels, bias in net.shapes.tolist():
        weights.append(unpacked(net.weights[panels:bias], inputs))
        biases.append(net.weights[bias : bias + outputs])
    if len(net.last):
        weights.append(net.last[:, None])
        biases.append(np.array([net.last_bias], np.float32))
    outputs = [*(len(weight) for weight in weights[1:]), 1]
    return [(w[:, :n], b[:n]) for w, b, n in zip(weights, biases, outputs, strict=True)]


def _columns(plan: Plan) -> tuple[list[str], list[I64]]:
    """Names of the columns, group by group, and the inputs that each one is."""
    dim, lists = plan.spec.deep.embedding_dim, plan.encoder.deep_lists
    names, indices, start = list[str](), list[I64](), 0
    for group in GROUPS:
        pooled = [name for name in lists if plan.group_of(name) == group]
        numbers = [name for name in plan.encoder.deep_numbers if plan.group_of(name) == group]
        indices += [start + np.arange(f * dim, (f + 1) * dim) for f in range(len(pooled))]
        start += len(pooled) * dim
        indices += [start + np.array([c, len(numbers) + c]) for c in range(len(numbers))]
        start += 2 * len(numbers)
        names += [*pooled, *numbers]
    return names, indices
