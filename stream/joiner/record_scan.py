"""Finds the events in the bytes of a record and checks them, without an object per event: kernels.

They know the plain form only, which is what our producers write: ASCII text, no more than ITEMS_SCANNED items a page,
numbers as msgpack's shortest or a double. Of anything else they say "not plain", whatever it is, and
`events.decode_events` decides.
"""

from typing import Any, Final

import numpy as np

from stream.events import EVENT_BYTES_MAX, RECORD_BYTES_MAX, TIME_MS_MAX
from stream.table import kernel

ITEMS_SCANNED: Final = 64
COLUMNS: Final = 9  # tag, begin, end, time_ms, items, and of a page begin and end of its request id and of its user
PAGE, INSTALL, TICK = 1, 2, 3  # the tags of the events


def plain_events(raw: bytes) -> list[list[int]] | None:
    """The events of a record, a row of COLUMNS each; None when it isn't plain."""
    if len(raw) > RECORD_BYTES_MAX:
        return None
    found = np.empty((min(len(raw), _count(raw)), COLUMNS), np.int64)
    return found.tolist() if _scan(np.frombuffer(raw, np.uint8), found) else None


def _count(raw: bytes) -> int:
    """How many events the record says that it has."""
    head = raw[0] if raw else 0
    return head & 15 if head >> 4 == 9 else int.from_bytes(raw[1:3], "big") if head == 0xDC else 0


@kernel
def number_at(raw: Any, at: Any) -> Any:
    """(a whole number that isn't negative, where it ends); an end of −1: there is none."""
    end = raw.shape[0]
    head = raw[at] if at < end else np.uint8(0xC1)
    if head < 0x80:
        return np.int64(head), at + 1
    size = np.int64(1) << np.int64(head - 0xCC) if 0xCC <= head <= 0xCF else np.int64(0)
    if not size or at + size >= end or (size == 8 and raw[at + 1] >= 0x80):
        return np.int64(0), np.int64(-1)
    value = np.int64(0)
    for k in range(size):
        value = value << 8 | np.int64(raw[at + 1 + k])
    return value, at + 1 + size


@kernel
def head_at(raw: Any, at: Any, fixed: Any, mask: Any, wide: Any) -> Any:
    """(length, where the content begins) of a text, list or map; a beginning of −1: there is none.

    `fixed`, `mask`: the head that holds the length itself; `wide`: the one with two bytes of length behind it.
    """
    end = raw.shape[0]
    head = np.int64(raw[at]) if at < end else np.int64(0xC1)
    if head & ~mask == fixed:
        return head & mask, at + 1
    if head == wide and at + 2 < end:
        return np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]), at + 3
    return np.int64(0), np.int64(-1)


@kernel
def list_at(raw: Any, at: Any) -> Any:
    """(number of elements, where the first begins) of a list; a beginning of −1: there is none."""
    return head_at(raw, at, np.int64(0x90), np.int64(0x0F), np.int64(0xDC))


@kernel
def text_at(raw: Any, at: Any) -> Any:
    """(begin, end) of a text's bytes, which must be ASCII; an end of −1: there is none."""
    if at + 1 < raw.shape[0] and raw[at] == 0xD9:
        size, begin = np.int64(raw[at + 1]), at + 2
    else:
        size, begin = head_at(raw, at, np.int64(0xA0), np.int64(0x1F), np.int64(0xDA))
    if begin < 0 or begin + size > raw.shape[0]:
        return np.int64(0), np.int64(-1)
    seen = np.uint8(0)
    for k in range(begin, begin + size):
        seen |= raw[k]
    return begin, begin + size if seen < 0x80 else np.int64(-1)


@kernel
def _filled(raw: Any, at: Any) -> Any:
    """Where a text ends that isn't empty; −1: there is none."""
    begin, end = text_at(raw, at)
    return end if end > begin else np.int64(-1)


@kernel
def _double(raw: Any, at: Any) -> Any:
    """Where a finite double ends; −1: there is none."""
    if at + 8 >= raw.shape[0] or raw[at] != 0xCB:
        return np.int64(-1)
    return at + 9 if raw[at + 1] & 0x7F != 0x7F or raw[at + 2] < 0xF0 else np.int64(-1)


@kernel
def _doubles(raw: Any, at: Any, count: Any) -> Any:
    """Where a list of none or `count` finite doubles ends; −1: there is none."""
    size, at = list_at(raw, at)
    if size and size != count:
        return np.int64(-1)
    for _ in range(size):
        if at < 0:
            break
        at = _double(raw, at)
    return at


