"""Labels that are emitted, and the bytes of them: pages travel on as they came, whole negative pages by one kernel.

The bytes are those of `events.encode(Examples(...))`, without an object per item.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Final

import msgspec

from stream.errors import BadEvent
from stream.events import WINDOW_CLOSED, Examples, decode_examples, encode_values, example_id
from stream.joiner.bodies import Bodies
from stream.joiner.raw_impression import PageRef

HEAD: Final = b"\x98\x04"  # an array of eight, the first the tag of Examples

# Position, label, reason, install id, ingest ms, position in the id: that of the page whose items it continues.
Row = tuple[int, int, int, str, int, int]


class LabelBatch(msgspec.Struct, gc=False):
    """Labels of one page, emitted at once. Without `rows`: every item is negative, its window closed at `ingest_ms`."""

    page: PageRef
    rows: list[Row] | None
    ingest_ms: int


class _Head(msgspec.Struct, array_like=True, tag=1):
    """A page up to its user."""

    request_id: str
    time_ms: int
    user: str


_head = msgspec.msgpack.Decoder(_Head)


@cache
def _kernels() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded. To import it for each record costs 0.7 µs."""
    from stream.joiner import negative_encoder

    return negative_encoder


Bytes = Mapping[int, bytes]  # records by offset


def absent(batches: Sequence[LabelBatch], bodies: Bodies) -> tuple[list[int], list[int]]:
    """The offsets of records that have to be read again before these labels can be written, in order.

    First those of pages that have closed, then others.
    """
    closed, others = set[int](), set[int]()
    for batch in batches:
        offset = batch.page.offset
        if bodies.get(offset) is None:
            (closed if batch.rows is None else others).add(offset)
    return sorted(closed), sorted(others - closed)


def pages_of(batches: Sequence[LabelBatch], bodies: Bodies, read_again: Bytes = MappingProxyType({})) -> list[bytes]:
    """The pages as they lie in the log. Their records must be at hand or read again."""
    found = []
    for batch in batches:
        page = batch.page
        raw = bodies.get(page.offset) or read_again[page.offset]
        found.append(raw[page.begin : page.begin + page.length])
    return found


def user_of(page: bytes) -> str:
    """Whose page it is."""
    return _head.decode(page).user


def examples_bytes(batches: Sequence[LabelBatch], pages: Sequence[bytes]) -> list[bytes]:
    """Each as the bytes of an Examples; `pages` as they lie in the log."""
    whole = [k for k, batch in enumerate(batches) if batch.rows is None] if len(batches) > 1 else []
    written = dict(
        zip(
            whole,
            _kernels().negative_examples(
                [pages[k] for k in whole], [batches[k].page.size for k in whole], [batches[k].ingest_ms for k in whole]
            ),
            strict=True,
        )
        if whole
        else ()
    )
    return [written.get(k) or b"".join((HEAD, pages[k], _columns(batch, pages[k]))) for k, batch in enumerate(batches)]


def examples_of(batches: Sequence[LabelBatch], bodies: Bodies) -> list[Examples]:
    """Each as an Examples. Raises BadEvent where a page isn't what the join took it for."""
    found: list[Examples] = []
    for raw in examples_bytes(batches, pages_of(batches, bodies)):
        examples, bad = decode_examples(b"\x91" + raw)
        if bad:
            raise BadEvent(f"labels that can't be read: {bad[0][1]}")
        found += examples
    return found


def count_reasons(batches: Sequence[LabelBatch], counts: list[int]) -> int:
    """Add the number of examples per reason; returns their number."""
    total = 0
    for batch in batches:
        if batch.rows is None:
            total += batch.page.size
            counts[WINDOW_CLOSED] += batch.page.size
        else:
            total += len(batch.rows)
            for row in batch.rows:
                counts[row[2]] += 1
    return total


def rows_of(batch: LabelBatch) -> list[Row]:
    """Its rows in full."""
    return batch.rows or [(k, 0, WINDOW_CLOSED, "", batch.ingest_ms, k) for k in range(batch.page.size)]


def _columns(batch: LabelBatch, page: bytes) -> bytes:
    request_id = _head.decode(page).request_id
    positions, labels, reasons, installs, ingests, places = zip(*rows_of(batch), strict=True)
    ids = [example_id(request_id, *row) for row in zip(places, reasons, installs, strict=True)]
    return encode_values(ids, positions, labels, [1.0] * len(ids), reasons, ingests)
