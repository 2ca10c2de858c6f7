"""Ranking requests with named fields: the JSON form that Kafka and HTTP accept beside the positional one.

The limits are those of a positional request (`checks.py`); an unknown field is an error, since it's a misspelled one.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from stream.events.checks import check_request, check_size
from stream.events.codec import DECODE_ERRORS
from stream.events.half_surrogates import split_list, why_invalid
from stream.events.types import (
    DEADLINE_MS,
    ID_BYTES_MAX,
    ITEMS_MAX,
    NUMBER_MAX,
    REQUEST_BYTES_MAX,
    RULES_MAX,
    TIME_MS_MAX,
    RankRequest,
    ReplyTo,
    Value,
)
from stream.runtime.errors import BadEvent

JSON_HEADS: Final = b"{[ \t\r\n"  # no record of positional requests begins with one of these bytes

_Id = Annotated[str, Meta(max_length=ID_BYTES_MAX)]  # characters: the check counts bytes
_Candidate = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]


class NamedReplyTo(msgspec.Struct, forbid_unknown_fields=True, gc=False, frozen=True):
    """See ReplyTo."""

    topic: Annotated[_Id, Meta(min_length=1)]
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class NamedRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False, frozen=True):
    """See RankRequest: the same fields, by name."""

    user: Annotated[_Id, Meta(min_length=1, description="the user's id")]
    request_id: Annotated[_Id, Meta(description="names the request and its page; unique")] = ""
    k: Annotated[int, Meta(ge=1, le=ITEMS_MAX, description="how many items to return")] = 10
    time_ms: Annotated[int, Meta(ge=0, lt=TIME_MS_MAX, description="event time, UTC; 0: the model's now")] = 0
    context: Annotated[dict[str, str | float], Meta(description="context columns of the spec")] = {}
    candidates: (
        Annotated[
            list[_Candidate],
            Meta(
                min_length=1,
                max_length=ITEMS_MAX,
                description="distinct items to rank; without them some are found",
                extra_json_schema={"uniqueItems": True},
            ),
        ]
        | None
    ) = None
    deadline_ms: Annotated[
        int, Meta(ge=0, lt=NUMBER_MAX, description=f"how old the answer may be; 0: {DEADLINE_MS}")
    ] = 0
    history: Annotated[list[_Id], Meta(description="what the user installed, newest last")] | None = None
    attributes: Annotated[dict[str, Value], Meta(description="the user's attributes")] | None = None
    model: Annotated[_Id, Meta(description="the model to rank by; empty: the ranker's first one")] = ""
    reply_to: NamedReplyTo | None = None
    rules: Annotated[
        list[str | dict[str, Any]],
        Meta(max_length=RULES_MAX, description="names of the spec's rules, or rules of the request's own"),
    ] = []

    def positional(self) -> RankRequest:
        """The same request in the positional form, checked. Raises BadEvent."""
        to = self.reply_to
        request = RankRequest(
            self.request_id, self.user, self.k, self.time_ms, self.context, self.candidates, self.deadline_ms,
            self.history, self.attributes, self.model, None if to is None else ReplyTo(to.topic, to.partition),
            self.rules,
        )  # fmt: skip
        check_request(request)
        return request


_json = msgspec.json.Decoder(NamedRequest)
_msgpack = msgspec.msgpack.Decoder(NamedRequest)


def decode_named(raw: bytes, *, is_json: bool = True) -> NamedRequest:
    """A request with named fields, a JSON object or a MessagePack map, its values not checked yet. Raises BadEvent."""
    check_size(raw, REQUEST_BYTES_MAX)
    decoder: Any = _json if is_json else _msgpack
    try:
        found: NamedRequest = decoder.decode(raw)
    except DECODE_ERRORS as bad:
        raise BadEvent(f"not a request: {why_invalid(raw, bad) if is_json else bad}") from None
    return found


def is_named(record: bytes) -> bool:
    """Whether a record of `rank.requests` is JSON: an object, or a list of them.

    >>> is_named(b'{"user": "u"}'), is_named(bytes([0x91]))
    (True, False)
    """
    return bool(record) and record[0] in JSON_HEADS


def named_parts(record: bytes) -> list[bytes]:
    """The JSON objects of a record, unread. Raises BadEvent."""
    stripped = record.strip()
    if stripped.startswith(b"{"):
        return [stripped]
    try:
        return split_list(stripped)
    except DECODE_ERRORS as bad:
        raise BadEvent(f"neither a JSON request nor a list of them: {bad}") from None
