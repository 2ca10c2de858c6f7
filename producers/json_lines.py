"""Events as JSON lines, as docs/events.md describes them: from a file or from stdin, live or not."""

import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from producers.source import PAUSE, InvalidEvent, Pause, SourceElement, WorldEvent
from stream.events.half_surrogates import why_invalid
from stream.events.named_events import NAMED_BYTES_MAX, NAMED_ERRORS, LineEvent, event_of
from stream.events.types import Item, RetiredItem, User
from stream.runtime.errors import BadEvent, DataError

STDIN: Final = "-"
CHUNK_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.01
FUTURE_MS_MAX: Final = 60_000  # the joiner rejects events that are further ahead of their arrival

_decoder = msgspec.json.Decoder(LineEvent)


def decode_line(line: bytes) -> WorldEvent | RetiredItem:
    """The event of one line. Raises BadEvent with the reason."""
    if len(line) > NAMED_BYTES_MAX:
        raise BadEvent(f"a line has at most {NAMED_BYTES_MAX} bytes")
    try:
        named = _decoder.decode(line)
    except NAMED_ERRORS as error:
        raise BadEvent(why_invalid(line, error)) from None
    return event_of(named)


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
            if not isinstance(event, Item | User | RetiredItem) and event.time_ms > now_ms() + FUTURE_MS_MAX:
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
        rest = (rest + last)[: NAMED_BYTES_MAX + 1]
    if rest:
        yield rest
