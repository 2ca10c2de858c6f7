"""Offsets that a room commits for Kafka's tools and lag exporters only: nobody resumes from them."""

import logging
from collections.abc import Callable, Mapping
from typing import Final

from stream.log.protocol import Log
from stream.runtime.errors import LogError, LogUnavailable

COMMIT_S: Final = 5.0  # between two commits, also unchanged ones: the broker forgets an idle group
FAILURES: Final = 3  # of commits, of an unavailable broker, before a warning

log = logging.getLogger(__name__)


class DisplayedOffsets:
    """The offsets of one group in one topic, both without prefix. `open_log` is called at the first commit, and again
    while it fails."""

    def __init__(self, open_log: Callable[[], Log], topic: str, group: str) -> None:
        self._open, self._topic, self._group = open_log, topic, group
        self._log: Log | None = None
        self._failures = 0

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the next offset, by partition. A failure is logged once, and the room goes on."""
        try:
            self._log = self._log or self._open()
            self._log.commit(self._topic, self._group, positions)
            self._failures = 0
        except LogError as error:
            self._failures += 1
            if self._failures == (FAILURES if isinstance(error, LogUnavailable) else 1):
                log.warning("lag exporters don't see the offsets of group %s; all else goes on: %s", self._group, error)

    def close(self) -> None:
        """Close the log, if one was opened; safe to call twice."""
        opened, self._log = self._log, None
        if opened is not None:
            opened.close()
