"""How far a model's request loop is behind `rank.requests`, as metrics by partition."""

from collections.abc import Mapping, Set
from typing import Final

from ranker import metrics
from ranker.serving.offset_tracker import OffsetTracker

GAUGES: Final = metrics.REQUEST_LAG_RECORDS, metrics.REQUEST_LAG_SECONDS


class RequestLag:
    """The lag of one model's requests. A partition that is revoked has no value: another ranker exports it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._partitions: set[int] = set()  # that have a value

    def observe(
        self, ends: Mapping[int, int], assigned: Set[int], trackers: Mapping[int, OffsetTracker], now_ms: int
    ) -> None:
        """Set the metrics as of `now_ms` (epoch ms). `ends`: offset after the newest record, per partition."""
        for partition in self._partitions - assigned:
            for gauge in GAUGES:
                gauge.remove(self._model, str(partition))
        self._partitions = ends.keys() & assigned
        for partition in self._partitions:
            tracker = trackers.get(partition)  # none: nothing has come since it was assigned
            oldest_ms = tracker.oldest_ms() if tracker else None
            records = max(0, ends[partition] - tracker.committable()) if tracker else 0
            seconds = 0.0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1e3
            for gauge, value in zip(GAUGES, (records, seconds), strict=True):
                gauge.labels(self._model, str(partition)).set(value)
