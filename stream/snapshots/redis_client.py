"""Clients of Redis. Errors of redis-py are translated here and nowhere else."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.runtime.errors import SettingsError, SnapshotError, StoreUnavailable
from stream.runtime.settings import Settings

CONNECT_S: Final = 1.0
SOCKET_S: Final = 2.0  # of one reply, or of sending one blob

_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_NOT_NOW = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    OSError,
)


def connect(settings: Settings, **options: Any) -> redis.Redis:
    """A client with the login, TLS and timeouts that all of ours have; it connects when it's first used.

    A connection that was cut is tried again once, a server that's slow isn't. Raises SettingsError.
    """
    url, password = settings.need_redis(), settings.redis_password.get_secret_value()
    given = {"username": settings.redis_user, "password": password, "ssl_ca_certs": settings.redis_ca}
    if settings.redis_ca:
        if not url.startswith("rediss://"):
            raise SettingsError("THALWEG_REDIS_CA is set, but THALWEG_REDIS isn't rediss://: without TLS it has no use")
        try:
            ssl.create_default_context(cafile=settings.redis_ca)
        except OSError as bad:
            raise SettingsError(f"THALWEG_REDIS_CA: can't load {settings.redis_ca}: {bad}") from None
    ours = {
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": SOCKET_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        "protocol": 2,  # nothing of 3 is needed, and older servers don't know it
    }
    try:
        client = redis.Redis.from_url(url, **{k: v for k, v in given.items() if v}, **(ours | options))
    except ValueError:  # its message may hold a part of the password
        raise SettingsError("THALWEG_REDIS isn't redis://host:port/db, or rediss://host:port/db for TLS") from None
    return client


def address_of(client: redis.Redis) -> str:
    """Where a client connects to, without login."""
    known = client.connection_pool.connection_kwargs
    return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}/{known.get('db', 0)}")


@contextmanager
def translated(client: redis.Redis) -> Iterator[None]:
    """Turns redis-py's errors into ours, in words that say what to do."""
    try:
        yield
    except (redis.RedisError, OSError) as bad:
        raise translate(address_of(client), bad) from bad


def translate(address: str, bad: Exception) -> SnapshotError:
    """The error of ours that stands for one of redis-py's."""
    if isinstance(bad, _REFUSED):
        return SnapshotError(
            f"Redis at {address} refuses us ({bad}): "
            "check THALWEG_REDIS_USER, THALWEG_REDIS_PASSWORD and the user's rights"
        )
    if isinstance(bad, redis.OutOfMemoryError):
        return StoreUnavailable(
            f"Redis at {address} has no memory left ({bad}): raise its maxmemory, or lower THALWEG_KEEP_VERSIONS"
        )
    if isinstance(bad, _NOT_NOW):
        return StoreUnavailable(
            f"no Redis answers at {address} ({bad}): start it (`thalweg up`, or your own) or correct THALWEG_REDIS"
        )
    return SnapshotError(
        f"Redis at {address} failed ({bad}): it may not be a Redis of version 5 or newer, "
        "or a key holds what Thalweg didn't write"
    )
