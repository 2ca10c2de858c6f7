"""What all Kafka clients share: addresses, TLS, login, and the translation of kafka-python's errors."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, errors
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.protocol.schemas.fields.codecs import TaggedFields, UnsignedVarInt32
from kafka.protocol.schemas.fields.struct import StructField

from stream.log.kafka_login import denial, login_options
from stream.log.oauth_token import token_source
from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from stream.runtime.settings import Settings

CONNECT_S: Final = 5.0
REQUEST_S: Final = 10.0

# kafka-python logs failures that are raised from here in plain words, and every retry before them.
logging.getLogger("kafka").setLevel(logging.CRITICAL)
logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)  # except a task that has died: nothing raises that

T = TypeVar("T")

_compiling = threading.RLock()


def _one_at_a_time(compiled: Callable[..., T]) -> Callable[..., T]:
    """kafka-python compiles the codec of a kind of message at its first use, in any thread.

    If two threads do so at once, the codec may always fail (`object.__new__(X): X is not a type object`), in a task
    that dies silently: from then on no consumer of the process receives anything (3.0.12).
    """

    @wraps(compiled)
    def guarded(*args: Any, **options: Any) -> T:
        with _compiling:
            return compiled(*args, **options)

    return guarded


StructField.compiled_decode_from = _one_at_a_time(StructField.compiled_decode_from)
StructField.compiled_encode_into = _one_at_a_time(StructField.compiled_encode_into)


def _decode_no_tags(data: Any) -> None:
    """kafka-python reads this byte in an `assert`, which `python -O` leaves out (3.0.12)."""
    if (count := UnsignedVarInt32.decode(data)) != 0:
        raise ValueError(f"{count} tagged fields in a struct that can't have any")


TaggedFields.decode_empty = _decode_no_tags


def client_options(settings: Settings) -> dict[str, Any]:
    """Options of all kafka-python clients: addresses, timeouts, TLS, login."""
    return {
        "bootstrap_servers": settings.brokers(),
        "bootstrap_timeout_ms": int(CONNECT_S * 1000),
        "request_timeout_ms": int(REQUEST_S * 1000),
        "retry_backoff_ms": 20,  # also between two requests for metadata: a new reader has to wait for it twice
        "reconnect_backoff_max_ms": 1000,
        **login_options(settings),
        **({"sasl_oauth_token_provider": _Tokens(settings)} if settings.uses_oauth else {}),
    }


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python is untyped
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._source = token_source(settings)

    def token(self) -> str:
        return self._source.token()


def check_reachable(settings: Settings) -> None:
    """Raises LogUnavailable at once when nothing listens at any of the addresses.

    kafka-python would retry for long, and leak a thread for each client that gave up.
    """
    for server in client_options(settings)["bootstrap_servers"]:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except ValueError:
            raise SettingsError(f"THALWEG_KAFKA: {server!r} isn't host:port") from None
        except OSError as bad:
            refused = bad
        else:
            return
    raise translate(settings, "connecting", refused) from refused


@contextmanager
def translated(settings: Settings, doing: str) -> Iterator[None]:
    """Translates kafka-python's errors into ours, which say what to do."""
    try:
        yield
    except (errors.KafkaError, OSError) as bad:
        raise translate(settings, doing, bad) from bad


def translate(settings: Settings, doing: str, bad: Exception) -> LogError:
    """Our error for one of kafka-python's."""
    if (denied := denial(settings, doing, bad)) is not None:
        return denied
    if isinstance(bad, errors.SaslAuthenticationFailedError | errors.AuthorizationError):
        return LogError(
            f"Kafka at {settings.kafka} rejects user {settings.kafka_user!r} ({doing}: {bad}): "
            "check THALWEG_KAFKA_USER, THALWEG_KAFKA_PASSWORD and the user's rights"
        )
    if isinstance(bad, errors.KafkaTimeoutError) and "bootstrap" in str(bad):
        # The port was open (`check_reachable`); a refused login or certificate also looks like this from kafka-python.
        return LogUnavailable(
            f"{settings.kafka} is open, but no Kafka answers there by {settings.kafka_security}: it's still "
            "starting, or THALWEG_KAFKA_SECURITY, _SASL_MECHANISM, _USER, _PASSWORD, _CA or _CERT isn't what it wants"
        )
    has_answered = isinstance(bad, errors.UnknownTopicOrPartitionError)  # retriable to kafka-python all the same
    if isinstance(bad, OSError) or (isinstance(bad, errors.RetriableError) and not has_answered):
        return LogUnavailable(
            f"no Kafka broker answers at {settings.kafka} ({doing}: {bad}): "
            "start it (`thalweg up`, or your own) or correct THALWEG_KAFKA"
        )
    return LogError(f"Kafka at {settings.kafka} failed ({doing}): {bad}")


def with_timeout(timeout_s: float, call: Callable[[], T], late: T) -> T:
    """The result of `call`, or `late` when it takes longer: kafka-python's timeouts count per batch, or not at all."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as bad:  # noqa: BLE001 - raised in the caller's thread below
            future.set_exception(bad)

    threading.Thread(target=run, name="kafka-with-timeout", daemon=True).start()
    wait([future], timeout_s)
    return future.result() if future.done() else late


@contextmanager
def admin_client(settings: Settings, doing: str) -> Iterator[Any]:
    """An admin client, closed at the end; its errors are ours. Raises LogUnavailable, LogError."""
    check_reachable(settings)
    with translated(settings, doing), KafkaAdminClient(**client_options(settings)) as admin:
        yield admin