@kernel
def _bytes(raw: Any, at: Any) -> Any:
    """Where a string of bytes ends; −1: there is none."""
    end, size = raw.shape[0], np.int64(-1)
    if at + 1 < end and raw[at] == 0xC4:
        size, at = np.int64(raw[at + 1]), at + 2
    elif at + 2 < end and raw[at] == 0xC5:
        size, at = np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]), at + 3
    return at + size if size >= 0 and at + size <= end else np.int64(-1)


@kernel
def _context(raw: Any, at: Any) -> Any:
    """Where a map from texts to texts and finite doubles ends; −1: there is none."""
    size, at = head_at(raw, at, np.int64(0x80), np.int64(0x0F), np.int64(0xDE))
    for _ in range(size):
        _, at = text_at(raw, at)
        if 0 <= at < raw.shape[0]:
            if raw[at] == 0xCB:
                at = _double(raw, at)
            else:
                _, at = text_at(raw, at)
        else:
            return np.int64(-1)
        if at < 0:
            break
    return at


@kernel
def _items(raw: Any, at: Any, hashes: Any) -> Any:
    """(number, where they end) of a page's items: distinct, none empty; an end of −1: they aren't plain."""
    size, at = list_at(raw, at)
    if not 1 <= size <= hashes.shape[0] or at < 0:
        return size, np.int64(-1)
    for item in range(size):
        begin, end = text_at(raw, at)
        if end <= begin:
            return size, np.int64(-1)
        h = np.uint64(0xCBF29CE484222325)
        for k in range(begin, end):
            h = (h ^ np.uint64(raw[k])) * np.uint64(0x100000001B3)
        for other in range(item):
            if hashes[other] == h:  # the same item, or the same hash: somebody else may tell
                return size, np.int64(-1)
        hashes[item] = h
        at = end
    return size, at


@kernel
def _page(raw: Any, at: Any, fields: Any, hashes: Any, row: Any) -> Any:
    """Where an Impression with so many fields ends; −1: it isn't plain. Fills its row."""
    row[5], row[6] = text_at(raw, at)
    if row[6] <= row[5]:
        return np.int64(-1)
    row[3], at = number_at(raw, row[6])
    if at < 0:
        return at
    row[7], row[8] = text_at(raw, at)
    if row[8] <= row[7]:
        return np.int64(-1)
    row[4], at = _items(raw, row[8], hashes)
    if at >= 0 and fields > 4:
        _, at = text_at(raw, at)  # variant
    if at >= 0 and fields > 5:
        version, at = number_at(raw, at)
        if version >= 1 << 53:
            return np.int64(-1)
    if at >= 0 and fields > 6:
        at = _doubles(raw, at, row[4])  # scores
    if at >= 0 and fields > 7:
        at = _doubles(raw, at, row[4])  # propensities
    if at >= 0 and fields > 8:
        at = _bytes(raw, at)  # features
    if at >= 0 and fields > 9:
        at = _context(raw, at)
    return at


@kernel
def _install(raw: Any, at: Any, fields: Any, row: Any) -> Any:
    """Where an Install with so many fields ends; −1: it isn't plain. Fills its row."""
    at = _filled(raw, at)  # user
    if at >= 0:
        at = _filled(raw, at)  # item
    if at >= 0:
        row[3], at = number_at(raw, at)
    if at >= 0:
        at = _filled(raw, at)  # install id
    if at >= 0 and fields > 4:
        _, at = text_at(raw, at)  # request id
    if at >= 0 and fields > 5:
        at = at + 1 if at < raw.shape[0] and raw[at] & 0xFE == 0xC2 else np.int64(-1)  # retracted
    return at


@kernel
def _scan(raw: Any, found: Any) -> Any:
    """Fill a row per event; whether all of the record is plain."""
    count, at = list_at(raw, np.int64(0))
    if at < 0 or count != found.shape[0]:
        return False
    hashes = np.empty(ITEMS_SCANNED, np.uint64)
    for event in range(count):
        row = found[event]
        row[1] = at
        fields, at = list_at(raw, at)
        if at < 0 or at >= raw.shape[0]:
            return False
        row[0], fields, at = np.int64(raw[at]), fields - 1, at + 1
        if row[0] == PAGE and 4 <= fields <= 10:
            at = _page(raw, at, fields, hashes, row)
        elif row[0] == INSTALL and 4 <= fields <= 6:
            at = _install(raw, at, fields, row)
        elif row[0] == TICK and fields == 1:
            row[3], at = number_at(raw, at)
        else:
            return False
        row[2] = at
        if at < 0 or at - row[1] > EVENT_BYTES_MAX or not 0 < row[3] < TIME_MS_MAX:
            return False
    return at == raw.shape[0]
