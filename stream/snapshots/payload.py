"""Payloads: named arrays, packed as bytes and split into content-addressed blobs.

A payload that doesn't fit SEGMENT_BLOBS blobs is cut by rows into *segments*. Each is packed by itself, and all but the
last fill SEGMENT_BLOBS blobs, so the list of digests says where a segment begins. A reader has one segment's bytes
in memory at a time. Readers of earlier builds know one segment, and reject a longer list with the manifest.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import msgspec
import numpy as np
import numpy.typing as npt

from stream.runtime.errors import BadSnapshot

BLOB_BYTES_MAX: Final = 8 * 1024 * 1024
SEGMENT_BLOBS: Final = 128
SEGMENT_BYTES_MAX: Final = SEGMENT_BLOBS * BLOB_BYTES_MAX  # 1 GiB
SEGMENTS_MAX: Final = 32  # of one payload: what tables of a thousand million rows take
NAMES_MAX: Final = 256  # arrays of a payload, metrics of a manifest
HEADS_BYTES_MAX: Final = NAMES_MAX * 128  # of a segment: names, dtypes, shapes
NAME_BYTES_MAX: Final = 64
ARRAY_CODE: Final = 1
DTYPES: Final = ("<f4", "<f8", "<u8", "<i8", "<i4", "|u1")

Array = npt.NDArray[np.generic]
Payload = Mapping[str, Array]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Digests = Annotated[list[Digest], msgspec.Meta(max_length=SEGMENTS_MAX * SEGMENT_BLOBS)]


def _pack_array(name: str, array: Array) -> msgpack.ExtType:
    assert array.dtype.str in DTYPES, f"{name}: a payload can't contain {array.dtype}"
    assert array.ndim <= 2, f"{name}: a payload can't contain {array.ndim} dimensions"
    head = msgpack.packb([array.dtype.str, list(array.shape)])
    return msgpack.ExtType(ARRAY_CODE, head + _finite(name, array).tobytes())


def _unpack_array(code: int, data: bytes) -> Array:
    """A read-only array over its own bytes, so it's aligned."""
    if code != ARRAY_CODE:
        raise BadSnapshot(f"a payload contains an unknown extension, {code}")
    unpacker = msgpack.Unpacker(max_array_len=2, max_str_len=3)
    unpacker.feed(data[:64])
    match unpacker.unpack():
        case [str(kind), [*shape]] if kind in DTYPES and all(type(n) is int and n >= 0 for n in shape):
            dtype = np.dtype(kind)
        case _:
            raise BadSnapshot("an array's header is invalid")
    body = data[unpacker.tell() :]
    # An empty array may have a width, but not a huge one: a reader might allocate for it.
    if math.prod(shape) * dtype.itemsize != len(body) or max(shape, default=0) > max(len(body), 2**16):
        raise BadSnapshot(f"an array of {len(body)} bytes can't have the shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape)


def _only_arrays(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """Called for the innermost map first, so nothing nested gets large."""
    payload = dict(pairs)
    if len(payload) < len(pairs) or not all(isinstance(v, np.ndarray) for v in payload.values()):
        raise BadSnapshot("a payload must be a map of arrays, each named once")
    return payload


def _finite(name: str, array: Array) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadSnapshot(f"{name} contains a number that isn't finite")
    return array


def pack(payload: Payload) -> bytes:
    """The bytes of one segment: arrays of DTYPES, at most two dimensions, in order of name: equal ones are equal bytes.

    Raises BadSnapshot when a number isn't finite or the whole is over SEGMENT_BYTES_MAX.
    """
    assert len(payload) <= NAMES_MAX, f"{len(payload)} arrays are too many for a payload"
    assert all(len(name.encode()) <= NAME_BYTES_MAX for name in payload), "an array's name is too long"
    if (size := sum(array.nbytes for array in payload.values())) > SEGMENT_BYTES_MAX - HEADS_BYTES_MAX:
        raise BadSnapshot(f"a segment of {size} bytes is over {SEGMENT_BYTES_MAX}: cut it")
    packed: bytes = msgpack.packb({name: _pack_array(name, payload[name]) for name in sorted(payload)})
    return packed


def pack_blobs(payload: Payload) -> list[tuple[str, bytes]]:
    """A payload's blobs in order, each with its digest (a blob may occur twice); however large it is.

    Raises BadSnapshot when a number isn't finite, or there are more than SEGMENTS_MAX segments.
    """
    blobs: list[tuple[str, bytes]] = []
    for number, segment in enumerate(_segments(payload)):
        if number == SEGMENTS_MAX:
            raise BadSnapshot(
                f"a payload is over {SEGMENTS_MAX * SEGMENT_BYTES_MAX} bytes: raise L1, expire sooner, or lower the "
                "bounds of the tables (max_keys, max_statistics, max_rows)"
            )
        assert len(blobs) == number * SEGMENT_BLOBS, "all segments but the last have as many blobs"
        blobs += digested_blobs(pack(segment))
    return blobs


def _segments(payload: Payload) -> Iterator[dict[str, Array]]:
    """The arrays cut by rows, in order of name: each segment but the last has no room for another row."""
    segment: dict[str, Array] = {}
    room = SEGMENT_BYTES_MAX - HEADS_BYTES_MAX
    for name in sorted(payload):
        array, first = payload[name], 0
        assert array.ndim, f"{name}: a payload can't contain a single number"
        row_bytes = array.nbytes // len(array) if len(array) else 0
        assert row_bytes < BLOB_BYTES_MAX - HEADS_BYTES_MAX, f"a row of {name} has {row_bytes} bytes"
        while (len(array) - first) * row_bytes > room:
            last = first + room // row_bytes
            segment[name] = array[first:last]
            yield segment
            segment, room, first = {}, SEGMENT_BYTES_MAX - HEADS_BYTES_MAX, last
        segment[name] = array[first:]
        room -= segment[name].nbytes
    yield segment


def by_segment(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    """A payload's digests, segment by segment."""
    for first in range(0, max(1, len(digests)), SEGMENT_BLOBS):
        yield digests[first : first + SEGMENT_BLOBS]


def joined(segments: Iterable[Payload]) -> dict[str, Array]:
    """The payload of these segments. Raises BadSnapshot when an array isn't the same kind in all. Read-only."""
    pieces: dict[str, list[Array]] = {}
    for segment in segments:
        for name, array in segment.items():
            pieces.setdefault(name, []).append(array)
    return {name: _joined(name, pieces.pop(name)) for name in [*pieces]}


def _joined(name: str, pieces: list[Array]) -> Array:
    if len(pieces) == 1:
        return pieces[0]
    if len({(piece.dtype.str, piece.shape[1:]) for piece in pieces}) > 1 or not pieces[0].ndim:
        raise BadSnapshot(f"{name} has another type or width in each segment of its payload")
    array = np.concatenate(pieces)
    array.flags.writeable = False
    return array


def unpack(raw: bytes) -> dict[str, Array]:
    """A segment from its bytes, shapes checked, floats finite. Raises BadSnapshot. The arrays are read-only."""
    if len(raw) > SEGMENT_BYTES_MAX:
        raise BadSnapshot(f"a segment of {len(raw)} bytes is over {SEGMENT_BYTES_MAX}")
    limits = {"max_map_len": NAMES_MAX, "max_array_len": 0, "max_str_len": NAME_BYTES_MAX, "max_bin_len": 0}
    try:
        payload = msgpack.unpackb(raw, ext_hook=_unpack_array, object_pairs_hook=_only_arrays, **limits)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise BadSnapshot(f"a payload can't be unpacked: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(payload, dict) or not all(isinstance(name, str) for name in payload):
        raise BadSnapshot("a payload must be a map of arrays by name")
    return {name: _finite(name, array) for name, array in payload.items()}


def digested_blobs(raw: bytes) -> list[tuple[str, bytes]]:
    """A segment's blobs of at most BLOB_BYTES_MAX in order, each with its digest (a blob may occur twice)."""
    chunks = [raw[i : i + BLOB_BYTES_MAX] for i in range(0, len(raw), BLOB_BYTES_MAX)] or [b""]
    return [(digest_of(chunk), chunk) for chunk in chunks]


def split(raw: bytes) -> dict[str, bytes]:
    """Blobs of at most BLOB_BYTES_MAX by digest, in order."""
    return dict(digested_blobs(raw))


def digests_of(raw: bytes) -> Digests:
    """The digests of a segment's blobs in order (a blob may occur twice)."""
    return [digest for digest, _ in digested_blobs(raw)]


def digest_of(blob: bytes) -> str:
    """blake2b, 32 hex digits."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
