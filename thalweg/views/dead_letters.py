"""Dead letters: read, told apart, shown, and sent back to where they came from.

A letter is told apart by the place of its source and its bytes: a joiner that reads again after a kill, and every
ranker that meets a bad item, writes it again, and it still is one letter. What was sent back is noted in the topic of
dead letters itself, by a letter without bytes whose error is `Replayed`.

Of a letter `Late` everything of its time was forgotten when it came. Sent back, it is taken as a correction by a joiner
that still knows the page: one that remembers for longer by now (a longer `known` or `lateness`, --accept-rules). Any
other finds it late again, and writes one new letter for it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import xxhash

from stream.events.codec import decode_entity, encode
from stream.events.topics import DEAD_LETTERS, ITEMS, USERS
from stream.events.types import DeadLetter
from stream.log.protocol import START, Log
from stream.runtime.errors import BadEvent, DataError
from thalweg.audit.log_scan import span

REPLAYED: Final = "Replayed"
ENTITIES: Final = (ITEMS.name, USERS.name)  # a record is one entity; of all other topics a list of events
BATCH: Final = 200
CUT: Final = "bytes are kept)"  # how a letter says that it doesn't hold all of the original
REASON_CHARS_MAX: Final = 70


@dataclass(frozen=True)
class Letter:
    """A dead letter as it stands in its topic. `number`: its offset there; `replayed_ms`: 0 if never sent back."""

    number: int
    time_ms: int
    held: DeadLetter
    replayed_ms: int = 0

    @property
    def reason(self) -> str:
        """Error and message, numbers left out: what letters of one kind share."""
        return f"{self.held.error}: {re.sub(r'[0-9]+', 'N', self.held.message)}"[:REASON_CHARS_MAX]

    @property
    def place(self) -> str:
        """Where the original stands."""
        return f"{self.held.topic} {self.held.partition}:{self.held.offset}"

    @property
    def whole(self) -> bool:
        """Whether it holds all of the original."""
        return not self.held.message.endswith(CUT)


@dataclass(frozen=True)
class Wanted:
    """Which letters: of what reason (a part of it), with which numbers (inclusive)."""

    reason: str = ""
    first: int = 0
    last: int | None = None

    def __contains__(self, letter: object) -> bool:
        assert isinstance(letter, Letter)
        told = f"{letter.held.error}: {letter.held.message}"
        return (
            self.reason.lower() in told.lower()
            and letter.number >= self.first
            and (self.last is None or letter.number <= self.last)
        )


@dataclass
class Sent:
    """What a replay did. Left out: `cut` letters don't hold all bytes, `superseded` ones have a newer record."""

    sent: int = 0
    cut: int = 0
    superseded: int = 0
    before: int = 0  # sent by an earlier replay


def letters_of(log: Log, topic: str, since_ms: int = 0) -> list[Letter]:
    """All letters of what came from `topic`, written at `since_ms` or later, oldest first, each once.

    Raises LogError, DataError for a topic without dead letters.
    """
    if topic not in DEAD_LETTERS:
        raise DataError(f"{topic!r} has no dead letters; topics that have: {', '.join(DEAD_LETTERS)}")
    name = DEAD_LETTERS[topic].name
    ends = log.ends(name)
    found: dict[tuple[int, int, int], Letter] = {}
    replayed: dict[tuple[int, int, int], int] = {}
    begin = log.offsets_at(name, since_ms) if since_ms else dict.fromkeys(ends, START)
    for record in span(log, name, begin, ends):
        try:
            held = decode_entity(record.value or b"", DeadLetter)
        except BadEvent:
            continue  # not ours: nothing of it can be told
        if held.error == REPLAYED:
            replayed[held.partition, held.offset, int(held.message, 16)] = record.time_ms
        else:
            found.setdefault(_identity(held), Letter(record.offset, record.time_ms, held))
    return [replace(one, replayed_ms=replayed.get(which, 0)) for which, one in found.items()]


