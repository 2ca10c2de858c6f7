"""Events in the form that the join reads: columns of numbers, and the raw bytes of their records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from stream.events.codec import decode_parts, encode_record, record_chunks
from stream.events.types import BadPart, Erase, Impression, Install, SourceEvent, Tick

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class RecordEvents:
    """The events of consecutive records of a partition.

    `records` int64 [records, RECORD_COLUMNS] and `columns` int64 [events, COLUMNS] of `record_scan`, `hashes` int64
    [items]. `raw`: the records, concatenated; an event is BEGIN:END of its record.
    """

    records: "I64"
    columns: "I64"
    hashes: "I64"
    raw: bytes
    tally: tuple[int, int, int]  # pages, installs, bytes of installs

    def __len__(self) -> int:
        """Number of events."""
        return len(self.columns)

    @property
    def last_offset(self) -> int:
        """Offset of the record with the last page or install; there must be one."""
        last = (self.columns[:, 0] != scan_kernels().TICK).nonzero()[0][-1]
        return int(self.records[self.records[:, 2].searchsorted(last, "right"), 0])

    def _begin(self, record: int) -> tuple[int, int]:
        """Index of a record's first event, and of its first byte in `raw`."""
        return tuple(self.records[record - 1, 2:].tolist()) if record else (0, 0)

    def bytes_of(self, event: int, record: int = 0) -> bytes:
        """An event of a record, by their indices, as it is in the log."""
        first, before = self._begin(record)
        begin, end = self.columns[first + event, 1:3].tolist()
        return self.raw[before + begin : before + end]

    def at_offset(self, offset: int, appended_ms: int) -> "RecordEvents":
        """The same, of one record, with its offset in the log and its append time."""
        self.records[0, :2] = offset, appended_ms
        return self

    def of_record(self, record: int) -> "RecordEvents":
        """The events of one of the records."""
        first, begin = self._begin(record)
        offset, appended_ms, events, end = self.records[record].tolist()
        columns = self.columns[first:events]
        return _one_record(columns, self.hashes, self.raw[begin:end]).at_offset(offset, appended_ms)

    def select(self, chosen: "npt.NDArray[np.bool_]") -> "RecordEvents":
        """Only these events, of one record."""
        return _one_record(self.columns[chosen], self.hashes, self.raw).at_offset(*self.records[0, :2].tolist())


@cache
def scan_kernels() -> ModuleType:
    """`record_scan`, with numba: a joiner joins its group meanwhile. An import for each record would cost 0.7 µs."""
    from stream.joiner.kernels import record_scan

    return record_scan


def _one_record(columns: "I64", hashes: "I64", raw: bytes) -> RecordEvents:
    """One record, whose offset isn't set yet."""
    scan = scan_kernels()
    records = scan.np.array([[0, 0, len(columns), len(raw)]])
    return RecordEvents(records, columns, hashes, raw, scan.tally(columns))


def scan_records(raws: Sequence[bytes], offsets: Sequence[int], appended_ms: Sequence[int]) -> RecordEvents:
    """The events of these records up to the first one that isn't in our producers' encoding; may be empty."""
    scan = scan_kernels()
    records = scan.np.empty((len(raws), scan.RECORD_COLUMNS), scan.np.int64)
    records[:, scan.OFFSET], records[:, scan.APPENDED] = offsets, appended_ms
    scan.np.cumsum([*map(len, raws)], out=records[:, scan.BYTES_END])
    raw = raws[0] if len(raws) == 1 else b"".join(raws)
    plain, columns, hashes, tally = scan.plain_events(raw, records)
    return RecordEvents(records[:plain], columns, hashes, raw, tally)


def scan_runs(
    raws: Sequence[bytes], offsets: Sequence[int], appended_ms: Sequence[int]
) -> Iterator[tuple[int, RecordEvents]]:
    """The events of these records in runs: index of the first record, and events. Undecodable ones are left out."""
    first = 0
    while first < len(raws):
        run = scan_records(raws[first:], offsets[first:], appended_ms[first:])
        if not len(run.records):  # in another encoding
            run = decode_record(raws[first])[0].at_offset(offsets[first], appended_ms[first])
        yield first, run
        first += len(run.records)


def read_record(raw: bytes) -> tuple[RecordEvents, list[BadPart]]:
    """The events of a record in order, and its undecodable parts: (bytes, reason)."""
    scanned = scan_records([raw], [0], [0])
    return (scanned, []) if len(scanned.records) else decode_record(raw)


def decode_record(raw: bytes) -> tuple[RecordEvents, list[BadPart]]:
    """The same for a record in any encoding, more slowly."""
    import numpy as np  # loaded with the kernels

    parts, bad = decode_parts(raw)
    scan = scan_kernels()
    columns = np.zeros((len(parts), scan.COLUMNS), np.int64)
    hashes: list[int] = []
    for row, (begin, end, event) in zip(columns, parts, strict=True):
        row[[scan.BEGIN, scan.END, scan.TIME, scan.ITEMS]] = begin, end, event.time_ms, len(hashes)
        if not isinstance(event, Tick):
            row[[scan.USER, scan.MURMUR2]] = _text_hash(event.user), scan.murmur2(*_text_bytes(event.user))
        if isinstance(event, Impression):
            row[[scan.TAG, scan.SIZE, scan.REQUEST]] = scan.PAGE, len(event.items), _text_hash(event.request_id)
            hashes += map(_item_hash, event.items)
        elif isinstance(event, Install):
            item = _item_hash(event.item)
            row[[scan.TAG, scan.ITEM, scan.RETRACTED]] = scan.INSTALL, item, event.retracted
            row[scan.KEY] = scan.pair_hash(row[scan.USER], _text_hash(event.install_id))
            row[scan.PAIR] = scan.pair_hash(row[scan.USER], item)
            row[scan.REQUEST] = _text_hash(event.request_id) if event.request_id else 0
        else:
            row[scan.TAG] = scan.ERASE if isinstance(event, Erase) else scan.TICK
    return _one_record(columns, np.array(hashes, np.int64), raw), bad


def decode_chunks(raw: bytes) -> Iterator[tuple[RecordEvents, list[BadPart]]]:
    """The same, some events at a time: a record with very many undecodable ones takes half a second."""
    for begin, end, encoded in record_chunks(raw):
        found, bad = decode_record(encoded)
        head = len(encoded) - (end - begin)  # of the chunk's list
        found.columns[:, 1:3] += begin - head
        yield _one_record(found.columns, found.hashes, raw), bad


def concatenate(chunks: Sequence[RecordEvents]) -> RecordEvents:
    """The events of one record's chunks."""
    import numpy as np

    before = 0
    for one in chunks:
        one.columns[:, 5] += before
        before += len(one.hashes)
    columns = np.concatenate([one.columns for one in chunks])
    hashes = np.concatenate([one.hashes for one in chunks])
    return _one_record(columns, hashes, chunks[0].raw)


def to_record(events: Sequence[SourceEvent]) -> RecordEvents:
    """Decoded events as one record."""
    return read_record(encode_record(events))[0]


def _text_hash(text: str) -> int:
    found: int = scan_kernels().text_hash(*_text_bytes(text))
    return found


def _item_hash(text: str) -> int:
    found: int = scan_kernels().item_hash(*_text_bytes(text))
    return found


def _text_bytes(text: str) -> "tuple[npt.NDArray[np.uint8], int, int]":
    import numpy as np

    raw = np.frombuffer(text.encode(), np.uint8)
    return raw, 0, len(raw)
