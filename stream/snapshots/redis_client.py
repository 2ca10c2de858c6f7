"""Clients of Redis. Errors of redis-py are translated here and nowhere else."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

import redis
from redis import cluster, exceptions, sentinel
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisClusterException
from redis.retry import Retry

from stream.runtime.errors import SettingsError, SnapshotError, StoreUnavailable
from stream.runtime.settings import Settings
from stream.runtime.tls import tls_context
from stream.snapshots.redis_address import SENTINEL, RedisAddress, has_several_servers, parse_address

CONNECT_S: Final = 1.0
SOCKET_S: Final = 2.0  # of one reply, or of sending one blob

REDIS_FAILURES: Final = (redis.RedisError, RedisClusterException, OSError)  # the second isn't one of the first
_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    OSError,
)


def connect(settings: Settings, **options: Any) -> redis.Redis:
    """A client with the configured login, TLS and timeouts; it connects on first use.

    Of a cluster it's a `LazyCluster`, which has the same commands. A broken connection is retried once, a timeout of a
    single server isn't. Raises SettingsError.
    """
    url = settings.need_redis()
    defaults = {
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": SOCKET_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        "protocol": 2,  # 3 isn't needed, and older servers don't know it
    }
    options = _login(settings) | _tls(settings, url) | defaults | options
    try:
        if not has_several_servers(url):
            return redis.Redis.from_url(url, **options)
        address = parse_address(url)
        if address.kind == SENTINEL:
            return _behind_sentinels(address, settings, options)
        return cast("redis.Redis", LazyCluster(address, options))
    except ValueError:  # its message may contain a part of the password
        raise SettingsError(
            "THALWEG_REDIS isn't redis://host:port/db, redis+cluster://host:port,host:port, or "
            "redis+sentinel://host:port,host:port/NAME/db; rediss in place of redis for TLS"
        ) from None


def _login(settings: Settings) -> dict[str, str]:
    known = {"username": settings.redis_user, "password": settings.redis_password.get_secret_value()}
    return {key: value for key, value in known.items() if value}


def _tls(settings: Settings, url: str) -> dict[str, str]:
    """Options of TLS. Raises SettingsError where a certificate can't be loaded, or has no use."""
    files = {
        "ssl_ca_certs": settings.redis_ca,
        "ssl_certfile": settings.redis_cert,
        "ssl_keyfile": settings.redis_key,
        "ssl_password": settings.redis_key_password.get_secret_value(),
    }
    found = {key: value for key, value in files.items() if value}
    if not found:
        return found
    if not url.startswith("rediss"):
        raise SettingsError(
            "THALWEG_REDIS_CA or _CERT is set, but THALWEG_REDIS isn't rediss://: without TLS it has no use"
        )
    tls_context("REDIS", *files.values())
    return found


def _behind_sentinels(address: RedisAddress, settings: Settings, options: dict[str, Any]) -> redis.Redis:
    """A client of the master. Each new connection asks the Sentinels, one after another, which server it is.

    A connection to a master that has become a replica is closed at the first write, and that is tried again.
    """
    ours = ("username", "password")
    asking = {key: value for key, value in options.items() if key not in ours}
    if password := settings.redis_sentinel_password.get_secret_value():
        asking["password"] = password
    asking |= {"ssl": address.options.get("ssl", False), "retry": Retry(NoBackoff(), 0)}
    asking.pop("health_check_interval", None)
    sentinels: Any = sentinel.Sentinel  # untyped
    client: redis.Redis = sentinels(address.nodes, sentinel_kwargs=asking).master_for(
        address.master, **(options | address.options)
    )
    return client


