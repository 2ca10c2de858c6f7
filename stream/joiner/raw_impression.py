"""Events in the form that the join reads: columns of numbers, and the bytes of the record in which they lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from stream.events import BadPart, Impression, Install, SourceEvent, Tick, decode_parts, encode_record, record_slices

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(slots=True)
class RecordEvents:
    """The events of a record: `columns` int64 [events, COLUMNS] of `record_scan`, `hashes` int64 of items.

    `raw`: the record; an event is raw[BEGIN:END].
    """

    columns: "npt.NDArray[np.int64]"
    hashes: "npt.NDArray[np.int64]"
    raw: bytes
    tally: tuple[int, int, int]  # pages, installs, bytes of these

    def __len__(self) -> int:
        """Number of events."""
        return len(self.columns)

    def bytes_of(self, event: int) -> bytes:
        """An event as it lies in the log."""
        begin, end = self.columns[event, 1:3].tolist()
        return self.raw[begin:end]

    def where(self, chosen: "npt.NDArray[np.bool_]") -> "RecordEvents":
        """Only these events."""
        columns = self.columns[chosen]
        return RecordEvents(columns, self.hashes, self.raw, _scan().tally(columns))


class PageRef(msgspec.Struct, gc=False, eq=False, frozen=True):
    """Where the log has a page, and how much of it: the record's offset, begin and length in the record, its items.

    `base`: how many items earlier pages under its request id have; its own positions continue theirs.
    """

    offset: int
    begin: int
    length: int
    size: int
    base: int = 0


@cache
def _scan() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded. To import it for each record costs 0.7 µs."""
    from stream.joiner import record_scan

    return record_scan


def plain_record(raw: bytes) -> RecordEvents | None:
    """The events of a record in the form that our producers write, in order; None where it isn't that."""
    found = _scan().plain_events(raw)
    return None if found is None else RecordEvents(found[0], found[1], raw, found[2])


def read_record(raw: bytes) -> tuple[RecordEvents, list[BadPart]]:
    """The events of a record in order, and what of it can't be taken: (bytes, reason)."""
    plain = plain_record(raw)
    return read_any(raw) if plain is None else (plain, [])


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
    return RecordEvents(columns, np.array(hashes, np.int64), raw, scan.tally(columns)), bad


def read_slices(raw: bytes) -> Iterator[tuple[RecordEvents, list[BadPart]]]:
    """The same, some events at a time: of a record with very many bad ones that takes half a second."""
    for begin, end, some in record_slices(raw):
        found, bad = read_any(some)
        head = len(some) - (end - begin)  # of the list that the slice is
        found.columns[:, 1:3] += begin - head
        yield RecordEvents(found.columns, found.hashes, raw, found.tally), bad


def together(slices: Sequence[RecordEvents]) -> RecordEvents:
    """The events of one record's slices."""
    import numpy as np

    before = 0
    for one in slices:
        one.columns[:, 5] += before
        before += len(one.hashes)
    columns = np.concatenate([one.columns for one in slices])
    hashes = np.concatenate([one.hashes for one in slices])
    return RecordEvents(columns, hashes, slices[0].raw, _scan().tally(columns))


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
