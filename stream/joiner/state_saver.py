"""Saves the states of a worker's partitions now and then, so that a restart needn't read all that is remembered."""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from stream.joiner import metrics
from stream.joiner.assigned_partitions import Assigned

if TYPE_CHECKING:
    from stream.joiner.state_store import Capture

PAGES_MIN: Final = 50_000  # remembered: fewer are read again within a second or two
EVERY_S: Final = 10.0

log = logging.getLogger(__name__)


class StateSaver:
    """Of one worker. A state is captured with a commit, and written once that is stored."""

    def __init__(self) -> None:
        self._saved_at: dict[int, float] = {}
        self._writing = False

    def capture(
        self, owned: Mapping[int, Assigned], now: float, *, ending: bool = False
    ) -> "dict[int, tuple[Assigned, Capture]]":
        """Copies of what is worth it, and due: of one partition at a time, unless the worker ends."""
        found: dict[int, tuple[Assigned, Capture]] = {}
        if self._writing:
            return found
        for partition, one in owned.items():
            due = ending or now - self._saved_at.get(partition, -EVERY_S) >= EVERY_S
            if one.store is None or not one.whole or not due or one.next_offset < one.emit_from:
                continue
            if one.joiner.remembered_pages >= PAGES_MIN or one.joiner.state.keeps_chunks:
                found[partition] = one, one.store.capture(one.joiner.state, one.next_offset)
                self._saved_at[partition] = now
                if not ending:
                    break
        self._writing = bool(found)
        return found

    async def write(self, captures: "Mapping[int, tuple[Assigned, Capture]]") -> None:
        """Write captures whose commits are stored; others are of no use, and are left."""
        try:
            for partition, (owned, capture) in captures.items():
                if owned.stored is None or owned.confirmed < capture.saved.next_offset or owned.store is None:
                    owned.joiner.state.keeps_chunks = owned.store is not None and owned.store.is_written
                    continue
                await asyncio.to_thread(owned.store.write, capture)
                owned.store.wrote(owned.joiner.state, capture)
                metrics.SAVED_PAGES.labels(str(partition)).set(owned.joiner.remembered_pages)
        except OSError as bad:
            log.warning("the join's state can't be saved (%s): a restart will read the log again", bad)
        finally:
            if captures:
                self._writing = False
