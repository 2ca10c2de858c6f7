"""Snapshots: content-addressed blobs, one manifest a version, one head. The protocol both stores keep.

A *content* is a dict of arrays, packed as msgpack, cut into blobs; its name is the list of their digests.
A *manifest* names all contents of one version, and the *head* says which version is live. The stores:
`MemoryStore` (`memory_store.py`), `RedisStore` (`redis_store.py`, which lists the keys).
What the contents of each part hold:

    wide        keys uint64 [K], weights float32 [K]                      weight 0: a tombstone
    statistics  rows uint64 [K, 4]                                        `statistics.py`'s rows
    deep        keys uint64 [R], vectors float32 [R, dim]                 embedding rows; key 0: the row of unseen ids
                dead uint64 [D]                                           keys whose rows are gone (deltas only)
                weight_i float32 [in, out], bias_i float32 [out]          layers in order; the last has out = 1
                boundaries float32 [D, quantiles − 1]                     of the numbers; [0, 0] before the first freeze
    items       names uint8 [bytes], ends int64 [n]                       of items shown lately: `shown_items.py`

A version's part is its base, then the merged delta, then the small ones, in order; a later row replaces
an earlier one. Every deep content has all dense arrays: they are few and all change.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, Protocol

import msgpack  # type: ignore[import-untyped]  # ships no types
import msgspec
import numpy as np
import numpy.typing as npt

from stream.events.types import TIME_MS_MAX
from stream.runtime.errors import BadSnapshot, Fenced

BLOB_BYTES_MAX: Final = 8 * 1024 * 1024
BLOBS_MAX: Final = 128  # of one content: 1 GiB
CONTENT_BYTES_MAX: Final = BLOBS_MAX * BLOB_BYTES_MAX
MANIFEST_BYTES_MAX: Final = 1024 * 1024
DELTAS_MAX: Final = 64
INGESTS_MAX: Final = 1_000
NAMES_MAX: Final = 256  # arrays of a content, metrics of a manifest
NAME_BYTES_MAX: Final = 64
ARRAY_CODE: Final = 1
DTYPES: Final = ("<f4", "<f8", "<u8", "<i8", "<i4", "|u1")

Array = npt.NDArray[np.generic]
Content = Mapping[str, Array]

# msgspec holds lengths against these before it makes room for what a manifest declares.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]  # exact as Redis's scores and in Lua
Positive = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Digests = Annotated[list[Digest], msgspec.Meta(max_length=BLOBS_MAX)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_BYTES_MAX)]
Time = Annotated[int, msgspec.Meta(ge=0, lt=TIME_MS_MAX)]


class PartVersion(msgspec.Struct, frozen=True):
    """One part of a version: contents by the digests of their blobs.

    `covers`: whoever has this part as of that version of the same token, or of a later one, has what base and merged
    delta hold, but for what the small ones hold anew. Manifests without one are of the first release, or of a first
    base. `version`: in which this part was cut last: it has learned the examples up to that one. Manifests of earlier
    builds don't say.
    """

    base: Digests
    merged: Digests = []
    deltas: Annotated[list[Digests], msgspec.Meta(max_length=DELTAS_MAX)] = []
    covers: Positive | msgspec.UnsetType = msgspec.UNSET
    version: Positive | msgspec.UnsetType = msgspec.UNSET

    def contents(self) -> list[Digests]:
        """All contents in the order in which they are laid over each other."""
        return [self.base, *([self.merged] if self.merged else []), *self.deltas]


class Golden(msgspec.Struct, frozen=True):
    """A page and what its items score with this version: what a ranker must reproduce before the swap.

    `features`: a page's bytes; `scores`: probabilities, one per item, as served. `statistics`: what the version's own
    statistics say of the page at the watermark (`features.statistics_of`); publishers of the first release don't tell.
    """

    features: bytes
    scores: Annotated[list[float], msgspec.Meta(min_length=1, max_length=1_000)]
    statistics: bytes | msgspec.UnsetType = msgspec.UNSET


class Manifest(msgspec.Struct, frozen=True):
    """One version of a model, whole. Times are ms, between 1970 and 2100.

    `parent`: the version that was live when it was cut; 0: none. `spec`: `spec_file.encode_spec`'s bytes.
    `token`: the publisher's fencing token. `offset`: the next offset in `examples` when it was cut, per partition.
    `watermark_ms`: greatest event time of a learned page.
    `ingest_ms`: append times of the installs first learned in this version (at most INGESTS_MAX, sampled by hash).
    `learned_ms`: ingest time of the newest label learned. `created_ms`: the publisher's clock.
    """

    model: str
    version: Positive
    parent: Count
    fingerprint: str
    spec: bytes
    token: Positive
    offset: Annotated[dict[Count, Count], msgspec.Meta(max_length=4_096)]
    examples: Count
    watermark_ms: Time
    learned_ms: Time
    created_ms: Time
    metrics: Annotated[dict[Name, float], msgspec.Meta(max_length=NAMES_MAX)]
    parts: Annotated[dict[Name, PartVersion], msgspec.Meta(max_length=16)]
    ingest_ms: Annotated[list[Time], msgspec.Meta(max_length=INGESTS_MAX)] = []
    golden: Annotated[list[Golden], msgspec.Meta(max_length=64)] = []

    @property
    def deep_version(self) -> int:
        """The version up to whose examples the deep part has learned; 0: there is none, or the manifest doesn't say."""
        deep = self.parts.get("deep")
        return 0 if deep is None or deep.version is msgspec.UNSET else deep.version


