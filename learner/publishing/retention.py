"""How many versions the store keeps: as many as the settings say, fewer while its memory is nearly full.

Versions are a cache: what is dropped costs rankers that are far behind a larger read, and operators a diff or a pin.
"""

from typing import Final

import structlog

from stream.runtime.errors import SnapshotError
from stream.snapshots.store import SnapshotStore

HIGH, LOW = 0.75, 0.4  # shares of the store's memory: above the one it keeps half as many, below the other twice
LEAST: Final = 16  # versions, whatever is full: rankers that are a little behind find theirs
log = structlog.get_logger("publisher")


class Retention:
    """Drops old versions. `most`: how many are kept; `kept`: how many are at present."""

    def __init__(self, store: SnapshotStore, most: int) -> None:
        self._store, self._most, self.kept = store, most, most

    def apply(self) -> None:
        """Drop what is too old. Raises SnapshotError."""
        used, before = self._used_share(), self.kept
        if used > HIGH:
            there = len(self._store.versions())
            self.kept = max(min(LEAST, self._most), min(self.kept, there) // 2)
        elif used < LOW:
            self.kept = min(self._most, 2 * self.kept)
        if self.kept != before:
            log.warning("the store keeps another number of versions", versions=self.kept, memory_used=round(used, 2))
        self._store.retain(self.kept)

    def _used_share(self) -> float:
        """Of the memory of the store's server; between LOW and HIGH where it doesn't say."""
        try:
            memory = self._store.memory()
        except SnapshotError:  # a login may lack the right to ask; one that is down says so at the next call
            return HIGH
        return memory.used / memory.limit if memory.limit else HIGH
