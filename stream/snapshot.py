"""Snapshots: content-addressed blobs, one manifest a version, one head. The protocol both stores keep.

    {thalweg:MODEL}:blob:<blake2b>      immutable, at most BLOB_BYTES_MAX
    {thalweg:MODEL}:manifest:<version>  a Manifest
    {thalweg:MODEL}:head                version and fencing token, moved by compare-and-set
    {thalweg:MODEL}:notices             pub/sub; only wakes rankers early: polling the head is the truth

A *content* is a dict of arrays, packed as msgpack, cut into blobs; its name is the list of their digests.
What the contents of each part hold:

    wide        keys uint64 [K], weights float32 [K]                      weight 0: a tombstone
    statistics  rows uint64 [K, 4]                                        `statistics.py`'s rows
    deep        keys uint64 [R], vectors float32 [R, dim]                 embedding rows; key 0: the row of unseen ids
                dead uint64 [D]                                           keys whose rows are gone (deltas only)
                weight_i float32 [in, out], bias_i float32 [out]          layers in order; the last has out = 1
                boundaries float32 [D, quantiles − 1]                     of the numbers; empty [0, 0] before the first freeze

A version's part is its base, then the merged delta, then the small ones, in order; a later row replaces
an earlier one. Every deep content has all dense arrays: they are few and all change.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt

from stream.errors import BadSnapshot

BLOB_BYTES_MAX: Final = 8 * 1024 * 1024
MANIFEST_BYTES_MAX: Final = 1024 * 1024
DELTAS_MAX: Final = 64
INGESTS_MAX: Final = 1_000
ARRAY_CODE: Final = 1
DTYPES: Final = ("<f4", "<f8", "<u8", "<i8", "<i4", "|u1")

Array = npt.NDArray[np.generic]
Content = Mapping[str, Array]
Digests = list[str]


class PartVersion(msgspec.Struct, frozen=True):
    """One part of a version: contents by the digests of their blobs."""

    base: Digests
    merged: Digests = []
    deltas: list[Digests] = []

    def contents(self) -> list[Digests]:
        """All contents in the order in which they are laid over each other."""
        return [self.base, *([self.merged] if self.merged else []), *self.deltas]


class Golden(msgspec.Struct, frozen=True):
    """A page and what its items score with this version: what a ranker must reproduce before the swap.

    `features`: a page's bytes; `scores`: probabilities, one per item, as served.
    """

    features: bytes
    scores: list[float]


class Manifest(msgspec.Struct, frozen=True):
    """One version of a model, whole. Times are ms.

    `spec`: `spec.encode_spec`'s bytes. `token`: the publisher's fencing token. `offset`: the next offset in
    `examples` when it was cut, per partition. `watermark_ms`: greatest event time of a learned page.
    `ingest_ms`: append times of the installs first learned in this version (at most INGESTS_MAX, sampled by hash).
    `learned_ms`: ingest time of the newest label learned. `created_ms`: the publisher's clock.
    """

    model: str
    version: int
    parent: int
    fingerprint: str
    spec: bytes
    token: int
    offset: dict[int, int]
    examples: int
    watermark_ms: int
    learned_ms: int
    created_ms: int
    metrics: dict[str, float]
    parts: dict[str, PartVersion]
    ingest_ms: list[int] = []
    golden: list[Golden] = []


class Head(msgspec.Struct, frozen=True):
    """Which version is live, and the fencing token of who moved it there."""

    version: int
    token: int


class SnapshotStore(Protocol):
    """Where the snapshots of one model lie. Every method raises StoreUnavailable when the store doesn't answer."""

    def take_token(self) -> int:
        """A fencing token greater than any before: older holders can't move the head from now on."""
        ...

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store blobs under their digests; those that are there already are left alone."""
        ...

    def get_blob(self, digest: str) -> bytes:
        """A blob, checked against its digest. Raises BadSnapshot when it's missing or other bytes."""
        ...

    def publish(self, manifest: Manifest) -> None:
        """Store the manifest and move the head to it, in one step.

        Raises Fenced when a greater token was taken, BadSnapshot when the head isn't `parent`, is at
        this version or a newer one, or a blob it names is missing. Head gone (wiped store): any parent will do.
        """
        ...

    def head(self) -> Head | None:
        """Which version is live; None before the first (or after a wipe)."""
        ...

    def manifest(self, version: int) -> Manifest:
        """One version. Raises BadSnapshot when it isn't there or can't be decoded."""
        ...

    def versions(self) -> list[int]:
        """All versions that are kept, rising."""
        ...

    def retain(self, count: int) -> int:
        """Keep the newest `count` versions; drop older manifests and blobs that no kept one names. Returns blobs dropped."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return early when a notice comes; otherwise after `timeout_s`. Never the only way to learn of a version."""
        ...

    def close(self) -> None:
        """Let go of connections; safe to call twice."""
        ...


