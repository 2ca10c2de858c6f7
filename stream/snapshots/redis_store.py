"""Snapshots in Redis.

    {PREFIXthalweg:MODEL}:blob:<blake2b>      immutable, at most BLOB_BYTES_MAX
    {PREFIXthalweg:MODEL}:manifest:<version>  a Manifest
    {PREFIXthalweg:MODEL}:head                hash: version and fencing token, moved by compare-and-set
    {PREFIXthalweg:MODEL}:token               the greatest fencing token that was issued
    {PREFIXthalweg:MODEL}:versions            sorted set: the versions in the store
    {PREFIXthalweg:MODEL}:blobs               sorted set: blobs, by the newest version that names them or that they
                                              were put for
    {PREFIXthalweg:MODEL}:decision            hash: version that a person wants served (0: the head's), and its number
    {PREFIXthalweg:MODEL}:pinned              set: the pinned version's blobs, which RETAIN must not drop
    {PREFIXthalweg:MODEL}:notices             pub/sub; only wakes rankers early: polling the head is the truth

Versions only rise and the newest are retained, so a blob whose newest version is older than the oldest retained
one is unreferenced: no reference counts, and nothing to repair after a kill.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.runtime.errors import BadSnapshot, SettingsError
from stream.runtime.settings import Settings
from stream.snapshots.manifest import (
    MANIFEST_BYTES_MAX,
    UNDECIDED,
    Decision,
    Head,
    Manifest,
    check_decision,
    check_move,
    checked_manifest,
    conflicting_version,
    encode_manifest,
    encoded_as,
    missing_version,
    named_blobs,
)
from stream.snapshots.payload import BLOB_BYTES_MAX, digest_of
from stream.snapshots.redis_client import REDIS_FAILURES, connect, key_prefix, memory_of, translated
from stream.snapshots.redis_scripts import DIGITS, PIN, PUBLISH, PUT, RETAIN, TAKE
from stream.snapshots.store import StoreMemory, damaged_blob, missing_blob

NOTICE_PING_S: Final = 15  # a subscription that is silent for this long pings the server
WAIT_SLICE_S: Final = 0.25  # `close` waits this long for `wait` at most
PIPELINE: Final = 4  # blobs in flight at a time
RETAIN_KEYS: Final = 1_000  # keys that one script drops: other clients wait for it


class RedisStore:
    """A SnapshotStore of one model in Redis. Raises SettingsError when none is configured."""

    def __init__(self, settings: Settings, model: str) -> None:
        if not model or set(model) & set("{}:"):
            raise SettingsError(f"{model!r} can't name a model in Redis: use letters, digits, '.', '_' and '-'")
        self.model = model
        self.prefix = key_prefix(settings, model)
        self._client = connect(settings)
        # Without a retry: `wait` must end in time, and is called again.
        self._listener = connect(settings, retry=Retry(NoBackoff(), 0), health_check_interval=NOTICE_PING_S)
        self._notices: redis.client.PubSub | None = None
        self._listening = threading.Lock()
        self._closed = threading.Event()

    def take_token(self, at_least: int = 0) -> int:
        """See SnapshotStore."""
        return int(self._run(TAKE, at_least))

    def put_blobs(self, blobs: Mapping[str, bytes], *, renew: bool = False) -> None:
        """See SnapshotStore."""
        for digest, blob in blobs.items():
            assert len(blob) <= BLOB_BYTES_MAX, f"blob {digest} has {len(blob)} bytes"
            assert digest_of(blob) == digest, f"blob {digest} has another digest"
        missing = [digest.decode() for digest in self._run(PUT, *blobs)] if blobs else []
        written = list(blobs) if renew else missing
        for i in range(0, len(written), PIPELINE):
            with translated(self._client), self._client.pipeline(transaction=False) as pipeline:
                for digest in written[i : i + PIPELINE]:
                    pipeline.set(self._key("blob", digest), blobs[digest])
                pipeline.execute()

    def get_blob(self, digest: str) -> bytes:
        """See SnapshotStore."""
        blob = self._read("blob", digest, BLOB_BYTES_MAX)
        if digest_of(blob) != digest:
            if not blob:
                raise missing_blob(digest, self.model)
            raise damaged_blob(digest, self.model)
        return blob

    def publish(self, manifest: Manifest) -> None:
        """See SnapshotStore."""
        assert manifest.model == self.model, f"a manifest of {manifest.model} in the store of {self.model}"
        raw = encode_manifest(manifest)
        named = sorted(set(named_blobs(manifest)))
        reply = self._run(PUBLISH, manifest.version, manifest.parent, manifest.token, raw, *named)
        done, missing, version, token, taken, latest = reply
        if done:
            return
        if missing:
            raise missing_blob(missing.decode(), self.model)
        head = Head(int(version), int(token or 0)) if version else None
        check_move(manifest, head, int(taken or 0), [int(latest)] if latest else [])
        raise AssertionError(f"the script rejected version {manifest.version} without a reason: {reply}")

    def head(self) -> Head | None:
        """See SnapshotStore."""
        with translated(self._client):
            version, token = self._client.hmget(self._key("head"), "version", "token")
        if version is None and token is None:
            return None
        try:
            return Head(_count(version), _count(token))
        except ValueError:
            raise BadSnapshot(
                f"the head of {self.model} is garbled: its learner's next version replaces it; without a learner "
                f"delete the key {self._key('head')}"
            ) from None

    def manifest(self, version: int) -> Manifest:
        """See SnapshotStore."""
        raw = self._read("manifest", str(version), MANIFEST_BYTES_MAX)
        if not raw:
            raise missing_version(version, self.model)
        return checked_manifest(raw, self.model, version)

    def versions(self) -> list[int]:
        """See SnapshotStore."""
        with translated(self._client):
            versions = self._client.zrange(self._key("versions"), 0, -1)
        try:
            return [_count(version) for version in versions]
        except ValueError as error:
            raise BadSnapshot(f"{self._key('versions')} contains what no learner wrote ({error}): remove it") from None

    def retain(self, count: int) -> int:
        """See SnapshotStore."""
        assert count >= 1, "the head must stay"
        dropped = 0
        while True:
            manifests, blobs, gone = self._run(RETAIN, count, RETAIN_KEYS)
            dropped += int(gone)
            if manifests < RETAIN_KEYS and blobs < RETAIN_KEYS:
                return dropped

    def decision(self) -> Decision:
        """See SnapshotStore."""
        with translated(self._client):
            version, number = self._client.hmget(self._key("decision"), "version", "number")
        if version is None and number is None:
            return UNDECIDED
        try:
            return Decision(int(version or ""), int(number or ""))
        except ValueError:
            raise BadSnapshot(f"what is pinned of {self.model} is garbled: pin or unpin again") from None

    def pin(self, version: int) -> None:
        """See SnapshotStore."""
        self._decide(Decision(version), b"", self.manifest(version) if version else None)

    def restore_decision(self, decision: Decision, manifest: Manifest | None) -> None:
        """See SnapshotStore."""
        check_decision(decision, manifest)
        stored = self._read("manifest", str(decision.version), MANIFEST_BYTES_MAX) if manifest else b""
        self._decide(decision, encoded_as(stored, manifest) if manifest else b"", manifest)

    def _decide(self, decision: Decision, raw: bytes, manifest: Manifest | None) -> None:
        named = sorted(set(named_blobs(manifest))) if manifest else []
        wrong = self._run(PIN, decision.version, decision.number, raw, *named)
        if wrong == b"manifest":
            raise missing_version(decision.version, self.model)
        if wrong == b"other":
            raise conflicting_version(decision.version, self.model)
        if wrong:
            raise missing_blob(wrong.decode(), self.model)

    def memory(self) -> StoreMemory:
        """See SnapshotStore. Without `maxmemory` the limit is the memory of Redis's machine."""
        found = memory_of(self._client, self.prefix)
        return StoreMemory(found.used, found.most or found.machine)

    def report(self, what: str) -> None:
        """See SnapshotStore."""
        with translated(self._client):
            self._client.publish(self._key("notices"), what)

    def wait(self, timeout_s: float) -> None:
        """See SnapshotStore."""
        until_s = time.monotonic() + timeout_s
        try:
            with self._listening:
                while not self._closed.is_set() and (left_s := until_s - time.monotonic()) > 0:
                    if self._received_notice(min(left_s, WAIT_SLICE_S)):
                        return
        except REDIS_FAILURES:  # the caller polls the head next, which raises
            self._notices = None
            self._closed.wait(max(0.0, until_s - time.monotonic()))

    def close(self) -> None:
        """See SnapshotStore."""
        self._closed.set()
        with self._listening:
            if self._notices:
                self._notices.close()
            self._notices = None
        self._listener.close()
        self._client.close()

    def _received_notice(self, timeout_s: float) -> bool:
        """Whether a notice came. All that are pending are consumed."""
        if self._notices is None:
            listener: Any = self._listener  # its `pubsub` is untyped
            notices = listener.pubsub(ignore_subscribe_messages=True)
            notices.subscribe(self._key("notices"))
            self._notices = notices
        if self._notices.get_message(timeout=timeout_s) is None:
            return False
        while self._notices.get_message() is not None:
            pass
        return True

    def _key(self, *names: str) -> str:
        return ":".join((self.prefix, *names))

    def _read(self, kind: str, name: str, bytes_max: int) -> bytes:
        """A value, truncated at its limit (then its digest is wrong); empty when there is none."""
        with translated(self._client):
            return _bytes(self._client.getrange(self._key(kind, name), 0, bytes_max - 1))

    def _run(self, script: str, *args: str | bytes | int) -> Any:
        with translated(self._client):
            return self._client.register_script(script)(keys=[self.prefix], args=args)


def _count(value: object) -> int:
    """Parse like `count` in the scripts. Raises ValueError."""
    text = b"" if value is None else _bytes(value)
    if len(text) > DIGITS or not text.isdigit():
        raise ValueError(f"not a count: {text[:DIGITS]!r}")
    return int(text)


def _bytes(value: object) -> bytes:
    """Narrow redis-py's types, which allow for clients that decode values."""
    assert isinstance(value, bytes), f"{type(value)}: this client must not decode"
    return value
