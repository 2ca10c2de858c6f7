"""What the model reads of examples: keys, ids and numbers of both parts. Nothing here depends on what was learned."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from learner.deep.joint_step import Inputs, Targets
from learner.training.example_batch import ExampleBatch, Selection, are_corrections
from learner.training.negative_sampling import Multiplicities, micro_batches, multiplicities
from learner.training.slices import Slices
from stream.events.types import CORRECTIONS, INSTALLED, LATE_POSITIVE
from stream.features.encoder import Batch, DeepInput, Encoder, WideKeys
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Layout
from stream.features.statistics import StatisticKeys, StatisticsProgram
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, I64, U64, Bools
from stream.tables.jit import kernel

NEWEST_MS, INGEST_MS, LATER, INSTALLS, MICRO_BATCHES = range(5)  # columns of a record's summary


NO_STATISTICS: Final = StatisticKeys(np.zeros(0, np.uint64), np.zeros(1, np.int64))


@dataclass(slots=True)
class EncodedBatch:
    """The examples of one or more records as the model learns them: N examples, of which B are predicted. Batches share
    arrays: an offset counts from the begin of arrays, which go on beyond this batch where they aren't of length N or B.
    """

    columns: ExampleBatch
    rows: slice  # of this batch, in `columns`
    all_ends: I64  # i64[R + 1]: record r has examples all_ends[r]:all_ends[r + 1] of this batch
    all_pages: Batch
    outcomes: Outcomes
    statistics: StatisticKeys
    installs: list[tuple[int, int]]  # (id, ingest ms)
    newest_ms: int  # greatest event time
    ingest_ms: int  # greatest ingest time
    ends: I64  # i64[R + 1]: the same of those that are predicted
    pages: Batch
    bounds: I64  # where each micro-batch begins, and the end
    inputs: Inputs
    targets: Targets
    counts: Multiplicities
    earlier: F32  # f32[B]: the weight of the label that a later one takes back; 0: none
    members: Bools  # bool[B, S]: which example is in which slice
    later: Bools | None  # bool[B]: which carry a later label, a late positive or a retraction; None: none does
    left_out: int  # crosses of an item that had too many keys

    def __len__(self) -> int:
        return len(self.outcomes.labels)

    @property
    def ids(self) -> U64:
        """All examples' ids, uint64 [N]."""
        return self.columns.ids[self.rows]

    def take(self, which: Selection) -> ExampleBatch:
        """The columns of these examples only."""
        return self.columns.take(self.rows).take(which)


@dataclass(slots=True)
class EncodedRecords:
    """R records that were encoded together; S statistics, F lists of ids. N examples, of which B are predicted."""

    columns: ExampleBatch
    ends: I64  # i64[R + 1]: record r has examples ends[r]:ends[r + 1]
    statistics: StatisticKeys
    labels: F64
    weights: F64
    summaries: I64  # i64[R, 5]; of several records the greatest value of each column is used
    predicted: ExampleBatch  # the same columns, unless negatives are sampled
    predicted_ends: I64  # i64[R + 1]
    counts: Multiplicities  # [B]
    wide: WideKeys
    deep: DeepInput
    members: Bools
    starts: I64  # of micro-batches
    start_ends: I64  # i64[R + 1]: record r has micro-batches start_ends[r]:start_ends[r + 1]
    left_out: I64 | None  # i64[B]: how many crosses were left out; None: none can be

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def _lists(self) -> int:
        return (len(self.deep.offsets) - 1) // max(1, len(self.predicted))

    @property
    def _kinds(self) -> int:
        """How many statistics an example has."""
        return (len(self.statistics.offsets) - 1) // max(1, len(self.columns))

    def sizes(self, first: int, last: int) -> "StepSizes":
        """What records first:last have."""
        (n_a, n_b), (a, b) = self.ends[[first, last]].tolist(), self.predicted_ends[[first, last]].tolist()
        lists, kinds, keys, ids = self._lists, self._kinds, self.wide.offsets, self.deep.offsets
        rows = self.statistics.offsets
        return StepSizes(
            n_b - n_a, b - a, int(keys[b] - keys[a]), int(ids[b * lists] - ids[a * lists]),
            int(rows[n_b * kinds] - rows[n_a * kinds]),
        )  # fmt: skip

    def newest_ms(self, first: int, last: int) -> int:
        """Greatest event time of records first:last."""
        return int(self.summaries[first:last, NEWEST_MS].max())

    def batch(self, first: int, last: int) -> EncodedBatch:
        """The examples of records first:last."""
        columns, few = self.columns, self.predicted
        all_ends, ends = self.ends[first : last + 1], self.predicted_ends[first : last + 1]
        a, b = int(ends[0]), int(ends[-1])
        all_rows, rows = slice(int(all_ends[0]), int(all_ends[-1])), slice(a, b)
        lists, kinds = self._lists, self._kinds
        newest_ms, ingest_ms, later, installs, _ = self.summaries[first:last].max(axis=0).tolist()
        bounds = np.append(self.starts[self.start_ends[first] : self.start_ends[last]], b)
        counts, weights = self.counts.part(rows), few.weights[rows]
        return EncodedBatch(
            columns,
            all_rows,
            all_ends - all_rows.start,
            _pages_of(columns, all_rows),
            Outcomes(self.labels[all_rows], self.weights[all_rows], columns.reasons[all_rows],
                     columns.time_ms[all_rows]),
            StatisticKeys(
                self.statistics.keys, self.statistics.offsets[all_rows.start * kinds : all_rows.stop * kinds + 1]
            ),
            _installs(columns.take(all_rows)) if installs else [],
            newest_ms,
            ingest_ms,
            ends - a,
            _pages_of(few, rows),
            bounds - a,
            Inputs(
                self.wide.keys,
                self.wide.offsets[a : b + 1],
                self.deep.ids,
                self.deep.offsets[a * lists : b * lists + 1],
                self.deep.numbers[rows],
            ),
            Targets(few.ids[rows], few.labels[rows], weights * counts.now, few.time_ms[rows], few.page_keys[rows]),
            counts,
            weights * counts.earlier,
            self.members[rows],
            are_corrections(few.reasons[rows]) if later else None,
            int(self.left_out[rows].sum()) if self.left_out is not None else 0,
        )  # fmt: skip


