"""Manifests of versions, the head, and decisions about what is served; and their invariants."""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Final

import msgspec

from stream.events.types import TIME_MS_MAX
from stream.runtime import formats
from stream.runtime.errors import BadSnapshot, Fenced
from stream.snapshots.payload import NAME_BYTES_MAX, NAMES_MAX, Digests, digest_of

MANIFEST_BYTES_MAX: Final = 1024 * 1024
DELTAS_MAX: Final = 64
INGESTS_MAX: Final = 1_000
BUILD_LEVEL: Final = "build_level"  # a metric: the newest format level that the publisher knows; unset by 0.2

# msgspec checks lengths against these before it allocates what a manifest declares.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]  # exact as Redis's scores and in Lua
Positive = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_BYTES_MAX)]
Time = Annotated[int, msgspec.Meta(ge=0, lt=TIME_MS_MAX)]


class PartVersion(msgspec.Struct, frozen=True):
    """One part of a version: payloads by the digests of their blobs.

    `covers`: a reader that has this part as of that version of the same token, or of a later one, needs only the small
    deltas. It's unset in manifests of the first release, and after a first base. `version`: in which this part was last
    published: it has learned the examples up to there. It's unset in manifests of earlier builds.
    """

    base: Digests
    merged: Digests = []
    deltas: Annotated[list[Digests], msgspec.Meta(max_length=DELTAS_MAX)] = []
    covers: Positive | msgspec.UnsetType = msgspec.UNSET
    version: Positive | msgspec.UnsetType = msgspec.UNSET

    def payloads(self) -> list[Digests]:
        """All payloads in the order in which they are applied."""
        return [self.base, *([self.merged] if self.merged else []), *self.deltas]


class Golden(msgspec.Struct, frozen=True):
    """A page and its items' scores by this version: a ranker must reproduce them before the swap.

    `features`: a page's bytes; `scores`: probabilities, one per item, as served. `statistics`: the page's statistics as
    read from this version at the watermark (`stream.features.page_features.statistics_of`); unset by publishers of
    the first release.
    """

    features: bytes
    scores: Annotated[list[float], msgspec.Meta(min_length=1, max_length=1_000)]
    statistics: bytes | msgspec.UnsetType = msgspec.UNSET


class Manifest(msgspec.Struct, frozen=True):
    """One version of a model, whole. Times are ms, between 1970 and 2100.

    `parent`: the version that was live when it was built; 0: none. `spec`: `spec_file.encode_spec`'s bytes.
    `token`: the publisher's fencing token. `offset`: the next offset in `examples` when it was built, per partition.
    `watermark_ms`: greatest event time of a learned page.
    `ingest_ms`: append times of the installs first learned in this version (at most INGESTS_MAX, sampled by hash).
    `learned_ms`: ingest time of the newest label learned. `created_ms`: the publisher's clock. `metrics`: the model's
    figures, as `gate_…` what the publish gate measured, and BUILD_LEVEL. `format`: unset in manifests before 0.2, which
    are of format 1. `log_ms`: when the log began that `offset` is of, if an earlier one was lost.
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
    format: Positive | msgspec.UnsetType = msgspec.UNSET
    log_ms: Time | msgspec.UnsetType = msgspec.UNSET

    @property
    def position(self) -> tuple[int, int]:
        """Up to where it has learned: which log, and how much of it. The greater one has learned more."""
        return 0 if self.log_ms is msgspec.UNSET else self.log_ms, sum(self.offset.values())

    @property
    def deep_version(self) -> int:
        """The version up to whose examples the deep part has learned; 0: there is no deep part, or it's unset."""
        deep = self.parts.get("deep")
        return 0 if deep is None or deep.version is msgspec.UNSET else deep.version


class _Format(msgspec.Struct):
    format: int = 1


class Head(msgspec.Struct, frozen=True):
    """Which version is live, and the fencing token of who moved it there."""

    version: int
    token: int


class Decision(msgspec.Struct, frozen=True):
    """Which version a person wants served: `version`, or with 0 the head's. The greatest `number` wins.

    Numbers rise, and are at least the store's clock in µs: so a decision also wins against those that its store has
    lost. Number 0: nobody has ever decided.
    """

    version: Count = 0
    number: Count = 0


