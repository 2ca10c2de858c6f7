"""`learn`'s peer in plain torch: the same Wide & Deep network with autograd, from the same records' bytes.

Both parts in one graph, Adagrad for both, on one thread. It is spared what a service needs besides: rows of keys and
ids (instead of hashing them) and quantiles are ready-made, for the records that it reads; no admission, no statistics,
no metrics, no memory of ids. Decoding, encoding and a DataLoader of micro-batches are in its time.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.wide import columns_of
from learner.deep.dense_layer import EPSILON
from stream.features.encoder import DeepInput, Encoder, WideKeys
from stream.features.page_features import Layout
from stream.features.quantiles import quantise
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, I64, U64

WARM = 0.2  # of the records are learned before the clock starts


class Rows(NamedTuple):
    """What the peer gets ready-made: the rows of each record's keys and ids, and their counts; quantiles."""

    wide: list[I64]
    deep: list[I64]
    wide_count: int
    deep_count: int
    boundaries: F32  # [numbers, quantiles - 1]


class MicroBatch(NamedTuple):
    """B examples as tensors."""

    wide: torch.Tensor  # i64[K]: rows of keys
    wide_starts: torch.Tensor  # i64[B]
    deep: torch.Tensor  # i64[N]: rows of ids
    deep_starts: torch.Tensor  # i64[B·F]: of F lists an example
    shares: torch.Tensor | None  # f32[N]: 1/√n of each list; None: all are 1
    x: torch.Tensor  # f32[B, 2D]: quantiles of the numbers, and flags
    labels: torch.Tensor  # f32[B]


class MicroBatches(IterableDataset[MicroBatch]):
    """Records decoded, encoded and cut into micro-batches, in order."""

    def __init__(self, spec: Spec, records: Sequence[bytes]) -> None:
        self.spec, self.records = spec, records
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        keys, inputs, labels = zip(*map(self._encode, records), strict=True)
        self.rows, self.examples = self._rows(keys, inputs), sum(map(len, labels))

    def _encode(self, raw: bytes) -> tuple[WideKeys, DeepInput, F32]:
        pages, labels = columns_of(raw, self.layout)
        return self.encoder.wide_keys(pages), self.encoder.deep_input(pages), labels

    def _rows(self, keys: Sequence[WideKeys], inputs: Sequence[DeepInput]) -> Rows:
        """A row for each key and id in all records: no hashing and no growth while learning."""
        wide, wide_count = _numbered([one.keys for one in keys])
        deep, deep_count = _numbered([one.ids for one in inputs])
        numbers = np.concatenate([one.numbers for one in inputs])
        numbers[:, np.isnan(numbers).all(0)] = 0.0
        shares = np.arange(1, self.spec.deep.quantiles) / self.spec.deep.quantiles
        boundaries = np.nanquantile(numbers, shares, axis=0).T.astype(np.float32)
        return Rows(wide, deep, wide_count, deep_count, np.ascontiguousarray(boundaries))

    def __iter__(self) -> Iterator[MicroBatch]:
        size, lists = self.spec.deep.micro_batch, len(self.encoder.deep_lists)
        for raw, wide, deep in zip(self.records, self.rows.wide, self.rows.deep, strict=True):
            keys, known, labels = self._encode(raw)
            x = torch.from_numpy(quantise(known.numbers, self.rows.boundaries))
            lengths = np.diff(known.offsets)
            shares = torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32))
            is_weighted = lengths.max() > 1  # else all are 1
            for low in range(0, len(labels), size):
                high = min(low + size, len(labels))
                wide_ends = keys.offsets[low : high + 1]
                deep_ends = known.offsets[low * lists : high * lists + 1]
                yield MicroBatch(
                    torch.from_numpy(wide[wide_ends[0] : wide_ends[-1]]),
                    torch.from_numpy(wide_ends[:-1] - wide_ends[0]),
                    torch.from_numpy(deep[deep_ends[0] : deep_ends[-1]]),
                    torch.from_numpy(deep_ends[:-1] - deep_ends[0]),
                    shares[deep_ends[0] : deep_ends[-1]] if is_weighted else None,
                    x[low:high],
                    torch.from_numpy(labels[low:high]),
                )


class WideAndDeep(torch.nn.Module):
    """A weight a key, and embeddings of lists (sum/√n) into a ReLU tower; gradients sparse or dense."""

    def __init__(self, batches: MicroBatches, *, sparse: bool) -> None:
        super().__init__()
        spec, encoder = batches.spec.deep, batches.encoder
        self.wide = torch.nn.EmbeddingBag(batches.rows.wide_count, 1, mode="sum", sparse=sparse)
        torch.nn.init.zeros_(self.wide.weight)
        self.deep = torch.nn.EmbeddingBag(batches.rows.deep_count, spec.embedding_dim, mode="sum", sparse=sparse)
        inputs = len(encoder.deep_lists) * spec.embedding_dim + 2 * len(encoder.deep_numbers)
        layers = pairwise([inputs, *spec.hidden_units])
        hidden = [layer for i, o in layers for layer in (torch.nn.Linear(i, o), torch.nn.ReLU())]
        self.tower = torch.nn.Sequential(*hidden, torch.nn.Linear(spec.hidden_units[-1], 1))

    def forward(self, given: MicroBatch) -> torch.Tensor:
        """Logits [B]."""
        pooled = self.deep(given.deep, given.deep_starts, per_sample_weights=given.shares).view(len(given.x), -1)
        deep = self.tower(torch.cat([pooled, given.x], 1))
        logits: torch.Tensor = (self.wide(given.wide, given.wide_starts) + deep)[:, 0]
        return logits


def torch_ex_s(batches: MicroBatches, *, sparse: bool) -> float:
    """Examples per second."""
    return learn(WideAndDeep(batches, sparse=sparse), batches, sparse=sparse)


def learn(model: WideAndDeep, batches: MicroBatches, *, sparse: bool) -> float:
    """Decode, encode, load, predict and learn all; returns the examples per second of all but the first fifth.

    Dense gradients are applied by torch's fused Adagrad, which is its fastest; it can't take sparse ones. So sparse
    ones have an optimiser of their own.
    """
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # else it warns of the default
    spec = batches.spec
    tables: list[dict[str, Any]] = [
        {"params": model.wide.parameters(), "lr": spec.wide.alpha},
        {"params": model.deep.parameters()},
    ]
    adagrad = partial(torch.optim.Adagrad, lr=spec.deep.learning_rate, eps=float(EPSILON))
    tower = {"params": model.tower.parameters()}
    optimisers = [adagrad(tables), adagrad([tower], fused=True)] if sparse else [adagrad([*tables, tower], fused=True)]
    learned, timed_from, begun = 0, int(batches.examples * WARM), 0.0
    for given in DataLoader(batches, batch_size=None, collate_fn=_as_it_is):
        if not begun and learned >= timed_from:
            timed_from, begun = learned, time.perf_counter()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(given), given.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in optimisers:
            optimiser.step()
        learned += len(given.labels)
    return (learned - timed_from) / (time.perf_counter() - begun)


def _as_it_is(batch: Any) -> Any:
    return batch


def _numbered(names: Sequence[U64]) -> tuple[list[I64], int]:
    """Each record's keys or ids as numbers from 0, and how many there are."""
    distinct, rows = np.unique(np.concatenate(names), return_inverse=True)
    return np.split(rows, np.cumsum([len(one) for one in names])[:-1]), len(distinct)
