"""The examples of a record in columns, and which of its pages can't be taken."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.events.checks import check_examples
from stream.events.types import INSTALLED, LATE_POSITIVE, WEIGHT_MAX, WEIGHT_MIN, WINDOW_CLOSED, Examples
from stream.features.encoder import I64, Batch
from stream.features.page_features import F32, Layout, pages_of, words_of
from stream.runtime.errors import BadEvent
from stream.tables.hash_table import U64
from stream.tables.jit import kernel

Which = npt.NDArray[np.bool_] | I64 | slice


@dataclass
class Flat:
    """Examples in columns: a Batch, and arrays [B] of what else is known of each. `part`: its micro-batch."""

    batch: Batch
    part: I64
    ids: U64
    labels: F32
    weights: F32
    reasons: I64
    ingest_ms: I64
    time_ms: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: Which) -> "Flat":
        """Only these examples (the pages stay)."""
        batch = Batch(self.batch.words, self.batch.starts, self.batch.page[which], self.batch.position[which])
        return Flat(batch, self.part[which], self.ids[which], self.labels[which], self.weights[which],
                    self.reasons[which], self.ingest_ms[which], self.time_ms[which])  # fmt: skip

    def first_labels(self) -> npt.NDArray[np.bool_]:
        """Which carry their page's first word on the item: no late positive, no retraction. bool [B]."""
        first: npt.NDArray[np.bool_] = (self.reasons == INSTALLED) | (self.reasons == WINDOW_CLOSED)
        return first

    def installs(self) -> I64:
        """Which are installs that the model learns of."""
        positive = (self.labels > 0.5) & ((self.reasons == INSTALLED) | (self.reasons == LATE_POSITIVE))
        return np.flatnonzero(positive)

    def cuts(self) -> I64:
        """Where micro-batches begin, and the end."""
        cuts: I64 = _cuts(self.part)
        return cuts


def flatten(record: Sequence[Examples], layout: Layout, micro_batch: int) -> tuple[Flat, list[tuple[Examples, str]]]:
    """A record's examples, and its pages that can't be taken with the reason.

    Micro-batches are cut at fixed places, before anything is dropped.
    """
    counts = [len(examples.ids) for examples in record]
    parts = np.arange(sum(counts)) // micro_batch
    flat = _flat(record, counts, parts, layout)
    if flat is not None:
        return flat, []
    bad, good, kept = [], [], []
    for examples, count, first in zip(record, counts, np.cumsum([0, *counts]).tolist(), strict=False):
        try:
            words_of(examples.page.features, layout, len(examples.page.items))
            check_examples(examples)
        except BadEvent as why:
            bad.append((examples, str(why)))
        else:
            good.append(examples)
            kept.append(parts[first : first + count])
    flat = _flat(good, list(map(len, kept)), np.concatenate([parts[:0], *kept]), layout)
    assert flat is not None, "what is bad was taken out"
    return flat, bad


def _flat(record: Sequence[Examples], counts: list[int], parts: I64, layout: Layout) -> Flat | None:
    """In columns, or None when anything is bad."""
    found = pages_of([(examples.page.features, len(examples.page.items)) for examples in record], layout)
    if found is None:
        return None

    def column(name: str, kind: type[np.generic]) -> Any:
        return np.array(list(chain.from_iterable(map(attrgetter(name), record))), kind)

    times = np.array([examples.page.time_ms for examples in record], np.float64)
    page = np.repeat(np.arange(len(record)), counts)
    flat = Flat(
        Batch(*found, page, column("positions", np.int64)),
        parts,
        column("ids", np.uint64),
        column("labels", np.float32),
        column("weights", np.float32),
        column("reasons", np.int64),
        column("ingest_ms", np.int64),
        times[page],
    )
    return flat if _sound(flat.labels, flat.weights) else None


def gathered(records: Iterator[Sequence[Examples]], least: int) -> Iterator[list[Examples]]:
    """The pages of so many records that they have at least `least` examples, again and again."""
    pages: list[Examples] = []
    count = 0
    for record in records:
        pages += record
        count += sum(len(examples.ids) for examples in record)
        if count >= least:
            yield pages
            pages, count = [], 0
    if pages:
        yield pages


@kernel
def _cuts(part: Any) -> Any:
    cuts = np.empty(part.shape[0] + 1, np.int64)
    cuts[0] = 0
    count = 1
    for b in range(1, part.shape[0]):
        if part[b] != part[b - 1]:
            cuts[count] = b
            count += 1
    cuts[count] = part.shape[0]
    return cuts[: count + 1]


@kernel
def _sound(labels: Any, weights: Any) -> Any:
    """Are all labels 0 or 1, and all weights above 0 and sensible? NaN is neither."""
    for b in range(labels.shape[0]):
        if not (labels[b] == 0.0 or labels[b] == 1.0) or not np.float32(WEIGHT_MIN) <= weights[b] <= np.float32(
            WEIGHT_MAX
        ):
            return False
    return True


@kernel
def known_again(ids: Any, ring: Any, index: Any, end: Any) -> Any:
    """Which of these ids, in order, the ring holds from `index` on; and the index after the last."""
    keep = np.zeros(ids.shape[0], np.bool_)
    for b in range(ids.shape[0]):
        if index < end and ids[b] == ring[index % ring.shape[0]]:
            keep[b] = True
            index += 1
    return keep, index
