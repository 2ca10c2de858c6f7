"""Finds the events in the bytes of a record, validates them and hashes their ids, without an object per event. Kernels.

They know only the plain form that our producers write: ASCII text, at most ITEMS_SCANNED items a page, numbers as
msgpack's shortest or a double. Anything else isn't plain, and left to `stream.events.codec.decode_events`.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.events.msgpack_scan import bytes_at, context_at, doubles_at, id_at, list_at, number_at
from stream.events.types import EVENT_BYTES_MAX, NUMBER_MAX, RECORD_BYTES_MAX, TIME_MS_MAX
from stream.joiner.kernels.hashes import item_hash, murmur2, pair_hash, text_hash
from stream.tables.jit import kernel

ITEMS_SCANNED: Final = 64
# Columns of an event. BEGIN, END: its bytes in the record. A page has SIZE hashes of items, from ITEMS on. The rest are
# hashes: REQUEST is 0 where an install names no page, KEY is of user and install id, PAIR of user and item, MURMUR2 is
# Kafka's of the user, which gives the partition.
TAG, BEGIN, END, TIME, SIZE, ITEMS, REQUEST, USER, ITEM, KEY, PAIR, RETRACTED, MURMUR2 = range(13)
COLUMNS: Final = 13
# Columns of a record: its offset, its append time (ms), the ends of its events and of its bytes, exclusive.
OFFSET, APPENDED, EVENTS_END, BYTES_END = range(4)
RECORD_COLUMNS: Final = 4
PAGE, INSTALL, TICK, ERASE = 1, 2, 3, 13  # the tags of the events; a record with an ERASE is never plain

Columns = npt.NDArray[np.int64]


def plain_events(raw: bytes, records: Columns) -> "tuple[int, Columns, Columns, tuple[int, int, int]]":
    """Scan records up to the first that isn't plain; returns the number of plain ones, columns, hashes and tally.

    `records`: int64 [records, RECORD_COLUMNS], with BYTES_END in `raw` filled in; EVENTS_END is filled here. Columns:
    int64 [events, COLUMNS]; hashes of items: int64.
    """
    joined = np.frombuffer(raw, np.uint8)
    count = _count_events(joined, records)
    found = np.empty((count, COLUMNS), np.int64)
    hashes = np.empty(min(count * ITEMS_SCANNED, len(raw)), np.int64)
    plain, events, used, counts = _scan_records(joined, records, found, hashes)
    return plain, found[:events], hashes[:used], counts


@kernel
def _items(raw: Any, at: Any, hashes: Any) -> Any:
    """(number, end) of a page's items, which must be distinct and not empty; an end of −1: they aren't plain."""
    size, at = list_at(raw, at)
    if not 1 <= size <= min(hashes.shape[0], ITEMS_SCANNED) or at < 0:
        return size, np.int64(-1)
    for item in range(size):
        begin, at = id_at(raw, at)
        if at <= begin:
            return size, np.int64(-1)
        h = item_hash(raw, begin, at)
        for other in range(item):
            if hashes[other] == h:  # the same item, or a collision: the decoder decides
                return size, np.int64(-1)
        hashes[item] = h
    return size, at


@kernel
def _page(raw: Any, at: Any, fields: Any, hashes: Any, row: Any) -> Any:
    """The end of an Impression with `fields` fields; −1 if it isn't plain. Fills its row."""
    begin, at = id_at(raw, at)
    if at <= begin:
        return np.int64(-1)
    row[REQUEST] = text_hash(raw, begin, at)
    row[TIME], at = number_at(raw, at)
    if at < 0:
        return at
    begin, at = id_at(raw, at)
    if at <= begin:
        return np.int64(-1)
    row[USER], row[MURMUR2] = text_hash(raw, begin, at), murmur2(raw, begin, at)
    row[SIZE], at = _items(raw, at, hashes)
    if at >= 0 and fields > 4:
        _, at = id_at(raw, at)  # variant
    if at >= 0 and fields > 5:
        version, at = number_at(raw, at)
        if version >= NUMBER_MAX:
            return np.int64(-1)
    if at >= 0 and fields > 6:
        at = doubles_at(raw, at, row[SIZE])  # scores
    if at >= 0 and fields > 7:
        at = doubles_at(raw, at, row[SIZE])  # propensities
    if at >= 0 and fields > 8:
        at = bytes_at(raw, at)  # features
    return context_at(raw, at) if at >= 0 and fields > 9 else at


