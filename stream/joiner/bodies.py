"""Records of `events` that are at hand: the bytes of pages whose labels go out."""

from typing import Final

NO_LIMIT: Final = 2**62


class Bodies:
    """Recent records by offset, about `bytes_max` of them: `trim` lets the oldest go."""

    def __init__(self, bytes_max: int = NO_LIMIT) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._records: dict[int, bytes] = {}

    def put(self, offset: int, raw: bytes) -> None:
        """Keep a record; offsets only grow, but for one that is put again."""
        self.bytes += len(raw) - len(self._records.pop(offset, b""))
        self._records[offset] = raw

    def get(self, offset: int) -> bytes | None:
        """A record, None where it isn't at hand."""
        return self._records.get(offset)

    def trim(self, needed_from: int) -> None:
        """Give up the records before this one, of which nothing is remembered, and the oldest that are too many."""
        records = self._records
        while records:
            first = next(iter(records))
            if first >= needed_from and self.bytes <= self.bytes_max:
                return
            self.bytes -= len(records.pop(first))
