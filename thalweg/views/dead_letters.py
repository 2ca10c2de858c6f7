"""Dead letters: read, deduplicated, decoded, and replayed into the topics that they came from.

A dead letter is identified by its source offset and its bytes: a joiner that restarts after a kill, and every ranker
that reads a bad item, write it again, and it counts once. A replay is noted in the topic of dead letters itself, by one
without bytes whose error is `Replayed`.

A replayed `Late` event yields no label. It happened at an event time that the joiner's commit calls final, and what is
final is never emitted again. The event comes back as a new dead letter; a joiner restarted with a longer `known` or
`lateness` (--accept-rules) takes it in, and emits nothing for it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import xxhash

from stream.events.codec import decode_entity, encode
from stream.events.topics import DEAD_LETTERS, ITEMS, USERS
from stream.events.types import DeadLetter
from stream.history.erasing import is_erased, read_erased
from stream.log.log_scan import read_range
from stream.log.protocol import START, Log
from stream.runtime.errors import BadEvent, DataError

REPLAYED: Final = "Replayed"
ENTITIES: Final = (ITEMS.name, USERS.name)  # a record is one entity; of all other topics a list of events
BATCH: Final = 200
TRUNCATED: Final = "bytes are kept)"  # how the message of a truncated original ends
REASON_CHARS_MAX: Final = 70

Identity = tuple[int, int, int]  # partition and offset of the source, hash of the bytes


@dataclass(frozen=True)
class DeadLetterRecord:
    """A dead letter as its topic has it. `number`: its offset there; `replayed_ms`: 0 if it was never replayed."""

    number: int
    time_ms: int
    dead_letter: DeadLetter
    replayed_ms: int = 0

    @property
    def reason(self) -> str:
        """Error and message."""
        return f"{self.dead_letter.error}: {self.dead_letter.message}"

    @property
    def kind(self) -> str:
        """The reason with N for each number: the same for all dead letters of one kind."""
        return re.sub(r"[0-9]+", "N", self.reason)[:REASON_CHARS_MAX]

    @property
    def source(self) -> str:
        """Topic, partition and offset of the original."""
        return f"{self.dead_letter.topic} {self.dead_letter.partition}:{self.dead_letter.offset}"

    @property
    def is_complete(self) -> bool:
        """Whether it has all bytes of the original."""
        return not self.dead_letter.message.endswith(TRUNCATED)


@dataclass
class ReplayCounts:
    """What a replay did; the fields are the keys of `--json`."""

    sent: int = 0
    cut: int = 0  # left out: not all bytes of the original were kept
    superseded: int = 0  # left out: a newer record of the same key exists
    before: int = 0  # left out: sent by an earlier replay


def read_dead_letters(log: Log, topic: str, since_ms: int = 0, newest: int = 0) -> list[DeadLetterRecord]:
    """Dead letters of what came from `topic`, written at `since_ms` or later, deduplicated, oldest first.

    `newest`: read at most this many records at the topic's end; 0: all.

    Raises LogError, DataError for a topic without dead letters.
    """
    if topic not in DEAD_LETTERS:
        raise DataError(f"{topic!r} has no dead letters; topics that have: {', '.join(DEAD_LETTERS)}")
    name = DEAD_LETTERS[topic].name
    ends = log.ends(name)
    found: dict[Identity, DeadLetterRecord] = {}
    replayed: dict[Identity, int] = {}
    begin = log.offsets_at(name, since_ms) if since_ms else dict.fromkeys(ends, START)
    if newest:
        begin = {partition: max(offset, ends[partition] - newest) for partition, offset in begin.items()}
    for record in read_range(log, name, begin, ends):
        try:
            dead_letter = decode_entity(record.value or b"", DeadLetter)
        except BadEvent:
            continue  # not written by us
        if dead_letter.error == REPLAYED:
            replayed[dead_letter.partition, dead_letter.offset, int(dead_letter.message, 16)] = record.time_ms
        else:
            found.setdefault(_identity(dead_letter), DeadLetterRecord(record.offset, record.time_ms, dead_letter))
    return [replace(one, replayed_ms=replayed.get(identity, 0)) for identity, one in found.items()]


def without_erased(log: Log, records: Sequence[DeadLetterRecord]) -> list[DeadLetterRecord]:
    """Those that don't name a user who was erased after they were written. Raises LogError."""
    erased = read_erased(log) if records else {}
    return [one for one in records if not is_erased(one.dead_letter, one.time_ms, erased)]


