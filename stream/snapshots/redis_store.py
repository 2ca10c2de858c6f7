"""Snapshots in Redis.

    {PREFIXthalweg:MODEL}:blob:<blake2b>      immutable, at most BLOB_BYTES_MAX
    {PREFIXthalweg:MODEL}:manifest:<version>  a Manifest
    {PREFIXthalweg:MODEL}:head                hash: version and fencing token, moved by compare-and-set
    {PREFIXthalweg:MODEL}:token               the greatest fencing token that was handed out
    {PREFIXthalweg:MODEL}:versions            sorted set: the versions that are kept
    {PREFIXthalweg:MODEL}:blobs               sorted set: blobs, by the newest version that names them or that they
                                              were put for
    {PREFIXthalweg:MODEL}:decision            hash: version that a person wants served (0: the head's), and its number
    {PREFIXthalweg:MODEL}:pinned              set: the pinned version's blobs, which stay though no kept one names them
    {PREFIXthalweg:MODEL}:notices             pub/sub; only wakes rankers early: polling the head is the truth

Versions only rise and the newest are kept, so a blob whose newest version is older than the oldest kept
one is named by none: no counting of references, and nothing to repair after a kill.
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
from stream.snapshots.contents import BLOB_BYTES_MAX, digest_of
from stream.snapshots.manifest import (
    MANIFEST_BYTES_MAX,
    UNDECIDED,
    Decision,
    Head,
    Manifest,
    check_decision,
    check_move,
    encode_manifest,
    missing_version,
    named_blobs,
    named_manifest,
    other_version,
)
from stream.snapshots.redis_client import connect, translated
from stream.snapshots.store import damaged_blob, missing_blob

QUIET_S: Final = 15  # a subscription that hears nothing for so long asks whether the server is there
SLICE_S: Final = 0.25  # how long `close` may have to wait for `wait`
PIPELINE: Final = 4  # blobs on their way at a time
SWEEP: Final = 1_000  # keys dropped by one script: others wait for it
DIGITS: Final = 15  # of a version or a token: exact in Lua, too

# A head or a token that somebody garbled counts as lost: what is published next takes its place.
COUNT: Final = f"""
local function count(text)
  return text and #text <= {DIGITS} and string.find(text, '^%d+$') and tonumber(text) or nil
