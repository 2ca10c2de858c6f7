"""Decodes records of the topic `examples` straight into columns, without an object per event.

The kernels know only the plain form that our producers write (`stream.events.msgpack_scan`), at most ITEMS_DECODED
items a page, events without unknown fields. They accept a record only if `stream.events.codec.decode_training` and
`example_batch.batch_of` would accept all of it. Anything else isn't plain, and left to these two.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.msgpack_scan import (
    bytes_at,
    context_at,
    doubles_at,
    list_at,
    number_at,
    text_at,
    unsigned_at,
)
from stream.events.types import (
    EVENT_BYTES_MAX,
    NUMBER_MAX,
    REASONS,
    RECORD_BYTES_MAX,
    TIME_MS_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
)
from stream.features.page_features import Layout
from stream.features.page_kernels import has_infinity, is_valid
from stream.tables.dtypes import F32, F64, I64, U64
from stream.tables.jit import kernel
from stream.tables.xxh3 import LENGTH_MAX, xxh3_64

ITEMS_DECODED: Final = 64
IMPRESSION, EXAMPLES, ORGANIC = 1, 4, 11  # the tags of the events
# What plain ones take at least, in bytes; the columns' room follows from it.
EXAMPLE_BYTES_MIN: Final = 14  # id, position, label, reason and ingest time 1 each, weight 9
PAGE_BYTES_MIN: Final = 48
ORGANIC_BYTES_MIN: Final = 9
NAME_BYTES_MIN: Final = 2  # besides the item's features
PAGES, N_EXAMPLES, NAMES, WORDS, ORGANICS = range(5)  # indices into the counts of what is decoded


class DecodedRecords(NamedTuple):
    """The columns of consecutive plain records: R records, P pages, N examples, M items of pages, O organic installs.

    Ends are cumulative and begin with 0: page p has words[page_starts[p]:page_starts[p + 1]], and so on.
    """

    words: U64  # u64[words], features of all pages end to end
    page_starts: I64  # i64[P + 1], into words
    page: I64  # i64[N], index of the example's page
    position: I64  # i64[N]
    ids: U64  # u64[N]
    labels: F32  # f32[N]
    weights: F32  # f32[N]
    reasons: I64  # i64[N]
    ingest_ms: I64  # i64[N]
    time_ms: F64  # f64[N], event time of the example's page
    page_time_ms: I64  # i64[P]
    name_hashes: U64  # u64[M], xxh3_64 of the names of each page's items, in order
    name_spans: I64  # i64[M, 2], begin and end of the name in the joined bytes; ASCII
    name_ends: I64  # i64[P + 1], page p has the items name_ends[p]:name_ends[p + 1]
    example_ends: I64  # i64[R + 1], record r has the examples example_ends[r]:example_ends[r + 1]
    page_ends: I64  # i64[R + 1], record r has the pages page_ends[r]:page_ends[r + 1]
    organic: I64  # i64[O, 3], record, begin and end in the joined bytes


def decode_records(joined: bytes, ends: I64, layout: Layout) -> tuple[int, DecodedRecords]:
    """Decode the records joined[ends[r - 1]:ends[r]] up to the first that isn't plain; how many, and their columns.

    Organic installs are validated as well; whoever needs their fields decodes their bytes.
    """
    room = _room(len(joined), len(ends), layout)
    raw = np.frombuffer(joined, np.uint8)
    records, counts = _decode(raw, ends, room, np.uint64(layout.hash), layout.size_array)
    pages, examples, names, words, organics = counts.tolist()
    return records, DecodedRecords(
        room.words[:words],
        room.page_starts[: pages + 1],
        *(column[:examples] for column in room[2:10]),
        room.page_time_ms[:pages],
        room.name_hashes[:names],
        room.name_spans[:names],
        room.name_ends[: pages + 1],
        room.example_ends[: records + 1],
        room.page_ends[: records + 1],
        room.organic[:organics],
    )


def _room(size: int, records: int, layout: Layout) -> DecodedRecords:
    """Columns for whatever `size` bytes may contain. Memory that isn't written to isn't resident."""
    sizes = layout.sizes
    examples, pages = size // EXAMPLE_BYTES_MIN, size // PAGE_BYTES_MIN
    names = size // (NAME_BYTES_MIN + 4 * (sizes.item_lists + sizes.item_numbers + sizes.statistics))
    return DecodedRecords(
        words=np.empty(size // 8, np.uint64),
        page_starts=np.empty(pages + 1, np.int64),
        page=np.empty(examples, np.int64),
        position=np.empty(examples, np.int64),
        ids=np.empty(examples, np.uint64),
        labels=np.empty(examples, np.float32),
        weights=np.empty(examples, np.float32),
        reasons=np.empty(examples, np.int64),
        ingest_ms=np.empty(examples, np.int64),
        time_ms=np.empty(examples, np.float64),
        page_time_ms=np.empty(pages, np.int64),
        name_hashes=np.empty(names, np.uint64),
        name_spans=np.empty((names, 2), np.int64),
        name_ends=np.empty(pages + 1, np.int64),
        example_ends=np.empty(records + 1, np.int64),
        page_ends=np.empty(records + 1, np.int64),
        organic=np.empty((size // ORGANIC_BYTES_MIN, 3), np.int64),
    )


@kernel
def _decode(joined: Any, ends: Any, out: Any, layout_hash: Any, sizes: Any) -> Any:
    """Fill the columns up to the first record that isn't plain; (plain records, int64 counts of what they have)."""
    counts, before = np.zeros(5, np.int64), np.zeros(5, np.int64)
    out.page_starts[0] = out.name_ends[0] = out.example_ends[0] = out.page_ends[0] = 0
    begin = record = np.int64(0)
    while record < ends.shape[0]:
        raw = joined[begin : ends[record]]
        before[:] = counts
        if raw.shape[0] > RECORD_BYTES_MAX or not _decode_record(raw, record, begin, out, counts, layout_hash, sizes):
            return record, before
        begin = ends[record]
        record += 1
        out.example_ends[record] = counts[N_EXAMPLES]
        out.page_ends[record] = counts[PAGES]
    return record, counts


