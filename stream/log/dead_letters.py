"""Outgoing records, and dead letters: rejected bytes with reason and source. Pure."""

from typing import Final, NamedTuple

from stream.events.codec import encode
from stream.events.topics import DEAD_LETTERS
from stream.events.types import RECORD_BYTES_MAX, DeadLetter
from stream.log.protocol import Record

ORIGINAL_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX - 16 * 1024  # of a dead letter: it must pass the topic's limit
MESSAGE_CHARS_MAX: Final = 1_000  # likewise; a note on the truncated original may follow


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
