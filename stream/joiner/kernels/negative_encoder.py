"""Encodes pages of which every item is negative as the bytes of an Examples, in one kernel.

In a file of its own because numba takes longer to load than anything else in a joiner.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from stream.events.msgpack_scan import list_at, text_at
from stream.events.types import ITEMS_MAX, REASONS, WINDOW_CLOSED
from stream.tables.jit import kernel
from stream.tables.xxh3 import LENGTH_MAX, xxh3_64

REQUEST_ID_MAX: Final = LENGTH_MAX - 8  # bytes; `xxh3_64` takes no more
PAGE_MORE_BYTES: Final = 24 + 2  # heads of an Examples and of its columns
ITEM_BYTES: Final = 9 + 3 + 1 + 9 + 1 + 9  # in all columns


def negative_examples(pages: Sequence[bytes], sizes: Sequence[int], ingests: Sequence[int]) -> list[bytes]:
    """Each page as the bytes of an Examples; empty if the kernel can't encode it.

    `pages`: their bytes in the log; `sizes`: their numbers of items; `ingests`: ingest time of all labels of each, ms.
    """
    count = len(pages)
    if not count:
        return []
    number, ingest = np.fromiter(sizes, np.int64, count), np.fromiter(ingests, np.int64, count)
    ends = np.cumsum(np.fromiter(map(len, pages), np.int64, count))
    written = np.empty(int(ends[-1]) + count * PAGE_MORE_BYTES + int(number.sum()) * ITEM_BYTES, np.uint8)
    _write_pages(np.frombuffer(b"".join(pages), np.uint8), ends, number, ingest, written)
    bounds = [0, *ends.tolist()]  # in `written` now
    return [bytes(written.data[begin:end]) for begin, end in pairwise(bounds)]


@kernel
def _put_head(written: Any, at: Any, size: Any) -> Any:
    """Write the head of a list; returns its end."""
    if size < 16:
        written[at] = 0x90 + size
        return at + 1
    written[at], written[at + 1], written[at + 2] = 0xDC, size >> 8, size & 255
    return at + 3


@kernel
def _put_number(written: Any, at: Any, value: Any) -> Any:
    """Write a non-negative integer as short as possible; returns its end."""
    if value < 0x80:
        written[at] = value
        return at + 1
    code = 0 if value < 1 << 8 else 1 if value < 1 << 16 else 2 if value < 1 << 32 else 3
    size = 1 << code
    written[at] = 0xCC + code
    for k in range(size):
        written[at + 1 + k] = np.uint8(value >> np.uint8(8 * (size - 1 - k)))
    return at + 1 + size


@kernel
def _put_ids(written: Any, at: Any, text: Any, name: Any, size: Any) -> Any:
    """Write `example_id` of every position, without an install id; `text` begins with a request id of `name` bytes."""
    for position in range(size):
        n = name
        text[n] = 0
        if position >= 100:
            text[n + 1] = 48 + position // 100
            n += 1
        if position >= 10:
            text[n + 1] = 48 + position // 10 % 10
            n += 1
        text[n + 1], text[n + 2], text[n + 3], text[n + 4] = 48 + position % 10, 0, 48 + WINDOW_CLOSED, 0
        at = _put_number(written, at, xxh3_64(text, n + 5))
    return at


@kernel
def _put_columns(written: Any, at: Any, size: Any, ingest_ms: Any) -> Any:
    """Write positions, labels, weights, reasons and ingest times of a page that nothing was installed from."""
    at = _put_head(written, at, size)
    for position in range(size):
        at = _put_number(written, at, position)
    at = _put_head(written, at, size)
    written[at : at + size] = 0
    at = _put_head(written, at + size, size)
    for _ in range(size):
        written[at], written[at + 1], written[at + 2] = 0xCB, 0x3F, 0xF0  # 1.0
        written[at + 3 : at + 9] = 0
        at += 9
    at = _put_head(written, at, size)
    written[at : at + size] = WINDOW_CLOSED
    at = _put_head(written, at + size, size)
    for _ in range(size):
        at = _put_number(written, at, ingest_ms)
    return at


@kernel
def _write_pages(pages: Any, ends: Any, sizes: Any, ingests: Any, written: Any) -> None:
    """Write each page and its columns: `pages` uint8 [bytes of all], the others int64 [pages].

    `ends`: the ends in `pages`, replaced by those in `written`. A page whose request id is too long becomes empty.
    """
    text = np.zeros(LENGTH_MAX, np.uint8)
    begin = at = np.int64(0)
    for page in range(ends.shape[0]):
        end = ends[page]
        _, first = list_at(pages, begin)
        name, name_end = text_at(pages, first + 1)
        if name < name_end <= name + REQUEST_ID_MAX:
            text[: name_end - name] = pages[name:name_end]
            written[at], written[at + 1] = 0x98, 4  # an array of eight, the first the tag of Examples
            written[at + 2 : at + 2 + end - begin] = pages[begin:end]
            at = _put_head(written, at + 2 + end - begin, sizes[page])
            at = _put_ids(written, at, text, name_end - name, sizes[page])
            at = _put_columns(written, at, sizes[page], ingests[page])
        ends[page], begin = at, end


assert len(REASONS) < 10, "a reason is one digit"
assert ITEMS_MAX <= 1_000, "a position is at most three digits"
