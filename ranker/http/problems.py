"""Errors over HTTP: problem details (RFC 9457) that say what happened, why, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

MEDIA_TYPE: Final = b"application/problem+json"
TYPE_PREFIX: Final = "urn:thalweg:problem:"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class ProblemKind:
    """What went wrong, independent of the request. `remedy` is the usual one."""

    name: str
    status: int
    title: str
    remedy: str


INVALID: Final = ProblemKind("invalid", 400, "The request is invalid", "correct the request")
UNAUTHORIZED: Final = ProblemKind(
    "unauthorized",
    401,
    "No valid token",
    "send the header Authorization: Bearer TOKEN with a token of the file THALWEG_HTTP_TOKENS",
)
FORBIDDEN: Final = ProblemKind("forbidden", 403, "The token lacks a scope", "use a token that has the scope")
NOT_FOUND: Final = ProblemKind("not_found", 404, "There is nothing here", "see /docs for what there is")
UNKNOWN_MODEL: Final = ProblemKind(
    "unknown_model", 404, "The model isn't served here", "GET /v1/models lists the models"
)
UNKNOWN_ITEM: Final = ProblemKind(
    "unknown_item", 404, "The item isn't known here", "look at the id, or write the item: POST /v1/events, or Kafka"
)
NOT_ALLOWED: Final = ProblemKind("method_not_allowed", 405, "The method isn't allowed", "see the header Allow")
NOT_ACCEPTABLE: Final = ProblemKind(
    "not_acceptable", 406, "No such form", "accept application/json or application/msgpack"
)
TIMEOUT: Final = ProblemKind("timeout", 408, "The request took too long to arrive", "send it at once")
TOO_LARGE: Final = ProblemKind("too_large", 413, "The request is too large", "split it")
UNSUPPORTED: Final = ProblemKind(
    "unsupported_media_type", 415, "The body's form isn't supported",
    "send application/json or application/msgpack, plain or with Content-Encoding: gzip",
)  # fmt: skip
FOREIGN_HOST: Final = ProblemKind(
    "foreign_host",
    421,
    "The request is for another host",
    "name this host in THALWEG_HTTP_HOSTS, or ask by its address",
)
KEY_REUSED: Final = ProblemKind(
    "key_reused", 422, "The Idempotency-Key belongs to another request", "use a new key for each request"
)
HEADERS_TOO_LARGE: Final = ProblemKind(
    "headers_too_large", 431, "The headers are too large", "send fewer or shorter ones"
)
FAILED: Final = ProblemKind("failed", 500, "The ranker failed", "its log says where; a retry may succeed")
SHED: Final = ProblemKind("shed", 503, "The ranker is overloaded", "ask again later, or start more rankers")
NOT_READY: Final = ProblemKind("not_ready", 503, "The ranker isn't ready", "ask again later; /readyz says its state")
LOG_UNAVAILABLE: Final = ProblemKind(
    "log_unavailable", 503, "Events can't be written now", "send them again, with the same Idempotency-Key"
)
EXPIRED: Final = ProblemKind(
    "expired", 504, "The request is past its deadline", "raise deadline_ms, or start more rankers"
)

KINDS: Final[tuple[ProblemKind, ...]] = (
    INVALID, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, UNKNOWN_MODEL, UNKNOWN_ITEM, NOT_ALLOWED, NOT_ACCEPTABLE, TIMEOUT,
    TOO_LARGE, UNSUPPORTED, FOREIGN_HOST, KEY_REUSED, HEADERS_TOO_LARGE, FAILED, SHED, NOT_READY, LOG_UNAVAILABLE,
    EXPIRED,
)  # fmt: skip


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of an error. `title` says what happened, `detail` why, `remedy` what to do next."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    request_id: str = ""


class HttpProblem(Exception):
    """A request ends with this problem. `retry_after_s`: when to try again, in whole seconds."""

    def __init__(
        self,
        kind: ProblemKind,
        why: str,
        *,
        remedy: str = "",
        request_id: str = "",
        retry_after_s: int | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(f"{kind.title}: {why}")
        self.kind = kind
        self.body: bytes = msgspec.json.encode(
            Problem(TYPE_PREFIX + kind.name, kind.title, kind.status, why, remedy or kind.remedy, request_id)
        )
        self.headers: Headers = [
            (b"content-type", MEDIA_TYPE),
            (b"content-length", str(len(self.body)).encode()),
            *headers,
        ]
        if retry_after_s is not None:
            self.headers.append((b"retry-after", str(retry_after_s).encode()))
        if kind is UNAUTHORIZED:
            self.headers.append((b"www-authenticate", b"Bearer"))


def http_bytes(problem: HttpProblem, *, closes: bool = True) -> bytes:
    """A whole HTTP/1.1 response, after which the connection is closed unless told otherwise."""
    lines = [b"HTTP/1.1 %d Problem" % problem.kind.status, *(b": ".join(header) for header in problem.headers)]
    return b"\r\n".join([*lines, *[b"connection: close"] * closes, b"", problem.body])
