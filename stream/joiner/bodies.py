"""Records of `events` that are at hand: the bytes of pages whose labels go out."""

from collections import deque
from typing import Final

NO_LIMIT: Final = 2**62


class Bodies:
    """Recent records by offset, about `bytes_max` of them: `trim` lets the oldest go."""

    def __init__(self, bytes_max: int = NO_LIMIT) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._records: dict[int, bytes] = {}
        self._order: deque[int] = deque()  # a dict's first key is slow to find behind many that are gone

    def put(self, offset: int, raw: bytes) -> None:
        """Keep a record; offsets grow, but for one that is put again."""
        if offset in self._records:
            return
        self._records[offset] = raw
        self._order.append(offset)
        self.bytes += len(raw)

    def get(self, offset: int) -> bytes | None:
        """A record, None where it isn't at hand."""
        return self._records.get(offset)

    def trim(self, needed_from: int) -> None:
        """Give up the records before this one, of which nothing is remembered, and the oldest that are too many."""
        order = self._order
        while order and (order[0] < needed_from or self.bytes > self.bytes_max):
            self.bytes -= len(self._records.pop(order.popleft()))
