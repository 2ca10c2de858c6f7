"""Finds the events in the bytes of a record, checks them and hashes their ids, without an object per event: kernels.

They know the plain form only, which is what our producers write: ASCII text, no more than ITEMS_SCANNED items a page,
numbers as msgpack's shortest or a double. Of anything else they say "not plain", whatever it is, and
`events.decode_events` decides.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.events.types import EVENT_BYTES_MAX, RECORD_BYTES_MAX, TIME_MS_MAX
from stream.joiner.kernels.hashes import item_hash, murmur2, pair_hash, text_hash
from stream.joiner.kernels.msgpack_scan import bytes_at, context_at, doubles_at, list_at, number_at, text_at
from stream.tables.jit import kernel

ITEMS_SCANNED: Final = 64
# Columns of an event: where it lies in the record, and hashes of what it names. A page has SIZE hashes of its items at
# ITEMS. REQUEST is 0 where an install names no page. MURMUR2 is Kafka's hash of the user, by which it has a partition.
TAG, BEGIN, END, TIME, SIZE, ITEMS, REQUEST, USER, ITEM, KEY, PAIR, RETRACTED, MURMUR2 = range(13)
COLUMNS: Final = 13
# Columns of a record: its offset, when it was appended, the number of its last event, where its bytes end; exclusive.
OFFSET, APPENDED, EVENTS_END, BYTES_END = range(4)
RECORD_COLUMNS: Final = 4
PAGE, INSTALL, TICK = 1, 2, 3  # the tags of the events

Columns = npt.NDArray[np.int64]


def plain_events(raw: bytes, records: Columns) -> "tuple[int, Columns, Columns, tuple[int, int, int]]":
    """How many records at the beginning of these are plain, and the events of them, int64 [events, COLUMNS].

    `records`: int64 [records, RECORD_COLUMNS], their BYTES_END in `raw` filled in; EVENTS_END is filled here. Then the
    items' hashes, int64, and how many of the events are pages and installs, and the bytes of these.
    """
    joined = np.frombuffer(raw, np.uint8)
    count = _count_events(joined, records)
    found = np.empty((count, COLUMNS), np.int64)
    hashes = np.empty(min(count * ITEMS_SCANNED, len(raw)), np.int64)
    plain, used, pages, installs, length = _scan_records(joined, records, found, hashes)
    events = int(records[plain - 1, EVENTS_END]) if plain else 0
    return plain, found[:events], hashes[:used], (pages, installs, length)


@kernel
def _items(raw: Any, at: Any, hashes: Any) -> Any:
    """(number, where they end) of a page's items: distinct, none empty; an end of -1: they aren't plain."""
    size, at = list_at(raw, at)
    if not 1 <= size <= min(hashes.shape[0], ITEMS_SCANNED) or at < 0:
        return size, np.int64(-1)
    for item in range(size):
        begin, end = text_at(raw, at)
        if end <= begin:
            return size, np.int64(-1)
        h = item_hash(raw, begin, end)
        for other in range(item):
            if hashes[other] == h:  # the same item, or the same hash: somebody else may tell
                return size, np.int64(-1)
        hashes[item] = h
        at = end
    return size, at


@kernel
def _page(raw: Any, at: Any, fields: Any, hashes: Any, row: Any) -> Any:
    """Where an Impression with so many fields ends; -1: it isn't plain. Fills its row."""
    begin, end = text_at(raw, at)
    if end <= begin:
        return np.int64(-1)
    row[REQUEST] = text_hash(raw, begin, end)
    row[TIME], at = number_at(raw, end)
    if at < 0:
        return at
    begin, end = text_at(raw, at)
    if end <= begin:
        return np.int64(-1)
    row[USER], row[MURMUR2] = text_hash(raw, begin, end), murmur2(raw, begin, end)
    row[SIZE], at = _items(raw, end, hashes)
    if at >= 0 and fields > 4:
        _, at = text_at(raw, at)  # variant
    if at >= 0 and fields > 5:
        version, at = number_at(raw, at)
        if version >= 1 << 53:
            return np.int64(-1)
    if at >= 0 and fields > 6:
        at = doubles_at(raw, at, row[SIZE])  # scores
    if at >= 0 and fields > 7:
        at = doubles_at(raw, at, row[SIZE])  # propensities
    if at >= 0 and fields > 8:
        at = bytes_at(raw, at)  # features
    if at >= 0 and fields > 9:
        at = context_at(raw, at)
    return at