UNDECIDED: Final = Decision()


def check_move(manifest: Manifest, head: Head | None, taken: int, versions: Iterable[int]) -> None:
    """Raises Fenced or BadSnapshot, as `publish` says, when the head may not move to `manifest`.

    `taken`: the greatest token that was issued; `versions`: those in the store.
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
        raise BadSnapshot(
            f"{what} isn't newer than {latest}, which the store already has: build one that follows the head"
        )
    if head and head.version != manifest.parent:
        raise BadSnapshot(
            f"{what} follows {manifest.parent}, not the head, {head.version}: build one that follows the head"
        )


def check_decision(decision: Decision, manifest: Manifest | None) -> None:
    """Only a decision that was made can be restored, and with its own version's manifest."""
    assert decision.number, "nobody has decided"
    assert decision.version == (manifest.version if manifest else 0), f"{decision} with another version's manifest"


def checked_manifest(raw: bytes, model: str, version: int) -> Manifest:
    """Decode the manifest of this version. Raises BadSnapshot, naming it, when it's damaged or another version's."""
    try:
        manifest = decode_manifest(raw)
    except BadSnapshot as error:
        raise BadSnapshot(f"version {version} of {model} is damaged: {error}") from None
    if (manifest.model, manifest.version) != (model, version):
        raise BadSnapshot(f"version {version} of {model} is actually {manifest.version} of {manifest.model}")
    return manifest


def missing_version(version: int, model: str) -> BadSnapshot:
    """The error for a manifest that a store doesn't have."""
    return BadSnapshot(
        f"version {version} of {model} isn't kept (any more): `thalweg snapshots ls` lists those that are"
    )


def conflicting_version(version: int, model: str) -> BadSnapshot:
    """The error for a decision whose version number belongs to another version in the store."""
    return BadSnapshot(
        f"version {version} of {model}, which was pinned, is another one in the store: pin one that is there "
        "(`thalweg snapshots ls`), or unpin"
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest's bytes, prefixed with their digest. Raises BadSnapshot for one that can't be decoded again."""
    body = msgspec.msgpack.encode(manifest)
    raw = msgspec.msgpack.encode((bytes.fromhex(digest_of(body)), body))
    decode_manifest(raw)
    return raw


def encoded_as(stored: bytes, manifest: Manifest) -> bytes:
    """`stored` if it's this manifest, which another build may have encoded; else its bytes by this build."""
    with suppress(BadSnapshot):
        if stored and decode_manifest(stored) == manifest:
            return stored
    return encode_manifest(manifest)


def decode_manifest(raw: bytes) -> Manifest:
    """A manifest from its bytes; digest, limits and numbers are checked. Raises BadSnapshot."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadSnapshot(f"a manifest of {len(raw)} bytes is over {MANIFEST_BYTES_MAX}")
    try:
        digest, body = msgspec.msgpack.decode(raw, type=tuple[bytes, bytes])
        if digest.hex() != digest_of(body):
            raise BadSnapshot("a manifest's bytes don't match its digest")
        if why := formats.MANIFEST.why_unreadable(msgspec.msgpack.decode(body, type=_Format).format):
            raise BadSnapshot(why)
        manifest = msgspec.msgpack.decode(body, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadSnapshot(f"a manifest can't be read: {error}") from None
    for name, metric in manifest.metrics.items():
        if not math.isfinite(metric):
            raise BadSnapshot(f"metric {name} of version {manifest.version} is {metric}: leave out what has no value")
    if not all(0 <= score <= 1 for golden in manifest.golden for score in golden.scores):
        raise BadSnapshot(f"version {manifest.version}: a golden score isn't a probability")
    if manifest.parent >= manifest.version:
        raise BadSnapshot(f"parent {manifest.parent} isn't older than version {manifest.version}")
    for name, part in manifest.parts.items():
        if not part.base:
            raise BadSnapshot(f"part {name} of version {manifest.version} has no base")
    if manifest.deep_version > manifest.version:
        raise BadSnapshot(f"version {manifest.version} has the deep part of version {manifest.deep_version}")
    return manifest


def named_blobs(manifest: Manifest) -> Iterator[str]:
    """Every blob that a manifest names."""
    for part in manifest.parts.values():
        for digests in part.payloads():
            yield from digests
