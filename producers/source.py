"""What a source yields, in replay order: events, entities, invalid events and pauses."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from stream.events.types import Impression, Install, Item, RetiredItem, SourceEvent, User

WorldEvent = SourceEvent | Item | User


class InvalidEvent(NamedTuple):
    """A part of a source that can't be replayed: its location, and why."""

    location: str
    reason: str


class Pause:
    """A live source is idle: batched events may be sent."""


PAUSE: Final = Pause()
SourceElement = WorldEvent | RetiredItem | InvalidEvent | Pause


def first_pages(source: Iterable[SourceElement], limit: int, window_ms: int) -> Iterator[SourceElement]:
    """The first `limit` pages with all that can still label them: installs until the last page's window closes.

    Later pages are dropped, and so are installs that name one of them.
    """
    pages, end_ms = 0, 0
    dropped: set[str] = set()
    for event in source:
        if isinstance(event, Impression) and pages == limit:
            if event.time_ms >= end_ms:
                return
            dropped.add(event.request_id)
            continue
        if isinstance(event, Impression):
            pages += 1
            end_ms = max(end_ms, event.time_ms + window_ms)
        elif isinstance(event, Install) and pages == limit:
            if event.time_ms >= end_ms:
                return
            if event.request_id in dropped:
                continue
        yield event