def _pack_array(value: object) -> msgpack.ExtType:
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        raise TypeError(f"only arrays of {', '.join(DTYPES)} are packed, not {type(value)} {getattr(value, 'dtype', '')}")
    head = msgpack.packb([value.dtype.str, list(value.shape)])
    return msgpack.ExtType(ARRAY_CODE, head + np.ascontiguousarray(value).tobytes())


def _unpack_array(code: int, data: bytes) -> Array:
    if code != ARRAY_CODE:
        raise BadSnapshot(f"unknown extension {code}")
    unpacker = msgpack.Unpacker(max_buffer_size=len(data) or 1, max_array_len=8, max_str_len=8)
    unpacker.feed(data)
    head = unpacker.unpack()
    if not (isinstance(head, list) and len(head) == 2 and head[0] in DTYPES and isinstance(head[1], list) and len(head[1]) <= 2):
        raise BadSnapshot("an array's head is garbled")
    dtype, shape = np.dtype(head[0]), head[1]
    if not all(isinstance(n, int) and 0 <= n < 2**40 for n in shape):
        raise BadSnapshot("an array's shape can't be true")
    body = data[unpacker.tell() :]
    count = 1
    for n in shape:
        count *= n
    if count * dtype.itemsize != len(body):
        raise BadSnapshot(f"an array of shape {shape} can't have {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)


def pack(content: Content) -> bytes:
    """A content's bytes. Keys in order, so that equal contents have equal bytes."""
    packed: bytes = msgpack.packb(dict(sorted(content.items())), default=_pack_array)
    return packed


def unpack(raw: bytes) -> dict[str, Array]:
    """A content from its bytes, shapes checked, floats finite. Raises BadSnapshot."""
    try:
        content = msgpack.unpackb(raw, ext_hook=_unpack_array, max_map_len=256, max_array_len=0, max_str_len=64, max_bin_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as bad:
        raise BadSnapshot(f"a content can't be unpacked: {bad!r}") from None
    if not isinstance(content, dict) or not all(isinstance(a, np.ndarray) for a in content.values()):
        raise BadSnapshot("a content must be a map of arrays")
    for name, array in content.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadSnapshot(f"{name} holds a number that isn't finite")
    return content


def cut(raw: bytes) -> dict[str, bytes]:
    """Blobs of at most BLOB_BYTES_MAX by digest, in order."""
    parts = [raw[i : i + BLOB_BYTES_MAX] for i in range(0, len(raw), BLOB_BYTES_MAX)] or [b""]
    return {digest_of(part): part for part in parts}


def digests_of(raw: bytes) -> Digests:
    """The name of a content: the digests of its blobs in order (a blob may stand twice)."""
    return [digest_of(raw[i : i + BLOB_BYTES_MAX]) for i in range(0, len(raw), BLOB_BYTES_MAX)] or [digest_of(b"")]


def digest_of(blob: bytes) -> str:
    """blake2b, 32 hex digits."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def fetch(store: SnapshotStore, digests: Iterable[str]) -> dict[str, Array]:
    """One content from its blobs. Raises BadSnapshot, StoreUnavailable."""
    return unpack(b"".join(store.get_blob(d) for d in digests))


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest's bytes. Raises BadSnapshot when it grew over its limit."""
    raw = msgspec.msgpack.encode(manifest)
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadSnapshot(f"the manifest of version {manifest.version} has {len(raw)} bytes, over {MANIFEST_BYTES_MAX}")
    return raw


def decode_manifest(raw: bytes) -> Manifest:
    """A manifest from its bytes. Raises BadSnapshot."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadSnapshot(f"a manifest of {len(raw)} bytes is over {MANIFEST_BYTES_MAX}")
    try:
        return msgspec.msgpack.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
        raise BadSnapshot(f"a manifest can't be read: {bad}") from None


def named_blobs(manifest: Manifest) -> Iterator[str]:
    """Every blob that a manifest names."""
    for part in manifest.parts.values():
        for digests in part.contents():
            yield from digests
