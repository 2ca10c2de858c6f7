"""Labels that are emitted, and the bytes of them: pages travel on as they came, whole negative pages by one kernel.

The bytes are those of `events.encode(Examples(...))`, without an object per item.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Final, NamedTuple

import msgspec

from stream.events.codec import decode_examples, encode_values, example_id
from stream.events.types import WINDOW_CLOSED, Examples, Organic
from stream.joiner.bodies import Bodies
from stream.runtime.errors import BadEvent

HEAD: Final = b"\x98\x04"  # an array of eight, the first the tag of Examples
# Columns of the pages whose labels are emitted. BASE: how many items earlier pages under the request id have.
# INGEST_MS: of a page without rows, when the record came that closed its window.
OFFSET, BEGIN, LENGTH, SIZE, BASE, INGEST_MS = range(6)

# Position, label, reason, install id, ingest ms, position in the id: that of the page whose items it continues.
Row = tuple[int, int, int, str, int, int]


class Labels(msgspec.Struct, gc=False):
    """Labels of pages, in the order in which they are emitted.

    `pages`: OFFSET to INGEST_MS of each, where the log has it and how many items it has; a page may stand there again.
    `rows`: its labels, by its number; a page without is negative as a whole.
    """

    pages: list[list[int]]
    rows: dict[int, list[Row]]

    def __len__(self) -> int:
        """Number of pages."""
        return len(self.pages)


class Installed(NamedTuple):
    """When a user installed an item last, by what is remembered; None: no longer has it.

    `newest`: surely the newest time. Of what came late it's unknown: a newer install may be forgotten.
    """

    user: str
    item: str
    time_ms: int | None
    newest: bool = True


class Part(msgspec.Struct):
    """What some records led to, or one of them in part.

    `ends`: of each record that led to something its number, and where its labels end. `late`: events that came too
    late: their record's number, bytes, time and by how much they did, ms.
    """

    labels: Labels
    ends: list[tuple[int, int]]
    organic: dict[int, list[Organic]]  # by record
    installed: list[Installed]
    late: list[tuple[int, bytes, int, int]]


class _Head(msgspec.Struct, array_like=True, tag=1):
    """A page up to its user."""

    request_id: str
    time_ms: int
    user: str


_head = msgspec.msgpack.Decoder(_Head)


@cache
def _kernels() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded. To import it for each record costs 0.7 µs."""
    from stream.joiner.kernels import negative_encoder

    return negative_encoder


Bytes = Mapping[int, bytes]  # records by offset


def absent(labels: Labels, bodies: Bodies) -> tuple[list[int], list[int]]:
    """The offsets of records that have to be read again before these labels can be written, in order.

    First those of pages that have closed, then others.
    """
    offsets = [page[OFFSET] for page in labels.pages]
    missing = {offset for offset in set(offsets) if bodies.get(offset) is None}
    if not missing:
        return [], []
    closed = {offset for k, offset in enumerate(offsets) if offset in missing and k not in labels.rows}
    return sorted(closed), sorted(missing - closed)


def pages_of(labels: Labels, bodies: Bodies, read_again: Bytes = MappingProxyType({})) -> list[bytes]:
    """The pages as they lie in the log. Their records must be at hand or read again."""
    found = []
    for offset, begin, length, _, _, _ in labels.pages:
        raw = bodies.get(offset) or read_again[offset]
        found.append(raw[begin : begin + length])
    return found


def user_of(page: bytes) -> str:
    """Whose page it is."""
    return _head.decode(page).user


def examples_bytes(labels: Labels, pages: list[bytes]) -> list[bytes]:
    """Each as the bytes of an Examples; `pages` as they lie in the log."""
    whole = [k for k in range(len(pages)) if k not in labels.rows]
    some: list[bytes] = _kernels().negative_examples(
        [pages[k] for k in whole], [labels.pages[k][SIZE] for k in whole], [labels.pages[k][INGEST_MS] for k in whole]
    )
    written = dict(zip(whole, some, strict=True))
    return [
        written.get(k) or b"".join((HEAD, page, _columns(rows_of(labels, k), page))) for k, page in enumerate(pages)
    ]


def examples_of(labels: Labels, bodies: Bodies) -> list[Examples]:
    """Each as an Examples. Raises BadEvent where a page isn't what the join took it for."""
    found: list[Examples] = []
    for raw in examples_bytes(labels, pages_of(labels, bodies)):
        examples, bad = decode_examples(b"\x91" + raw)
        if bad:
            raise BadEvent(f"labels that can't be read: {bad[0][1]}")
        found += examples
    return found


def count_reasons(labels: Labels, counts: list[int]) -> int:
    """Add the number of examples per reason; returns their number."""
    total = sum([page[SIZE] for page in labels.pages])
    for number, rows in labels.rows.items():
        total -= labels.pages[number][SIZE]
        for row in rows:
            counts[row[2]] += 1
    counts[WINDOW_CLOSED] += total
    return total + sum(map(len, labels.rows.values()))


def rows_of(labels: Labels, number: int) -> list[Row]:
    """The labels of a page in full."""
    *_, size, _, ingest_ms = labels.pages[number]
    return labels.rows.get(number) or [(k, 0, WINDOW_CLOSED, "", ingest_ms, k) for k in range(size)]


def _columns(rows: list[Row], page: bytes) -> bytes:
    request_id = _head.decode(page).request_id
    positions, labels, reasons, installs, ingests, places = zip(*rows, strict=True)
    ids = [example_id(request_id, *row) for row in zip(places, reasons, installs, strict=True)]
    return encode_values(ids, positions, labels, [1.0] * len(ids), reasons, ingests)
