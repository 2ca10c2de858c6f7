"""Records of `events` that are at hand: the bytes of pages whose labels go out."""

from typing import Final

NO_LIMIT: Final = 2**62


class Bodies:
    """Recent records by offset, `bytes_max` of them at most: the oldest go first."""

    def __init__(self, bytes_max: int = NO_LIMIT) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._records: dict[int, bytes] = {}

    def put(self, offset: int, raw: bytes) -> None:
        """Keep a record; offsets only grow."""
        self._records[offset] = raw
        self.bytes += len(raw)
        while self.bytes > self.bytes_max:
            self._drop(next(iter(self._records)))

    def get(self, offset: int) -> bytes | None:
        """A record, None where it isn't at hand."""
        return self._records.get(offset)

    def drop_before(self, offset: int) -> None:
        """Give up the records before this one: nothing of them is remembered."""
        while self._records and (first := next(iter(self._records))) < offset:
            self._drop(first)

    def _drop(self, offset: int) -> None:
        self.bytes -= len(self._records.pop(offset))