@kernel
def _install(raw: Any, at: Any, fields: Any, row: Any) -> Any:
    """The end of an Install with `fields` fields; −1 if it isn't plain. Fills its row."""
    begin, at = id_at(raw, at)
    if at <= begin:
        return np.int64(-1)
    row[USER], row[MURMUR2] = text_hash(raw, begin, at), murmur2(raw, begin, at)
    begin, at = id_at(raw, at)
    if at <= begin:
        return np.int64(-1)
    row[ITEM] = item_hash(raw, begin, at)
    row[TIME], at = number_at(raw, at)
    if at < 0:
        return at
    begin, at = id_at(raw, at)
    if at <= begin:
        return np.int64(-1)
    row[KEY] = pair_hash(row[USER], text_hash(raw, begin, at))
    row[PAIR] = pair_hash(row[USER], row[ITEM])
    row[REQUEST] = row[RETRACTED] = 0
    if fields > 4:
        begin, at = id_at(raw, at)
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
    """An upper bound on the records' number of events: what their heads claim, at most one a byte."""
    begin = count = np.int64(0)
    for number in range(records.shape[0]):
        record = raw[begin : records[number, BYTES_END]]
        size, _ = list_at(record, np.int64(0))
        count += min(size, record.shape[0])
        begin = records[number, BYTES_END]
    return count


@kernel
def _scan_records(raw: Any, records: Any, found: Any, hashes: Any) -> Any:
    """Fill a row per event up to the first record that isn't plain; (plain records, their events, hashes, tally)."""
    begin = event = used = plain = np.int64(0)
    while plain < records.shape[0]:
        record = raw[begin : records[plain, BYTES_END]]
        count, _ = list_at(record, np.int64(0))
        if record.shape[0] > RECORD_BYTES_MAX or event + count > found.shape[0]:
            break
        used_now = _scan(record, found[event : event + count], hashes, used)
        if used_now < 0:
            break
        used, event, begin = used_now, event + count, records[plain, BYTES_END]
        records[plain, EVENTS_END] = event
        plain += 1
    return plain, event, used, tally(found[:event])


@kernel
def _scan(raw: Any, found: Any, hashes: Any, used: Any) -> Any:
    """Fill a row per event, and hashes of items from `used` on; returns their end, −1 if the record isn't plain."""
    _, at = list_at(raw, np.int64(0))
    for event in range(found.shape[0]):
        row = found[event]
        row[BEGIN], row[SIZE], row[ITEMS] = at, 0, used
        fields, at = list_at(raw, at)
        if at < 0 or at >= raw.shape[0]:
            return np.int64(-1)
        row[TAG], fields, at = np.int64(raw[at]), fields - 1, at + 1
        if row[TAG] == PAGE and 4 <= fields <= 10:
            at = _page(raw, at, fields, hashes[used:], row)
            used += row[SIZE]
        elif row[TAG] == INSTALL and 4 <= fields <= 6:
            at = _install(raw, at, fields, row)
        elif row[TAG] == TICK and fields == 1:
            row[TIME], at = number_at(raw, at)
        else:
            return np.int64(-1)
        row[END] = at
        if at < 0 or at - row[BEGIN] > EVENT_BYTES_MAX or not 0 < row[TIME] < TIME_MS_MAX:
            return np.int64(-1)
    return used if at == raw.shape[0] else np.int64(-1)


@kernel
def tally(columns: Any) -> Any:
    """(pages, installs, bytes of these) among events, int64 [events, COLUMNS]."""
    pages = installs = length = np.int64(0)
    for event in range(columns.shape[0]):
        if columns[event, TAG] == PAGE:
            pages += 1
        elif columns[event, TAG] == INSTALL:
            installs += 1
            length += columns[event, END] - columns[event, BEGIN]
    return pages, installs, length


@kernel
def are_acceptable(records: Any, columns: Any, ahead_ms: Any, partition: Any, partitions: Any) -> Any:
    """Whether all events are of users of this partition, and at most `ahead_ms` ahead of their record's append time."""
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
