"""Clients of Redis. Errors of redis-py are translated here and nowhere else."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.runtime.errors import SettingsError, SnapshotError, StoreUnavailable
from stream.runtime.settings import Settings

CONNECT_S: Final = 1.0
SOCKET_S: Final = 2.0  # of one reply, or of sending one blob

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

    A broken connection is retried once, a timeout isn't. Raises SettingsError.
    """
    url, password = settings.need_redis(), settings.redis_password.get_secret_value()
    login = {"username": settings.redis_user, "password": password, "ssl_ca_certs": settings.redis_ca}
    if settings.redis_ca:
        if not url.startswith("rediss://"):
            raise SettingsError("THALWEG_REDIS_CA is set, but THALWEG_REDIS isn't rediss://: without TLS it has no use")
        try:
            ssl.create_default_context(cafile=settings.redis_ca)
        except OSError as error:
            raise SettingsError(f"THALWEG_REDIS_CA: can't load {settings.redis_ca}: {error}") from None
    defaults = {
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": SOCKET_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        "protocol": 2,  # 3 isn't needed, and older servers don't know it
    }
    try:
        client = redis.Redis.from_url(url, **{k: v for k, v in login.items() if v}, **(defaults | options))
    except ValueError:  # its message may contain a part of the password
        raise SettingsError("THALWEG_REDIS isn't redis://host:port/db, or rediss://host:port/db for TLS") from None
    return client


def impatient(timeout_s: float) -> dict[str, Any]:
    """Options of `connect` for a client that raises after `timeout_s` without an answer, and tries nothing twice."""
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}


def _address_of(client: redis.Redis) -> str:
    """Without login."""
    known = client.connection_pool.connection_kwargs
    return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}/{known.get('db', 0)}")


@contextmanager
def translated(client: redis.Redis) -> Iterator[None]:
    """Translates redis-py's errors into ours, with what to do next."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise _translate(_address_of(client), error) from error


class RedisMemory(NamedTuple):
    """Bytes that a Redis uses and may use (0: no limit), what it does when it's full, and its machine's memory (0: it
    doesn't say).
    """

    used: int
    most: int
    policy: str
    machine: int = 0


def memory_of(client: redis.Redis) -> RedisMemory:
    """Raises SnapshotError, also where this user may not ask."""
    with translated(client):
        found = client.info("memory")
    return RedisMemory(
        found["used_memory"], found.get("maxmemory", 0), found.get("maxmemory_policy", ""),
        found.get("total_system_memory", 0),
    )  # fmt: skip


def _translate(address: str, error: Exception) -> SnapshotError:
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
