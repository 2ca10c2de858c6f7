"""What travels through the log: typed events, their bytes, and the limits they must keep.

A record of a stream topic is a msgpack list of events of one partition; a compacted topic holds one
entity a record. Evolution: new fields at the end, with defaults; never retype, never reuse a tag;
golden bytes of each released version stay in the tests.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
import xxhash

from stream.events.checks import check_numbers, check_organic, check_request, check_size, check_source, check_training
from stream.events.types import (
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    RECORD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    SLICE_EVENTS,
    BadPart,
    DeadLetter,
    Examples,
    History,
    Item,
    Organic,
    RankReply,
    RankRequest,
    SourceEvent,
    TrainingEvent,
    User,
)
from stream.runtime.errors import BadEvent

T = TypeVar("T")

_ORGANIC_SEED: Final = 11  # the tag: an example of the same texts has another id
_encoder = msgspec.msgpack.Encoder()
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_sources = msgspec.msgpack.Decoder(list[SourceEvent])
_source = msgspec.msgpack.Decoder(SourceEvent)
_trainings = msgspec.msgpack.Decoder(list[TrainingEvent])
_training = msgspec.msgpack.Decoder(TrainingEvent)
_organics = msgspec.msgpack.Decoder(list[Organic])
_organic = msgspec.msgpack.Decoder(Organic)
_requests = msgspec.msgpack.Decoder(list[RankRequest])
_one_request = msgspec.msgpack.Decoder(RankRequest)
_replies = msgspec.msgpack.Decoder(list[RankReply])


def encode(event: msgspec.Struct) -> bytes:
    """The bytes of one entity (compacted topics, dead letters)."""
    return _encoder.encode(event)


def encode_record(events: Iterable[msgspec.Struct]) -> bytes:
    """The bytes of one record: a list of events of one partition."""
    return _encoder.encode(list(events))


def encode_values(*values: object) -> bytes:
    """The bytes of these values one after the other, as they lie in a record between other fields."""
    return b"".join(map(_encoder.encode, values))


def decode_entity(raw: bytes, kind: type[T]) -> T:
    """One entity of a compacted topic or a dead-letter topic. Raises BadEvent."""
    check_size(raw, RECORD_BYTES_MAX if kind is not DeadLetter else 2 * RECORD_BYTES_MAX)
    try:
        entity = msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadEvent(f"not a {kind.__name__}: {bad}") from None
    if isinstance(entity, Item | User):
        check_numbers(entity.attributes)
    if isinstance(entity, Item) and not math.isfinite(entity.popularity):
        raise BadEvent("popularity must be finite")
    if isinstance(entity, Item | History) and not entity.item:
        raise BadEvent("item is empty")
    if isinstance(entity, User | History) and not entity.user:
        raise BadEvent("user is empty")
    return entity


def decode_events(raw: bytes) -> tuple[list[SourceEvent], list[tuple[bytes, str]]]:
    """The events of one record of `events`, and what of it can't be taken: (bytes, reason) each.

    One bad event costs only itself; a record that isn't a list of events is bad as a whole.
    """
    return _decode_record(raw, _sources, _source, check_source, EVENT_BYTES_MAX)


def decode_parts(raw: bytes) -> tuple[list[tuple[int, int, SourceEvent]], list[BadPart]]:
    """The same with where each event begins and ends in the record."""
    events, bad = decode_events(raw)
    if not events:
        return [], bad
    parts = [bytes(part) for part in _raws.decode(raw)]
    refused, good = iter([part for part, _ in bad] + [None]), iter(events)
    found: list[tuple[int, int, SourceEvent]] = []
    begin, next_refused = len(raw) - sum(map(len, parts)), next(refused)
    for part in parts:
        if part == next_refused:
            next_refused = next(refused)
        else:
            found.append((begin, begin + len(part), next(good)))
        begin += len(part)
    return found, bad


def record_slices(raw: bytes, events_max: int = SLICE_EVENTS) -> Iterator[tuple[int, int, bytes]]:
    """The events of a record as records of at most so many: where they begin and end in it, and such a record.

    What is bad as a whole comes as it is.
    """
    parts: list[bytes] = []
    if len(raw) <= RECORD_BYTES_MAX and event_count(raw) <= EVENTS_MAX:
        with suppress(msgspec.MsgspecError, RecursionError):
            parts = [bytes(part) for part in _raws.decode(raw)]
    if not parts:
        yield 0, len(raw), raw
        return
    end = len(raw) - sum(map(len, parts))
    for first in range(0, len(parts), events_max):
        some = b"".join(chosen := parts[first : first + events_max])
        begin, end = end, end + len(some)
        yield begin, end, array_head(len(chosen)) + some


def event_count(raw: bytes) -> int:
    """How many events a record says that it has.

    >>> [event_count(raw) for raw in (b"", bytes([0x92, 1, 2]), bytes([0xDC, 4, 1]))]
    [0, 2, 1025]
    """
    head = raw[0] if raw else 0
    if 0x90 <= head <= 0x9F:
        return head & 15
    return int.from_bytes(raw[1:3], "big") if head == 0xDC else int.from_bytes(raw[1:5], "big") if head == 0xDD else 0


def array_head(size: int) -> bytes:
    """The msgpack bytes that begin an array."""
    if size < 16:
        return bytes((0x90 + size,))
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


def decode_training(raw: bytes) -> tuple[list[TrainingEvent], list[tuple[bytes, str]]]:
    """All that one record of `examples` holds, labelled pages and organic installs, and what of it can't be taken."""
    return _decode_record(raw, _trainings, _training, check_training, 2 * EVENT_BYTES_MAX)


