"""Events in the form that the join reads: columns of numbers, and the bytes of the records in which they lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from stream.events.codec import decode_parts, encode_record, record_slices
from stream.events.types import BadPart, Impression, Install, SourceEvent, Tick

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class RecordEvents:
    """The events of records of a partition that follow each other.

    `records` int64 [records, RECORD_COLUMNS] and `columns` int64 [events, COLUMNS] of `record_scan`, `hashes` int64 of
    items. `raw`: the records, one behind another; an event is BEGIN:END of its record.
    """

    records: "I64"
    columns: "I64"
    hashes: "I64"
    raw: bytes
    tally: tuple[int, int, int]  # pages, installs, bytes of these

    def __len__(self) -> int:
        """Number of events."""
        return len(self.columns)

    @property
    def last_offset(self) -> int:
        """The record with the last page or install; there must be one."""
        last = (self.columns[:, 0] != _scan().TICK).nonzero()[0][-1]
        return int(self.records[self.records[:, 2].searchsorted(last, "right"), 0])

    def _begin(self, record: int) -> tuple[int, int]:
        """The number of a record's first event, and where its bytes begin."""
        return tuple(self.records[record - 1, 2:].tolist()) if record else (0, 0)

    def bytes_of(self, event: int, record: int = 0) -> bytes:
        """An event of a record, by their numbers, as it lies in the log."""
        first, before = self._begin(record)
        begin, end = self.columns[first + event, 1:3].tolist()
        return self.raw[before + begin : before + end]

    def placed(self, offset: int, appended_ms: int) -> "RecordEvents":
        """The same, of one record: where the log has it, and since when."""
        self.records[0, :2] = offset, appended_ms
        return self

    def only(self, record: int) -> "RecordEvents":
        """The events of one of the records."""
        scan = _scan()
        first, begin = self._begin(record)
        offset, appended_ms, events, end = self.records[record].tolist()
        columns = self.columns[first:events]
        return _one(columns, self.hashes, self.raw[begin:end], scan.tally(columns)).placed(offset, appended_ms)

    def where(self, chosen: "npt.NDArray[np.bool_]") -> "RecordEvents":
        """Only these events, of one record."""
        columns = self.columns[chosen]
        offset, appended_ms = self.records[0, :2].tolist()
        return _one(columns, self.hashes, self.raw, _scan().tally(columns)).placed(offset, appended_ms)


@cache
def _scan() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded. To import it for each record costs 0.7 µs."""
    from stream.joiner.kernels import record_scan

    return record_scan


def _one(columns: "I64", hashes: "I64", raw: bytes, tally: tuple[int, int, int]) -> RecordEvents:
    """One record, that isn't placed yet."""
    scan = _scan()
    return RecordEvents(scan.np.array([[0, 0, len(columns), len(raw)]]), columns, hashes, raw, tally)


def plain_records(raws: Sequence[bytes], offsets: Sequence[int], appended_ms: Sequence[int]) -> RecordEvents:
    """The events of those records at the beginning of these that have the form of our producers, maybe of none."""
    scan = _scan()
    records = scan.np.empty((len(raws), scan.RECORD_COLUMNS), scan.np.int64)
    records[:, scan.OFFSET], records[:, scan.APPENDED] = offsets, appended_ms
    scan.np.cumsum([*map(len, raws)], out=records[:, scan.BYTES_END])
    raw = raws[0] if len(raws) == 1 else b"".join(raws)
    plain, columns, hashes, tally = scan.plain_events(raw, records)
    return RecordEvents(records[:plain], columns, hashes, raw, tally)


def read_record(raw: bytes) -> tuple[RecordEvents, list[BadPart]]:
    """The events of a record in order, and what of it can't be taken: (bytes, reason)."""
    plain = plain_records([raw], [0], [0])
    return (plain, []) if len(plain.records) else read_any(raw)


def read_any(raw: bytes) -> tuple[RecordEvents, list[BadPart]]:
    """The same for a record of any form, bad ones too, more slowly."""
    import numpy as np  # loaded with the kernels

    parts, bad = decode_parts(raw)
    scan = _scan()
    columns = np.zeros((len(parts), scan.COLUMNS), np.int64)
    hashes: list[int] = []
    for row, (begin, end, event) in zip(columns, parts, strict=True):
        row[[scan.BEGIN, scan.END, scan.TIME, scan.ITEMS]] = begin, end, event.time_ms, len(hashes)
        if not isinstance(event, Tick):
            row[[scan.USER, scan.MURMUR2]] = _hash(event.user), scan.murmur2(*_whole(event.user))
        if isinstance(event, Impression):
            row[[scan.TAG, scan.SIZE, scan.REQUEST]] = scan.PAGE, len(event.items), _hash(event.request_id)
            hashes += map(_item, event.items)
        elif isinstance(event, Install):
            item = _item(event.item)
            row[[scan.TAG, scan.ITEM, scan.RETRACTED]] = scan.INSTALL, item, event.retracted
            row[scan.KEY] = scan.pair_hash(row[scan.USER], _hash(event.install_id))
            row[scan.PAIR] = scan.pair_hash(row[scan.USER], item)
            row[scan.REQUEST] = _hash(event.request_id) if event.request_id else 0
        else:
            row[scan.TAG] = scan.TICK
    return _one(columns, np.array(hashes, np.int64), raw, scan.tally(columns)), bad


def read_slices(raw: bytes) -> Iterator[tuple[RecordEvents, list[BadPart]]]:
    """The same, some events at a time: of a record with very many bad ones that takes half a second."""
    for begin, end, some in record_slices(raw):
        found, bad = read_any(some)
        head = len(some) - (end - begin)  # of the list that the slice is
        found.columns[:, 1:3] += begin - head
        yield _one(found.columns, found.hashes, raw, found.tally), bad


def together(slices: Sequence[RecordEvents]) -> RecordEvents:
    """The events of one record's slices."""
    import numpy as np

    before = 0
    for one in slices:
        one.columns[:, 5] += before
        before += len(one.hashes)
    columns = np.concatenate([one.columns for one in slices])
    hashes = np.concatenate([one.hashes for one in slices])
    return _one(columns, hashes, slices[0].raw, _scan().tally(columns))


def record_events(events: Sequence[SourceEvent]) -> RecordEvents:
    """Decoded events as the record that they make."""
    return read_record(encode_record(events))[0]


def _hash(text: str) -> int:
    found: int = _scan().text_hash(*_whole(text))
    return found


def _item(text: str) -> int:
    found: int = _scan().item_hash(*_whole(text))
    return found


def _whole(text: str) -> "tuple[npt.NDArray[np.uint8], int, int]":
    import numpy as np

    raw = np.frombuffer(text.encode(), np.uint8)
    return raw, 0, len(raw)
