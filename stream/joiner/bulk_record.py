"""Cuts a record of very many events into records of fewer, so that none takes long to decode. Pure."""

from collections.abc import Iterator
from typing import Final

import msgspec

from stream.events import EVENTS_MAX, RECORD_BYTES_MAX
from stream.joiner.labels import array_head

BULK_EVENTS: Final = 1_024  # bad ones take 10 µs each

_raws: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def event_count(raw: bytes) -> int:
    """How many events the record says that it has.

    >>> [event_count(raw) for raw in (b"", bytes([0x92, 1, 2]), bytes([0xDC, 4, 1]))]
    [0, 2, 1025]
    """
    head = raw[0] if raw else 0
    if 0x90 <= head <= 0x9F:
        return head & 15
    return int.from_bytes(raw[1:3], "big") if head == 0xDC else int.from_bytes(raw[1:5], "big") if head == 0xDD else 0


def record_slices(raw: bytes, events_max: int = BULK_EVENTS) -> Iterator[bytes]:
    """The same events as records of at most so many; the record itself where it is bad as a whole."""
    parts: list[msgspec.Raw] = []
    if len(raw) <= RECORD_BYTES_MAX and event_count(raw) <= EVENTS_MAX:
        try:
            parts = _raws.decode(raw)
        except (msgspec.MsgspecError, RecursionError):
            parts = []
    if not parts:
        yield raw
        return
    for begin in range(0, len(parts), events_max):
        some = parts[begin : begin + events_max]
        yield b"".join((array_head(len(some)), *some))
