"""How far learning is behind the log: as metrics, and as committed offsets of a consumer group for lag exporters."""

from collections import deque
from collections.abc import Sequence
from time import monotonic as monotonic_s
from typing import Final

from learner.training import metrics
from stream.events.topics import EXAMPLES
from stream.log.displayed_offsets import COMMIT_S, DisplayedOffsets
from stream.log.protocol import Log, Reader, Record

RECENT: Final = 0.01  # weight of a record in the mean of examples a record


class Lag:
    """Lag of one model's learner. Its group is named `learner-` and the model; nobody resumes from its commits.

    `offset`: the next one to be learned; negative while unknown.
    """

    def __init__(self, log_: Log, model: str, offset: int) -> None:
        self._displayed = DisplayedOffsets(lambda: log_, EXAMPLES.name, f"learner-{model}")
        self.offset = offset
        self._end: int | None = None  # of the log
        self._polled: deque[tuple[int, int]] = deque()  # (offset, append time) of the first record of each poll
        self._learned_ms = 0  # append time of the newest learned record
        self._examples_a_record = 0.0
        self._commit_at_s = 0.0

    def learned(self, origins: Sequence[Record], examples: int) -> None:
        """These records were learned; `examples`: how many they had together."""
        share = 1.0 - (1.0 - RECENT) ** len(origins) if self._learned_ms else 1.0
        self._examples_a_record += share * (examples / len(origins) - self._examples_a_record)
        self.offset, self._learned_ms = origins[-1].offset + 1, origins[-1].time_ms

    def after_poll(self, reader: Reader, records: Sequence[Record]) -> None:
        """Note the log's end; commit the offset every COMMIT_S. On the thread that reads."""
        self._end = reader.ends().get(0, self._end)
        if records:
            if self._polled and records[0].offset <= self._polled[-1][0]:  # reading began again
                self._polled = deque()
            self._polled.append((records[0].offset, records[0].time_ms))
        if self.offset >= 0 and monotonic_s() >= self._commit_at_s:
            self._displayed.commit({0: self.offset})
            self._commit_at_s = monotonic_s() + COMMIT_S

    def set_metrics(self, now_ms: int) -> None:
        """Set the metrics as of now; they have no values until the log's end is known."""
        if self._end is None:
            return
        polled = self._polled
        while len(polled) > 1 and polled[1][0] <= self.offset:
            polled.popleft()
        next_offset = self.offset if self.offset >= 0 or not polled else polled[0][0]
        records = max(0, self._end - next_offset) if next_offset >= 0 else 0
        waiting_ms = polled[0][1] if polled and polled[0][0] >= next_offset else self._learned_ms or now_ms
        metrics.LAG_RECORDS.labels("0").set(records)
        metrics.LAG_EXAMPLES.labels("0").set(records * self._examples_a_record)
        metrics.LAG_SECONDS.labels("0").set(max(0, now_ms - waiting_ms) / 1_000 if records else 0)
