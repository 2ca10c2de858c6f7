"""Saves the join states of a worker's partitions periodically, so that a restart reads less of the log."""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from stream.joiner import metrics
from stream.joiner.assigned_partitions import AssignedPartition

if TYPE_CHECKING:
    from stream.joiner.state_store import Capture

PAGES_MIN: Final = 50_000  # fewer retained pages are read again within a second or two
EVERY_S: Final = 10.0

log = logging.getLogger(__name__)


class StateSaver:
    """Captures a worker's states with a commit, and writes them once that is stored."""

    def __init__(self) -> None:
        self._saved_at: dict[int, float] = {}
        self._writing = False

    def capture(
        self, assigned: Mapping[int, AssignedPartition], now: float, *, ending: bool = False
    ) -> "dict[int, tuple[AssignedPartition, Capture]]":
        """Copies of the large states whose save is due: of one partition at a time, unless the worker is ending."""
        found: dict[int, tuple[AssignedPartition, Capture]] = {}
        if self._writing:
            return found
        for partition, one in assigned.items():
            due = ending or now - self._saved_at.get(partition, -EVERY_S) >= EVERY_S
            is_large = one.joiner.retained_pages >= PAGES_MIN or one.joiner.state.keeps_chunks
            if due and one.can_commit and is_large:
                found[partition] = one, one.state_store.capture(one.joiner.state, one.next_offset)
                self._saved_at[partition] = now
                if not ending:
                    break
        self._writing = bool(found)
        return found

    async def write(self, captures: "Mapping[int, tuple[AssignedPartition, Capture]]") -> None:
        """Write the captures whose commits are stored; others can't be resumed from, and are dropped."""
        try:
            for partition, (one, capture) in captures.items():
                store, state = one.state_store, one.joiner.state
                if one.confirmed < capture.saved.next_offset:
                    state.keeps_chunks = store.is_written
                    continue
                await asyncio.to_thread(store.write, capture)
                store.release_chunks(state, capture)
                metrics.SAVED_PAGES.labels(str(partition)).set(one.joiner.retained_pages)
        except OSError as bad:
            log.warning("the join's state can't be saved (%s): a restart reads the log instead", bad)
        finally:
            if captures:
                self._writing = False
