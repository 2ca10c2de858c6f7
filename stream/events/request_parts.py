"""Records of `rank.requests`, read in two steps: what decides whether a request is ranked at all, then all of it.

A record is a MessagePack list of positional requests, a JSON object with named fields, or a JSON list of those. The
head of a request costs about a quarter of the request: after an outage most aren't read any further.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from stream.events.checks import check_request, check_size
from stream.events.codec import DECODE_ERRORS, decode_requests, event_count
from stream.events.half_surrogates import replaced
from stream.events.named_requests import decode_named, is_named, named_parts
from stream.events.types import (
    EVENTS_MAX,
    ID_BYTES_MAX,
    NUMBER_MAX,
    RECORD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    TIME_MS_MAX,
    RankRequest,
    ReplyTo,
)
from stream.runtime.errors import BadEvent

NAMES_MAX: Final = 1_024  # characters of request id and user together that the reply to an invalid request repeats
FIELDS: Final = len(RankRequest.__struct_fields__)
TAG: Final = RankRequest.__struct_config__.tag

_UNREAD: Final = msgspec.Raw()


class RequestHead(msgspec.Struct, array_like=True, tag=TAG, gc=False, frozen=True):
    """The fields of a RankRequest that decide whether, by which model and to whom it is answered; the rest unread."""

    request_id: str
    user: str
    k: msgspec.Raw = _UNREAD
    time_ms: int = 0
    context: msgspec.Raw = _UNREAD
    candidates: msgspec.Raw = _UNREAD
    deadline_ms: int = 0
    history: msgspec.Raw = _UNREAD
    attributes: msgspec.Raw = _UNREAD
    model: str = ""
    reply_to: ReplyTo | None = None


class _NamedReplyTo(msgspec.Struct, gc=False, frozen=True):
    topic: str
    partition: int = 0


class _NamedHead(msgspec.Struct, gc=False, frozen=True):
    request_id: str
    user: str
    time_ms: int = 0
    deadline_ms: int = 0
    model: str = ""
    reply_to: _NamedReplyTo | None = None


class Names(msgspec.Struct, array_like=True, tag=TAG, gc=False, frozen=True):
    """Request id and user of a request, whatever follows."""

    request_id: str
    user: str


class _NamedNames(msgspec.Struct, gc=False, frozen=True):
    request_id: str
    user: str


_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
_head = msgspec.msgpack.Decoder(RequestHead)
_named_head = msgspec.json.Decoder(_NamedHead)
_request = msgspec.msgpack.Decoder(RankRequest)
_names = msgspec.msgpack.Decoder(Names)
_named_names = msgspec.json.Decoder(_NamedNames)


class RequestPart:
    """One request of a record, as it arrived."""

    __slots__ = ("_is_json", "raw")

    def __init__(self, raw: msgspec.Raw | bytes, *, is_json: bool) -> None:
        self.raw, self._is_json = raw, is_json

    def head(self) -> RequestHead | None:
        """Its head; None when it isn't plain: `request` may tell why."""
        try:
            check_size(self.raw, REQUEST_BYTES_MAX)
            head = _named(_named_head.decode(self.raw)) if self._is_json else _head.decode(self.raw)
        except DECODE_ERRORS:
            return None
        is_plain = (
            head.request_id
            and head.user
            and _fits(head.request_id)
            and _fits(head.user)
            and _fits(head.model)
            and 0 <= head.deadline_ms < NUMBER_MAX
            and 0 <= head.time_ms < TIME_MS_MAX
        )
        return head if is_plain else None

    def request(self) -> RankRequest:
        """All of it, checked. Raises BadEvent."""
        if self._is_json:
            return decode_named(bytes(self.raw)).positional()
        check_size(self.raw, REQUEST_BYTES_MAX)
        try:
            request = _request.decode(self.raw)
        except DECODE_ERRORS as bad:
            raise BadEvent(str(bad)) from None
        check_request(request)
        return request

    def names(self) -> Names | None:
        """Request id and user, if they can be read though the rest is invalid: its sender waits for a reply."""
        with suppress(*DECODE_ERRORS):
            if self._is_json:
                whole = replaced(bytes(self.raw))
                named = _named_names.decode(whole)
                if whole != self.raw and "\ufffd" in named.request_id:
                    return None  # half of a surrogate pair is in the id itself
                names = Names(named.request_id, named.user)
            else:
                names = _names.decode(self.raw)
            if names.request_id and len(names.request_id) + len(names.user) <= NAMES_MAX:
                return names
        return None


def request_parts(record: bytes) -> list[RequestPart]:
    """The requests of a record, unread. Raises BadEvent when it isn't a list of requests within the limits."""
    check_size(record, RECORD_BYTES_MAX)
    is_json = is_named(record)
    raws: Sequence[msgspec.Raw | bytes] = ()
    if is_json:
        raws = named_parts(record)
    if max(len(raws), event_count(record)) > EVENTS_MAX:
        raise BadEvent(f"more than {EVENTS_MAX} requests in a record")
    if not is_json:
        raws = _positional_parts(record)
    return [RequestPart(raw, is_json=is_json) for raw in raws]


def _positional_parts(record: bytes) -> list[msgspec.Raw]:
    try:
        raws = _parts.decode(record)
    except DECODE_ERRORS as bad:
        raise BadEvent(str(bad)) from None
    if raws and not event_count(bytes(raws[0])):  # perhaps one request that isn't in a list
        for rejected, reason in decode_requests(record)[1]:
            if rejected == record:
                raise BadEvent(reason)
    return raws


def _fits(text: str) -> bool:
    return len(text) <= ID_BYTES_MAX // 4 or len(text.encode()) <= ID_BYTES_MAX  # a character has at most 4 bytes


def _named(head: _NamedHead) -> RequestHead:
    to = head.reply_to
    return RequestHead(
        head.request_id, head.user, time_ms=head.time_ms, deadline_ms=head.deadline_ms, model=head.model,
        reply_to=None if to is None else ReplyTo(to.topic, to.partition),
    )  # fmt: skip
