"""The features of pages that were learned last: golden pages, and what the publish gate compares versions on."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

PAGES_MAX: Final = 512
BYTES_MAX: Final = 2 << 20  # of all pages; a checkpoint has them


class RecentPages:
    """The newest pages, oldest first: at most PAGES_MAX, and BYTES_MAX unless they are the newest `at_least`."""

    def __init__(self, at_least: int) -> None:
        self._pages: deque[bytes] = deque()
        self._at_least, self._bytes = at_least, 0

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pages)

    def __reversed__(self) -> Iterator[bytes]:
        return reversed(self._pages)

    def extend(self, pages: Iterable[bytes]) -> None:
        """Add these, the newest last."""
        for page in pages:
            self._pages.append(page)
            self._bytes += len(page)
        while len(self._pages) > PAGES_MAX or (self._bytes > BYTES_MAX and len(self._pages) > self._at_least):
            self._bytes -= len(self._pages.popleft())

    def erase(self, user: np.uint64) -> int:
        """Drop the pages that have this user's id; returns how many."""
        before = len(self._pages)
        self._pages = deque(page for page in self._pages if user not in np.frombuffer(page, np.uint64))
        self._bytes = sum(map(len, self._pages))
        return before - len(self._pages)

    def newest(self, count: int) -> list[bytes]:
        """The newest `count`, oldest first."""
        return list(self._pages)[-count:]