def decode_examples(raw: bytes) -> tuple[list[Examples], list[tuple[bytes, str]]]:
    """The labelled pages of one record of `examples`, and what of it can't be taken. Organic installs are skipped."""
    events, bad = decode_training(raw)
    return [event for event in events if isinstance(event, Examples)], bad


def decode_organic(raw: bytes) -> tuple[list[Organic], list[tuple[bytes, str]]]:
    """The installs of one record of `organic`, and what of it can't be taken."""
    return _decode_record(raw, _organics, _organic, check_organic, 2 * EVENT_BYTES_MAX)


def decode_requests(raw: bytes) -> tuple[list[RankRequest], list[tuple[bytes, str]]]:
    """The requests of one record of `rank.requests`, and what of it can't be taken."""
    return _decode_record(raw, _requests, _one_request, check_request, REQUEST_BYTES_MAX)


def decode_replies(raw: bytes) -> list[RankReply]:
    """The replies of one record of `rank.replies`. Raises BadEvent."""
    check_size(raw, RECORD_BYTES_MAX)
    try:
        return _replies.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadEvent(f"not a list of replies: {bad}") from None


def example_id(request_id: str, position: int, reason: int, install_id: str) -> int:
    """The identity of an example: duplicates of a re-read have the same one. Unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(f"{request_id}\x00{position}\x00{reason}\x00{install_id}".encode())


def organic_id(user: str, install_id: str) -> int:
    """The identity of an organic install among the ids of examples. Unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(install_id.encode(), xxhash.xxh3_64_intdigest(user.encode(), _ORGANIC_SEED))


def _decode_record(
    raw: bytes,
    many: "msgspec.msgpack.Decoder[Any]",
    one: "msgspec.msgpack.Decoder[Any]",
    check: Any,
    event_bytes_max: int,
) -> tuple[list[Any], list[tuple[bytes, str]]]:
    """All events that can be taken, in order, and the rest with reasons. The fast path decodes at once."""
    try:
        check_size(raw, RECORD_BYTES_MAX)
        if len(raw) <= event_bytes_max:
            events = many.decode(raw)
            for event in events:
                check(event)
            return events, []
    except (BadEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        whole = str(bad)
    else:
        whole = ""
    good: list[Any] = []
    rest: list[tuple[bytes, str]] = []
    try:
        check_size(raw, RECORD_BYTES_MAX)
        if raw[:1] == b"\xdd" and int.from_bytes(raw[1:5], "big") > EVENTS_MAX:
            raise BadEvent(f"more than {EVENTS_MAX} events in a record")
        parts = _raws.decode(raw)
    except (BadEvent, msgspec.MsgspecError, RecursionError) as bad:
        return [], [(raw, whole or str(bad))]
    for part in parts:
        try:
            check_size(bytes(part), event_bytes_max)
            event = one.decode(part)
            check(event)
            good.append(event)
        except (BadEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
            rest.append((bytes(part), str(bad)))
    if not good:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            one.decode(raw)  # kept whole, it can be sent back as a list
            return [], [(raw, "an event by itself: a record is a list of events")]
    return good, rest
