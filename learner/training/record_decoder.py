"""Decodes records of the topic `examples` straight into columns, without an object per event.

A record is plain, and decoded here, only if `stream.events.codec.decode_training` and `example_batch.batch_of` would
accept all of it. Anything else, or in a form that `record_kernels` doesn't know, is left to these two.
"""

from typing import Final, NamedTuple

import numpy as np

from learner.training.record_kernels import decode
from stream.features.page_features import Layout
from stream.tables.dtypes import F32, F64, I64, U64

# What plain ones take at least, in bytes; the columns' room follows from it.
EXAMPLE_BYTES_MIN: Final = 14  # id, position, label, reason and ingest time 1 each, weight 9
PAGE_BYTES_MIN: Final = 48
ORGANIC_BYTES_MIN: Final = 9
NAME_BYTES_MIN: Final = 2  # besides the item's features


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
    identities: I64  # i64[P, 3], key, user and number of items of each page: `ranking_progress.PageColumns`
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
    room = room_for(len(joined), len(ends), layout)
    raw = np.frombuffer(joined, np.uint8)
    records, counts = decode(raw, ends, room, np.uint64(layout.hash), layout.size_array)
    pages, examples, names, words, organics = counts.tolist()
    return records, DecodedRecords(
        words=room.words[:words],
        page_starts=room.page_starts[: pages + 1],
        page=room.page[:examples],
        position=room.position[:examples],
        ids=room.ids[:examples],
        labels=room.labels[:examples],
        weights=room.weights[:examples],
        reasons=room.reasons[:examples],
        ingest_ms=room.ingest_ms[:examples],
        time_ms=room.time_ms[:examples],
        page_time_ms=room.page_time_ms[:pages],
        identities=room.identities[:pages],
        name_hashes=room.name_hashes[:names],
        name_spans=room.name_spans[:names],
        name_ends=room.name_ends[: pages + 1],
        example_ends=room.example_ends[: records + 1],
        page_ends=room.page_ends[: records + 1],
        organic=room.organic[:organics],
    )


def room_for(size: int, records: int, layout: Layout) -> DecodedRecords:
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
        identities=np.empty((pages + 1, 3), np.int64),
        name_hashes=np.empty(names, np.uint64),
        name_spans=np.empty((names, 2), np.int64),
        name_ends=np.empty(pages + 1, np.int64),
        example_ends=np.empty(records + 1, np.int64),
        page_ends=np.empty(records + 1, np.int64),
        organic=np.empty((size // ORGANIC_BYTES_MIN, 3), np.int64),
    )