class LazyCluster:
    """A RedisCluster that connects at its first command: redis-py's own does when it's made."""

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        self.address: Final = address
        self._options = options | address.options
        self._opening = threading.Lock()
        self._client: redis.RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:
        """A command of the cluster. Raises REDIS_FAILURES where no node answers."""
        return getattr(self._opened(), name)

    def close(self) -> None:
        """Close all connections; safe to call twice."""
        if self._client:
            self._client.close()

    def _opened(self) -> redis.RedisCluster:
        if self._client is None:
            with self._opening:
                if self._client is None:
                    node: Any = cluster.ClusterNode  # untyped
                    nodes = [node(host, port) for host, port in self.address.nodes]
                    # What is of one model, or of users, is in one slot: the other slots' nodes may be down.
                    self._client = redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **self._options)
        return self._client


def key_prefix(settings: Settings, model: str) -> str:
    """The beginning of a model's keys: a hash tag, so all of them are in one slot of a cluster."""
    return "{" + settings.topic_prefix + "thalweg:" + model + "}"


def impatient(timeout_s: float) -> dict[str, Any]:
    """Options of `connect` for a client that raises after `timeout_s` without an answer, and tries nothing twice."""
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}


def _address_of(client: Any) -> str:
    """Without login."""
    if isinstance(client, LazyCluster):
        return str(client.address)
    pool = client.connection_pool
    if isinstance(pool, sentinel.SentinelConnectionPool):
        asked = [node.connection_pool.connection_kwargs for node in pool.sentinel_manager.sentinels]
        return ",".join(f"{node['host']}:{node['port']}" for node in asked) + f"/{pool.service_name}"
    known = pool.connection_kwargs
    return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}/{known.get('db', 0)}")


@contextmanager
def translated(client: redis.Redis) -> Iterator[None]:
    """Translates redis-py's errors into ours, with what to do next."""
    try:
        yield
    except REDIS_FAILURES as error:
        raise _translate(_address_of(client), error) from error


class RedisMemory(NamedTuple):
    """Bytes that a Redis uses and may use (0: no limit), what it does when it's full, and its machine's memory (0: it
    doesn't say).
    """

    used: int
    most: int
    policy: str
    machine: int = 0


def memory_of(client: redis.Redis, key: str) -> RedisMemory:
    """Of the server that has this key. Raises SnapshotError, also where this user may not ask."""
    with translated(client):
        where = {"target_nodes": client.get_node_from_key(key)} if isinstance(client, LazyCluster) else {}
        found = client.info("memory", **where)
    return RedisMemory(
        found["used_memory"], found.get("maxmemory", 0), found.get("maxmemory_policy", ""),
        found.get("total_system_memory", 0),
    )  # fmt: skip


def _translate(address: str, error: Exception) -> SnapshotError:
    if isinstance(error, RedisClusterException):  # its cause is what the last node said
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if isinstance(cause, RedisClusterException) and "not enabled" in str(cause):
            return SnapshotError(f"Redis at {address} isn't a cluster: set THALWEG_REDIS to redis://host:port/db")
        error = cause if isinstance(cause, redis.RedisError) else redis.ConnectionError(str(error))
    if isinstance(error, MovedError):
        return SnapshotError(
            f"Redis at {address} is a node of a cluster ({error}): set THALWEG_REDIS to redis+cluster://host:port"
        )
    if isinstance(error, _REFUSED):
        return SnapshotError(
            f"Redis at {address} denies access ({error}): "
            "check THALWEG_REDIS_USER, THALWEG_REDIS_PASSWORD and the user's rights"
        )
    if isinstance(error, redis.OutOfMemoryError):
        return StoreUnavailable(
            f"Redis at {address} has no memory left ({error}): raise its maxmemory, or lower THALWEG_KEEP_VERSIONS"
        )
    if isinstance(error, _UNAVAILABLE):
        return StoreUnavailable(
            f"no Redis answers at {address} ({error}): start it (`thalweg up`, or your own) or correct THALWEG_REDIS"
        )
    return SnapshotError(
        f"Redis at {address} failed ({error}): it may not be a Redis of version 5 or newer, "
        "or a key contains what Thalweg didn't write"
    )
