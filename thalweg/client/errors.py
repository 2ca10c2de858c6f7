"""Errors of the client.

ClientError (a ThalwegError)
├── Unreachable      no ranker can be reached, or it broke off
├── InvalidRequest   the request is wrong: the same one is refused again
├── Unauthorized     no valid token, or one that lacks the scope
├── UnknownModel     no such model is served there
├── Overloaded       shed: ask later, or start more rankers
├── Unavailable      the ranker, or its Kafka, isn't ready: a later retry may help
├── Expired          no answer within the deadline
└── Failed           a bug of the ranker, or an answer that isn't one of a ranker
"""

from typing import Final

import msgspec

from stream.runtime.errors import ThalwegError

TYPE_PREFIX: Final = "urn:thalweg:problem:"


class ClientError(ThalwegError):
    """Root of the client's errors: `type`, `what` happened, `why`, and the `remedy`.

    `type` is the last word of the problem's type (docs/http.md), `status` that of the answer, 0 if there's none.
    `retry_after_s`: when to ask again, if the ranker says so.
    """

    def __init__(
        self, what: str, why: str, remedy: str, *,
        type: str, status: int = 0, request_id: str = "", retry_after_s: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(f"{what}: {why}; {remedy}")
        self.type, self.what, self.why, self.remedy = type, what, why, remedy
        self.status, self.request_id, self.retry_after_s = status, request_id, retry_after_s


class Unreachable(ClientError):
    """No ranker can be reached, or it broke off."""


class InvalidRequest(ClientError):
    """The request is wrong: the same one is refused again."""


class Unauthorized(ClientError):
    """No valid token, or one that lacks the scope."""


class UnknownModel(ClientError):
    """No such model is served there."""


class Overloaded(ClientError):
    """The ranker has shed the request: ask later, or start more rankers."""


class Unavailable(ClientError):
    """The ranker, or its Kafka, isn't ready: a later retry may help."""


class Expired(ClientError):
    """No answer within the deadline."""


class Failed(ClientError):
    """A bug of the ranker, or an answer that isn't one of a ranker."""


RETRIED: Final = (Overloaded, Unavailable, Expired)  # another ranker may do better

_CLASSES: Final[dict[str, type[ClientError]]] = {
    "unauthorized": Unauthorized,
    "forbidden": Unauthorized,
    "unknown_model": UnknownModel,
    "shed": Overloaded,
    "not_ready": Unavailable,
    "log_unavailable": Unavailable,
    "expired": Expired,
    "failed": Failed,
}


class _Problem(msgspec.Struct):
    """RFC 9457, with the ranker's own fields."""

    type: str
    title: str
    detail: str
    remedy: str = ""
    request_id: str = ""


def error_of(status: int, body: bytes, retry_after: str | None) -> ClientError:
    """The error of an answer that isn't a success, whoever sent it: a proxy's has no problem details."""
    after_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = Unavailable if status in (502, 503, 504) else InvalidRequest if 400 <= status < 500 else Failed
        return found(
            f"The answer has status {status} and no problem details",
            "something in front of the ranker has answered",
            "look at the proxy's log, and at the address",
            type="foreign_answer", status=status, retry_after_s=after_s,
        )  # fmt: skip
    name = problem.type.removeprefix(TYPE_PREFIX)
    kind = _CLASSES.get(name, InvalidRequest if 400 <= status < 500 else Failed)
    return kind(
        problem.title, problem.detail, problem.remedy,
        type=name, status=status, request_id=problem.request_id, retry_after_s=after_s,
    )  # fmt: skip