class Head(msgspec.Struct, frozen=True):
    """Which version is live, and the fencing token of who moved it there."""

    version: int
    token: int


class Decision(msgspec.Struct, frozen=True):
    """What a person wants served: `version`, or with 0 the head's. The one of the greatest `number` holds.

    Numbers rise by one, and are the store's clock in µs at least: so a decision is later than those of which its
    store has lost all memory, too. Number 0: nobody has ever said.
    """

    version: Count = 0
    number: Count = 0


UNDECIDED: Final = Decision()


class VersionReader(Protocol):
    """What a version is read from, whole: a store, or a folder that keeps one (`version_files.py`)."""

    def get_blob(self, digest: str) -> bytes:
        """A blob, checked against its digest. Raises BadSnapshot when it's missing or other bytes."""
        ...

    def manifest(self, version: int) -> Manifest:
        """One version. Raises BadSnapshot when it isn't there or can't be decoded."""
        ...


class SnapshotStore(VersionReader, Protocol):
    """Where the snapshots of one model lie. Safe to share between threads.

    Every method but `wait` and `close` raises StoreUnavailable when the store doesn't answer. Whether a
    `publish` that ended so came through, the head tells; to publish the same manifest again is right.
    """

    def take_token(self, at_least: int = 0) -> int:
        """A fencing token greater than any before and than `at_least`; the store's clock in ms at least.

        Older holders can't move the head from now on. A wiped store has forgotten its tokens: its clock hasn't, but
        clocks may go back, so pass the greatest that the checkpoint knows.
        """
        ...

    def put_blobs(self, blobs: Mapping[str, bytes], *, renew: bool = False) -> None:
        """Store blobs under their digests; those that are there already are left alone.

        With `renew` those are written anew: their bytes may have been damaged since.
        From now on all stay as those of the next version do, published or not.
        """
        ...

    def publish(self, manifest: Manifest) -> None:
        """Store the manifest and move the head to it, in one step; when it's the head already, nothing happens.

        Raises Fenced when a greater token was taken, BadSnapshot when the head isn't `parent`, is at
        this version or a newer one, or a blob it names is missing (then publish a full base).
        Head gone (wiped store): any parent will do, but no number that a kept version has, or a lower one.
        """
        ...

    def head(self) -> Head | None:
        """Which version is live; None before the first (or after a wipe)."""
        ...

    def versions(self) -> list[int]:
        """All versions that are kept, rising. The last is the head's, or was put back into a store that had lost it."""
        ...

    def decision(self) -> Decision:
        """What a person has decided last, as far as this store knows: UNDECIDED when it was wiped.

        It may be an older copy, too: whoever obeys decisions holds on to the one of the greatest number that it saw.
        """
        ...

    def pin(self, version: int) -> None:
        """Decide that `version` is served from now on, or with 0 that the head's is: a decision later than all before.

        Raises BadSnapshot when the version isn't whole.
        """
        ...

    def put_back(self, decision: Decision, manifest: Manifest | None) -> None:
        """Give a store a decision that it has lost, and its version's manifest (None for 0); blobs were put before.

        Nothing happens when the store knows it or a later one. The head stays where it is. Raises BadSnapshot when
        a blob is missing, or when another version of this number is kept.
        """
        ...

    def retain(self, count: int) -> int:
        """Keep the newest `count` (≥ 1) versions, the head's and the pinned one; drop what else there is.

        Blobs put for a version that never came go with the versions of their time. Returns blobs dropped.
        """
        ...

    def report(self, what: str) -> None:
        """Tell whoever listens to the notices that a version can't be served, and why. Nobody has to listen."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return early when a notice comes; otherwise after `timeout_s`. Never the only way to learn of a version.

        One thread at a time. A store that doesn't answer is waited for like one that's silent.
        """
        ...

    def close(self) -> None:
        """Let go of connections, end a `wait`; safe to call twice."""
        ...


