"""Detects a partition with nothing but bad records: a broken producer must not drain into dead letters."""

import time
from collections.abc import Callable
from typing import Final

from stream.runtime.errors import Poisoned

POISON_MIN: Final = 20  # consecutive bad records; fewer may be chance


class PoisonDetector:
    """Of one partition: bad records since the last good one, and for how long."""

    def __init__(self, after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0  # bad records since the last good one
        self._after_s = after_s
        self._clock = clock
        self._since: float | None = None

    def observe(self, good: bool, bad: bool) -> None:
        """A record with events of either kind. Raises Poisoned."""
        if good:
            self._since, self.count = None, 0
        if good or not bad or not self._after_s:
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        self.count += 1
        if now - self._since >= self._after_s and self.count >= POISON_MIN:
            raise Poisoned(
                f"every event was rejected for {now - self._since:.0f} s ({self.count} records): "
                "`thalweg dlq show` says why. Fix the producer, then restart; or let all of them become dead "
                "letters with THALWEG_JOINER_POISON_S=0"
            )
