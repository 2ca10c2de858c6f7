"""The deep part against torch's autograd."""

import numpy as np
import torch

from learner.deep import EPSILON, Deep
from stream.encoder import DeepInput
from stream.spec import Deep as DeepSpec


def some_input(random: np.random.Generator, b: int, lists: int, numbers: int) -> DeepInput:
    """Lists of 0 to 4 of 10 ids, numbers with a tenth missing."""
    lengths = random.integers(0, 5, b * lists)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = random.normal(size=(b, numbers)).astype(np.float32)
    values[random.random((b, numbers)) < 0.1] = np.nan
    return DeepInput(random.integers(1, 11, offsets[-1]).astype(np.uint64), offsets, values)


def autograd_step(deep: Deep, given: DeepInput, labels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and the parameters after one Adagrad step on Σ log loss / micro-batch, by torch itself."""
    vocabulary, boundaries = deep.vocabulary, deep.boundaries
    vectors = torch.tensor(vocabulary.vectors[: vocabulary.rows], requires_grad=True)
    layers = [(torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)) for w, b in deep.layers()]
    row_of = {int(r[0]): int(r[1]) for r in vocabulary.table.rows()}
    inputs = []
    for b in range(len(given.numbers)):
        parts = []
        for f in range(deep.lists):
            first, last = given.offsets[b * deep.lists + f : b * deep.lists + f + 2]
            rows = [row_of.get(int(i), 0) for i in given.ids[first:last]]
            pooled = vectors[rows].sum(0) / max(1, len(rows)) ** 0.5 if rows else torch.zeros(vectors.shape[1])
            parts.append(pooled)
        x = torch.tensor(given.numbers[b])
        quantile = torch.tensor(
            [float(np.searchsorted(boundaries[d], given.numbers[b, d])) for d in range(deep.numbers)]
        )
        missing = torch.isnan(x)
        parts += [torch.where(missing, 0.0, quantile / boundaries.shape[1]), missing.float()]
        inputs.append(torch.cat(parts))
    h = torch.stack(inputs)
    for weight, bias in layers[:-1]:
        h = torch.relu(h @ weight + bias)
    logits = (h @ layers[-1][0] + layers[-1][1])[:, 0]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / deep.spec.micro_batch
    parameters = [vectors, *(p for layer in layers for p in layer)]
    optimiser = torch.optim.Adagrad(parameters, lr=deep.spec.learning_rate, eps=EPSILON)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return logits.detach(), [p.detach() for p in parameters]


def test_a_step_equals_autograd_with_adagrad() -> None:
    """Logits, dense parameters and embedding rows after a step are autograd's and torch.optim.Adagrad's."""
    random = np.random.default_rng(3)
    for seed in range(5):
        deep = Deep(DeepSpec(embedding_dim=6, min_count=1, quantiles=5, hidden_units=[7, 5], micro_batch=8), 3, 4, seed)
        deep.vocabulary.count(np.arange(1, 8, dtype=np.uint64), 1)
        deep.boundaries = np.sort(random.normal(size=(4, 4)).astype(np.float32), axis=1)
        given = some_input(random, 8, 3, 4)
        labels = random.integers(0, 2, 8).astype(np.float32)
        expected, parameters = autograd_step(deep, given, torch.tensor(labels))
        logits = deep.predict(given)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        deep._learn_weights((1 / (1 + np.exp(-logits)) - labels).astype(np.float32))
        np.testing.assert_allclose(deep.vocabulary.vectors[: deep.vocabulary.rows], parameters[0], atol=1e-5)
        flat = np.concatenate([p.numpy().ravel() for p in parameters[1:]])
        np.testing.assert_allclose(deep.flat.numpy(), flat, atol=1e-5)


def test_an_id_gets_its_row_at_its_min_count_th_sighting() -> None:
    """Before, it shares row 0; a new row's start is a hash of its key, whatever came before it."""
    first, second = (
        Deep(DeepSpec(embedding_dim=4, min_count=3, hidden_units=[2]), 1, 0, seed).vocabulary for seed in (1, 2)
    )
    first.count(np.array([5, 5], np.uint64), 3)
    assert first.rows == 1
    first.count(np.array([5], np.uint64), 3)
    assert first.rows == 2
    second.count(np.array([9, 9, 9, 5, 5, 5], np.uint64), 3)
    np.testing.assert_array_equal(first.vectors[1], second.vectors[2])
    assert np.abs(first.vectors[1]).max() <= 0.02
