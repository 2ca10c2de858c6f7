"""What the model reads of examples: keys, ids and numbers of both parts. Nothing here depends on what was learned."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from learner.deep.joint_step import Inputs, Targets
from learner.training.example_batch import ExampleBatch, Selection, are_corrections
from learner.training.slices import Slices
from stream.events.types import CORRECTIONS, INSTALLED, LATE_POSITIVE
from stream.features.encoder import Batch, DeepInput, Encoder, WideKeys
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Layout
from stream.features.statistics import StatisticKeys, StatisticsProgram
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, I64, Bools
from stream.tables.jit import kernel

NEWEST_MS, INGEST_MS, LATER, INSTALLS, MICRO_BATCHES = range(5)  # columns of a record's summary


NO_STATISTICS: Final = StatisticKeys(np.zeros(0, np.uint64), np.zeros(1, np.int64))


@dataclass(slots=True)
class EncodedBatch:
    """The examples of one or more records as the model learns them; B examples. Batches share arrays: an offset counts
    from the begin of arrays, which go on beyond this batch where they aren't of length B."""

    columns: ExampleBatch
    rows: slice  # of this batch, in `columns`
    ends: I64  # i64[R + 1]: record r has examples ends[r]:ends[r + 1] of this batch
    pages: Batch
    bounds: I64  # where each micro-batch begins, and the end
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


@dataclass(slots=True)
class EncodedRecords:
    """R records that were encoded together; S statistics, F lists of ids."""

    columns: ExampleBatch
    ends: I64  # i64[R + 1]: record r has examples ends[r]:ends[r + 1]
    wide: WideKeys
    deep: DeepInput
    statistics: StatisticKeys
    members: Bools
    labels: F64
    weights: F64
    starts: I64  # of micro-batches
    start_ends: I64  # i64[R + 1]: record r has micro-batches start_ends[r]:start_ends[r + 1]
    summaries: I64  # i64[R, 5]; of several records the greatest value of each column is used

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def _lists(self) -> int:
        return (len(self.deep.offsets) - 1) // max(1, len(self.columns))

    @property
    def _kinds(self) -> int:
        """How many statistics an example has."""
        return (len(self.statistics.offsets) - 1) // max(1, len(self.columns))

    def id_count(self, a: int, b: int) -> int:
        """How many ids examples a:b have."""
        lists = self._lists
        return int(self.deep.offsets[b * lists] - self.deep.offsets[a * lists])

    def statistic_count(self, a: int, b: int) -> int:
        """How many rows of statistics examples a:b move."""
        kinds = self._kinds
        return int(self.statistics.offsets[b * kinds] - self.statistics.offsets[a * kinds])

    def newest_ms(self, first: int, last: int) -> int:
        """Greatest event time of records first:last."""
        return int(self.summaries[first:last, NEWEST_MS].max())

    def batch(self, first: int, last: int) -> EncodedBatch:
        """The examples of records first:last."""
        columns = self.columns
        ends = self.ends[first : last + 1]
        a, b = int(ends[0]), int(ends[-1])
        rows = slice(a, b)
        words, starts, page, position = columns.pages
        lists, kinds = self._lists, self._kinds
        reasons, time_ms = columns.reasons[rows], columns.time_ms[rows]
        newest_ms, ingest_ms, later, installs, _ = self.summaries[first:last].max(axis=0).tolist()
        bounds = np.append(self.starts[self.start_ends[first] : self.start_ends[last]], b)
        return EncodedBatch(
            columns,
            rows,
            ends - a,
            Batch(words, starts, page[rows], position[rows]),
            bounds - a,
            Inputs(
                self.wide.keys,
                self.wide.offsets[a : b + 1],
                self.deep.ids,
                self.deep.offsets[a * lists : b * lists + 1],
                self.deep.numbers[rows],
            ),
            Targets(columns.ids[rows], columns.labels[rows], columns.weights[rows], time_ms),
            Outcomes(self.labels[rows], self.weights[rows], reasons, time_ms),
            StatisticKeys(self.statistics.keys, self.statistics.offsets[a * kinds : b * kinds + 1]),
            self.members[rows],
            are_corrections(reasons) if later else None,
            _installs(columns.take(rows)) if installs else [],
            newest_ms,
            ingest_ms,
        )


class BatchEncoder:
    """Encodes examples by a spec."""

    def __init__(self, spec: Spec, layout: Layout, features: Encoder, statistics: StatisticsProgram | None) -> None:
        self.features, self.slices = features, Slices(spec, layout)
        self._statistics = statistics

    def encode(self, examples: ExampleBatch) -> EncodedBatch:
        """Examples of one record."""
        return self.encode_records(examples, np.array([0, len(examples)])).batch(0, 1)

    def encode_records(self, examples: ExampleBatch, ends: I64) -> EncodedRecords:
        """Examples of several records: record r has examples ends[r]:ends[r + 1]."""
        pages = examples.pages
        summaries, starts = _summarise(examples.micro_batch, examples.reasons, examples.labels, examples.time_ms,
                                       examples.ingest_ms, ends)  # fmt: skip
        return EncodedRecords(
            examples,
            ends,
            self.features.wide_keys(pages),
            self.features.deep_input(pages),
            self._statistics.keys_of(pages) if self._statistics else NO_STATISTICS,
            self.slices.members(pages),
            examples.labels.astype(np.float64),
            examples.weights.astype(np.float64),
            starts,
            np.append(0, np.cumsum(summaries[:, MICRO_BATCHES])),
            summaries,
        )


def _installs(examples: ExampleBatch) -> list[tuple[int, int]]:
    which = (examples.labels > 0.5) & ((examples.reasons == INSTALLED) | (examples.reasons == LATE_POSITIVE))
    return list(zip(examples.ids[which].tolist(), examples.ingest_ms[which].tolist(), strict=True))


@kernel
def _summarise(micro_batch: I64, reasons: I64, labels: F32, time_ms: F64, ingest_ms: I64, ends: I64) -> tuple[I64, I64]:
    """Of each record, i64[R, 5]: greatest event and ingest time, counts of later labels, of installs and of
    micro-batches. And where each micro-batch begins."""
    found, starts = np.zeros((ends.shape[0] - 1, 5), np.int64), np.empty(micro_batch.shape[0], np.int64)
    count = 0
    for r in range(found.shape[0]):
        for b in range(ends[r], ends[r + 1]):
            found[r, NEWEST_MS] = max(found[r, NEWEST_MS], np.int64(time_ms[b]))
            found[r, INGEST_MS] = max(found[r, INGEST_MS], ingest_ms[b])
            found[r, LATER] += reasons[b] in CORRECTIONS
            found[r, INSTALLS] += labels[b] > 0.5 and (reasons[b] == INSTALLED or reasons[b] == LATE_POSITIVE)
            if b == ends[r] or micro_batch[b] != micro_batch[b - 1]:
                found[r, MICRO_BATCHES] += 1
                starts[count] = b
                count += 1
    return found, starts[:count]
