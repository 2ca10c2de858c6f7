"""Shows in a consumer group of its own how far joining is: the joiner's commits lie behind, at its oldest open page."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from stream.events.topics import EVENTS
from stream.joiner.assigned_partitions import AssignedPartition
from stream.log.displayed_offsets import COMMIT_S, DisplayedOffsets
from stream.log.protocol import Log
from stream.runtime.errors import LogError

GROUP: Final = "joiner-progress"

log = logging.getLogger(__name__)


class ProgressDisplay:
    """Commits every COMMIT_S, in a thread of its own, up to where the output of this worker's partitions is confirmed.

    `partitions`: those that are assigned now. `source` opens the log.
    """

    def __init__(self, source: Callable[[], Log], partitions: Callable[[], Mapping[int, AssignedPartition]]) -> None:
        self._partitions = partitions
        self._offsets = DisplayedOffsets(source, EVENTS.name, GROUP)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def commit(self) -> None:
        """Store the offsets now. A partition without a commit of the joiner's is left out."""
        found = {p: one.confirmed for p, one in dict(self._partitions()).items() if one.stored_commit is not None}
        if found:
            self._offsets.commit(found)

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop; safe to call twice."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(COMMIT_S):
            self.commit()
        try:
            self._offsets.close()
        except LogError as error:
            log.info("closing the log that shows offsets: %s; ignored", error)
