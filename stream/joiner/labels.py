"""Emitted labels and their encoding: pages are copied as raw bytes, wholly negative ones are encoded by one kernel.

The bytes are those of `stream.events.codec.encode(Examples(...))`, without an object per item.
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from types import MappingProxyType, ModuleType
from typing import Final, NamedTuple

import msgspec
import xxhash

from stream.events.codec import decode_examples, encode_values, example_id
from stream.events.types import WINDOW_CLOSED, Erase, Examples, Impression, Organic
from stream.joiner.record_cache import RecordCache
from stream.runtime.errors import BadEvent

HEAD: Final = b"\x98\x04"  # an array of eight, the first the tag of Examples
# Columns of the pages whose labels are emitted. BASE: number of items of earlier pages under the request id.
# INGEST_MS: of a page without rows, the ingest time of the record that closed its window.
OFFSET, BEGIN, LENGTH, SIZE, BASE, INGEST_MS = range(6)

# Position, label, reason, install id, ingest ms, position in the example id (that includes earlier pages' items).
LabelRow = tuple[int, int, int, str, int, int]


class LabelBatch(msgspec.Struct, gc=False):
    """Labels of pages, in the order in which they are emitted.

    `pages`: OFFSET to INGEST_MS of each; a page may appear repeatedly. `rows`: labels by index of their page; a page
    without rows is wholly negative.
    """

    pages: list[list[int]]
    rows: dict[int, list[LabelRow]]

    def __len__(self) -> int:
        """Number of pages."""
        return len(self.pages)


class PageLabels(NamedTuple):
    """Labels of a page; `rows` None: it's wholly negative, closed at `ingest_ms`."""

    offset: int  # of the page's record
    rows: list[LabelRow] | None
    ingest_ms: int


class HistoryChange(NamedTuple):
    """When a user last installed an item, as far as installs are retained; None: it was retracted.

    `newest`: whether that is surely the newest time. After a late event it's unknown: a newer install may be evicted.
    """

    user: str
    item: str
    time_ms: int | None
    newest: bool = True


class JoinOutput(msgspec.Struct):
    """What the join emits for some records, or for part of one.

    `ends`: index of each record with output, and the end of its labels. `late`: late events: their record's index,
    bytes, time in ms and lateness in ms.
    """

    labels: LabelBatch
    ends: list[tuple[int, int]]
    organic: dict[int, list[Organic]]  # by record
    history_changes: list[HistoryChange]
    late: list[tuple[int, bytes, int, int]]
    erased: dict[int, list[Erase]] = {}  # by record


class _Head(msgspec.Struct, array_like=True, tag=1):
    """A page up to its user."""

    request_id: str
    time_ms: int
    user: str


_head = msgspec.msgpack.Decoder(_Head)


@cache
def _kernels() -> ModuleType:
    """With numba, loaded at first use: a joiner joins its group meanwhile."""
    from stream.joiner.kernels import negative_encoder

    return negative_encoder


def uncached_offsets(labels: LabelBatch, cache: RecordCache) -> tuple[list[int], list[int]]:
    """Offsets of the records to read again before these labels can be encoded, ascending.

    First those of wholly negative pages, then others.
    """
    offsets = [page[OFFSET] for page in labels.pages]
    missing = {offset for offset in set(offsets) if cache.get(offset) is None}
    if not missing:
        return [], []
    closed = {offset for k, offset in enumerate(offsets) if offset in missing and k not in labels.rows}
    return sorted(closed), sorted(missing - closed)


def raw_pages(
    labels: LabelBatch, cache: RecordCache, fetched: Mapping[int, bytes] = MappingProxyType({})
) -> list[bytes]:
    """The bytes of the pages. Their records must be in the cache or among `fetched`, which is by offset."""
    found = []
    for offset, begin, length, _, _, _ in labels.pages:
        raw = cache.get(offset) or fetched[offset]
        found.append(raw[begin : begin + length])
    return found


