"""Kernels that decode records of the topic `examples`; `record_decoder.py` has the columns that they fill.

They know only the plain form that our producers write (`stream.events.msgpack_scan`), at most ITEMS_DECODED items a
page, no unknown fields. Each returns the index of the end of what it decodes; −1 if it isn't plain.
"""

from typing import Any, Final

import numpy as np

from learner.training.ranking_kernels import fill_identity, text_hash
from stream.events.msgpack_scan import bytes_at, context_at, doubles_at, id_at, list_at, number_at, unsigned_at
from stream.events.types import (
    EVENT_BYTES_MAX,
    NUMBER_MAX,
    REASONS,
    RECORD_BYTES_MAX,
    TIME_MS_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
)
from stream.features.page_kernels import has_infinity, is_valid
from stream.tables.jit import kernel
from stream.tables.xxh3 import LENGTH_MAX, xxh3_64

ITEMS_DECODED: Final = 64
IMPRESSION, EXAMPLES, ORGANIC = 1, 4, 11  # the tags of the events
PAGES, N_EXAMPLES, NAMES, WORDS, ORGANICS = range(5)  # indices into the counts of what is decoded


@kernel
def decode(joined: Any, ends: Any, out: Any, layout_hash: Any, sizes: Any) -> Any:
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
    identity = out.identities[page]
    at, time_ms, items, begin, end = _page(raw, at, base, out.name_hashes[name:], out.name_spans[name:], identity)
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
def _page(raw: Any, at: Any, base: Any, hashes: Any, spans: Any, identity: Any) -> Any:
    """(end, event time, number of items, begin and end of the features) of an Impression; an end of −1: not plain.

    Fills its identity.
    """
    bad = np.int64(-1), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    fields, at = list_at(raw, at)
    if at < 0 or not 10 <= fields <= 11 or at >= raw.shape[0] or raw[at] != IMPRESSION:
        return bad
    begin, at = id_at(raw, at + 1)  # request id
    if at <= begin:
        return bad
    request = text_hash(raw[begin:at])
    time_ms, at = number_at(raw, at)
    if at < 0 or not 0 < time_ms < TIME_MS_MAX:
        return bad
    begin, at = id_at(raw, at)  # user
    if at <= begin:
        return bad
    user = text_hash(raw[begin:at])
    items, at = _fill_names(raw, at, base, hashes, spans)
    if at >= 0:
        _, at = id_at(raw, at)  # variant
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
    fill_identity(identity, request, user, time_ms, hashes[0], items)
    return at, time_ms, items, begin + (2 if raw[begin] == 0xC4 else 3), end


@kernel
def _fill_names(raw: Any, at: Any, base: Any, hashes: Any, spans: Any) -> Any:
    """(number, end) of a page's items, which must be distinct and not empty; an end of −1: they aren't plain."""
    size, at = list_at(raw, at)
    if at < 0 or not 1 <= size <= min(hashes.shape[0], ITEMS_DECODED):
        return size, np.int64(-1)
    for item in range(size):
        begin, at = id_at(raw, at)
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
def _list_of(raw: Any, at: Any, count: Any) -> Any:
    """The begin of a list's `count` values; −1 if it isn't such a list. `at` may be −1."""
    if at < 0:
        return at
    size, at = list_at(raw, at)
    return at if size == count else np.int64(-1)


@kernel
def _fill_ids(raw: Any, at: Any, column: Any) -> Any:
    """The end of a list of as many unsigned integers as the column has rows; −1 if it isn't plain."""
    at = _list_of(raw, at, column.shape[0])
    if at < 0:
        return at
    for k in range(column.shape[0]):
        column[k], at = unsigned_at(raw, at)
        if at < 0:
            break
    return at


@kernel
def _fill_numbers(raw: Any, at: Any, column: Any, limit: Any) -> Any:
    """As `_fill_ids`, for integers from 0 to below `limit`. `at` may be −1."""
    at = _list_of(raw, at, column.shape[0])
    if at < 0:
        return at
    for k in range(column.shape[0]):
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
    at = _list_of(raw, at, column.shape[0])
    if at < 0:
        return at
    for k in range(column.shape[0]):
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
        begin, at = id_at(raw, at)
        if at <= begin:
            return np.int64(-1)
    time_ms, at = number_at(raw, at)
    if at < 0 or not 0 < time_ms < TIME_MS_MAX:
        return np.int64(-1)
    begin, at = id_at(raw, at)  # install id
    if at <= begin:
        return np.int64(-1)
    if fields > 5:
        _, at = id_at(raw, at)  # request id
    if at >= 0 and fields > 6:
        ingest_ms, at = number_at(raw, at)
        if ingest_ms >= TIME_MS_MAX:
            return np.int64(-1)
    return at
