"""What the model reads of examples: keys, ids and numbers of both parts. Nothing here depends on what was learned."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from learner.deep.joint_step import Inputs, Targets
from learner.training.example_batch import ExampleBatch, Selection
from learner.training.slices import Slices
from stream.events.types import INSTALLED, LATE_POSITIVE, WINDOW_CLOSED
from stream.features.encoder import Batch, Encoder
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Layout
from stream.features.statistics import StatisticKeys, StatisticsProgram
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, I64, Bools
from stream.tables.jit import kernel

NEWEST_MS, INGEST_MS, LATER, INSTALLS = range(4)  # columns of a summary


@dataclass(slots=True)
class EncodedBatch:
    """A record's examples as the model learns them; B examples. Records that were encoded together share arrays: an
    offset counts from the first one's begin, and arrays without a B go on beyond this record."""

    columns: ExampleBatch  # of all records
    rows: slice  # of this record, in `columns`
    pages: Batch
    bounds: I64  # where each micro-batch begins, and the end, counted from this record's first example
    inputs: Inputs
    targets: Targets
    outcomes: Outcomes
    statistics: StatisticKeys
    members: Bools  # bool[B, S]: which example is in which slice
    later: Bools | None  # bool[B]: which carry a later label, a late positive or a retraction; None: none does
    installs: list[tuple[int, int]]  # (id, ingest ms)
    newest_ms: int  # greatest event time
    ingest_ms: int  # greatest ingest time

    def __len__(self) -> int:
        return len(self.targets.ids)

    def take(self, which: Selection) -> ExampleBatch:
        """The columns of these examples only."""
        return self.columns.take(self.rows).take(which)


class BatchEncoder:
    """Encodes examples by a spec."""

    def __init__(self, spec: Spec, layout: Layout, features: Encoder, statistics: StatisticsProgram) -> None:
        self.features, self.slices = features, Slices(spec, layout)
        self._statistics = statistics

    def encode(self, examples: ExampleBatch) -> EncodedBatch:
        """Examples of one record."""
        (batch,) = self.encode_records(examples, np.array([0, len(examples)]))
        return batch

    def encode_records(self, examples: ExampleBatch, ends: I64) -> Iterator[EncodedBatch]:
        """Examples of several records, encoded together: record r has examples ends[r]:ends[r + 1]."""
        pages = examples.pages
        wide, deep = self.features.wide_keys(pages), self.features.deep_input(pages)
        statistics, members = self._statistics.keys_of(pages), self.slices.members(pages)
        labels, weights = examples.labels.astype(np.float64), examples.weights.astype(np.float64)
        kinds = len(self._statistics.crosses.salts)
        bounds, bound_ends = _micro_batch_bounds(examples.micro_batch, ends)
        summaries = _summaries(examples.reasons, examples.labels, examples.time_ms, examples.ingest_ms, ends).tolist()
        cuts, bound_cuts = ends.tolist(), bound_ends.tolist()
        words, starts, page, position = examples.pages
        lists = (len(deep.offsets) - 1) // max(1, len(examples))
        for r, (newest_ms, ingest_ms, later, installs) in enumerate(summaries):
            a, b = cuts[r], cuts[r + 1]
            rows = slice(a, b)
            ids, reasons, time_ms = examples.ids[rows], examples.reasons[rows], examples.time_ms[rows]
            id_offsets = deep.offsets[a * lists : b * lists + 1]
            yield EncodedBatch(
                examples,
                rows,
                Batch(words, starts, page[rows], position[rows]),
                bounds[bound_cuts[r] : bound_cuts[r + 1]],
                Inputs(wide.keys, wide.offsets[a : b + 1], deep.ids, id_offsets, deep.numbers[rows]),
                Targets(ids, examples.labels[rows], examples.weights[rows], time_ms),
                Outcomes(labels[rows], weights[rows], reasons, time_ms),
                StatisticKeys(statistics.keys, statistics.offsets[a * kinds : b * kinds + 1]),
                members[rows],
                (reasons != INSTALLED) & (reasons != WINDOW_CLOSED) if later else None,
                _installs(examples.take(rows)) if installs else [],
                newest_ms,
                ingest_ms,
            )


def _installs(examples: ExampleBatch) -> list[tuple[int, int]]:
    which = (examples.labels > 0.5) & ((examples.reasons == INSTALLED) | (examples.reasons == LATE_POSITIVE))
    return list(zip(examples.ids[which].tolist(), examples.ingest_ms[which].tolist(), strict=True))


@kernel
def _micro_batch_bounds(micro_batch: I64, ends: I64) -> tuple[I64, I64]:
    """Where each record's micro-batches begin, counted from its first example, and its end; and whose they are:
    record r has bounds[found[r]:found[r + 1]]."""
    bounds = np.empty(micro_batch.shape[0] + ends.shape[0], np.int64)
    found = np.zeros(ends.shape[0], np.int64)
    count = 0
    for r in range(ends.shape[0] - 1):
        first, last = ends[r], ends[r + 1]
        for b in range(first, last):
            if b == first or micro_batch[b] != micro_batch[b - 1]:
                bounds[count] = b - first
                count += 1
        bounds[count] = last - first
        count += 1
        found[r + 1] = count
    return bounds[:count], found


@kernel
def _summaries(reasons: I64, labels: F32, time_ms: F64, ingest_ms: I64, ends: I64) -> I64:
    """Of each record: greatest event and ingest time, counts of later labels and of installs. i64[R, 4]."""
    found = np.zeros((ends.shape[0] - 1, 4), np.int64)
    for r in range(found.shape[0]):
        for b in range(ends[r], ends[r + 1]):
            found[r, NEWEST_MS] = max(found[r, NEWEST_MS], np.int64(time_ms[b]))
            found[r, INGEST_MS] = max(found[r, INGEST_MS], ingest_ms[b])
            found[r, LATER] += reasons[b] != INSTALLED and reasons[b] != WINDOW_CLOSED
            found[r, INSTALLS] += labels[b] > 0.5 and (reasons[b] == INSTALLED or reasons[b] == LATE_POSITIVE)
    return found
