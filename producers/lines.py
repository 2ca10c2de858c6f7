"""Events as JSON lines, as docs/events.md describes them: from a file or from stdin, live or not."""

import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import xxhash
from msgspec import Meta

from producers.source import PAUSE, Broken, Pause, Sourced, WorldEvent
from stream.events.checks import check_source
from stream.events.codec import encode
from stream.events.types import EVENT_BYTES_MAX, Impression, Install, Item, Tick, User, Value
from stream.runtime.errors import BadEvent, DataError

STDIN: Final = "-"
LINE_BYTES_MAX: Final = 4 * EVENT_BYTES_MAX  # JSON is longer than what it says
CHUNK_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.01
AHEAD_MS_MAX: Final = 60_000  # the joiner doesn't take what is said to happen later than this after its arrival

Moment = Annotated[datetime, Meta(tz=True)]


class Line(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """Root of the lines: `type` says which; unknown fields are refused."""


class Timed(Line):
    """A line with an event time: `time` as RFC 3339 text with its zone, or `time_ms` since 1970."""

    time: Moment | None = None
    time_ms: int | None = None

    def at_ms(self) -> int:
        """The event time in ms. Raises BadEvent unless it is given just once."""
        if (self.time is None) == (self.time_ms is None):
            raise BadEvent('give either "time", such as "2024-11-24T08:00:00Z", or "time_ms"')
        return self.time_ms if self.time is None else round(self.time.timestamp() * 1000)  # type: ignore[return-value]


class ImpressionLine(Timed, tag="impression", kw_only=True):
    """A page that a user saw; without `request_id` it is named after user, time and items."""

    user: str
    items: list[str]
    request_id: str = ""
    context: dict[str, str | float] = {}
    variant: str = ""
    version: int = 0
    scores: list[float] = []
    propensities: list[float] = []
    features: bytes = b""

    def event(self) -> WorldEvent:
        """The page. Raises BadEvent."""
        at_ms = self.at_ms()
        name = self.request_id or named("page", self.user, at_ms, self.items)
        return Impression(
            name, at_ms, self.user, self.items, self.variant, self.version, self.scores, self.propensities,
            self.features, self.context,
        )  # fmt: skip


class InstallLine(Timed, tag="install", kw_only=True):
    """An install; without `install_id` it is named after user, item and time."""

    user: str
    item: str
    install_id: str = ""
    request_id: str = ""
    retracted: bool = False

    def event(self) -> WorldEvent:
        """The install. Raises BadEvent."""
        if self.retracted and not self.install_id:
            raise BadEvent("a retraction needs the install_id of the install that it takes back")
        at_ms = self.at_ms()
        name = self.install_id or named("install", self.user, at_ms, [self.item])
        return Install(self.user, self.item, at_ms, name, self.request_id, self.retracted)


class TickLine(Timed, tag="tick", kw_only=True):
    """Event time has come so far, in every partition."""

    def event(self) -> WorldEvent:
        """The tick. Raises BadEvent."""
        return Tick(self.at_ms())


class ItemLine(Line, tag="item", kw_only=True):
    """An item's attributes; replaces what was known."""

    item: str
    title: str = ""
    popularity: float = 0.0
    attributes: dict[str, Value] = {}

    def event(self) -> WorldEvent:
        """The item."""
        return Item(self.item, self.attributes, self.title, self.popularity)


class UserLine(Line, tag="user", kw_only=True):
    """A user's attributes; replaces what was known."""

    user: str
    attributes: dict[str, Value] = {}

    def event(self) -> WorldEvent:
        """The user."""
        return User(self.user, self.attributes)


_decoder = msgspec.json.Decoder(ImpressionLine | InstallLine | TickLine | ItemLine | UserLine)


def named(kind: str, user: str, time_ms: int, items: Iterable[str]) -> str:
    """The id of an event whose line gives none: the same line has the same id wherever it stands."""
    content = "\x00".join((kind, user, str(time_ms), *items))
    return f"{kind}-{xxhash.xxh3_64_hexdigest(content.encode())}"


def decode_line(line: bytes) -> WorldEvent:
    """The event in one line. Raises BadEvent saying what is wrong with it."""
    if len(line) > LINE_BYTES_MAX:
        raise BadEvent(f"a line has at most {LINE_BYTES_MAX} bytes")
    try:
        event: WorldEvent = _decoder.decode(line).event()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as bad:
        raise BadEvent(str(bad)) from None
    if isinstance(event, Item | User):
        if not (event.item if isinstance(event, Item) else event.user):
            raise BadEvent("an item or user needs its id")
    else:
        check_source(event)
    size = len(encode(event))
    if size > EVENT_BYTES_MAX:
        raise BadEvent(f"an event has at most {EVENT_BYTES_MAX} bytes, this one {size}")
    return event


def numbered_lines(chunks: Iterable[bytes | None], now_ms: Callable[[], int]) -> Iterator[tuple[int, Sourced]]:
    """What the lines say, in their order, each with its number, from 1; a line that can't be taken yields Broken.

    `chunks` are pieces of the text, cut anywhere; None: nothing has come for a moment. Empty lines yield nothing.
    """
    number = 0
    for line in _split(chunks):
        if isinstance(line, Pause):
            yield number, line
            continue
        number += 1
        if not line.strip():
            continue
        try:
            event = decode_line(line)
            if not isinstance(event, Item | User) and event.time_ms > now_ms() + AHEAD_MS_MAX:
                raise BadEvent(f"event time {event.time_ms} ms lies in the future")
        except BadEvent as bad:
            yield number, Broken(f"line {number}", str(bad))
        else:
            yield number, event


def read_lines(chunks: Iterable[bytes | None], now_ms: Callable[[], int]) -> Iterator[Sourced]:
    """What `numbered_lines` says, without the numbers."""
    return (event for _, event in numbered_lines(chunks, now_ms))


def file_lines(name: str, now_ms: Callable[[], int]) -> Iterator[Sourced]:
    """What the lines of a file say; `-` is stdin. Raises DataError when it can't be opened."""
    return read_lines(file_chunks(name), now_ms)


def file_chunks(name: str, read: Callable[[int], object] = lambda count: None) -> Iterator[bytes | None]:
    """A file's bytes in pieces; `-` is stdin; None: nothing has come for a moment. `read` hears each piece's length.

    Raises DataError when it can't be opened, at once.
    """
    try:
        fd = os.dup(sys.stdin.fileno()) if name == STDIN else os.open(Path(name), os.O_RDONLY)
        if os.path.isdir(fd):
            raise IsADirectoryError(21, "it is a folder")
    except OSError as bad:
        raise DataError(f"{name} can't be read ({bad.strerror}): name a file of JSON lines, or - for stdin") from None
    return _chunks(fd, read)


def _chunks(fd: int, read: Callable[[int], object]) -> Iterator[bytes | None]:
    try:
        while True:
            if not select.select([fd], [], [], PAUSE_S)[0]:
                yield None
                continue
            chunk = os.read(fd, CHUNK_BYTES)
            if not chunk:
                return
            read(len(chunk))
            yield chunk
    finally:
        os.close(fd)


def _split(chunks: Iterable[bytes | None]) -> Iterator[bytes | Pause]:
    """Lines without their ends. Of a line that is far too long only a part is kept: enough to refuse it."""
    rest = b""
    for chunk in chunks:
        if chunk is None:
            yield PAUSE
            continue
        *lines, last = chunk.split(b"\n")
        for line in lines:
            yield rest + line
            rest = b""
        rest = (rest + last)[: LINE_BYTES_MAX + 1]
    if rest:
        yield rest
