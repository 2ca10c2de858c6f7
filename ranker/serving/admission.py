"""Admission: whether a request can still be answered in time, given those that were admitted before it.

What can't is answered at once, so that its sender can ask elsewhere: the newest requests are shed, since those before
them keep their place. The queue is bounded by time, not by a count.
"""

import threading
from typing import Final

COST_MS_START: Final = 2.0  # of a request, until some were answered
WEIGHT: Final = 1 / 32  # of the newest cost in the mean
OUTLIER: Final = 10.0  # times the mean: what a stall took beyond that says nothing of the next request


class AdmissionQueue:
    """Counts the admitted requests that aren't answered yet. Several threads and transports may share it.

    `queue_ms_max` bounds how long a request is expected to wait for those before it. With several `workers`,
    requests are answered side by side.
    """

    def __init__(self, queue_ms_max: float, *, workers: int = 1) -> None:
        assert queue_ms_max > 0, "no request would ever be admitted"
        assert workers >= 1, "somebody has to answer"
        self._queue_ms_max, self._workers = queue_ms_max, workers
        self._lock = threading.Lock()
        self._waiting = 0
        self._cost_ms = COST_MS_START

    @property
    def waiting(self) -> int:
        """How many admitted requests aren't answered yet."""
        return self._waiting

    @property
    def queue_ms(self) -> float:
        """How long the next request is expected to wait for those before it."""
        return self._waiting * self._cost_ms / self._workers

    @property
    def is_full(self) -> bool:
        """Whether no request is admitted now, whatever its deadline."""
        return self.queue_ms > self._queue_ms_max

    @property
    def cost_ms(self) -> float:
        """The mean cost of a request, of the recent ones."""
        return self._cost_ms

    def admit(self, left_ms: float, *, overtakes: int = 0) -> bool:
        """Whether a request with `left_ms` of its deadline is queued; False: shed it. Each queued one needs `done`.

        `overtakes`: how many of those that wait are answered after it.
        """
        with self._lock:
            before = self._waiting - overtakes
            wait_ms = before * self._cost_ms / self._workers
            is_late = before > 0 and wait_ms + self._cost_ms / self._workers > left_ms
            if is_late or wait_ms > self._queue_ms_max:
                return False
            self._waiting += 1
            return True

    def done(self, cost_ms: float | None = None) -> None:
        """An admitted request is answered, or given up. `cost_ms`: how long it was worked at, if it was ranked."""
        with self._lock:
            assert self._waiting > 0, "more requests are done than were admitted"
            self._waiting -= 1
            if cost_ms is not None:
                self._cost_ms += WEIGHT * (min(cost_ms, OUTLIER * self._cost_ms) - self._cost_ms)
