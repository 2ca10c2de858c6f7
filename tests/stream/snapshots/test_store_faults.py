"""Stores that are down, hang, are full or locked, or hold what nobody should have put there."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from stream.runtime.errors import BadSnapshot, Fenced, SettingsError, SnapshotError, StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.manifest import Decision, Head
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import BLOB_BYTES_MAX, digest_of, digests_of, split
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from tests.support.small_versions import AHEAD, publish, raw_of, values, version_of
from thalweg.stack.server import LOOPBACK, Server, end_process, free_port, redis_answers, spawn
from thalweg.stack.stack import Stack


def test_memory_store_that_is_down() -> None:
    """A memory store that doesn't answer says so from every method, as Redis does."""
    store = MemoryStore("m")
    check_down(store, lambda: setattr(store, "answers", False), lambda: setattr(store, "answers", True))


def check_down(store: SnapshotStore, down: Callable[[], None], up: Callable[[], None]) -> None:
    """Whatever is asked of a store that is down ends in StoreUnavailable; when it's back, it works again."""
    token = store.take_token()
    publish(store, 1, 0, token)
    store.wait(0.01)
    blobs = split(raw_of(1))
    manifest = version_of(2, 1, token, digests_of(raw_of(1)))
    down()
    calls: list[Callable[[], object]] = [
        store.take_token,
        lambda: store.put_blobs(blobs),
        lambda: store.get_blob(next(iter(blobs))),
        lambda: store.publish(manifest),
        store.head,
        lambda: store.manifest(1),
        store.versions,
        lambda: store.retain(1),
        store.decision,
        lambda: store.pin(0),
        lambda: store.restore_decision(Decision(2, 1), manifest),
        lambda: store.report("anything"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as told:
            call()
        assert "\n" not in str(told.value)
    for _ in range(2):
        before_s = time.monotonic()
        store.wait(0.1)
        assert time.monotonic() - before_s >= 0.1, "whoever waits would ask a dead server without a pause"
    up()
    store.put_blobs(blobs)
    store.publish(manifest)
    assert values(store, 2) == [1]
    store.wait(0.01)
    store.close()


@dataclass
class OwnRedis:
    """A Redis that a test may stop."""

    folder: Path
    port: int
    server: Server | None = None

    @property
    def settings(self) -> Settings:
        """Where it is."""
        return Settings(redis=f"redis://{LOOPBACK}:{self.port}/0")

    def up(self, *options: str) -> None:
        """Start it, empty, and wait until it answers."""
        command = ["redis-server", "--bind", LOOPBACK, "--port", str(self.port), "--save", "", *options]
        self.server = spawn("Redis", command, self.port, self.folder / "redis.log", self.folder / "data")
        give_up_s = time.monotonic() + 20
        while not redis_answers(LOOPBACK, self.port):
            assert time.monotonic() < give_up_s, (self.folder / "redis.log").read_text()
            time.sleep(0.01)

    def down(self) -> None:
        """Kill it."""
        if self.server:
            end_process(self.server, signal.SIGKILL, 10)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Redis for one test, not started yet."""
    own = OwnRedis(tmp_path, free_port())
    yield own
    own.down()


def test_redis_that_is_killed(own_redis: OwnRedis) -> None:
    """Redis killed and started again, empty: clear errors in between, and the same store goes on."""
    own_redis.up()
    store = RedisStore(own_redis.settings, "m")
    check_down(store, own_redis.down, own_redis.up)


def test_redis_that_hangs(own_redis: OwnRedis) -> None:
    """A server that takes connections but never answers is unavailable too, and nobody waits for long."""
    with socket.create_server((LOOPBACK, own_redis.port)):
        store = RedisStore(own_redis.settings, "m")
        with pytest.raises(StoreUnavailable, match=f"no Redis answers at {LOOPBACK}:{own_redis.port}/0"):
            store.head()
        store.wait(0.05)
        store.close()


def test_redis_that_wants_a_password(own_redis: OwnRedis) -> None:
    """A wrong login is told as such, without the password; the right one works, from settings or address."""
    own_redis.up("--requirepass", "sesame")
    plain = own_redis.settings
    with redis.Redis(port=own_redis.port, password="sesame") as client:
        # She may not even publish notices: they only wake early.
        client.execute_command("ACL SETUSER", "anna", "on", ">pepper", "~{thalweg:*", "resetchannels", "+@all")
    wrong = plain.model_copy(update={"redis_password": SecretStr("guess")})
    in_address = Settings(redis=f"redis://:guess@{LOOPBACK}:{own_redis.port}/0")
    for settings in (plain, wrong, in_address):
        with contextlib.closing(RedisStore(settings, "m")) as store:
            with pytest.raises(SnapshotError, match="THALWEG_REDIS_PASSWORD") as told:
                store.head()
            assert not isinstance(told.value, StoreUnavailable)
            assert "guess" not in str(told.value)
            store.wait(0.01)
    right = plain.model_copy(update={"redis_password": SecretStr("sesame")})
    anna = plain.model_copy(update={"redis_user": "anna", "redis_password": SecretStr("pepper")})
    for version, settings in enumerate((right, anna), 1):
        with contextlib.closing(RedisStore(settings, "m")) as store:
            publish(store, version, version - 1, store.take_token())
    other = RedisStore(anna.model_copy(update={"topic_prefix": "other."}), "m")
    with contextlib.closing(other), pytest.raises(SnapshotError, match="denies access"):
        other.take_token()


def test_redis_without_memory(own_redis: OwnRedis) -> None:
    """A full Redis takes no blob and keeps its head; what is old can still be dropped, and then it goes on."""
    own_redis.up("--maxmemory", "48mb", "--maxmemory-policy", "noeviction")
    with contextlib.closing(RedisStore(own_redis.settings, "m")) as store:
        token, version = store.take_token(), 0

        def publish_until_full() -> None:
            nonlocal version
            for version in range(1, 50):
                raw = bytes([version]) * 4_000_000
                store.put_blobs(split(raw))
                store.publish(version_of(version, version - 1, token, digests_of(raw)))

        with pytest.raises(StoreUnavailable, match="THALWEG_KEEP_VERSIONS"):
            publish_until_full()
        assert version > 2
        assert store.head() == Head(version - 1, token)
        assert store.memory().used > 0.8 * store.memory().limit
        store.retain(1)
        give_up_s = time.monotonic() + 20
        while True:  # memory is given back in the background
            with contextlib.suppress(StoreUnavailable):
                publish(store, version, version - 1, token)
                break
            assert time.monotonic() < give_up_s
        assert values(store, version) == [version]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(redis="localhost:6379"),
        Settings(redis="redis://:se/same@localhost:6379"),
        Settings(redis="redis://localhost:6379", redis_ca="/dev/null"),
        Settings(redis="rediss://localhost:6379", redis_ca="/nowhere.pem"),
        Settings(redis="rediss://localhost:6379", redis_cert="/nowhere.pem"),
        Settings(redis="rediss+cluster://localhost:6379", redis_key="/dev/null"),
        Settings(redis="redis+cluster://localhost:6379/1"),
        Settings(redis="redis+sentinel://localhost:26379"),
        Settings(redis="redis+sentinel://:se/same@localhost:26379/main"),
        Settings(redis="redis+other://localhost:6379"),
    ],
)
def test_settings_that_make_no_sense(settings: Settings) -> None:
    """An address or certificate that can't be right is told at the start, naming the variable, without the password."""
    with pytest.raises(SettingsError, match="THALWEG_REDIS") as told:
        RedisStore(settings, "m")
    assert "se/" not in str(told.value)


@pytest.mark.parametrize("model", ["", "a}b", "a:b"])
def test_names_that_break_keys(model: str) -> None:
    """A model's name can't end the hash tag or run into other keys."""
    with pytest.raises(SettingsError, match="can't name a model"):
        RedisStore(Settings(redis="redis://localhost:6379"), model)


@pytest.fixture
def keys(stack: Stack, topic_prefix: str) -> Iterator[tuple[RedisStore, redis.Redis]]:
    """A store with one version, and a client that does to its keys what nobody should."""
    store = RedisStore(Settings(redis=stack.redis, topic_prefix=topic_prefix), "m")
    publish(store, 1, 0, store.take_token())
    with contextlib.closing(store), redis.Redis.from_url(stack.redis) as client:
        yield store, client
        for key in client.scan_iter(f"{{{topic_prefix}*"):
            client.delete(key)


def test_keys(keys: tuple[RedisStore, redis.Redis], topic_prefix: str) -> None:
    """All keys of a model share one hash tag, with the prefix of the topics in it."""
    store, client = keys
    blob = digests_of(raw_of(1))[0]
    prefix = f"{{{topic_prefix}thalweg:m}}:"
    names = ["head", "token", "versions", "blobs", "manifest:1", f"blob:{blob}"]
    assert {*client.scan_iter(f"{{{topic_prefix}*")} == {(prefix + name).encode() for name in names}
    assert client.hgetall(store.prefix + ":head") == {b"version": b"1", b"token": client.get(prefix + "token")}


@pytest.mark.parametrize("wrong", [b"other", b""])
def test_blob_that_was_changed(keys: tuple[RedisStore, redis.Redis], wrong: bytes) -> None:
    """Bytes that aren't what their digest says are refused."""
    store, client = keys
    client.set(f"{store.prefix}:blob:{digests_of(raw_of(1))[0]}", wrong)
    with pytest.raises(BadSnapshot):
        values(store, 1)


def test_blob_over_its_limit(keys: tuple[RedisStore, redis.Redis]) -> None:
    """Bytes over the limit are refused even under their right digest: no more of them are read."""
    store, client = keys
    raw = bytes(BLOB_BYTES_MAX + 1)
    client.set(f"{store.prefix}:blob:{digest_of(raw)}", raw)
    with pytest.raises(BadSnapshot):
        store.get_blob(digest_of(raw))


def test_manifest_of_another_version(keys: tuple[RedisStore, redis.Redis]) -> None:
    """A manifest that lies under another version's key is refused."""
    store, client = keys
    client.copy(f"{store.prefix}:manifest:1", f"{store.prefix}:manifest:2")
    with pytest.raises(BadSnapshot, match="actually 1 of m"):
        store.manifest(2)


def test_decision_that_was_changed(keys: tuple[RedisStore, redis.Redis]) -> None:
    """A decision that holds no number is an error that says what to do; and what it says helps."""
    store, client = keys
    client.hset(store.prefix + ":decision", mapping={"version": "x", "number": "y"})
    with pytest.raises(BadSnapshot, match="pin or unpin again"):
        store.decision()
    store.retain(1)
    store.pin(1)
    assert store.decision().version == 1


def test_decisions_are_numbered_by_the_clock_of_redis(keys: tuple[RedisStore, redis.Redis]) -> None:
    """A decision is later than any that Redis has forgotten, as long as its clock doesn't go back; never less by it."""
    store, client = keys

    def now_us() -> int:
        seconds, us = client.time()
        return int(seconds) * 1_000_000 + int(us)

    before = now_us()
    store.pin(1)
    number = store.decision().number
    assert before <= number <= now_us()
    ahead = number + 3_600_000_000
    store.restore_decision(Decision(0, ahead), None)
    store.pin(1)
    assert store.decision() == Decision(1, ahead + 1)


def test_head_that_was_changed(keys: tuple[RedisStore, redis.Redis]) -> None:
    """A head that holds no number, or isn't what we wrote, is an error of ours that names the key's owner."""
    store, client = keys
    client.hset(store.prefix + ":head", "version", "new")
    with pytest.raises(BadSnapshot, match="head of m is garbled"):
        store.head()
    client.set(store.prefix + ":head", "text")
    with pytest.raises(SnapshotError, match="didn't write"):
        store.head()


@pytest.mark.parametrize("field", ["version", "token"])
@pytest.mark.parametrize("text", ["new", "", "-1", "2.5", "1e3", " 2", "9" * 30])
def test_garbled_head_is_published_over(keys: tuple[RedisStore, redis.Redis], field: str, text: str) -> None:
    """It counts as lost: a token can be taken, and the next version, whatever its parent, takes its place."""
    store, client = keys
    client.hset(store.prefix + ":head", field, text)
    with pytest.raises(BadSnapshot, match="its learner's next version replaces it"):
        store.head()
    token = store.take_token()
    with pytest.raises(Fenced):
        publish(store, 2, 0, token - 1)
    publish(store, 2, 0, token)
    assert store.head() == Head(2, token)


def test_garbled_token_is_taken_over(keys: tuple[RedisStore, redis.Redis]) -> None:
    """What was handed out is unknown then, but the head's token still fences off what is older."""
    store, client = keys
    publish(store, 2, 1, AHEAD + 5)
    client.set(store.prefix + ":token", "x")
    with pytest.raises(Fenced):
        publish(store, 3, 2, AHEAD + 4)
    publish(store, 3, 2, AHEAD + 5)
    client.set(store.prefix + ":token", "x")
    assert store.take_token() == AHEAD + 6


@pytest.mark.parametrize("lost", ["head", "token"])
def test_token_that_was_deleted(keys: tuple[RedisStore, redis.Redis], lost: str) -> None:
    """Head and counter each know the greatest token: one of them is enough to go on from it."""
    store, client = keys
    publish(store, 2, 1, AHEAD + 7)
    client.delete(f"{store.prefix}:{lost}")
    assert store.take_token() == AHEAD + 8


def test_head_that_was_deleted(keys: tuple[RedisStore, redis.Redis]) -> None:
    """With only the head gone, the next version follows nothing, but is newer than all that are kept."""
    store, client = keys
    token = store.take_token()
    for version in (2, 3, 4):
        publish(store, version, version - 1, token)
    client.delete(store.prefix + ":head")
    with pytest.raises(BadSnapshot, match="isn't newer than 4"):
        publish(store, 3, 0, token)
    publish(store, 5, 0, token)
    assert store.head() == Head(5, token)
    store.retain(1)
    assert values(store, 5) == [5]
