"""The plain way to write what the joiner's shell writes quickly: the tests' oracle."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from stream.events.codec import encode
from stream.events.topics import EXAMPLES
from stream.events.types import Examples, SourceEvent
from stream.joiner.join import Joiner
from stream.joiner.labels import LabelBatch, raw_pages
from stream.joiner.output_records import RECORD_BYTES, output_records
from stream.joiner.record_cache import RecordCache
from stream.joiner.record_events import to_record
from stream.joiner.record_processor import PartitionState, RecordProcessor
from stream.log.dead_letters import Outgoing
from stream.log.protocol import Record, partition_of


def split_ahead(
    events: Sequence[SourceEvent], ingest_ms: int, ahead_ms_max: int
) -> tuple[Sequence[SourceEvent], list[tuple[bytes, str]]]:
    """Events that may have happened, and those whose time is too far behind their own arrival: (bytes, reason).

    One event from the future would throw the watermark forward and close every page.
    """
    limit_ms = ingest_ms + ahead_ms_max
    if all(event.time_ms <= limit_ms for event in events):
        return events, []
    ahead = [
        (encode(event), f"event time {event.time_ms} ms is {event.time_ms - ingest_ms} ms after its arrival")
        for event in events
        if event.time_ms > limit_ms
    ]
    return [event for event in events if event.time_ms <= limit_ms], ahead


def example_records(said: Iterable[Examples], partitions: int, bytes_max: int = RECORD_BYTES) -> list[Outgoing]:
    """All examples of one input record as one record (a partition), cut where it would grow above `bytes_max`."""
    records: list[Outgoing] = []
    open_lists: dict[int, tuple[list[msgspec.Raw], int]] = {}
    for examples in said:
        partition = partition_of(examples.page.user, partitions) if partitions > 1 else 0
        raw = encode(examples)
        parts, size = open_lists.get(partition, ([], 0))
        if parts and size + len(raw) > bytes_max:
            records.append(Outgoing(EXAMPLES.name, partition, msgspec.msgpack.encode(parts)))
            parts, size = [], 0
        parts.append(msgspec.Raw(raw))
        open_lists[partition] = (parts, size + len(raw))
    for partition, (parts, _) in open_lists.items():
        records.append(Outgoing(EXAMPLES.name, partition, msgspec.msgpack.encode(parts)))
    return records


def written(
    processor: RecordProcessor, state: PartitionState, records: Sequence[Record], partitions: Mapping[str, int]
) -> list[Outgoing]:
    """All that these records of a partition lead to, in order."""
    return [
        outgoing
        for output in processor.process(state, records)
        if output is not None
        for outgoing in output_records(
            output,
            partitions,
            raw_pages(output.labels, state.cache) if output.labels else [],
            records[0].partition,
        )
    ]


def labelled(
    joiner: Joiner, events: Sequence[SourceEvent], offset: int, ingest_ms: int
) -> tuple[LabelBatch, list[bytes]]:
    """What the join emits of one record, and the pages of it as they lie in the log."""
    record, cache = to_record(events), RecordCache()
    cache.put(offset, record.raw)
    labels = joiner.join_record(record, offset, ingest_ms).labels
    return labels, raw_pages(labels, cache)