def replay(log: Log, letters: Iterable[Letter], *, dry_run: bool = False) -> Sent:
    """Send originals back into their topics and partitions, and note it; those that were before are left out.

    A letter is noted once the log has its original: who is killed in between sends it again the next time, which the
    joiner and the learner take for the repetition that it is. Raises LogError.
    """
    done = Sent()
    ready: list[tuple[Letter, bytes | None]] = []
    by_topic: dict[str, list[Letter]] = {}
    for letter in letters:
        if letter.replayed_ms:
            done.before += 1
        elif not letter.whole:
            done.cut += 1
        else:
            by_topic.setdefault(letter.held.topic, []).append(letter)
    for topic, some in by_topic.items():
        keys = _newest(log, topic, some) if topic in ENTITIES else {}
        for letter in some:
            key = keys.get((letter.held.partition, letter.held.offset))
            if topic in ENTITIES and key is None:
                done.superseded += 1
            else:
                ready.append((letter, key))
    done.sent = len(ready)
    for at in range(0, 0 if dry_run else len(ready), BATCH):
        _send(log, ready[at : at + BATCH])
    return done


def figures(done: Sent) -> dict[str, object]:
    """For `--json`."""
    return dict(asdict(done))


def as_record(held: DeadLetter) -> bytes:
    """The original as a record of its topic: a single event is put into a list, as records hold them."""
    raw = held.original
    if held.topic in ENTITIES or not raw:
        return raw
    head = {0xDC: 3, 0xDD: 5}.get(raw[0], 1 if 0x90 <= raw[0] <= 0x9F else 0)
    single = head and raw[head : head + 1] < b"\x80"  # an event begins with its tag, a small number
    return b"\x91" + raw if single and len(raw) > head else raw


def decoded(raw: bytes) -> tuple[list[Any], bytes]:
    """What can be read of bytes that couldn't be taken: the values before the first that is broken, and the rest.

    Of a list, its parts are read one by one.
    """
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


def hex_lines(raw: bytes, bytes_max: int = 512) -> list[str]:
    """Bytes as offset, hex and text, 16 a line.

    >>> hex_lines(b"abc" + bytes([193]))
    ['00000000  61 62 63 c1                                      abc.']
    """
    lines = []
    for at in range(0, min(len(raw), bytes_max), 16):
        part = raw[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {text}")
    if len(raw) > bytes_max:
        lines.append(f"... {len(raw) - bytes_max} bytes more (--raw FILE writes all)")
    return lines


def _identity(held: DeadLetter) -> tuple[int, int, int]:
    return held.partition, held.offset, xxhash.xxh3_64_intdigest(held.original)


def _newest(log: Log, topic: str, letters: Sequence[Letter]) -> dict[tuple[int, int], bytes]:
    """The keys of those bad records after which no record of their key has come, by their places."""
    begin: dict[int, int] = {}
    for letter in letters:
        begin[letter.held.partition] = min(letter.held.offset, begin.get(letter.held.partition, letter.held.offset))
    ends = log.ends(topic)
    starts = log.starts(topic)
    newest: dict[tuple[int, bytes], int] = {}
    for record in span(log, topic, {p: max(at, starts[p]) for p, at in begin.items()}, {p: ends[p] for p in begin}):
        newest[record.partition, record.key or b""] = record.offset
    return {(partition, offset): key for (partition, key), offset in newest.items()}


def _send(log: Log, batch: Sequence[tuple[Letter, bytes | None]]) -> None:
    for letter, key in batch:
        log.send(letter.held.topic, letter.held.partition, as_record(letter.held), key)
    log.flush()
    for letter, _ in batch:
        held, topic = letter.held, DEAD_LETTERS[letter.held.topic]
        digest = f"{_identity(held)[2]:016x}"
        note = DeadLetter(b"", REPLAYED, digest, held.topic, held.partition, held.offset)
        key = f"{held.partition}/{held.offset}/{digest}".encode() if topic.compacted else None
        log.send(topic.name, 0, encode(note), key)
    log.flush()