def select(
    records: Iterable[DeadLetterRecord], reason: str = "", first: int = 0, last: int | None = None
) -> list[DeadLetterRecord]:
    """Those whose reason has this text, in any case, and whose number is in first..last (inclusive)."""
    return [
        record
        for record in records
        if reason.lower() in record.reason.lower()
        and record.number >= first
        and (last is None or record.number <= last)
    ]


def replay(log: Log, records: Iterable[DeadLetterRecord], *, dry_run: bool = False) -> ReplayCounts:
    """Send originals back to their topics and partitions, and note it; those replayed before are left out.

    A replay is noted after the log has the original. If the process is killed in between, the next replay sends the
    original again, and joiner and learner deduplicate it. Raises LogError.
    """
    counts = ReplayCounts()
    ready: list[tuple[DeadLetterRecord, bytes | None]] = []
    by_topic: dict[str, list[DeadLetterRecord]] = {}
    for record in records:
        if record.replayed_ms:
            counts.before += 1
        elif not record.is_complete:
            counts.cut += 1
        else:
            by_topic.setdefault(record.dead_letter.topic, []).append(record)
    for topic, group in by_topic.items():
        keys = _newest_keys(log, topic, group) if topic in ENTITIES else {}
        for record in group:
            key = keys.get((record.dead_letter.partition, record.dead_letter.offset))
            if topic in ENTITIES and key is None:
                counts.superseded += 1
            else:
                ready.append((record, key))
    counts.sent = len(ready)
    for start in range(0, 0 if dry_run else len(ready), BATCH):
        _send(log, ready[start : start + BATCH])
    return counts


def as_record(dead_letter: DeadLetter) -> bytes:
    """The original as a record of its topic: a single event is wrapped into a list."""
    raw = dead_letter.original
    if dead_letter.topic in ENTITIES or not raw:
        return raw
    head = {0xDC: 3, 0xDD: 5}.get(raw[0], 1 if 0x90 <= raw[0] <= 0x9F else 0)
    is_single = head and raw[head : head + 1] < b"\x80"  # an event begins with its tag, a small number
    return b"\x91" + raw if is_single and len(raw) > head else raw


def hex_dump(raw: bytes, bytes_max: int = 512) -> list[str]:
    """Bytes as offset, hex and text, 16 a line.

    >>> hex_dump(b"abc" + bytes([193]))
    ['00000000  61 62 63 c1                                      abc.']
    """
    lines = []
    for offset in range(0, min(len(raw), bytes_max), 16):
        part = raw[offset : offset + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{offset:08x}  {part.hex(' '):<47}  {text}")
    if len(raw) > bytes_max:
        lines.append(f"... {len(raw) - bytes_max} bytes more (--raw FILE writes all)")
    return lines


def _identity(dead_letter: DeadLetter) -> Identity:
    return dead_letter.partition, dead_letter.offset, xxhash.xxh3_64_intdigest(dead_letter.original)


def _newest_keys(log: Log, topic: str, records: Sequence[DeadLetterRecord]) -> dict[tuple[int, int], bytes]:
    """By (partition, offset): the key of each record from these on that no later record of its key supersedes."""
    begin: dict[int, int] = {}
    for one in records:
        partition, offset = one.dead_letter.partition, one.dead_letter.offset
        begin[partition] = min(offset, begin.get(partition, offset))
    ends, starts = log.ends(topic), log.starts(topic)
    newest: dict[tuple[int, bytes], int] = {}
    begin = {partition: max(offset, starts[partition]) for partition, offset in begin.items()}
    for record in read_range(log, topic, begin, {partition: ends[partition] for partition in begin}):
        newest[record.partition, record.key or b""] = record.offset
    return {(partition, offset): key for (partition, key), offset in newest.items()}


def _send(log: Log, batch: Sequence[tuple[DeadLetterRecord, bytes | None]]) -> None:
    for record, key in batch:
        log.send(record.dead_letter.topic, record.dead_letter.partition, as_record(record.dead_letter), key)
    log.flush()
    for record, _ in batch:
        dead_letter, topic = record.dead_letter, DEAD_LETTERS[record.dead_letter.topic]
        digest = f"{_identity(dead_letter)[2]:016x}"
        note = DeadLetter(b"", REPLAYED, digest, dead_letter.topic, dead_letter.partition, dead_letter.offset)
        key = f"{dead_letter.partition}/{dead_letter.offset}/{digest}".encode() if topic.compacted else None
        log.send(topic.name, 0, encode(note), key)
    log.flush()
