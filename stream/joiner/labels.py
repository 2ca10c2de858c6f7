"""What a join has told, and the bytes of it: pages travel on as they came, ids of untouched pages are hashed together.

The bytes are those of `events.encode(Examples(...))`, without an object per item.
"""

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Final

import msgspec

from stream.events import WINDOW_CLOSED, Examples, decode_examples, encode_values, example_id
from stream.joiner.raw_impression import RawImpression

HEAD: Final = b"\x98\x04"  # an array of eight, the first the tag of Examples

Row = tuple[int, int, int, str, int]  # position, label, reason, install id, ingest ms


class LabelBatch(msgspec.Struct, gc=False):
    """Labels of one page, told at once. Without `rows`: every item is negative, its window closed at `ingest_ms`."""

    page: RawImpression
    rows: list[Row] | None
    ingest_ms: int


@cache
def _kernels() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded. To import it for each record costs 0.7 µs."""
    from stream.joiner import negative_encoder

    return negative_encoder


def columns_of(told: Sequence[LabelBatch]) -> list[bytes]:
    """What follows HEAD and the page in the Examples of each."""
    clean = [t for t in told if t.rows is None] if len(told) > 1 else []
    untouched = iter(
        _kernels().untouched_columns(
            [t.page.request_id for t in clean], [t.page.size for t in clean], [t.ingest_ms for t in clean]
        )
        if clean
        else ()
    )
    return [(next(untouched, b"") if t.rows is None else b"") or _columns(t) for t in told]


def examples_bytes(told: Sequence[LabelBatch]) -> list[bytes]:
    """Each as the bytes of an Examples."""
    return [b"".join((HEAD, t.page.raw, columns)) for t, columns in zip(told, columns_of(told), strict=True)]


def examples_of(told: Sequence[LabelBatch]) -> list[Examples]:
    """Each as an Examples."""
    found: list[Examples] = []
    for raw in examples_bytes(told):
        found += decode_examples(b"\x91" + raw)[0]
    return found


def count_reasons(told: Sequence[LabelBatch], counts: list[int]) -> None:
    """Add the number of examples per reason."""
    for t in told:
        if t.rows is None:
            counts[WINDOW_CLOSED] += t.page.size
        else:
            for row in t.rows:
                counts[row[2]] += 1


def rows_of(t: LabelBatch) -> list[Row]:
    """Its rows in full."""
    return t.rows or [(position, 0, WINDOW_CLOSED, "", t.ingest_ms) for position in range(t.page.size)]


def _columns(t: LabelBatch) -> bytes:
    rows = rows_of(t)
    request_id = t.page.request_id
    positions, labels, reasons, _, ingests = zip(*rows, strict=True)
    ids = [example_id(request_id, p, r, i) for p, _, r, i, _ in rows]
    return encode_values(ids, positions, labels, [1.0] * len(rows), reasons, ingests)


def array_head(size: int) -> bytes:
    """The msgpack bytes that begin an array."""
    if size < 16:
        return bytes((0x90 + size,))
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")
