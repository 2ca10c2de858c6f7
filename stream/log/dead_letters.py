"""Outgoing records, and dead letters: rejected bytes with reason and source. Pure."""

from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]  # ships no types

from stream.events.codec import encode
from stream.events.topics import DEAD_LETTERS
from stream.events.types import (
    RECORD_BYTES_MAX,
    DeadLetter,
    Examples,
    Impression,
    Install,
    Organic,
    RankRequest,
    User,
)
from stream.log.protocol import Record

ORIGINAL_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX - 16 * 1024  # of a dead letter: it must pass the topic's limit
MESSAGE_CHARS_MAX: Final = 1_000  # likewise; a note on the truncated original may follow

_KINDS: Final[dict[Any, Any]] = {  # by tag
    kind.__struct_config__.tag: kind for kind in (Impression, Install, Examples, Organic, RankRequest, User)
}


class Outgoing(NamedTuple):
    """A record to be written; `topic` without prefix; `value` None is a tombstone."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None


def dead_letter(original: bytes, error: str, message: str, source: Record) -> Outgoing:
    """The dead letter of rejected bytes, with reason and source; truncated to the topic's limit.

    In a compacted topic the key is the source's partition and offset, so a duplicate replaces the dead letter.
    """
    message = message[:MESSAGE_CHARS_MAX]
    if len(original) > ORIGINAL_BYTES_MAX:
        message = f"{message} (the first {ORIGINAL_BYTES_MAX} of {len(original)} bytes are kept)"
        original = original[:ORIGINAL_BYTES_MAX]
    record = DeadLetter(original, error, message, source.topic, source.partition, source.offset)
    topic = DEAD_LETTERS[source.topic]
    key = f"{source.partition}/{source.offset}".encode() if topic.compacted else None
    return Outgoing(topic.name, 0, encode(record), key)


def users_of(dead_letter: DeadLetter) -> set[str]:
    """The users whom the original names, as far as its bytes can be read."""
    values, _ = decode_prefix(dead_letter.original)
    events = [values] if values and not isinstance(values[0], list) else values
    found = set()
    for event in events:
        kind = _KINDS.get(event[0]) if isinstance(event, list) and event and isinstance(event[0], int) else None
        if kind is Examples:  # its page names the user
            event, kind = event[1] if len(event) > 1 and isinstance(event[1], list) else [], Impression
        index = 1 + kind.__struct_fields__.index("user") if kind else 0
        if kind and len(event) > index and isinstance(event[index], str):
            found.add(event[index])
    return found


def decode_prefix(raw: bytes) -> tuple[list[Any], bytes]:
    """The values of a msgpack array before the first that is broken, and the bytes from there on."""
    reader = msgpack.Unpacker(raw=False, strict_map_key=False, unicode_errors="backslashreplace",
                              max_buffer_size=len(raw) + 1)  # fmt: skip
    reader.feed(raw)
    values: list[Any] = []
    good = 0
    try:
        reader.read_array_header()
        good = reader.tell()
    except (ValueError, msgpack.UnpackException):
        return [], raw
    while good < len(raw):
        try:
            values.append(reader.unpack())
        except (ValueError, msgpack.UnpackException, RecursionError):
            break
        good = reader.tell()
    return values, raw[good:]