def check_move(manifest: Manifest, head: Head | None, taken: int, versions: Iterable[int]) -> None:
    """Raises Fenced or BadSnapshot, as `publish` says, when the head may not move to `manifest`.

    `taken`: the greatest token that was handed out; `versions`: those that are kept.
    """
    what = f"version {manifest.version} of {manifest.model}"
    newest = max(taken, head.token if head else 0)
    if newest > manifest.token:
        raise Fenced(
            f"another learner owns {manifest.model}: it took token {newest}, and {what} comes under {manifest.token}; "
            "end one of the two, or give one a model name of its own"
        )
    latest = max([head.version if head else 0, *versions])
    if latest >= manifest.version:
        raise BadSnapshot(f"{what} isn't newer than {latest}, which is kept: cut one that follows the head")
    if head and head.version != manifest.parent:
        raise BadSnapshot(
            f"{what} follows {manifest.parent}, not the head, {head.version}: cut one that follows the head"
        )


def check_decision(decision: Decision, manifest: Manifest | None) -> None:
    """Only a decision that was made can be put back, and with its own version."""
    assert decision.number, "nobody has decided"
    assert decision.version == (manifest.version if manifest else 0), f"{decision} with another version's manifest"


def named_manifest(raw: bytes, model: str, version: int) -> Manifest:
    """The manifest that was asked for by this name. Raises BadSnapshot, naming it, when it's damaged or another's."""
    try:
        manifest = decode_manifest(raw)
    except BadSnapshot as bad:
        raise BadSnapshot(f"version {version} of {model} is damaged: {bad}") from None
    if (manifest.model, manifest.version) != (model, version):
        raise BadSnapshot(f"version {version} of {model} is in truth {manifest.version} of {manifest.model}")
    return manifest


def missing_blob(digest: str, model: str) -> BadSnapshot:
    """The error for a blob that a store doesn't have."""
    return BadSnapshot(
        f"blob {digest} of {model} is missing. If the head names it, restart the learner: it begins with a full base"
    )


def damaged_blob(digest: str, model: str) -> BadSnapshot:
    """The error for a blob whose bytes aren't those of its digest."""
    return BadSnapshot(
        f"blob {digest} of {model} holds other bytes. If the head names it, restart the learner: "
        "it begins with a full base, which replaces them"
    )


def missing_version(version: int, model: str) -> BadSnapshot:
    """The error for a manifest that a store doesn't have."""
    return BadSnapshot(
        f"version {version} of {model} isn't kept (any more): `thalweg snapshots ls` lists those that are"
    )


def other_version(version: int, model: str) -> BadSnapshot:
    """The error for a decision whose version's number another version has in a store."""
    return BadSnapshot(
        f"version {version} of {model}, which was pinned, is another one in the store: pin one that is there "
        "(`thalweg snapshots ls`), or unpin"
    )


def _pack_array(name: str, array: Array) -> msgpack.ExtType:
    assert array.dtype.str in DTYPES, f"{name}: no content holds {array.dtype}"
    assert array.ndim <= 2, f"{name}: no content holds {array.ndim} dimensions"
    head = msgpack.packb([array.dtype.str, list(array.shape)])
    return msgpack.ExtType(ARRAY_CODE, head + _finite(name, array).tobytes())


