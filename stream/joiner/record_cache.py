"""Recent records of `events`: they contain the bytes of the pages whose labels are emitted."""

from collections import deque
from typing import Final

UNBOUNDED: Final = 2**62


class RecordCache:
    """Recent records by offset; `trim` evicts the oldest above `bytes_max`."""

    def __init__(self, bytes_max: int = UNBOUNDED) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._records: dict[int, bytes] = {}
        self._offsets: deque[int] = deque()  # a dict finds its first key slowly behind many deleted ones

    def put(self, offset: int, raw: bytes) -> None:
        """Add a record; offsets must ascend, except for one that is cached already."""
        if offset in self._records:
            return
        self._records[offset] = raw
        self._offsets.append(offset)
        self.bytes += len(raw)

    def get(self, offset: int) -> bytes | None:
        """A record, or None if it isn't cached."""
        return self._records.get(offset)

    def trim(self, needed_from: int) -> None:
        """Evict the records before this offset, then the oldest ones above `bytes_max`."""
        offsets = self._offsets
        while offsets and (offsets[0] < needed_from or self.bytes > self.bytes_max):
            self.bytes -= len(self._records.pop(offsets.popleft()))
