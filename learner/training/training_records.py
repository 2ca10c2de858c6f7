"""Records of `examples`, decoded and encoded for the model. Nothing here depends on what was learned.

So it runs ahead of the learning, on a thread of its own, for many records at once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from learner.training.dedup import source_of
from learner.training.encoded_batch import BatchEncoder, EncodedBatch
from learner.training.example_batch import ExampleBatch, batch_of
from learner.training.record_decoder import DecodedRecords, decode_records
from learner.training.shown_items import ShownPages, shown_pages
from stream.events.codec import array_head, decode_organic, decode_training
from stream.events.types import BadPart, Examples, Organic, TrainingEvent
from stream.features.encoder import Batch
from stream.features.page_features import Layout
from stream.log.protocol import Record
from stream.spec.spec import Spec
from stream.tables.dtypes import I64


class TrainingRecord(NamedTuple):
    """One record of `examples`."""

    origin: Record  # as read, without its value
    source: int  # the partition of `events` that it came from
    batch: EncodedBatch
    page_ends: I64  # i64[P + 1]: page p has words[page_ends[p]:page_ends[p + 1]]
    shown: ShownPages
    organic: Sequence[Organic] = ()
    rejected: Sequence[BadPart] = ()


class RecordEncoder:
    """Decodes and encodes records by a spec."""

    def __init__(self, spec: Spec, layout: Layout, batches: BatchEncoder) -> None:
        self.layout, self.batches = layout, batches
        self._micro_batch = spec.deep.micro_batch

    def records(self, records: Sequence[Record]) -> Iterator[TrainingRecord]:
        """Kafka's records, many at once where they are in plain form."""
        while records:
            values = [record.value or b"" for record in records]
            joined, ends = b"".join(values), np.cumsum(list(map(len, values)))
            count, decoded = decode_records(joined, ends, self.layout)
            yield from self._plain(records[:count], joined, decoded)
            if count < len(records):
                yield self._decoded(records[count])
            records = records[count + 1 :]

    def of_events(
        self, events: Sequence[TrainingEvent], origin: Record, source: int, rejected: Sequence[BadPart] = ()
    ) -> TrainingRecord:
        """A record of these events; `rejected` are parts of it that aren't among them."""
        pages = [event for event in events if isinstance(event, Examples)]
        examples, valid, invalid = batch_of(pages, self.layout, self._micro_batch)
        ends = np.append(examples.pages.starts, len(examples.pages.words))
        shown = shown_pages([(one.page.items, one.page.time_ms) for one in valid])
        organic = [event for event in events if isinstance(event, Organic)]
        return TrainingRecord(
            origin, source, self.batches.encode(examples), ends, shown, organic, [*rejected, *invalid]
        )

    def columns_of(self, pages: Sequence[Examples]) -> ExampleBatch:
        """These pages' examples; invalid pages are left out."""
        return batch_of(pages, self.layout, self._micro_batch)[0]

    def _decoded(self, record: Record) -> TrainingRecord:
        """One record by its events, whatever is in it."""
        events, rejected = decode_training(record.value or b"")
        return self.of_events(events, record._replace(value=None), source_of(record.key), rejected)

    def _plain(self, records: Sequence[Record], joined: bytes, decoded: DecodedRecords) -> Iterator[TrainingRecord]:
        """Records that were decoded together: encoded together, then cut."""
        if not records:
            return
        examples, pages = decoded.example_ends, decoded.page_ends
        indices = np.arange(len(decoded.ids)) - np.repeat(examples[:-1], np.diff(examples))
        columns = ExampleBatch(
            Batch(decoded.words, decoded.page_starts, decoded.page, decoded.position), indices // self._micro_batch,
            decoded.ids, decoded.labels, decoded.weights, decoded.reasons, decoded.ingest_ms, decoded.time_ms,
        )  # fmt: skip
        organic: list[list[Organic]] = [[] for _ in records]
        for record, begin, end in decoded.organic.tolist():
            organic[record] += decode_organic(array_head(1) + joined[begin:end])[0]
        batches = self.batches.encode_records(columns, examples)
        for r, (record, batch) in enumerate(zip(records, batches, strict=True)):
            first, last = int(pages[r]), int(pages[r + 1])
            shown = ShownPages(
                joined, decoded.name_spans, decoded.name_hashes, decoded.name_ends[first : last + 1],
                decoded.page_time_ms[first:last], batch.newest_ms,
            )  # fmt: skip
            yield TrainingRecord(
                record._replace(value=None), source_of(record.key), batch, decoded.page_starts[first : last + 1],
                shown, organic[r],
            )  # fmt: skip