class StepSizes(NamedTuple):
    """What the examples of a step have."""

    examples: int
    predicted: int
    keys: int  # of the wide part
    ids: int  # of the deep part
    statistics: int  # rows that they move


def _pages_of(columns: ExampleBatch, rows: slice) -> Batch:
    words, starts, page, position = columns.pages
    return Batch(words, starts, page[rows], position[rows])


class BatchEncoder:
    """Encodes examples by a spec."""

    def __init__(self, spec: Spec, layout: Layout, features: Encoder, statistics: StatisticsProgram | None) -> None:
        self.features, self.slices = features, Slices(spec, layout)
        self._statistics = statistics
        self._micro_batch, self._sample_negatives = spec.deep.micro_batch, spec.label.sample_negatives

    def encode(self, examples: ExampleBatch) -> EncodedBatch:
        """Examples of one record."""
        return self.encode_records(examples, np.array([0, len(examples)])).batch(0, 1)

    def encode_records(self, examples: ExampleBatch, ends: I64) -> EncodedRecords:
        """Examples of several records: record r has examples ends[r]:ends[r + 1]."""
        few, few_ends = examples, ends
        counts = multiplicities(examples, self._sample_negatives)
        summaries, starts = _summarise(examples.micro_batch, examples.reasons, examples.labels, examples.time_ms,
                                       examples.ingest_ms, ends)  # fmt: skip
        batches = summaries[:, MICRO_BATCHES]
        if not (chosen := counts.is_predicted).all():
            few, counts = examples.take(chosen), counts.part(chosen)
            few_ends = np.append(0, np.cumsum(chosen))[ends]
            of_few, starts = _summarise(few.micro_batch, few.reasons, few.labels, few.time_ms, few.ingest_ms, few_ends)
            batches = of_few[:, MICRO_BATCHES]
        return EncodedRecords(
            examples,
            ends,
            self._statistics.keys_of(examples.pages) if self._statistics else NO_STATISTICS,
            examples.labels.astype(np.float64),
            examples.weights.astype(np.float64),
            summaries,
            few,
            few_ends,
            counts,
            self.features.wide_keys(few.pages),
            self.features.deep_input(few.pages),
            self.slices.members(few.pages),
            starts,
            np.append(0, np.cumsum(batches)),
            self.features.left_out(few.pages),
        )

    def cut(self, examples: ExampleBatch, ends: I64) -> None:
        """Cut micro-batches again where negatives are sampled: at fixed indices of those that are predicted."""
        if self._sample_negatives < 1.0:
            chosen = multiplicities(examples, self._sample_negatives).is_predicted
            examples.micro_batch = micro_batches(chosen, ends, self._micro_batch)

    def learned(self, examples: ExampleBatch) -> tuple[Bools, F32, F32]:
        """Which of these are predicted, bool [B]; the weights of all, and of labels that they take back, float32."""
        counts = multiplicities(examples, self._sample_negatives)
        return counts.is_predicted, examples.weights * counts.now, examples.weights * counts.earlier


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