@kernel
def _decode_record(raw: Any, record: Any, base: Any, out: Any, counts: Any, layout_hash: Any, sizes: Any) -> Any:
    """Append a record's events; whether it is plain. It begins at `base` in the joined bytes."""
    count, at = list_at(raw, np.int64(0))  # fewer than EVENTS_MAX: the length has two bytes
    for _ in range(count):
        begin = at
        fields, at = list_at(raw, at)
        if at < 0 or at >= raw.shape[0]:
            return False
        if raw[at] == EXAMPLES and fields == 8:
            at = _examples(raw, at + 1, base, out, counts, layout_hash, sizes)
        elif raw[at] == ORGANIC and 5 <= fields <= 7:
            at = _organic(raw, at + 1, fields)
            if at >= 0:
                row = out.organic[counts[ORGANICS]]
                row[0], row[1], row[2] = record, base + begin, base + at
                counts[ORGANICS] += 1
        else:
            return False
        if at < 0 or at - begin > 2 * EVENT_BYTES_MAX:
            return False
    return at == raw.shape[0]


@kernel
def _examples(raw: Any, at: Any, base: Any, out: Any, counts: Any, layout_hash: Any, sizes: Any) -> Any:
    """Append a page with its examples; the event's end, −1 if it isn't plain."""
    page, first, name, word = counts[PAGES], counts[N_EXAMPLES], counts[NAMES], counts[WORDS]
    at, time_ms, items, begin, end = _page(raw, at, base, out.name_hashes[name:], out.name_spans[name:])
    if at < 0:
        return at
    words = out.words[word : word + (end - begin) // 8]
    if (end - begin) % 8 or not _fill_features(raw[begin:end], words, np.uint64(items), layout_hash, sizes):
        return np.int64(-1)
    n, _ = list_at(raw, at)
    last = first + n
    if n < 1 or last > out.ids.shape[0]:
        return np.int64(-1)
    at = _fill_ids(raw, at, out.ids[first:last])
    at = _fill_numbers(raw, at, out.position[first:last], items)
    at = _fill_numbers(raw, at, out.labels[first:last], np.int64(2))
    at = _fill_weights(raw, at, out.weights[first:last])
    at = _fill_numbers(raw, at, out.reasons[first:last], np.int64(len(REASONS)))
    at = _fill_numbers(raw, at, out.ingest_ms[first:last], np.int64(TIME_MS_MAX))
    if at < 0:
        return at
    out.page[first:last] = page
    out.time_ms[first:last] = np.float64(time_ms)
    out.page_time_ms[page] = time_ms
    counts[PAGES] += 1
    counts[N_EXAMPLES] += n
    counts[NAMES] += items
    counts[WORDS] += words.shape[0]
    out.page_starts[page + 1], out.name_ends[page + 1] = counts[WORDS], counts[NAMES]
    return at


@kernel
def _page(raw: Any, at: Any, base: Any, hashes: Any, spans: Any) -> Any:
    """(end, event time, number of items, begin and end of the features) of an Impression; an end of −1: not plain."""
    bad = np.int64(-1), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    fields, at = list_at(raw, at)
    if at < 0 or not 10 <= fields <= 11 or at >= raw.shape[0] or raw[at] != IMPRESSION:
        return bad
    begin, at = text_at(raw, at + 1)  # request id
    if at <= begin:
        return bad
    time_ms, at = number_at(raw, at)
    if at < 0 or not 0 < time_ms < TIME_MS_MAX:
        return bad
    begin, at = text_at(raw, at)  # user
    if at <= begin:
        return bad
    items, at = _fill_names(raw, at, base, hashes, spans)
    if at >= 0:
        _, at = text_at(raw, at)  # variant
    if at < 0:
        return bad
    version, at = number_at(raw, at)
    if at < 0 or version >= NUMBER_MAX:
        return bad
    for _ in range(2):  # scores, propensities
        if at >= 0:
            at = doubles_at(raw, at, items)
    if at < 0:
        return bad
    begin, end = at, bytes_at(raw, at)
    if end < 0:
        return bad
    at = context_at(raw, end) if fields > 10 else end
    return at, time_ms, items, begin + (2 if raw[begin] == 0xC4 else 3), end


@kernel
def _fill_names(raw: Any, at: Any, base: Any, hashes: Any, spans: Any) -> Any:
    """(number, end) of a page's items, which must be distinct and not empty; an end of −1: they aren't plain."""
    size, at = list_at(raw, at)
    if at < 0 or not 1 <= size <= min(hashes.shape[0], ITEMS_DECODED):
        return size, np.int64(-1)
    for item in range(size):
        begin, at = text_at(raw, at)
        if not 0 < at - begin <= LENGTH_MAX:
            return size, np.int64(-1)
        h = xxh3_64(raw[begin:at], at - begin)
        for other in range(item):
            if hashes[other] == h:  # the same item, or a collision: the slow path decides
                return size, np.int64(-1)
        hashes[item] = h
        spans[item, 0], spans[item, 1] = base + begin, base + at
    return size, at


@kernel
def _fill_features(features: Any, words: Any, items: Any, layout_hash: Any, sizes: Any) -> Any:
    """Copy a page's features, uint8 [8 · words]; whether `page_features.words_of` would accept them."""
    if words.shape[0] < 2:
        return False
    copy = words.view(np.uint8)
    for k in range(features.shape[0]):
        copy[k] = features[k]
    if words[0] != layout_hash or words[1] != items:
        return False
    return is_valid(words, sizes) and not has_infinity(words, sizes)


@kernel
def _fill_ids(raw: Any, at: Any, column: Any) -> Any:
    """The end of a list of as many unsigned integers as the column has rows; −1 if it isn't plain."""
    size, at = list_at(raw, at)
    if size != column.shape[0]:
        return np.int64(-1)
    for k in range(size):
        column[k], at = unsigned_at(raw, at)
        if at < 0:
            break
    return at


@kernel
def _fill_numbers(raw: Any, at: Any, column: Any, limit: Any) -> Any:
    """As `_fill_ids`, for integers from 0 to below `limit`. `at` may be −1."""
    if at < 0:
        return at
    size, at = list_at(raw, at)
    if size != column.shape[0]:
        return np.int64(-1)
    for k in range(size):
        value, at = number_at(raw, at)
        if at < 0 or value >= limit:
            return np.int64(-1)
        column[k] = value
    return at


@kernel
def _word(raw: Any, at: Any) -> Any:
    """The 64 bits in raw[at:at + 8], big-endian."""
    bits = np.uint64(0)
    for k in range(8):
        bits = bits << np.uint64(8) | np.uint64(raw[np.uint64(at + k)])
    return bits


@kernel
def _fill_weights(raw: Any, at: Any, column: Any) -> Any:
    """As `_fill_ids`, for doubles from WEIGHT_MIN to WEIGHT_MAX. `at` may be −1."""
    if at < 0:
        return at
    size, at = list_at(raw, at)
    if size != column.shape[0]:
        return np.int64(-1)
    for k in range(size):
        if at + 8 >= raw.shape[0] or raw[np.uint64(at)] != 0xCB:
            return np.int64(-1)
        weight = np.uint64(_word(raw, at + 1)).view(np.float64)
        if not WEIGHT_MIN <= weight <= WEIGHT_MAX:  # nor NaN
            return np.int64(-1)
        column[k] = weight
        at += 9
    return at


@kernel
def _organic(raw: Any, at: Any, fields: Any) -> Any:
    """The end of an Organic with `fields` fields, tag included; −1 if it isn't plain."""
    for _ in range(2):  # user, item
        begin, at = text_at(raw, at)
        if at <= begin:
            return np.int64(-1)
    time_ms, at = number_at(raw, at)
    if at < 0 or not 0 < time_ms < TIME_MS_MAX:
        return np.int64(-1)
    begin, at = text_at(raw, at)  # install id
    if at <= begin:
        return np.int64(-1)
    if fields > 5:
        _, at = text_at(raw, at)  # request id
    if at >= 0 and fields > 6:
        ingest_ms, at = number_at(raw, at)
        if ingest_ms >= TIME_MS_MAX:
            return np.int64(-1)
    return at
