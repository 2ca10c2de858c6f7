"""Encodes and decodes events.

A record of a stream topic is a msgpack list of events of one partition; a record of a compacted topic is one
entity. Evolution: new fields at the end, with defaults; never retype, never reuse a tag;
golden bytes of each released version stay in the tests.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
import xxhash

from stream.events.checks import (
    check_id,
    check_numbers,
    check_organic,
    check_request,
    check_size,
    check_source,
    check_training,
)
from stream.events.types import (
    CHUNK_EVENTS,
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    RECORD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    BadPart,
    DeadLetter,
    Erase,
    Examples,
    FeatureName,
    History,
    Item,
    Organic,
    RankReply,
    RankRequest,
    Removal,
    SourceEvent,
    TrainingEvent,
    User,
)
from stream.runtime.errors import BadEvent

T = TypeVar("T")

DECODE_ERRORS: Final = BadEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError
_ORGANIC_SEED: Final = 11  # the tag: an example of the same texts has another id
_encoder = msgspec.msgpack.Encoder()
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_sources = msgspec.msgpack.Decoder(list[SourceEvent])
_trainings = msgspec.msgpack.Decoder(list[TrainingEvent])
_ledger = msgspec.msgpack.Decoder(Erase | Removal)
_organics = msgspec.msgpack.Decoder(list[Organic])
_requests = msgspec.msgpack.Decoder(list[RankRequest])
_replies = msgspec.msgpack.Decoder(list[RankReply])


def encode(event: msgspec.Struct) -> bytes:
    """The bytes of one entity (compacted topics, dead letters)."""
    return _encoder.encode(event)


def encode_record(events: Iterable[msgspec.Struct]) -> bytes:
    """The bytes of one record: a list of events of one partition."""
    return _encoder.encode(list(events))


def encode_values(*values: object) -> bytes:
    """The concatenated bytes of these values, as fields of a record."""
    return b"".join(map(_encoder.encode, values))


def decode_entity(raw: bytes, kind: type[T]) -> T:
    """One entity of a compacted topic or a dead-letter topic. Raises BadEvent."""
    check_size(raw, RECORD_BYTES_MAX if kind is not DeadLetter else 2 * RECORD_BYTES_MAX)
    try:
        entity = msgspec.msgpack.decode(raw, type=kind)
    except DECODE_ERRORS as bad:
        raise BadEvent(f"not a {kind.__name__}: {bad}") from None
    if isinstance(entity, Item | User):
        check_numbers(entity.attributes)
    if isinstance(entity, Item) and not math.isfinite(entity.popularity):
        raise BadEvent("popularity must be finite")
    if isinstance(entity, Item | History):
        check_id("item", entity.item)
    if isinstance(entity, User | History):
        check_id("user", entity.user)
    if isinstance(entity, Erase):
        check_source(entity)
    if isinstance(entity, FeatureName):
        check_id("column", entity.column)
        check_id("value", entity.text)
    return entity


def decode_ledger(raw: bytes) -> Erase | Removal:
    """A record of the topic `erased`. Raises BadEvent."""
    check_size(raw, RECORD_BYTES_MAX)
    try:
        found: Erase | Removal = _ledger.decode(raw)
    except DECODE_ERRORS as bad:
        raise BadEvent(f"neither an Erase nor a Removal: {bad}") from None
    check_id("user", found.user)
    return found


def decode_events(raw: bytes) -> tuple[list[SourceEvent], list[BadPart]]:
    """The events of one record of `events`, and its rejected parts: (bytes, reason) each.

    One bad event costs only itself; a record that isn't a list of events is rejected as a whole.
    """
    return _decode_record(raw, _sources, check_source, EVENT_BYTES_MAX)


def decode_parts(raw: bytes) -> tuple[list[tuple[int, int, SourceEvent]], list[BadPart]]:
    """The events of one record with their begins and ends in it: (begin, end, event), and its rejected parts."""
    events, bad = decode_events(raw)
    if not events:
        return [], bad
    parts = [bytes(part) for part in _raws.decode(raw)]
    rejected, good = iter([part for part, _ in bad] + [None]), iter(events)
    found: list[tuple[int, int, SourceEvent]] = []
    begin, next_rejected = len(raw) - sum(map(len, parts)), next(rejected)
    for part in parts:
        if part == next_rejected:
            next_rejected = next(rejected)
        else:
            found.append((begin, begin + len(part), next(good)))
        begin += len(part)
    return found, bad


def record_chunks(raw: bytes, events_max: int = CHUNK_EVENTS) -> Iterator[tuple[int, int, bytes]]:
    """Splits a record into records of at most `events_max` events: begin and end in it, and the bytes of each.

    A record that isn't a list within the limits isn't split.
    """
    parts: list[bytes] = []
    if len(raw) <= RECORD_BYTES_MAX and event_count(raw) <= EVENTS_MAX:
        with suppress(*DECODE_ERRORS):
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
    """The number of events that a record's head claims.

    >>> [event_count(raw) for raw in (b"", bytes([0x92, 1, 2]), bytes([0xDC, 4, 1]))]
    [0, 2, 1025]
    """
    head = raw[0] if raw else 0
    if 0x90 <= head <= 0x9F:
        return head & 15
    return int.from_bytes(raw[1:3], "big") if head == 0xDC else int.from_bytes(raw[1:5], "big") if head == 0xDD else 0


def array_head(size: int) -> bytes:
    """The msgpack head of an array."""
    if size < 16:
        return bytes((0x90 + size,))
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


def decode_training(raw: bytes) -> tuple[list[TrainingEvent], list[BadPart]]:
    """The labelled pages and organic installs of one record of `examples`, and its rejected parts."""
    return _decode_record(raw, _trainings, check_training, 2 * EVENT_BYTES_MAX)


def decode_examples(raw: bytes) -> tuple[list[Examples], list[BadPart]]:
    """The labelled pages of one record of `examples`, and its rejected parts. Organic installs are skipped."""
    events, bad = decode_training(raw)
    return [event for event in events if isinstance(event, Examples)], bad


def decode_organic(raw: bytes) -> tuple[list[Organic], list[BadPart]]:
    """The installs of one record of `organic`, and its rejected parts."""
    return _decode_record(raw, _organics, check_organic, 2 * EVENT_BYTES_MAX)


def decode_requests(raw: bytes) -> tuple[list[RankRequest], list[BadPart]]:
    """The requests of one record of `rank.requests`, and its rejected parts."""
    return _decode_record(raw, _requests, check_request, REQUEST_BYTES_MAX)


def decode_replies(raw: bytes) -> list[RankReply]:
    """The replies of one record of `rank.replies`. Raises BadEvent."""
    check_size(raw, RECORD_BYTES_MAX)
    try:
        return _replies.decode(raw)
    except DECODE_ERRORS as bad:
        raise BadEvent(f"not a list of replies: {bad}") from None


def example_id(request_id: str, position: int, reason: int, install_id: str) -> int:
    """The id of an example, the same in duplicates of a re-read. Unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(f"{request_id}\x00{position}\x00{reason}\x00{install_id}".encode())


