"""Records to be written, and the dead letters among them: what could not be taken, with reason and source. Pure."""

from typing import Final, NamedTuple

from stream.events.codec import encode
from stream.events.topics import DEAD_LETTERS
from stream.events.types import RECORD_BYTES_MAX, DeadLetter
from stream.log.protocol import Record

ORIGINAL_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX - 16 * 1024  # of a dead letter: it must pass the topic's limit
MESSAGE_CHARS_MAX: Final = 1_000  # likewise; that the original was cut is said behind them


class Outgoing(NamedTuple):
    """A record to be written; `topic` without prefix; `value` None is a tombstone."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None


def dead_letter(original: bytes, error: str, message: str, source: Record) -> Outgoing:
    """What could not be taken, with reason and place; cut if the topic couldn't hold it.

    In a compacted topic of dead letters the source's place is the key: whoever writes the letter again replaces it.
    """
    message = message[:MESSAGE_CHARS_MAX]
    if len(original) > ORIGINAL_BYTES_MAX:
        message = f"{message} (the first {ORIGINAL_BYTES_MAX} of {len(original)} bytes are kept)"
        original = original[:ORIGINAL_BYTES_MAX]
    letter = DeadLetter(original, error, message, source.topic, source.partition, source.offset)
    topic = DEAD_LETTERS[source.topic]
    key = f"{source.partition}/{source.offset}".encode() if topic.compacted else None
    return Outgoing(topic.name, 0, encode(letter), key)
