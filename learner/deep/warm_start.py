"""A warm start's training: torch's autograd and Adagrad over the last examples, the sums of squares carried over.

The parameters are the deep part's own memory; of the embeddings only rows that the examples name are taken out, and
put back.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.optim.adagrad import adagrad  # made as an object, it would import torch's compiler: seconds

from learner.deep.deep import Deep
from learner.deep.tower import EPSILON
from stream.features.encoder import DeepInput
from stream.features.page_features import F32
from stream.features.quantiles import quantise

BATCH: Final = 64  # examples at a step: they were learned once, and small steps learn them by heart

torch.set_num_threads(1)  # the matrices are small, and bits must not depend on a machine's cores


class Window(NamedTuple):
    """Examples as they were learned; `wide` logits as they were when each was predicted. Arrays [B]."""

    given: DeepInput
    wide: F32
    labels: F32
    weights: F32


def warm_start(deep: Deep, window: Iterable[Window]) -> None:
    """The deep part starts anew from what it is: quantiles frozen again, one pass over the window."""
    deep.freeze_quantiles()
    for part in window:
        retrain(deep, part, max(BATCH, deep.spec.micro_batch))


def retrain(deep: Deep, window: Window, batch: int) -> None:
    """One pass over these examples, in order, so many at a step."""
    given, held, dim = window.given, deep.vocabulary.held, deep.spec.embedding_dim
    rows, places = np.unique(deep.vocabulary.rows_of(given.ids), return_inverse=True)
    taken = torch.from_numpy(held[rows])
    vectors = torch.nn.Parameter(taken[:, :dim].clone())
    layers = [tuple(map(torch.from_numpy, layer)) for layer in deep.tower.layers()]
    squares = [tuple(map(torch.from_numpy, layer)) for layer in deep.tower.layers(deep.tower.squares)]
    parameters: list[torch.Tensor] = [vectors, *(torch.nn.Parameter(p) for layer in layers for p in layer)]
    sums = [taken[:, dim:], *(s for layer in squares for s in layer)]
    steps = [torch.zeros(()) for _ in parameters]
    numbers = torch.from_numpy(quantise(given.numbers, deep.boundaries))
    ids, wide, labels, weights = map(torch.from_numpy, (places, window.wide, window.labels, window.weights))
    for first, last in pairwise([*range(0, len(labels), batch), len(labels)]):
        at = given.offsets[first * deep.lists : last * deep.lists + 1]
        x = numbers[first:last]
        if deep.lists:
            pooled = _pooled(vectors, ids[at[0] : at[-1]], torch.from_numpy(at - at[0])).view(last - first, -1)
            x = torch.cat([pooled, x], 1)
        logits = _tower(parameters[1:], x) + wide[first:last]
        loss = functional.binary_cross_entropy_with_logits(
            logits, labels[first:last], weights[first:last], reduction="sum"
        )
        gradients = torch.autograd.grad(loss / batch, parameters, materialize_grads=True)
        with torch.no_grad():
            adagrad(
                parameters, list(gradients), sums, steps,
                lr=deep.spec.learning_rate, lr_decay=0.0, weight_decay=0.0, eps=float(EPSILON), maximize=False,
            )  # fmt: skip
    taken[:, :dim] = vectors.detach()
    held[rows] = taken.numpy()
    deep.vocabulary.mark(rows)


def _pooled(vectors: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Lists of rows as sum/√n of their vectors, [lists, dim]."""
    lengths = (offsets[1:] - offsets[:-1]).clamp(min=1)
    total = functional.embedding_bag(ids, vectors, offsets, mode="sum", include_last_offset=True)
    return total / lengths.sqrt()[:, None]


def _tower(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits [B] of weights and biases in turn."""
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))
    for weight, bias in layers[:-1]:
        x = torch.relu(torch.addmm(bias, x, weight))
    weight, bias = layers[-1]
    return torch.addmm(bias, x, weight)[:, 0]
