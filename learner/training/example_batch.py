"""Examples in columns, from events; invalid pages are rejected with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.training.ranking_kernels import KEY, USER
from learner.training.ranking_progress import identities_of
from stream.events.checks import check_examples
from stream.events.codec import encode
from stream.events.types import LATE_POSITIVE, RETRACTION, WEIGHT_MAX, WEIGHT_MIN, BadPart, Examples
from stream.features.encoder import Batch
from stream.features.page_features import Layout, pages_of, words_of
from stream.runtime.errors import BadEvent
from stream.tables.dtypes import F32, F64, I64, U64, Bools
from stream.tables.jit import kernel

NO_INDICES: Final[I64] = np.zeros(0, np.int64)
Selection = npt.NDArray[np.bool_] | I64 | slice


@dataclass
class ExampleBatch:
    """Examples in columns: their pages, and arrays [B]."""

    pages: Batch
    micro_batch: I64  # index of each example's micro-batch
    ids: U64
    labels: F32
    weights: F32
    reasons: I64
    ingest_ms: I64
    time_ms: F64  # event time of the page
    page_keys: U64  # hashes of page and user: `ranking_progress.identities_of`
    user_keys: U64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def corrects(self) -> Bools:
        """Which take back an earlier label: late positives and retractions."""
        return are_corrections(self.reasons)

    def take(self, which: Selection) -> "ExampleBatch":
        """These examples only (all pages stay)."""
        pages = Batch(self.pages.words, self.pages.starts, self.pages.page[which], self.pages.position[which])
        return ExampleBatch(pages, self.micro_batch[which], self.ids[which], self.labels[which], self.weights[which],
                            self.reasons[which], self.ingest_ms[which], self.time_ms[which],
                            self.page_keys[which], self.user_keys[which])  # fmt: skip


class DecodedEvents(NamedTuple):
    """R records of events in columns."""

    examples: ExampleBatch
    ends: I64  # i64[R + 1]: record r has examples ends[r]:ends[r + 1]
    valid: list[Sequence[Examples]]  # each record's valid pages
    rejected: list[list[BadPart]]  # each record's rejected pages: bytes and reason


def are_corrections(reasons: I64) -> Bools:
    """Which examples [B] take back an earlier label, by their reasons."""
    found: Bools = (reasons == LATE_POSITIVE) | (reasons == RETRACTION)  # `np.isin` costs ten times as much
    return found


def batch_of(records: Sequence[Sequence[Examples]], layout: Layout, micro_batch: int) -> DecodedEvents:
    """Records' examples in columns.

    Micro-batches are cut at fixed indices of each record, before anything is dropped.
    """
    counts = [[len(examples.ids) for examples in pages] for pages in records]
    micro_batches = [np.arange(sum(of)) // micro_batch for of in counts]
    joined = np.concatenate([NO_INDICES, *micro_batches])
    batch = _columns([*chain.from_iterable(records)], [*chain.from_iterable(counts)], joined, layout)
    if batch is not None:
        ends = np.cumsum([0, *map(sum, counts)])
        return DecodedEvents(batch, ends, list(records), [[] for _ in records])
    valid: list[Sequence[Examples]] = []
    rejected: list[list[BadPart]] = []
    kept, kept_counts = [NO_INDICES], list[int]()
    for pages, indices in zip(records, micro_batches, strict=True):
        good, bad, first = list[Examples](), list[BadPart](), 0
        for examples in pages:
            last = first + len(examples.ids)
            try:
                words_of(examples.page.features, layout, len(examples.page.items))
                check_examples(examples)
            except BadEvent as why:
                bad.append((encode(examples), str(why)))
            else:
                good.append(examples)
                kept.append(indices[first:last])
                kept_counts.append(last - first)
            first = last
        valid.append(good)
        rejected.append(bad)
    batch = _columns([*chain.from_iterable(valid)], kept_counts, np.concatenate(kept), layout)
    assert batch is not None, "invalid pages were rejected"
    ends = np.cumsum([0, *(sum(len(examples.ids) for examples in pages) for pages in valid)])
    return DecodedEvents(batch, ends, valid, rejected)


def _columns(events: Sequence[Examples], counts: list[int], micro_batches: I64, layout: Layout) -> ExampleBatch | None:
    """The examples in columns, or None when a page or an example is invalid."""
    found = pages_of([(examples.page.features, len(examples.page.items)) for examples in events], layout)
    if found is None:
        return None

    def column(name: str, kind: type[np.generic]) -> Any:
        return np.array(list(chain.from_iterable(map(attrgetter(name), events))), kind)

    times = np.array([examples.page.time_ms for examples in events], np.float64)
    page = np.repeat(np.arange(len(events)), counts)
    batch = ExampleBatch(
        Batch(*found, page, column("positions", np.int64)),
        micro_batches,
        column("ids", np.uint64),
        column("labels", np.float32),
        column("weights", np.float32),
        column("reasons", np.int64),
        column("ingest_ms", np.int64),
        times[page],
        *keys_of(identities_of([examples.page for examples in events]), page),
    )
    return batch if _valid(batch.labels, batch.weights) else None


def keys_of(identities: I64, page: I64) -> tuple[U64, U64]:
    """Hashes of the page and the user of examples, uint64 [B], from pages' identities."""
    keys = identities.view(np.uint64)
    return keys[page, KEY], keys[page, USER]


@kernel
def _valid(labels: Any, weights: Any) -> Any:
    """Whether all labels are 0 or 1 and all weights within their limits. NaN is neither."""
    for b in range(labels.shape[0]):
        if not (labels[b] == 0.0 or labels[b] == 1.0) or not np.float32(WEIGHT_MIN) <= weights[b] <= np.float32(
            WEIGHT_MAX
        ):
            return False
    return True
