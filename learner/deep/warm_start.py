"""Warm-start training: torch's autograd and Adagrad over the last examples, with the sums of squares carried over.

The dense parameters are trained in place; of the embeddings only the rows of the examples' ids are copied out and back.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.optim.adagrad import adagrad  # the optimizer class would import torch's compiler: seconds

from learner.deep.deep_model import DeepModel
from learner.deep.dense_layer import EPSILON
from stream.features.encoder import DeepInput
from stream.features.quantiles import quantise
from stream.tables.dtypes import F32

BATCH: Final = 64  # examples a step: they were learned before, and small steps overfit to them

torch.set_num_threads(1)  # the matrices are small, and bits must not depend on a machine's cores


class WindowChunk(NamedTuple):
    """Some of the window's examples. `wide`: logits from when each was predicted. `earlier`: the weight of an earlier
    label that each takes back, or 0. Arrays [B]."""

    inputs: DeepInput
    wide: F32
    labels: F32
    weights: F32
    earlier: F32


def warm_start(deep: DeepModel, window: Iterable[WindowChunk]) -> None:
    """Refreeze the quantiles, then train the deep part in one pass over the window."""
    deep.freeze_quantiles()
    for chunk in window:
        train(deep, chunk, max(BATCH, deep.spec.micro_batch))


def train(deep: DeepModel, chunk: WindowChunk, batch: int) -> None:
    """One pass over these examples in order, `batch` examples a step."""
    inputs, embeddings, dim = chunk.inputs, deep.vocabulary.embeddings, deep.spec.embedding_dim
    rows_of_ids = deep.vocabulary.rows_in_lists(inputs.ids, inputs.offsets)
    rows, row_indices = np.unique(rows_of_ids, return_inverse=True)
    copied = torch.from_numpy(embeddings[rows])
    vectors = torch.nn.Parameter(copied[:, :dim].clone())
    flat, flat_squares = deep.tower.flat, deep.tower.squares  # in the layout that torch is quickest with
    layers = [tuple(map(torch.from_numpy, layer)) for layer in deep.tower.layers(flat)]
    squares = [tuple(map(torch.from_numpy, layer)) for layer in deep.tower.layers(flat_squares)]
    parameters: list[torch.Tensor] = [vectors, *(torch.nn.Parameter(p) for layer in layers for p in layer)]
    sums = [copied[:, dim:], *(s for layer in squares for s in layer)]
    inflated, floor = deep.forgetting.inflation(), float(deep.floor)
    for total in sums:
        total.div_(inflated).add_(floor)
    steps = [torch.zeros(()) for _ in parameters]
    numbers = torch.from_numpy(quantise(inputs.numbers, deep.boundaries))
    pull = chunk.earlier * (1 - 2 * chunk.labels)  # the losses of two labels differ by ± the logit
    ids, wide, labels, weights, pulls = map(
        torch.from_numpy, (row_indices, chunk.wide, chunk.labels, chunk.weights - chunk.earlier, pull)
    )
    for first, last in pairwise([*range(0, len(labels), batch), len(labels)]):
        offsets = inputs.offsets[first * deep.lists : last * deep.lists + 1]
        x = numbers[first:last]
        if deep.lists:
            batch_ids = ids[offsets[0] : offsets[-1]]
            pooled = _pooled(vectors, batch_ids, torch.from_numpy(offsets - offsets[0])).view(last - first, -1)
            x = torch.cat([pooled, x], 1)
        logits = _tower(parameters[1:], x) + wide[first:last]
        loss = functional.binary_cross_entropy_with_logits(
            logits, labels[first:last], weights[first:last], reduction="sum"
        ) + torch.dot(pulls[first:last], logits)
        gradients = torch.autograd.grad(loss / batch, parameters, materialize_grads=True)
        if not loss.isfinite() or not all(gradient.isfinite().all() for gradient in gradients):
            continue  # one example that isn't finite must not reach all parameters
        with torch.no_grad():
            for part, rate in ((slice(1), deep.embedding_rate), (slice(1, None), deep.spec.learning_rate)):
                adagrad(
                    parameters[part], list(gradients[part]), sums[part], steps[part],
                    lr=rate, lr_decay=0.0, weight_decay=0.0, eps=float(EPSILON), maximize=False,
                )  # fmt: skip
    for total in sums:
        total.sub_(floor).clamp_(min=0).mul_(inflated)
    deep.tower.restore(flat, flat_squares)
    copied[:, :dim] = vectors.detach()
    embeddings[rows] = copied.numpy()
    deep.vocabulary.mark(rows)


def _pooled(vectors: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Lists of rows as sum/√n of their vectors, [lists, dim]."""
    lengths = (offsets[1:] - offsets[:-1]).clamp(min=1)
    total = functional.embedding_bag(ids, vectors, offsets, mode="sum", include_last_offset=True)
    return total / lengths.sqrt()[:, None]


def _tower(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits [B]; `parameters` alternates weights and biases."""
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))
    for weight, bias in layers[:-1]:
        x = torch.relu(torch.addmm(bias, x, weight))
    weight, bias = layers[-1]
    return torch.addmm(bias, x, weight)[:, 0]
