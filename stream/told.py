"""What a join has told, and the bytes of it: pages travel on as they came, ids of untouched pages are hashed together.

The bytes are those of `events.encode(Examples(...))`, without an object per item.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
import numpy as np

from stream.events import REASONS, WINDOW_CLOSED, Examples, decode_examples, encode_values, example_id
from stream.shown import Shown
from stream.table import kernel
from stream.xxh3 import LENGTH_MAX, xxh3_64

HEAD: Final = b"\x98\x04"  # an array of eight, the first the tag of Examples
REQUEST_ID_MAX: Final = LENGTH_MAX - 8  # bytes; the hash in batches takes no more
ID_BYTES: Final = 9

Row = tuple[int, int, int, str, int]  # position, label, reason, install id, ingest ms


class Told(msgspec.Struct, gc=False):
    """Labels of one page, told at once. Without `rows`: every item is negative, its window closed at `ingest_ms`."""

    page: Shown
    rows: list[Row] | None
    ingest_ms: int


def examples_bytes(told: Sequence[Told]) -> list[bytes]:
    """Each as the bytes of an Examples."""
    if len(told) == 1:
        return [_with_rows(told[0])]
    plain = [t.page for t in told if t.rows is None and len(t.page.request_id) * 4 <= REQUEST_ID_MAX]
    ids = iter(_ids_of(plain) if plain else ())
    ingests: dict[tuple[int, int], bytes] = {}
    written = []
    for t in told:
        page = t.page
        if t.rows is None and len(page.request_id) * 4 <= REQUEST_ID_MAX:
            size = page.size
            came = ingests.get((size, t.ingest_ms))
            if came is None:
                came = ingests[size, t.ingest_ms] = _repeated(size, t.ingest_ms)
            written.append(b"".join((HEAD, page.raw, next(ids), _untouched(size), came)))
        else:
            written.append(_with_rows(t))
    return written


def examples_of(told: Sequence[Told]) -> list[Examples]:
    """Each as an Examples."""
    found: list[Examples] = []
    for raw in examples_bytes(told):
        found += decode_examples(b"\x91" + raw)[0]
    return found


def count_reasons(told: Sequence[Told], counts: list[int]) -> None:
    """Add the number of examples per reason."""
    for t in told:
        if t.rows is None:
            counts[WINDOW_CLOSED] += t.page.size
        else:
            for row in t.rows:
                counts[row[2]] += 1


def rows_of(t: Told) -> list[Row]:
    """Its rows in full."""
    return t.rows or [(position, 0, WINDOW_CLOSED, "", t.ingest_ms) for position in range(t.page.size)]


def _with_rows(t: Told) -> bytes:
    rows = rows_of(t)
    request_id = t.page.request_id
    positions, labels, reasons, _, ingests = zip(*rows, strict=True)
    ids = [example_id(request_id, p, r, i) for p, _, r, i, _ in rows]
    return b"".join((HEAD, t.page.raw, encode_values(ids, positions, labels, [1.0] * len(rows), reasons, ingests)))


@cache
def _untouched(size: int) -> bytes:
    """The columns between ids and ingest times of a page that nothing was installed from."""
    return encode_values(list(range(size)), [0] * size, [1.0] * size, [WINDOW_CLOSED] * size)


def _repeated(size: int, number: int) -> bytes:
    """A list of one number, again and again."""
    return array_head(size) + encode_values([number])[1:] * size


def array_head(size: int) -> bytes:
    """The msgpack bytes that begin an array."""
    if size < 16:
        return bytes((0x90 + size,))
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


def _ids_of(pages: Sequence[Shown]) -> list[bytes]:
    """The ids of all items of each page, as the bytes of a list."""
    names = [page.request_id.encode() for page in pages]
    ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))
    sizes = np.fromiter((page.size for page in pages), np.int64, len(names))
    written = np.empty(int(sizes.sum()) * ID_BYTES, np.uint8)
    _hash_pages(np.frombuffer(b"".join(names), np.uint8), ends, sizes, WINDOW_CLOSED, written)
    ids, at, found = written.tobytes(), 0, []
    for page in pages:
        end = at + page.size * ID_BYTES
        found.append(array_head(page.size) + ids[at:end])
        at = end
    return found


@kernel
def _hash_pages(names: Any, ends: Any, sizes: Any, reason: Any, written: Any) -> None:
    """`example_id` of every position without an install id, each as a msgpack uint64.

    uint8 [bytes of all request ids], int64 [pages] where each ends, int64 [pages] items, uint8 [items x ID_BYTES].
    """
    text = np.zeros(128, np.uint8)
    begin, at = 0, 0
    for page in range(ends.shape[0]):
        name = ends[page] - begin
        for i in range(name):
            text[i] = names[begin + i]
        begin = ends[page]
        for position in range(sizes[page]):
            n = name
            text[n] = 0
            if position >= 100:
                text[n + 1] = 48 + position // 100
                n += 1
            if position >= 10:
                text[n + 1] = 48 + position // 10 % 10
                n += 1
            text[n + 1], text[n + 2], text[n + 3], text[n + 4] = 48 + position % 10, 0, 48 + reason, 0
            hashed = xxh3_64(text, n + 5)
            written[at] = 0xCF
            for byte in range(8):
                written[at + 1 + byte] = (hashed >> np.uint64(56 - 8 * byte)) & np.uint64(255)
            at += 9


assert len(REASONS) < 10, "a reason is one digit"
