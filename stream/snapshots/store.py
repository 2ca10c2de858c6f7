"""Snapshots: content-addressed blobs, one manifest a version, one head. The protocol of both stores.

A *payload* is a dict of arrays, packed as msgpack and split into blobs; it's named by the list of their digests.
A large one is cut into segments (`payload.py`).
A *manifest* names all payloads of one version, and the *head* says which version is live. The stores:
`MemoryStore` (`memory_store.py`), `RedisStore` (`redis_store.py`, which lists the keys).
The payloads of each part:

    wide        keys uint64 [K], weights float32 [K]                      weight 0: a tombstone
    statistics  rows uint64 [K, 4]                                        `statistics.py`'s rows
    deep        keys uint64 [R], vectors float32 [R, dim]                 embedding rows; key 0: the row of unseen ids
                dead uint64 [D]                                           keys whose rows were evicted (deltas only)
                weight_i float32 [in, out], bias_i float32 [out]          layers in order; the last has out = 1
                boundaries float32 [D, quantiles − 1]                     of the numbers; [0, 0] before the first freeze
    items       names uint8 [bytes], ends int64 [n]                       of items shown lately: `shown_items.py`

A version's part is its base, then the merged delta, then the small ones, in order; a later row replaces
an earlier one. Every deep payload has all dense arrays: they are few and all change.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import Decision, Head, Manifest
from stream.snapshots.payload import Array, by_segment, joined, unpack


class StoreMemory(NamedTuple):
    """Memory that a store's server uses, and may use at most, bytes."""

    used: int
    limit: int


class VersionReader(Protocol):
    """A source of whole versions: a store, or a folder with one version (`version_files.py`)."""

    def get_blob(self, digest: str) -> bytes:
        """A blob, checked against its digest. Raises BadSnapshot when it's missing or doesn't match."""
        ...

    def manifest(self, version: int) -> Manifest:
        """One version. Raises BadSnapshot when it isn't there or can't be decoded."""
        ...


class SnapshotStore(VersionReader, Protocol):
    """The snapshots of one model. Thread-safe.

    Every method but `wait` and `close` raises StoreUnavailable when the store doesn't answer. A `publish` that failed
    so may have succeeded: read the head; publishing the same manifest again is safe.
    """

    def take_token(self, at_least: int = 0) -> int:
        """A fencing token greater than any before and than `at_least`; at least the store's clock in ms.

        Owners of older tokens can't move the head from now on. A wiped store has lost its tokens but not its clock;
        clocks may go back, so pass the greatest token that the checkpoint knows.
        """
        ...

    def put_blobs(self, blobs: Mapping[str, bytes], *, renew: bool = False) -> None:
        """Store blobs under their digests; existing ones are skipped.

        With `renew` they are overwritten: their bytes may have been damaged since.
        All are retained as if the next version named them, published or not.
        """
        ...

    def publish(self, manifest: Manifest) -> None:
        """Store the manifest and move the head to it, atomically; idempotent while it's the head.

        Raises Fenced when a greater token was taken, BadSnapshot when the head isn't `parent`, is at
        this version or a newer one, or a blob it names is missing (then publish a full base).
        Without a head (wiped store) any parent is accepted, but the version must be above those in the store.
        """
        ...

    def head(self) -> Head | None:
        """Which version is live; None before the first (or after a wipe)."""
        ...

    def versions(self) -> list[int]:
        """All versions in the store, rising. The last is the head's, or a pinned one that was restored after a loss."""
        ...

    def decision(self) -> Decision:
        """The latest decision that this store knows; UNDECIDED when it was wiped.

        The store may be an older copy: readers keep to the decision of the greatest number that they saw.
        """
        ...

    def pin(self, version: int) -> None:
        """Decide that `version` is served from now on, or with 0 the head's; it overrides all decisions before.

        Raises BadSnapshot when the version isn't complete.
        """
        ...

    def restore_decision(self, decision: Decision, manifest: Manifest | None) -> None:
        """Restore a decision that the store has lost, and its version's manifest (None for 0); put its blobs first.

        Ignored when the store knows it or a later one. The head doesn't move. Raises BadSnapshot when a blob is
        missing, or when the store has another version of this number.
        """
        ...

    def retain(self, count: int) -> int:
        """Keep the newest `count` (≥ 1) versions, the head's and the pinned one; drop all others.

        Blobs put for a version that was never published are dropped with the versions of their time. Returns blobs
        dropped.
        """
        ...

    def memory(self) -> StoreMemory:
        """The memory of the store's server: of all that it has, not of this model alone."""
        ...

    def report(self, what: str) -> None:
        """Notify subscribers that a version can't be served, and why."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return on the next notice, or after `timeout_s`. Notices may be lost: poll the head too.

        One thread at a time. A store that doesn't answer counts as silent.
        """
        ...

    def close(self) -> None:
        """Close connections and end a `wait`; safe to call twice."""
        ...


def missing_blob(digest: str, model: str) -> BadSnapshot:
    """The error for a blob that a store doesn't have."""
    return BadSnapshot(
        f"blob {digest} of {model} is missing. If the head names it, restart the learner: it begins with a full base"
    )


def damaged_blob(digest: str, model: str) -> BadSnapshot:
    """The error for a blob whose bytes don't match its digest."""
    return BadSnapshot(
        f"blob {digest} of {model} has other bytes. If the head names it, restart the learner: "
        "it begins with a full base, which replaces them"
    )


def fetch(store: VersionReader, digests: Sequence[str]) -> dict[str, Array]:
    """One payload from its blobs. Raises BadSnapshot, StoreUnavailable."""
    return joined(unpack(b"".join(map(store.get_blob, some))) for some in by_segment(digests))