def organic_id(user: str, install_id: str) -> int:
    """The id of an organic install among the ids of examples. Unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(install_id.encode(), xxhash.xxh3_64_intdigest(user.encode(), _ORGANIC_SEED))


def _decode_record(
    raw: bytes, decoder: "msgspec.msgpack.Decoder[Any]", check: Callable[[Any], None], event_bytes_max: int
) -> tuple[list[Any], list[BadPart]]:
    """The valid events of a record in order, and the rejected ones. The fast path decodes all at once."""
    reason = ""
    try:
        check_size(raw, RECORD_BYTES_MAX)
        if len(raw) <= event_bytes_max:
            events = decoder.decode(raw)
            for event in events:
                check(event)
            return events, []
    except DECODE_ERRORS as bad:
        reason = str(bad)
    try:
        check_size(raw, RECORD_BYTES_MAX)
        if event_count(raw) > EVENTS_MAX:
            raise BadEvent(f"more than {EVENTS_MAX} events in a record")
        parts = [bytes(part) for part in _raws.decode(raw)]
    except DECODE_ERRORS as bad:
        return [], [(raw, reason or str(bad))]
    good: list[Any] = []
    rejected: list[BadPart] = []
    for part in parts:
        try:
            check_size(part, event_bytes_max)
            (event,) = decoder.decode(array_head(1) + part)
            check(event)
            good.append(event)
        except DECODE_ERRORS as bad:
            rejected.append((part, str(bad).replace("`$[0]", "`$", 1)))  # the path within the event, not its list
    if not good:
        with suppress(*DECODE_ERRORS):
            decoder.decode(array_head(1) + raw)  # rejected as a whole, it can be sent again as a list
            return [], [(raw, "an event by itself: a record is a list of events")]
    return good, rejected