end
"""
# Each script gets KEYS[1], the model's prefix; all keys share its hash tag, so all lie in one slot.
TAKE: Final = f"""{COUNT}
local head, taken = redis.call('HGET', KEYS[1] .. ':head', 'token'), redis.call('GET', KEYS[1] .. ':token')
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local token = math.max(now_ms, (count(head) or 0) + 1, (count(taken) or 0) + 1, tonumber(ARGV[1]) + 1)
redis.call('SET', KEYS[1] .. ':token', string.format('%.0f', token))
return token
"""
# ARGV: digests. Returns those that are missing. All are entered first: what is entered is swept one day.
ENTER: Final = """
local newest = redis.call('ZREVRANGE', KEYS[1] .. ':versions', 0, 0)
local version = string.format('%.0f', tonumber(newest[1] or 0) + 1)
local missing = {}
for _, digest in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1] .. ':blobs', version, digest)
  if redis.call('EXISTS', KEYS[1] .. ':blob:' .. digest) == 0 then missing[#missing + 1] = digest end
end
return missing
"""
# ARGV: version, parent, token, manifest, digests. Returns 1 when the head is at the manifest now, the first missing
# blob, then what head, tokens and the latest version were, each '' for none. The head moves last.
PUBLISH: Final = (
    COUNT
    + """
local version, parent, token, manifest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local head = redis.call('HMGET', KEYS[1] .. ':head', 'version', 'token')
local taken = redis.call('GET', KEYS[1] .. ':token')
local latest = redis.call('ZREVRANGE', KEYS[1] .. ':versions', 0, 0)[1]
if not (count(head[1]) and count(head[2])) then head = {} end
taken = count(taken) and taken
local was = {head[1] or '', head[2] or '', taken or '', latest or ''}
if head[1] == version and head[2] == token and redis.call('GET', KEYS[1] .. ':manifest:' .. version) == manifest then
  return {1, '', unpack(was)}
end
local newest = math.max(tonumber(taken or 0), tonumber(head[2] or 0))
if newest > tonumber(token) or (head[1] and head[1] ~= parent) or tonumber(latest or 0) >= tonumber(version) then
  return {0, '', unpack(was)}
end
for i = 5, #ARGV do
  if redis.call('EXISTS', KEYS[1] .. ':blob:' .. ARGV[i]) == 0 then return {0, ARGV[i], unpack(was)} end
end
for i = 5, #ARGV do redis.call('ZADD', KEYS[1] .. ':blobs', version, ARGV[i]) end
redis.call('SET', KEYS[1] .. ':manifest:' .. version, manifest)
redis.call('ZADD', KEYS[1] .. ':versions', version, version)
redis.call('SET', KEYS[1] .. ':token', token)
redis.call('HSET', KEYS[1] .. ':head', 'version', version, 'token', token)
redis.pcall('PUBLISH', KEYS[1] .. ':notices', version)
return {1, '', unpack(was)}
"""
)
# ARGV: versions to keep, keys to look at at most. Returns how many of manifests and blobs were looked at, and how
# many blobs were dropped. A pinned version's blobs leave the index, and come back into it when they are let go.
RETAIN: Final = """
local pin = redis.call('HGET', KEYS[1] .. ':decision', 'version')
local at = math.max(redis.call('ZCARD', KEYS[1] .. ':versions') - tonumber(ARGV[1]), 0)
local oldest = redis.call('ZRANGE', KEYS[1] .. ':versions', at, at)[1]
if not oldest then return {0, 0, 0} end
local head = redis.call('HGET', KEYS[1] .. ':head', 'version')
if head and (tonumber(head) or 0) < tonumber(oldest) then oldest = tonumber(head) or 0 end
local function old(index)
  return redis.call('ZRANGEBYSCORE', KEYS[1] .. index, '-inf', '(' .. oldest, 'LIMIT', 0, ARGV[2])
end
local versions, blobs, dropped = old(':versions'), old(':blobs'), 0
for _, version in ipairs(versions) do
  if version ~= pin then
    redis.call('UNLINK', KEYS[1] .. ':manifest:' .. version)
    redis.call('ZREM', KEYS[1] .. ':versions', version)
  end
end
for _, digest in ipairs(blobs) do
  if redis.call('SISMEMBER', KEYS[1] .. ':pinned', digest) == 0 then
    dropped = dropped + redis.call('UNLINK', KEYS[1] .. ':blob:' .. digest)
  end
  redis.call('ZREM', KEYS[1] .. ':blobs', digest)
end
return {#versions, #blobs, dropped}
"""
# ARGV: version, number and manifest (both to put back what was lost; else 0 and ''), digests. Returns what is wrong, if
# anything: 'manifest' when it's missing, 'other' when it's another's, or the first blob that is missing.
PIN: Final = """
local version, number, manifest = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local was = redis.call('HMGET', KEYS[1] .. ':decision', 'version', 'number')
local latest = tonumber(was[2] or 0) or 0
if number == 0 then
  local now = redis.call('TIME')
  number = math.max(latest + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
elseif number <= latest then
  return ''
end
if version ~= '0' then
  local kept = redis.call('GET', KEYS[1] .. ':manifest:' .. version)
  if not kept and manifest == '' then return 'manifest' end
  if kept and manifest ~= '' and kept ~= manifest then return 'other' end
end
for i = 4, #ARGV do
  if redis.call('EXISTS', KEYS[1] .. ':blob:' .. ARGV[i]) == 0 then return ARGV[i] end
end
local before = tonumber(was[1] or 0) or 0
for _, digest in ipairs(redis.call('SMEMBERS', KEYS[1] .. ':pinned')) do
  local newest = redis.call('ZSCORE', KEYS[1] .. ':blobs', digest)
  if not newest or tonumber(newest) < before then redis.call('ZADD', KEYS[1] .. ':blobs', before, digest) end
end
redis.call('DEL', KEYS[1] .. ':pinned')
for i = 4, #ARGV do redis.call('SADD', KEYS[1] .. ':pinned', ARGV[i]) end
if manifest ~= '' then
  redis.call('SET', KEYS[1] .. ':manifest:' .. version, manifest)
  redis.call('ZADD', KEYS[1] .. ':versions', version, version)
end
redis.call('HSET', KEYS[1] .. ':decision', 'version', version, 'number', string.format('%.0f', number))
redis.pcall('PUBLISH', KEYS[1] .. ':notices', version)
return ''
"""


class RedisStore:
    """A SnapshotStore of one model in Redis. Raises SettingsError when none is known."""

    def __init__(self, settings: Settings, model: str) -> None:
        if not model or set(model) & set("{}:"):
            raise SettingsError(f"{model!r} can't name a model in Redis: use letters, digits, '.', '_' and '-'")
        self.model = model
        self.prefix = "{" + settings.topic_prefix + "thalweg:" + model + "}"
        self._client = connect(settings)
        # Without a retry: `wait` has to end in time, and comes again.
        self._listener = connect(settings, retry=Retry(NoBackoff(), 0), health_check_interval=QUIET_S)
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
        missing = [digest.decode() for digest in self._run(ENTER, *blobs)] if blobs else []
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
        raise AssertionError(f"the script refused version {manifest.version} without a reason: {reply}")

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
                f"the head of {self.model} is garbled: its learner's next version takes its place; without a learner "
                f"delete the key {self._key('head')}"
            ) from None

    def manifest(self, version: int) -> Manifest:
        """See SnapshotStore."""
        raw = self._read("manifest", str(version), MANIFEST_BYTES_MAX)
        if not raw:
            raise missing_version(version, self.model)
        return named_manifest(raw, self.model, version)

    def versions(self) -> list[int]:
        """See SnapshotStore."""
        with translated(self._client):
            versions = self._client.zrange(self._key("versions"), 0, -1)
        try:
            return [_count(version) for version in versions]
        except ValueError as bad:
            raise BadSnapshot(f"{self._key('versions')} holds what no learner wrote ({bad}): take it out") from None

    def retain(self, count: int) -> int:
        """See SnapshotStore."""
        assert count >= 1, "the head must stay"
        dropped = 0
        while True:
            manifests, blobs, gone = self._run(RETAIN, count, SWEEP)
            dropped += int(gone)
            if manifests < SWEEP and blobs < SWEEP:
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
            raise BadSnapshot(f"what is pinned of {self.model} is garbled: pin or unpin anew") from None

    def pin(self, version: int) -> None:
        """See SnapshotStore."""
        self._decide(Decision(version), b"", self.manifest(version) if version else None)

    def put_back(self, decision: Decision, manifest: Manifest | None) -> None:
        """See SnapshotStore."""
        check_decision(decision, manifest)
        self._decide(decision, encode_manifest(manifest) if manifest else b"", manifest)

    def _decide(self, decision: Decision, raw: bytes, manifest: Manifest | None) -> None:
        named = sorted(set(named_blobs(manifest))) if manifest else []
        wrong = self._run(PIN, decision.version, decision.number, raw, *named)
        if wrong == b"manifest":
            raise missing_version(decision.version, self.model)
        if wrong == b"other":
            raise other_version(decision.version, self.model)
        if wrong:
            raise missing_blob(wrong.decode(), self.model)

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
                    if self._hears(min(left_s, SLICE_S)):
                        return
        except (redis.RedisError, OSError):  # nothing to report: whoever waits asks for the head next, and is told
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

    def _hears(self, timeout_s: float) -> bool:
        """Whether a notice came. Those that came with it are taken in too."""
        if self._notices is None:
            notices = redis.client.PubSub(self._listener.connection_pool, ignore_subscribe_messages=True)
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
        """A value, cut off at its limit (then its digest is wrong); empty when there's none."""
        with translated(self._client):
            return _bytes(self._client.getrange(self._key(kind, name), 0, bytes_max - 1))

    def _run(self, script: str, *args: str | bytes | int) -> Any:
        with translated(self._client):
            return self._client.register_script(script)(keys=[self.prefix], args=args)


def _count(value: object) -> int:
    """As `count` in the scripts. Raises ValueError."""
    text = b"" if value is None else _bytes(value)
    if len(text) > DIGITS or not text.isdigit():
        raise ValueError(f"no count: {text[:DIGITS]!r}")
    return int(text)


def _bytes(value: object) -> bytes:
    """A value as it lies in Redis; redis-py's types allow for clients that decode it."""
    assert isinstance(value, bytes), f"{type(value)}: this client must not decode"
    return value
