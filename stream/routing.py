"""What is written: from installs and bad bytes to records with topic, partition and key; checkpoints as text. Pure."""

import json
import logging
from typing import Final, NamedTuple

from stream.events import (
    RECORD_BYTES_MAX,
    DeadLetter,
    History,
    encode,
)
from stream.join import Checkpoint
from stream.label_rules import LabelRules
from stream.log import Record, partition_of
from stream.remembered import Installed
from stream.topics import DEAD_LETTERS, HISTORIES

EXAMPLES_BYTES_MAX: Final = RECORD_BYTES_MAX // 2  # of one record, so that a learner's step stays small
ORIGINAL_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX - 16 * 1024  # of a dead letter: it must pass the topic's limit
RULES_TOLD: Final = ("policy", "window_ms", "lateness_ms", "known_ms", "early_ms", "organic")
MESSAGE_CHARS_MAX: Final = 1_000  # likewise; that the original was cut is said behind them


log = logging.getLogger(__name__)


class Outgoing(NamedTuple):
    """A record to be written; `topic` without prefix; `value` None is a tombstone."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None


def history_record(installed: Installed, partitions: int) -> Outgoing:
    """What an install, or its retraction, makes of the user's history."""
    user, item, time_ms, _ = installed
    value = None if time_ms is None else encode(History(user, item, time_ms))
    return Outgoing(HISTORIES.name, partition_of(user, partitions), value, f"{user}\x00{item}".encode())


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


def metadata_of(checkpoint: Checkpoint, rules: LabelRules, model: str = "") -> str:
    """What is stored beside the offset: for who looks back later also the rules, and the model whose spec has them."""
    stored: dict[str, object] = {"watermark_ms": checkpoint.watermark_ms, "finished_ms": checkpoint.finished_ms}
    if checkpoint.floor_ms:
        stored["floor_ms"] = checkpoint.floor_ms
    if checkpoint.unsure_ms is not None:
        stored["unsure_ms"] = checkpoint.unsure_ms
    stored["rules"] = {name: getattr(rules, name) for name in RULES_TOLD}
    if model:
        stored["model"] = model
    return json.dumps(stored)


def checkpoint_of(offset: int, metadata: str) -> Checkpoint:
    """The checkpoint of a commit. One that isn't ours (a tool moved the group) starts with no watermark."""
    try:
        stored = json.loads(metadata or "{}")
        watermark_ms, finished_ms, floor_ms = (
            int(stored.get(name, 0)) for name in ("watermark_ms", "finished_ms", "floor_ms")
        )
        unsure_ms = int(stored["unsure_ms"]) if "unsure_ms" in stored else None
        return Checkpoint(offset, watermark_ms, finished_ms, floor_ms, unsure_ms)
    except (ValueError, TypeError, AttributeError):
        log.warning("the commit at %d carries metadata that isn't ours: %r", offset, metadata)
        return Checkpoint(offset, 0, 0)