@kernel
def _install(raw: Any, at: Any, fields: Any, row: Any) -> Any:
    """Where an Install with so many fields ends; -1: it isn't plain. Fills its row."""
    begin, end = text_at(raw, at)
    if end <= begin:
        return np.int64(-1)
    row[USER], row[MURMUR2] = text_hash(raw, begin, end), murmur2(raw, begin, end)
    begin, end = text_at(raw, end)
    if end <= begin:
        return np.int64(-1)
    row[ITEM] = item_hash(raw, begin, end)
    row[TIME], at = number_at(raw, end)
    if at < 0:
        return at
    begin, end = text_at(raw, at)
    if end <= begin:
        return np.int64(-1)
    row[KEY] = pair_hash(row[USER], text_hash(raw, begin, end))
    row[PAIR] = pair_hash(row[USER], row[ITEM])
    row[REQUEST] = row[RETRACTED] = 0
    at = end
    if fields > 4:
        begin, at = text_at(raw, at)
        if at > begin:
            row[REQUEST] = text_hash(raw, begin, at)
    if at >= 0 and fields > 5:
        if at >= raw.shape[0] or raw[at] & 0xFE != 0xC2:
            return np.int64(-1)
        row[RETRACTED] = raw[at] & 1
        at += 1
    return at


@kernel
def _count_events(raw: Any, records: Any) -> Any:
    """How many events the records say that they have; none has more than bytes."""
    begin = count = np.int64(0)
    for number in range(records.shape[0]):
        record = raw[begin : records[number, BYTES_END]]
        size, _ = list_at(record, np.int64(0))
        count += min(size, record.shape[0])
        begin = records[number, BYTES_END]
    return count


@kernel
def _scan_records(raw: Any, records: Any, found: Any, hashes: Any) -> Any:
    """Fill a row per event until a record isn't plain; how many are, hashes of their items, and what `tally` says."""
    begin = event = used = pages = installs = length = np.int64(0)
    for number in range(records.shape[0]):
        record = raw[begin : records[number, BYTES_END]]
        count, _ = list_at(record, np.int64(0))
        if record.shape[0] > RECORD_BYTES_MAX or event + count > found.shape[0]:
            return number, used, pages, installs, length
        more = _scan(record, found[event : event + count], hashes, used)
        if more[0] < 0:
            return number, used, pages, installs, length
        used, event, begin = more[0], event + count, records[number, BYTES_END]
        pages, installs, length = pages + more[1], installs + more[2], length + more[3]
        records[number, EVENTS_END] = event
    return np.int64(records.shape[0]), used, pages, installs, length


@kernel
def _scan(raw: Any, found: Any, hashes: Any, used: Any) -> Any:
    """Fill a row per event, and the hashes of items from `used` on; where these end, -1 where the record isn't plain.

    And what `tally` says.
    """
    none = np.int64(-1), np.int64(0), np.int64(0), np.int64(0)
    _, at = list_at(raw, np.int64(0))
    if at < 0:
        return none
    pages = installs = length = np.int64(0)
    for event in range(found.shape[0]):
        row = found[event]
        row[BEGIN], row[SIZE], row[ITEMS] = at, 0, used
        fields, at = list_at(raw, at)
        if at < 0 or at >= raw.shape[0]:
            return none
        row[TAG], fields, at = np.int64(raw[at]), fields - 1, at + 1
        if row[TAG] == PAGE and 4 <= fields <= 10:
            at = _page(raw, at, fields, hashes[used:], row)
            used += row[SIZE]
            pages += 1
        elif row[TAG] == INSTALL and 4 <= fields <= 6:
            at = _install(raw, at, fields, row)
            installs, length = installs + 1, length + at - row[BEGIN]
        elif row[TAG] == TICK and fields == 1:
            row[TIME], at = number_at(raw, at)
        else:
            return none
        row[END] = at
        if at < 0 or at - row[BEGIN] > EVENT_BYTES_MAX or not 0 < row[TIME] < TIME_MS_MAX:
            return none
    return (used, pages, installs, length) if at == raw.shape[0] else none


@kernel
def tally(columns: Any) -> Any:
    """(pages, installs, bytes of these) among events."""
    pages = installs = length = np.int64(0)
    for event in range(columns.shape[0]):
        if columns[event, TAG] == PAGE:
            pages += 1
        elif columns[event, TAG] == INSTALL:
            installs += 1
            length += columns[event, END] - columns[event, BEGIN]
    return pages, installs, length


@kernel
def are_in_place(records: Any, columns: Any, ahead_ms: Any, partition: Any, partitions: Any) -> Any:
    """Whether no event is further ahead of its record's arrival than this, and all are of users of this partition."""
    event = 0
    for number in range(records.shape[0]):
        latest_ms = records[number, APPENDED] + ahead_ms
        while event < records[number, EVENTS_END]:
            if columns[event, TIME] > latest_ms:
                return False
            if columns[event, TAG] != TICK and columns[event, MURMUR2] % partitions != partition:
                return False
            event += 1
    return True
