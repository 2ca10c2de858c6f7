"""Snapshots in memory: for tests, backtests and simulations in one process."""

import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from typing import Final

from stream.runtime.errors import StoreUnavailable
from stream.snapshots.manifest import (
    UNDECIDED,
    Decision,
    Head,
    Manifest,
    check_decision,
    check_move,
    checked_manifest,
    conflicting_version,
    decode_manifest,
    encode_manifest,
    encoded_as,
    missing_version,
    named_blobs,
)
from stream.snapshots.payload import BLOB_BYTES_MAX, digest_of
from stream.snapshots.store import StoreMemory, damaged_blob, missing_blob

LIMIT: Final = 1 << 30  # bytes that it says it may use; nothing enforces it
STATE: Final = ("_head", "_token", "_blobs", "_newest", "_manifests", "_decision")


def now_us() -> int:
    """Wall clock, µs."""
    return time.time_ns() // 1_000


class MemoryStore:
    """A SnapshotStore of one model. While `answers` is False it behaves like a server that is down.

    `now_us`: the clock behind decisions' numbers and tokens, µs.
    """

    def __init__(self, model: str, now_us: Callable[[], int] = now_us) -> None:
        self.model = model
        self._now_us = now_us
        self.answers = True
        self.reports: list[str] = []
        self._lock = threading.Lock()
        self._notice = threading.Condition(self._lock)
        self._notices = 0
        self._received = 0
        self._closed = False
        self.wipe()

    def wipe(self) -> None:
        """Lose everything, as Redis does when it restarts without persistence."""
        with self._lock:
            self._head: Head | None = None
            self._token = 0
            self._blobs: dict[str, bytes] = {}
            self._newest: dict[str, int] = {}  # the newest version that names a blob, or that it was put for
            self._manifests: dict[int, bytes] = {}
            self._decision = UNDECIDED

    def replica(self) -> dict[str, object]:
        """A copy of the state, as a replica that falls behind from here on."""
        with self._lock:
            return {name: copy(getattr(self, name)) for name in STATE}

    def fail_over(self, replica: Mapping[str, object]) -> None:
        """Replace the state by a replica's."""
        with self._lock:
            for name in STATE:
                setattr(self, name, copy(replica[name]))

    def take_token(self, at_least: int = 0) -> int:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            known = max(self._token, self._head.token if self._head else 0, at_least)
            self._token = max(known + 1, self._now_us() // 1_000)
            return self._token

    def put_blobs(self, blobs: Mapping[str, bytes], *, renew: bool = False) -> None:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            for digest, blob in blobs.items():
                assert len(blob) <= BLOB_BYTES_MAX, f"blob {digest} has {len(blob)} bytes"
                assert digest_of(blob) == digest, f"blob {digest} has another digest"
                if renew or digest not in self._blobs:
                    self._blobs[digest] = bytes(blob)
                self._newest[digest] = max(self._manifests, default=0) + 1

    def get_blob(self, digest: str) -> bytes:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            blob = self._blobs.get(digest)
        if blob is None:
            raise missing_blob(digest, self.model)
        if digest_of(blob) != digest:
            raise damaged_blob(digest, self.model)
        return blob

    def publish(self, manifest: Manifest) -> None:
        """See SnapshotStore."""
        assert manifest.model == self.model, f"a manifest of {manifest.model} in the store of {self.model}"
        raw = encode_manifest(manifest)
        with self._lock:
            self._check_answers()
            if self._head == Head(manifest.version, manifest.token) and self._manifests[manifest.version] == raw:
                return
            check_move(manifest, self._head, self._token, self._manifests)
            named = self._check_complete(manifest)
            self._newest.update(dict.fromkeys(named, manifest.version))
            self._manifests[manifest.version] = raw
            self._head = Head(manifest.version, manifest.token)
            self._notify()

    def head(self) -> Head | None:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            return self._head

    def manifest(self, version: int) -> Manifest:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            raw = self._manifests.get(version)
        if raw is None:
            raise missing_version(version, self.model)
        return checked_manifest(raw, self.model, version)

    def versions(self) -> list[int]:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            return sorted(self._manifests)

    def retain(self, count: int) -> int:
        """See SnapshotStore."""
        assert count >= 1, "the head must stay"
        with self._lock:
            self._check_answers()
            kept = sorted(self._manifests)[-count:]
            if not kept:
                return 0
            oldest = min(kept[0], self._head.version) if self._head else kept[0]
            pinned = self._decision.version
            self._manifests = {v: raw for v, raw in self._manifests.items() if v >= oldest or v == pinned}
            pinned_blobs = set(named_blobs(decode_manifest(self._manifests[pinned]))) if pinned else set()
            old = [digest for digest, v in self._newest.items() if v < oldest and digest not in pinned_blobs]
            for digest in old:
                del self._newest[digest], self._blobs[digest]
            return len(old)

    def decision(self) -> Decision:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            return self._decision

    def pin(self, version: int) -> None:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            if version:
                if version not in self._manifests:
                    raise missing_version(version, self.model)
                self._check_complete(decode_manifest(self._manifests[version]))
            self._decision = Decision(version, max(self._decision.number + 1, self._now_us()))
            self._notify()

    def restore_decision(self, decision: Decision, manifest: Manifest | None) -> None:
        """See SnapshotStore."""
        check_decision(decision, manifest)
        with self._lock:
            self._check_answers()
            if self._decision.number >= decision.number:
                return
            if manifest:
                stored = self._manifests.get(manifest.version, b"")
                raw = encoded_as(stored, manifest)
                if stored and stored != raw:
                    raise conflicting_version(manifest.version, self.model)
                for digest in self._check_complete(manifest):
                    self._newest[digest] = max(self._newest[digest], manifest.version)
                self._manifests[manifest.version] = raw
            self._decision = decision
            self._notify()

    def memory(self) -> StoreMemory:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            return StoreMemory(sum(map(len, self._blobs.values())), LIMIT)

    def report(self, what: str) -> None:
        """See SnapshotStore."""
        with self._lock:
            self._check_answers()
            self.reports.append(what)
            self._notify()

    def wait(self, timeout_s: float) -> None:
        """See SnapshotStore."""
        until_s = time.monotonic() + timeout_s
        with self._notice:
            while self._received == self._notices and not self._closed:
                if not self._notice.wait(until_s - time.monotonic()):
                    return
            self._received = self._notices

    def close(self) -> None:
        """See SnapshotStore."""
        with self._notice:
            self._closed = True
            self._notice.notify_all()

    def _check_complete(self, manifest: Manifest) -> set[str]:
        """The blobs that it names. Raises BadSnapshot when one is missing."""
        named = set(named_blobs(manifest))
        if missing := named - self._blobs.keys():
            raise missing_blob(min(missing), self.model)
        return named

    def _notify(self) -> None:
        self._notices += 1
        self._notice.notify_all()

    def _check_answers(self) -> None:
        if not self.answers:
            raise StoreUnavailable(f"the memory store of {self.model} doesn't answer")
