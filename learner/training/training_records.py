"""Records of `examples`, decoded and encoded for the model. Nothing here depends on what was learned.

So it runs ahead of the learning, on a thread of its own, for many records at once: bytes → DecodedRecords (or events) →
ExampleBatch, columns → EncodedRecords, keys and ids beside them → for the step of some records an EncodedBatch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from msgspec.structs import replace

from learner.training.dedup import source_of
from learner.training.encoded_batch import BatchEncoder, EncodedRecords
from learner.training.example_batch import ExampleBatch, batch_of, keys_of
from learner.training.holdout import HeldOutExamples, Holdout, learned_part
from learner.training.ranking_progress import identities_of
from learner.training.record_decoder import DecodedRecords, decode_records
from learner.training.shown_items import ShownPages, shown_pages
from stream.events.codec import array_head, decode_organic, decode_training, encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import BadPart, Erase, Examples, Organic, TrainingEvent
from stream.features.encoder import Batch
from stream.features.page_features import Layout
from stream.features.page_translation import PageTranslator
from stream.log.protocol import Record
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from stream.tables.dtypes import I64

DecodedRecord = tuple[Sequence[TrainingEvent], Sequence[BadPart]]  # events, and the parts that are none


@dataclass(slots=True)
class TrainingRecords:
    """Consecutive records of `examples`: R records, P pages."""

    origins: Sequence[Record]  # as read, without their values
    sources: Sequence[int]  # the partitions of `events` that they came from
    examples: EncodedRecords
    page_ends: I64  # i64[R + 1]: record r has pages page_ends[r]:page_ends[r + 1]
    words_ends: I64  # i64[P + 1]: page p has words[words_ends[p]:words_ends[p + 1]]
    shown: ShownPages
    identities: I64  # i64[P, 3], of the pages: `ranking_progress.PageColumns`
    organic: Sequence[Sequence[Organic]]  # of each record
    rejected: Sequence[Sequence[BadPart]]  # of each record
    held_out: HeldOutExamples | None  # which `examples` doesn't have; None: there is none
    erased: Sequence[Sequence[Erase]]  # of each record

    def __len__(self) -> int:
        return len(self.origins)


class RecordEncoder:
    """Decodes and encodes records by a spec."""

    def __init__(self, spec: Spec, layout: Layout, batches: BatchEncoder, previous: Sequence[Spec] = ()) -> None:
        self.layout, self.batches = layout, batches
        self._micro_batch, self._holdout = spec.deep.micro_batch, Holdout(spec.publish.gate.holdout)
        self._translators = {one.old.hash: one for one in (PageTranslator(old, spec) for old in previous)}

    def records(self, records: Sequence[Record]) -> Iterator[TrainingRecords]:
        """Records as they were read, many at once. One that isn't in plain form takes the way of events, and those
        behind it, too: they are like it, most likely. Pages of previous specs aren't in plain form.
        """
        values = [record.value or b"" for record in records]
        origins = [record._replace(value=None) for record in records]
        sources = [source_of(record.key) for record in records]
        return self._encoded(origins, sources, values, lambda first: map(decode_training, values[first:]))

    def of_events(
        self, records: Sequence[Sequence[TrainingEvent]], offsets: Sequence[int], source: int
    ) -> Iterator[TrainingRecords]:
        """Records of these events, as `records`."""
        values = [encode_record(events) for events in records]
        origins = [Record(EXAMPLES.name, 0, offset, 0, None, None) for offset in offsets]
        sources = [source] * len(records)
        return self._encoded(origins, sources, values, lambda first: ((events, ()) for events in records[first:]))

    def columns_of(self, pages: Sequence[Examples]) -> ExampleBatch:
        """These pages' examples; invalid pages are left out."""
        return batch_of([pages], self.layout, self._micro_batch).examples

    def _encoded(
        self,
        origins: Sequence[Record],
        sources: Sequence[int],
        values: Sequence[bytes],
        events_from: Callable[[int], Iterable[DecodedRecord]],
    ) -> Iterator[TrainingRecords]:
        """`events_from`: of the records from this one on, for those that aren't in plain form."""
        joined, ends = b"".join(values), np.cumsum(list(map(len, values)), dtype=np.int64)
        count, decoded = decode_records(joined, ends, self.layout)
        if count:
            yield self._plain(origins[:count], sources[:count], joined, decoded)
        if count < len(origins):
            yield self._slow(origins[count:], sources[count:], [*events_from(count)])

    def _slow(
        self, origins: Sequence[Record], sources: Sequence[int], decoded: Sequence[DecodedRecord]
    ) -> TrainingRecords:
        """Records by their events, and the parts that aren't events."""
        pages = [[self._translated(event) for event in events if isinstance(event, Examples)] for events, _ in decoded]
        found = batch_of(pages, self.layout, self._micro_batch)
        examples, valid = found.examples, [*chain.from_iterable(found.valid)]
        self.batches.cut(examples, found.ends)
        identities = identities_of([one.page for one in valid])
        held_out = self._holdout.split(examples, found.ends, identities)
        return TrainingRecords(
            origins,
            sources,
            self.batches.encode_records(*learned_part(examples, found.ends, held_out)),
            np.cumsum([0, *map(len, found.valid)]),
            np.append(examples.pages.starts, len(examples.pages.words)),
            shown_pages([(one.page.items, one.page.time_ms) for one in valid]),
            identities,
            [[event for event in events if isinstance(event, Organic)] for events, _ in decoded],
            [[*bad, *invalid] for (_, bad), invalid in zip(decoded, found.rejected, strict=True)],
            held_out,
            [[event for event in events if isinstance(event, Erase)] for events, _ in decoded],
        )

    def _translated(self, examples: Examples) -> Examples:
        """A page that was logged under a previous spec, in this one's layout; others, and invalid ones, as they are."""
        page = examples.page
        translator = self._translators.get(int.from_bytes(page.features[:8], "little")) if self._translators else None
        if translator is None:
            return examples
        try:
            words = translator.translate(page)
        except BadEvent:
            return examples
        return replace(examples, page=replace(page, features=words.tobytes()))

    def _plain(
        self, origins: Sequence[Record], sources: Sequence[int], joined: bytes, decoded: DecodedRecords
    ) -> TrainingRecords:
        ends = decoded.example_ends
        indices = np.arange(len(decoded.ids)) - np.repeat(ends[:-1], np.diff(ends))
        columns = ExampleBatch(
            Batch(decoded.words, decoded.page_starts, decoded.page, decoded.position), indices // self._micro_batch,
            decoded.ids, decoded.labels, decoded.weights, decoded.reasons, decoded.ingest_ms, decoded.time_ms,
            *keys_of(decoded.identities, decoded.page),
        )  # fmt: skip
        self.batches.cut(columns, ends)
        shown = ShownPages(joined, decoded.name_spans, decoded.name_hashes, decoded.name_ends, decoded.page_time_ms)
        organic: list[list[Organic]] = [[] for _ in origins]
        for record, begin, end in decoded.organic.tolist():
            organic[record] += decode_organic(array_head(1) + joined[begin:end])[0]
        held_out = self._holdout.split(columns, ends, decoded.identities)
        learned = self.batches.encode_records(*learned_part(columns, ends, held_out))
        return TrainingRecords(
            origins, sources, learned, decoded.page_ends, decoded.page_starts, shown, decoded.identities, organic,
            [()] * len(origins), held_out, [()] * len(origins),
        )  # fmt: skip
