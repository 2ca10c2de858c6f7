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

from producers.source import PAUSE, InvalidEvent, Pause, SourceElement, WorldEvent
from stream.events.checks import check_id, check_source
from stream.events.codec import encode
from stream.events.types import EVENT_BYTES_MAX, Impression, Install, Item, Tick, User, Value
from stream.runtime.errors import BadEvent, DataError

STDIN: Final = "-"
LINE_BYTES_MAX: Final = 4 * EVENT_BYTES_MAX  # JSON is longer than msgpack
CHUNK_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.01
FUTURE_MS_MAX: Final = 60_000  # the joiner rejects events that are further ahead of their arrival

Moment = Annotated[datetime, Meta(tz=True)]


class Line(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """Root of the lines, tagged by `type`; unknown fields are rejected."""


class Timed(Line):
    """A line with an event time: `time` as RFC 3339 text with its zone, or `time_ms` since 1970."""

    time: Moment | None = None
    time_ms: int | None = None

    def at_ms(self) -> int:
        """The event time in ms. Raises BadEvent unless exactly one of the two is given."""
        if (self.time is None) == (self.time_ms is None):
            raise BadEvent('give either "time", such as "2024-11-24T08:00:00Z", or "time_ms"')
        return self.time_ms if self.time is None else round(self.time.timestamp() * 1000)  # type: ignore[return-value]


class ImpressionLine(Timed, tag="impression", kw_only=True):
    """A page that a user saw; without `request_id` its id is a hash of user, time and items."""

    user: str
    items: list[str]
    request_id: str = ""
    context: dict[str, str | float] = {}
    variant: str = ""
    version: int = 0
    scores: list[float] = []
    propensities: list[float] = []
    features: bytes = b""


class InstallLine(Timed, tag="install", kw_only=True):
    """An install; without `install_id` its id is a hash of user, item and time."""

    user: str
    item: str
    install_id: str = ""
    request_id: str = ""
    retracted: bool = False


class TickLine(Timed, tag="tick"):
    """Event time has reached this, in every partition."""


class ItemLine(Line, tag="item", kw_only=True):
    """An item's attributes; replaces earlier ones."""

    item: str
    title: str = ""
    popularity: float = 0.0
    attributes: dict[str, Value] = {}


class UserLine(Line, tag="user", kw_only=True):
    """A user's attributes; replaces earlier ones."""

    user: str
    attributes: dict[str, Value] = {}


AnyLine = ImpressionLine | InstallLine | TickLine | ItemLine | UserLine
_decoder = msgspec.json.Decoder(AnyLine)


def content_id(kind: str, user: str, time_ms: int, items: Iterable[str]) -> str:
    """The id of an event whose line has none: equal lines have equal ids."""
    content = "\x00".join((kind, user, str(time_ms), *items))
    return f"{kind}-{xxhash.xxh3_64_hexdigest(content.encode())}"


def _event(line: AnyLine) -> WorldEvent:
    if isinstance(line, ItemLine):
        return Item(line.item, line.attributes, line.title, line.popularity)
    if isinstance(line, UserLine):
        return User(line.user, line.attributes)
    if isinstance(line, InstallLine) and line.retracted and not line.install_id:
        raise BadEvent("a retraction needs the install_id of the install that it retracts")
    at_ms = line.at_ms()
    if isinstance(line, TickLine):
        return Tick(at_ms)
    if isinstance(line, InstallLine):
        install_id = line.install_id or content_id("install", line.user, at_ms, [line.item])
        return Install(line.user, line.item, at_ms, install_id, line.request_id, line.retracted)
    return Impression(
        line.request_id or content_id("page", line.user, at_ms, line.items), at_ms, line.user, line.items,
        line.variant, line.version, line.scores, line.propensities, line.features, line.context,
    )  # fmt: skip


def decode_line(line: bytes) -> WorldEvent:
    """The event of one line. Raises BadEvent with the reason."""
    if len(line) > LINE_BYTES_MAX:
        raise BadEvent(f"a line has at most {LINE_BYTES_MAX} bytes")
    try:
        event = _event(_decoder.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise BadEvent(str(error)) from None
    if isinstance(event, Item | User):
        check_id("its id", event.item if isinstance(event, Item) else event.user)
    else:
        check_source(event)
    size = len(encode(event))
    if size > EVENT_BYTES_MAX:
        raise BadEvent(f"an event has at most {EVENT_BYTES_MAX} bytes, this one {size}")
    return event


def numbered_lines(chunks: Iterable[bytes | None], now_ms: Callable[[], int]) -> Iterator[tuple[int, SourceElement]]:
    """The events of the lines in order, each with its line number, from 1; an invalid line yields InvalidEvent.

    `chunks` are pieces of the text, cut anywhere; None yields a pause. Empty lines yield nothing.
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
            if not isinstance(event, Item | User) and event.time_ms > now_ms() + FUTURE_MS_MAX:
                raise BadEvent(f"event time {event.time_ms} ms lies in the future")
        except BadEvent as error:
            yield number, InvalidEvent(f"line {number}", str(error))
        else:
            yield number, event


def file_lines(name: str, now_ms: Callable[[], int]) -> Iterator[SourceElement]:
    """The events of a file's lines; `-` is stdin. Raises DataError when it can't be opened."""
    return (event for _, event in numbered_lines(file_chunks(name), now_ms))


def file_chunks(name: str, on_read: Callable[[int], object] = lambda count: None) -> Iterator[bytes | None]:
    """A file's bytes in pieces; `-` is stdin; None while it is idle. `on_read` is called with each piece's length.

    Raises DataError at once when it can't be opened.
    """
    try:
        fd = os.dup(sys.stdin.fileno()) if name == STDIN else os.open(Path(name), os.O_RDONLY)
        if os.path.isdir(fd):
            raise IsADirectoryError(21, "it is a folder")
    except OSError as error:
        raise DataError(f"{name} can't be read ({error.strerror}): name a file of JSON lines, or - for stdin") from None
    return _chunks(fd, on_read)


def _chunks(fd: int, on_read: Callable[[int], object]) -> Iterator[bytes | None]:
    try:
        while True:
            if not select.select([fd], [], [], PAUSE_S)[0]:
                yield None
                continue
            chunk = os.read(fd, CHUNK_BYTES)
            if not chunk:
                return
            on_read(len(chunk))
            yield chunk
    finally:
        os.close(fd)


def _split(chunks: Iterable[bytes | None]) -> Iterator[bytes | Pause]:
    """Lines without their ends. An overlong line is truncated, but stays long enough to be rejected."""
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