def user_of(page: bytes) -> str:
    """User id of a page."""
    return _head.decode(page).user


def encode_examples(labels: LabelBatch, pages: list[bytes]) -> list[bytes]:
    """The bytes of an Examples for each page; `pages`: their raw bytes."""
    negative = [k for k in range(len(pages)) if k not in labels.rows]
    encoded: list[bytes] = _kernels().negative_examples(
        [pages[k] for k in negative],
        [labels.pages[k][SIZE] for k in negative],
        [labels.pages[k][INGEST_MS] for k in negative],
    )
    by_page = dict(zip(negative, encoded, strict=True))  # empty where the kernel doesn't know the page's encoding
    return [by_page.get(k) or b"".join((HEAD, page, _columns(_rows(labels, k), page))) for k, page in enumerate(pages)]


def to_examples(labels: LabelBatch, cache: RecordCache) -> list[Examples]:
    """The Examples of each page. Raises BadEvent where a page isn't what the join took it for."""
    found: list[Examples] = []
    for raw in encode_examples(labels, raw_pages(labels, cache)):
        examples, bad = decode_examples(b"\x91" + raw)
        if bad:
            raise BadEvent(f"undecodable labels: {bad[0][1]}")
        found += examples
    return found


def page_labels(labels: LabelBatch, begin: int, end: int) -> list[PageLabels]:
    """Of pages begin:end of the batch."""
    return [
        PageLabels(page[OFFSET], labels.rows.get(begin + k), page[INGEST_MS])
        for k, page in enumerate(labels.pages[begin:end])
    ]


@lru_cache
def _closed_ends(size: int) -> list[bytes]:
    """What follows the request id in the text of `example_id`, for each item of a wholly negative page."""
    return [f"\x00{k}\x00{WINDOW_CLOSED}\x00".encode() for k in range(size)]


def label_page(page: Impression, labels: PageLabels) -> Examples:
    """The labels of a decoded page, as `to_examples` makes them of its bytes."""
    _, rows, ingest_ms = labels
    if rows is None:
        size = len(page.items)
        request_id = page.request_id.encode()
        ids = [xxhash.xxh3_64_intdigest(request_id + end) for end in _closed_ends(size)]
        closed = [WINDOW_CLOSED] * size
        return Examples(page, ids, [*range(size)], [0] * size, [1.0] * size, closed, [ingest_ms] * size)
    positions, values, reasons, install_ids, ingests, id_positions = map(list, zip(*rows, strict=True))
    ids = [example_id(page.request_id, *row) for row in zip(id_positions, reasons, install_ids, strict=True)]
    return Examples(page, ids, positions, values, [1.0] * len(ids), reasons, ingests)


def add_reason_counts(labels: LabelBatch, counts: list[int]) -> int:
    """Add the number of examples per reason to `counts`; returns their total."""
    total = sum([page[SIZE] for page in labels.pages])
    for number, rows in labels.rows.items():
        total -= labels.pages[number][SIZE]
        for row in rows:
            counts[row[2]] += 1
    counts[WINDOW_CLOSED] += total
    return total + sum(map(len, labels.rows.values()))


def _rows(labels: LabelBatch, number: int) -> list[LabelRow]:
    """The labels of a page, also of a wholly negative one."""
    *_, size, _, ingest_ms = labels.pages[number]
    return labels.rows.get(number) or [(k, 0, WINDOW_CLOSED, "", ingest_ms, k) for k in range(size)]


def _columns(rows: list[LabelRow], page: bytes) -> bytes:
    request_id = _head.decode(page).request_id
    positions, labels, reasons, install_ids, ingest_ms, id_positions = zip(*rows, strict=True)
    ids = [example_id(request_id, *row) for row in zip(id_positions, reasons, install_ids, strict=True)]
    return encode_values(ids, positions, labels, [1.0] * len(ids), reasons, ingest_ms)