def _unpack_array(code: int, data: bytes) -> Array:
    """An array over bytes of its own, so that it's aligned and can't be written to."""
    if code != ARRAY_CODE:
        raise BadSnapshot(f"a content holds an unknown extension, {code}")
    unpacker = msgpack.Unpacker(max_array_len=2, max_str_len=3)
    unpacker.feed(data[:64])
    match unpacker.unpack():
        case [str(kind), [*shape]] if kind in DTYPES and all(type(n) is int and n >= 0 for n in shape):
            dtype = np.dtype(kind)
        case _:
            raise BadSnapshot("an array's head is garbled")
    body = data[unpacker.tell() :]
    # An empty array may have a width, but none that would be a lot to make room for.
    if math.prod(shape) * dtype.itemsize != len(body) or max(shape, default=0) > max(len(body), 2**16):
        raise BadSnapshot(f"an array of {len(body)} bytes can't have the shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape)


def _only_arrays(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """Called for the innermost map first, so nothing nested gets large."""
    content = dict(pairs)
    if len(content) < len(pairs) or not all(isinstance(v, np.ndarray) for v in content.values()):
        raise BadSnapshot("a content must be a map of arrays, each named once")
    return content


def _finite(name: str, array: Array) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadSnapshot(f"{name} holds a number that isn't finite")
    return array


def pack(content: Content) -> bytes:
    """A content's bytes: arrays of DTYPES, at most two dimensions. Names in order: equal contents have equal bytes.

    Raises BadSnapshot when a number isn't finite or the whole is over CONTENT_BYTES_MAX.
    """
    assert len(content) <= NAMES_MAX, f"{len(content)} arrays are too many for a content"
    assert all(len(name.encode()) <= NAME_BYTES_MAX for name in content), "an array's name is too long"
    if (size := sum(array.nbytes for array in content.values())) > CONTENT_BYTES_MAX - NAMES_MAX * 128:
        raise BadSnapshot(f"a content of {size} bytes is over {CONTENT_BYTES_MAX}: raise L1 or expire sooner")
    packed: bytes = msgpack.packb({name: _pack_array(name, content[name]) for name in sorted(content)})
    return packed


def unpack(raw: bytes) -> dict[str, Array]:
    """A content from its bytes, shapes checked, floats finite. Raises BadSnapshot. The arrays are read-only."""
    if len(raw) > CONTENT_BYTES_MAX:
        raise BadSnapshot(f"a content of {len(raw)} bytes is over {CONTENT_BYTES_MAX}")
    limits = {"max_map_len": NAMES_MAX, "max_array_len": 0, "max_str_len": NAME_BYTES_MAX, "max_bin_len": 0}
    try:
        content = msgpack.unpackb(raw, ext_hook=_unpack_array, object_pairs_hook=_only_arrays, **limits)
    except (ValueError, TypeError, msgpack.UnpackException) as bad:
        raise BadSnapshot(f"a content can't be unpacked: {type(bad).__name__}: {str(bad)[:200]}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise BadSnapshot("a content must be a map of arrays by name")
    return {name: _finite(name, array) for name, array in content.items()}


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


def fetch(store: VersionReader, digests: Iterable[str]) -> dict[str, Array]:
    """One content from its blobs. Raises BadSnapshot, StoreUnavailable."""
    return unpack(b"".join(store.get_blob(d) for d in digests))


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest's bytes under their digest. Raises BadSnapshot for one that nobody could read back."""
    body = msgspec.msgpack.encode(manifest)
    raw = msgspec.msgpack.encode((bytes.fromhex(digest_of(body)), body))
    decode_manifest(raw)
    return raw


def decode_manifest(raw: bytes) -> Manifest:
    """A manifest from its bytes; digest, limits and numbers are checked. Raises BadSnapshot."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadSnapshot(f"a manifest of {len(raw)} bytes is over {MANIFEST_BYTES_MAX}")
    try:
        digest, body = msgspec.msgpack.decode(raw, type=tuple[bytes, bytes])
        if digest.hex() != digest_of(body):
            raise BadSnapshot("a manifest's bytes aren't what its digest says")
        manifest = msgspec.msgpack.decode(body, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadSnapshot(f"a manifest can't be read: {bad}") from None
    for name, metric in manifest.metrics.items():
        if not math.isfinite(metric):
            raise BadSnapshot(f"metric {name} of version {manifest.version} is {metric}: leave out what has no value")
    if not all(0 <= score <= 1 for golden in manifest.golden for score in golden.scores):
        raise BadSnapshot(f"version {manifest.version}: a golden score isn't a probability")
    if manifest.parent >= manifest.version or not all(part.base for part in manifest.parts.values()):
        raise BadSnapshot(f"version {manifest.version} follows {manifest.parent}, or a part of it has no base")
    if manifest.deep_version > manifest.version:
        raise BadSnapshot(f"version {manifest.version} has the deep part of version {manifest.deep_version}")
    return manifest


def named_blobs(manifest: Manifest) -> Iterator[str]:
    """Every blob that a manifest names."""
    for part in manifest.parts.values():
        for digests in part.contents():
            yield from digests
