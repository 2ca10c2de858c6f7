"""Payloads: named arrays, packed as bytes and split into content-addressed blobs."""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import msgspec
import numpy as np
import numpy.typing as npt

from stream.runtime.errors import BadSnapshot

BLOB_BYTES_MAX: Final = 8 * 1024 * 1024
BLOBS_MAX: Final = 128  # of one payload: 1 GiB
PAYLOAD_BYTES_MAX: Final = BLOBS_MAX * BLOB_BYTES_MAX
NAMES_MAX: Final = 256  # arrays of a payload, metrics of a manifest
NAME_BYTES_MAX: Final = 64
ARRAY_CODE: Final = 1
DTYPES: Final = ("<f4", "<f8", "<u8", "<i8", "<i4", "|u1")

Array = npt.NDArray[np.generic]
Payload = Mapping[str, Array]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Digests = Annotated[list[Digest], msgspec.Meta(max_length=BLOBS_MAX)]


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
    """A payload's bytes: arrays of DTYPES, at most two dimensions, in order of name, so equal payloads are equal bytes.

    Raises BadSnapshot when a number isn't finite or the whole is over PAYLOAD_BYTES_MAX.
    """
    assert len(payload) <= NAMES_MAX, f"{len(payload)} arrays are too many for a payload"
    assert all(len(name.encode()) <= NAME_BYTES_MAX for name in payload), "an array's name is too long"
    if (size := sum(array.nbytes for array in payload.values())) > PAYLOAD_BYTES_MAX - NAMES_MAX * 128:
        raise BadSnapshot(f"a payload of {size} bytes is over {PAYLOAD_BYTES_MAX}: raise L1 or expire sooner")
    packed: bytes = msgpack.packb({name: _pack_array(name, payload[name]) for name in sorted(payload)})
    return packed


def unpack(raw: bytes) -> dict[str, Array]:
    """A payload from its bytes, shapes checked, floats finite. Raises BadSnapshot. The arrays are read-only."""
    if len(raw) > PAYLOAD_BYTES_MAX:
        raise BadSnapshot(f"a payload of {len(raw)} bytes is over {PAYLOAD_BYTES_MAX}")
    limits = {"max_map_len": NAMES_MAX, "max_array_len": 0, "max_str_len": NAME_BYTES_MAX, "max_bin_len": 0}
    try:
        payload = msgpack.unpackb(raw, ext_hook=_unpack_array, object_pairs_hook=_only_arrays, **limits)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise BadSnapshot(f"a payload can't be unpacked: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(payload, dict) or not all(isinstance(name, str) for name in payload):
        raise BadSnapshot("a payload must be a map of arrays by name")
    return {name: _finite(name, array) for name, array in payload.items()}


def digested_blobs(raw: bytes) -> list[tuple[str, bytes]]:
    """A payload's blobs of at most BLOB_BYTES_MAX in order, each with its digest (a blob may occur twice)."""
    chunks = [raw[i : i + BLOB_BYTES_MAX] for i in range(0, len(raw), BLOB_BYTES_MAX)] or [b""]
    return [(digest_of(chunk), chunk) for chunk in chunks]


def split(raw: bytes) -> dict[str, bytes]:
    """Blobs of at most BLOB_BYTES_MAX by digest, in order."""
    return dict(digested_blobs(raw))


def digests_of(raw: bytes) -> Digests:
    """The digests of a payload's blobs in order (a blob may occur twice)."""
    return [digest for digest, _ in digested_blobs(raw)]


def digest_of(blob: bytes) -> str:
    """blake2b, 32 hex digits."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
