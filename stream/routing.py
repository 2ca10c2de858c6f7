"""What is written: from examples, installs and bad bytes to records with topic, partition and key. Pure."""

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from stream.events import (
    RECORD_BYTES_MAX,
    DeadLetter,
    Examples,
    History,
    Install,
    SourceEvent,
    encode,
)
from stream.join import Checkpoint
from stream.log import Record, partition_of
from stream.topics import DEAD_LETTERS, EXAMPLES, HISTORIES

EXAMPLES_BYTES_MAX: Final = RECORD_BYTES_MAX // 2  # of one record, so that a learner's step stays small
ORIGINAL_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX - 16 * 1024  # of a dead letter: it must pass the topic's limit
MESSAGE_CHARS_MAX: Final = 1_000  # likewise; that the original was cut is said behind them


log = logging.getLogger(__name__)


class Outgoing(NamedTuple):
    """A record to be written; `topic` without prefix; `value` None is a tombstone."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None


def split_ahead(
    events: Sequence[SourceEvent], ingest_ms: int, ahead_ms_max: int
) -> tuple[Sequence[SourceEvent], list[tuple[bytes, str]]]:
    """Events that may have happened, and those whose time is too far behind their own arrival: (bytes, reason).

    One event from the future would throw the watermark forward and close every page.
    """
    limit_ms = ingest_ms + ahead_ms_max
    if all(event.time_ms <= limit_ms for event in events):
        return events, []
    ahead = [
        (encode(event), f"event time {event.time_ms} ms is {event.time_ms - ingest_ms} ms after its arrival")
        for event in events
        if event.time_ms > limit_ms
    ]
    return [event for event in events if event.time_ms <= limit_ms], ahead


def example_records(said: Iterable[Examples], partitions: int, bytes_max: int = EXAMPLES_BYTES_MAX) -> list[Outgoing]:
    """All examples of one input record as one record (a partition), cut where it would grow above `bytes_max`."""
    records: list[Outgoing] = []
    open_lists: dict[int, tuple[list[msgspec.Raw], int]] = {}
    for examples in said:
        partition = partition_of(examples.page.user, partitions) if partitions > 1 else 0
        raw = encode(examples)
        parts, size = open_lists.get(partition, ([], 0))
        if parts and size + len(raw) > bytes_max:
            records.append(Outgoing(EXAMPLES.name, partition, msgspec.msgpack.encode(parts)))
            parts, size = [], 0
        parts.append(msgspec.Raw(raw))
        open_lists[partition] = (parts, size + len(raw))
    for partition, (parts, _) in open_lists.items():
        records.append(Outgoing(EXAMPLES.name, partition, msgspec.msgpack.encode(parts)))
    return records


def history_record(install: Install, partitions: int) -> Outgoing:
    """What an install, or its retraction, makes of the user's history."""
    key = f"{install.user}\x00{install.item}".encode()
    value = None if install.retracted else encode(History(install.user, install.item, install.time_ms))
    return Outgoing(HISTORIES.name, partition_of(install.user, partitions), value, key)


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


def metadata_of(checkpoint: Checkpoint) -> str:
    """What is stored beside the offset."""
    stored = {"watermark_ms": checkpoint.watermark_ms, "finished_ms": checkpoint.finished_ms}
    return json.dumps(stored | ({"floor_ms": checkpoint.floor_ms} if checkpoint.floor_ms else {}))


def checkpoint_of(offset: int, metadata: str) -> Checkpoint:
    """The checkpoint of a commit. One that isn't ours (a tool moved the group) starts with no watermark."""
    try:
        stored = json.loads(metadata or "{}")
        told = [int(stored.get(name, 0)) for name in ("watermark_ms", "finished_ms", "floor_ms")]
        return Checkpoint(offset, *told)
    except (ValueError, TypeError, AttributeError):
        log.warning("the commit at %d carries metadata that isn't ours: %r", offset, metadata)
        return Checkpoint(offset, 0, 0)
