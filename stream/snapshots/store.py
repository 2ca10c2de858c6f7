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

from collections.abc import Iterable, Mapping
from typing import Protocol

from stream.runtime.errors import BadSnapshot
from stream.snapshots.contents import Array, unpack
from stream.snapshots.manifest import Decision, Head, Manifest


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


def fetch(store: VersionReader, digests: Iterable[str]) -> dict[str, Array]:
    """One content from its blobs. Raises BadSnapshot, StoreUnavailable."""
    return unpack(b"".join(store.get_blob(d) for d in digests))
