"""What all pages show, as server-sent events: everything to a page that opens, then what has changed."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

POINTS: Final = 300  # of plots: five minutes
ENTRIES: Final = 120  # of the timeline
WAITING_MAX: Final = 30  # frames that a page hasn't taken: then its stream ends, and it connects again
PAGES_MAX: Final = 100

Point = Sequence[float | None]
Entry = Mapping[str, Any]
_Pages = dict["asyncio.Queue[bytes | None]", asyncio.AbstractEventLoop]


class Board:
    """The newest sections, points and entries, and the pages that watch. One thread updates, event loops watch."""

    def __init__(self) -> None:
        self._sections: dict[str, msgspec.Raw] = {}
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._entries: deque[Entry] = deque(maxlen=ENTRIES)
        self._pages: _Pages = {}
        self._lock = threading.Lock()

    @property
    def pages(self) -> int:
        """How many pages watch."""
        return len(self._pages)

    @property
    def is_full(self) -> bool:
        """Whether no more pages are let in."""
        return self.pages >= PAGES_MAX

    def update(self, sections: Mapping[str, Any], points: Sequence[Point] = (), entries: Sequence[Entry] = ()) -> None:
        """Send sections that changed, new points and new entries to all pages."""
        with self._lock:
            encoded = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in sections.items()}
            changed = {name: raw for name, raw in encoded.items() if self._sections.get(name) != raw}
            self._sections |= changed
            self._points.extend(points)
            self._entries.extend(entries)
            if not (changed or points or entries):
                return
            frame = _frame("delta", changed, points, entries)
            for page, loop in self._pages.items():
                with suppress(RuntimeError):  # its loop is closed
                    loop.call_soon_threadsafe(_put, page, frame)

    def stop_all(self) -> None:
        """End the streams of all pages; those that are still open connect again."""
        with self._lock:
            for page, loop in self._pages.items():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(page.put_nowait, None)

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Frames for one page: first everything. Ends when the page doesn't keep up."""
        page: asyncio.Queue[bytes | None] = asyncio.Queue()
        with self._lock:
            first = _frame("full", self._sections, list(self._points), list(self._entries))
            self._pages[page] = asyncio.get_running_loop()
        try:
            yield first
            while (frame := await page.get()) is not None:
                yield frame
        finally:
            with self._lock:
                self._pages.pop(page, None)


def _put(page: "asyncio.Queue[bytes | None]", frame: bytes) -> None:
    page.put_nowait(frame if page.qsize() < WAITING_MAX else None)


def _frame(name: str, sections: Mapping[str, Any], points: Sequence[Point], entries: Sequence[Entry]) -> bytes:
    """JSON has no line break, so each frame is one line of data."""
    body = {"sections": sections, "points": points, "entries": entries}
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(body))
