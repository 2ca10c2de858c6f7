"""Events in the form that the join holds: a page is the bytes that the log has of it, and what the join must know.

Decoded pages are checked and thrown away: kept as bytes, a page costs a third, and goes out again as it came.
"""

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, Final

import msgspec

from stream.events import Impression, Install, SourceEvent, Tick, decode_events, encode

CLOSED: Final = 1  # its window is over
SILENT: Final = 2  # finished before a restart, or forgotten: says nothing


class RawImpression(msgspec.Struct, gc=False, eq=False):
    """A page as it lies in the log, and what the join knows of it. `told` and `labels` have a bit per position."""

    raw: bytes
    request_id: str
    user: str
    time_ms: int
    size: int  # number of items
    mark: Any = None  # the record it stood in
    told: int = 0
    labels: int = 0
    installs: tuple[tuple[int, str, int], ...] = ()  # position, install id, ingest ms, oldest first
    state: int = 0  # CLOSED, SILENT, or both: one field for 16 bytes less

    @property
    def items(self) -> list[str]:
        """What it shows, decoded anew."""
        return _items.decode(self.raw).items

    def position_of(self, item: str) -> int:
        """Where the item stands on the page, -1 if it doesn't."""
        if item.encode() not in self.raw:  # cheap, and true of most pages
            return -1
        items = self.items
        return items.index(item) if item in items else -1


class _Items(msgspec.Struct, array_like=True, tag=1):
    """A page up to its items."""

    request_id: msgspec.Raw
    time_ms: msgspec.Raw
    user: msgspec.Raw
    items: list[str]


_items = msgspec.msgpack.Decoder(_Items)
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
_install = msgspec.msgpack.Decoder(Install)

JoinEvent = RawImpression | Install | Tick


@cache
def _scan() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded. To import it for each record costs 0.7 µs."""
    from stream.joiner import record_scan

    return record_scan


def read_record(raw: bytes) -> tuple[list[JoinEvent], list[tuple[bytes, str]]]:
    """What `decode_events` says of a record, pages in the join's form: events in order, and (bytes, reason)."""
    scan = _scan()
    found = scan.plain_events(raw)
    if found is None:
        return read_any(raw)
    events: list[JoinEvent] = []
    before_ms, page, install = 0, scan.PAGE, scan.INSTALL
    for tag, begin, end, time_ms, size, request, request_end, user, user_end in found:
        if tag == page:
            request_id, user_id = str(raw[request:request_end], "ascii"), str(raw[user:user_end], "ascii")
            before_ms = time_ms = before_ms if time_ms == before_ms else time_ms  # one number for pages of the same ms
            events.append(RawImpression(raw[begin:end], request_id, user_id, time_ms, size))
        else:
            events.append(_install.decode(raw[begin:end]) if tag == install else Tick(time_ms))
    return events, []


def read_any(raw: bytes) -> tuple[list[JoinEvent], list[tuple[bytes, str]]]:
    """The same for a record of any form, bad ones too, more slowly."""
    events, bad = decode_events(raw)
    if bad:
        return held(events), bad
    return [
        RawImpression(bytes(part), e.request_id, e.user, e.time_ms, len(e.items)) if isinstance(e, Impression) else e
        for e, part in zip(events, _parts.decode(raw), strict=True)
    ], bad


def held(events: Sequence[SourceEvent]) -> list[JoinEvent]:
    """Decoded events in the join's form."""
    return [
        RawImpression(encode(e), e.request_id, e.user, e.time_ms, len(e.items)) if isinstance(e, Impression) else e
        for e in events
    ]
