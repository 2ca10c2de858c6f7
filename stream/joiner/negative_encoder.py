"""The labels of pages that nothing was installed from, written in the form of an Examples by one kernel.

In a file of its own because numba takes longer to load than anything else in a joiner.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stream.events import ITEMS_MAX, REASONS, WINDOW_CLOSED
from stream.table import kernel
from stream.xxh3 import LENGTH_MAX, xxh3_64

REQUEST_ID_MAX: Final = LENGTH_MAX - 8  # bytes; the hash in batches takes no more
PAGE_MORE_BYTES: Final = 24  # the heads of an Examples and of its columns
ITEM_BYTES: Final = 9 + 3 + 1 + 9 + 1 + 9  # in all columns


def untouched_columns(request_ids: Sequence[str], sizes: Sequence[int], ingests: Sequence[int]) -> list[bytes]:
    """What follows each page in its Examples; empty where the kernel can't say it.

    `sizes`: the pages' numbers of items; `ingests`: ms, all labels' own.
    """
    count = len(request_ids)
    if not count:
        return []
    number, ingest = np.fromiter(sizes, np.int64, count), np.fromiter(ingests, np.int64, count)
    ids: Sequence[str | bytes] = request_ids
    text = "".join(request_ids).encode()
    if not text.isascii():
        ids = [request_id.encode() for request_id in request_ids]
    ends = np.cumsum(np.fromiter(map(len, ids), np.int64, count))
    written = np.empty(count * PAGE_MORE_BYTES + int(number.sum()) * ITEM_BYTES, np.uint8)
    _write_pages(np.frombuffer(text, np.uint8), ends, number, ingest, written)
    whole, begin, found = written.tobytes(), 0, []
    for end in ends.tolist():  # where each ends now
        found.append(whole[begin:end])
        begin = end
    return found


@kernel
def _put_head(written: Any, at: Any, size: Any) -> Any:
    """Begin a list; returns where its elements go."""
    if size < 16:
        written[at] = 0x90 + size
        return at + 1
    written[at], written[at + 1], written[at + 2] = 0xDC, size >> 8, size & 255
    return at + 3


@kernel
def _put_number(written: Any, at: Any, value: Any) -> Any:
    """Write a whole number that isn't negative, as short as it can be; returns where it ends."""
    if value < 0x80:
        written[at] = value
        return at + 1
    code = 0 if value < 1 << 8 else 1 if value < 1 << 16 else 2 if value < 1 << 32 else 3
    size = 1 << code
    written[at] = 0xCC + code
    for k in range(size):
        written[at + 1 + k] = (value >> 8 * (size - 1 - k)) & 255
    return at + 1 + size


@kernel
def _put_ids(written: Any, at: Any, text: Any, name: Any, size: Any) -> Any:
    """`example_id` of every position without an install id; `text` begins with a request id of `name` bytes."""
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
        hashed = xxh3_64(text, n + 5)
        if hashed < np.uint64(1) << np.uint64(32):
            at = _put_number(written, at, np.int64(hashed))
            continue
        written[at] = 0xCF
        for byte in range(8):
            written[at + 1 + byte] = (hashed >> np.uint64(56 - 8 * byte)) & np.uint64(255)
        at += 9
    return at


@kernel
def _put_columns(written: Any, at: Any, size: Any, ingest_ms: Any) -> Any:
    """Positions, labels, weights, reasons and ingest times of a page that nothing was installed from."""
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
def _write_pages(ids: Any, ends: Any, sizes: Any, ingests: Any, written: Any) -> None:
    """Write the columns of each page: `ids` uint8 [bytes of all request ids], the others int64 [pages].

    `ends`: where each ends in `ids`; then where its columns end in `written`. Of no length: its request id can't be
    hashed here.
    """
    text = np.zeros(LENGTH_MAX, np.uint8)
    begin = at = np.int64(0)
    for page in range(ends.shape[0]):
        end = ends[page]
        if begin < end <= begin + REQUEST_ID_MAX:
            text[: end - begin] = ids[begin:end]
            at = _put_head(written, at, sizes[page])
            at = _put_ids(written, at, text, end - begin, sizes[page])
            at = _put_columns(written, at, sizes[page], ingests[page])
        ends[page], begin = at, end


assert len(REASONS) < 10, "a reason is one digit"
assert ITEMS_MAX <= 1_000, "a position is at most three digits"
