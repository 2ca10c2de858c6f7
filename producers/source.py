"""What a source yields, in the order in which it is played: events, attributes, and what is wrong or missing."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from stream.events.types import Impression, Install, Item, SourceEvent, User

WorldEvent = SourceEvent | Item | User


class Broken(NamedTuple):
    """A piece of a source that can't be played: where it stands and why."""

    where: str
    reason: str


class Pause:
    """Nothing has come for a moment (a live source): whatever is gathered may go."""


PAUSE: Final = Pause()
Sourced = WorldEvent | Broken | Pause


def first_pages(source: Iterable[Sourced], limit: int, window_ms: int) -> Iterator[Sourced]:
    """The first `limit` pages with all that can still label them: installs until the last one's window is over.

    Later pages are left out, and so are installs that name one of them.
    """
    pages, end_ms = 0, 0
    left_out: set[str] = set()
    for event in source:
        if isinstance(event, Impression) and pages == limit:
            if event.time_ms >= end_ms:
                return
            left_out.add(event.request_id)
            continue
        if isinstance(event, Impression):
            pages += 1
            end_ms = max(end_ms, event.time_ms + window_ms)
        elif isinstance(event, Install) and pages == limit:
            if event.time_ms >= end_ms:
                return
            if event.request_id in left_out:
                continue
        yield event
