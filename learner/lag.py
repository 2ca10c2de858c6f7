"""How far learning is behind the log: as metrics, and as committed offsets of a consumer group for lag exporters."""

from collections.abc import Sequence
from time import monotonic as monotonic_s
from typing import Final

import structlog

from learner.training import metrics
from stream.events.topics import EXAMPLES
from stream.log.protocol import Log, Reader, Record
from stream.runtime.errors import LogError, LogUnavailable

COMMIT_S: Final = 5.0
RECENT: Final = 0.01  # weight of a record in the mean of examples a record
log = structlog.get_logger("learner")


class Lag:
    """Lag of one model's learner. Its group is named `learner-` and the model; nobody resumes from its commits.

    `offset`: the next one to be learned; negative while unknown.
    """

    def __init__(self, log_: Log, model: str, offset: int) -> None:
        self._log, self._group = log_, f"learner-{model}"
        self.offset, self._end = offset, offset
        self._learned_at_ms: int | None = None  # append time of the newest learned record
        self._examples_a_record = 0.0
        self._commit_at_s, self._failing = 0.0, False

    def learned(self, origins: Sequence[Record], examples: int) -> None:
        """These records were learned, with so many examples together."""
        share = 1.0 - (1.0 - RECENT) ** len(origins) if self._learned_at_ms is not None else 1.0
        self._examples_a_record += share * (examples / len(origins) - self._examples_a_record)
        self.offset, self._learned_at_ms = origins[-1].offset + 1, origins[-1].time_ms

    def after_poll(self, reader: Reader) -> None:
        """Note the log's end; commit the offset every COMMIT_S. On the thread that reads."""
        self._end = reader.ends().get(0, self._end)
        if self.offset < 0 or monotonic_s() < self._commit_at_s:
            return
        self._commit_at_s = monotonic_s() + COMMIT_S
        try:
            self._log.commit(EXAMPLES.name, self._group, {0: self.offset})
            self._failing = False
        except LogUnavailable:
            return  # the reader says so, if it lasts
        except LogError as error:
            if not self._failing:
                log.warning("lag exporters don't see the learner's offset; learning goes on", reason=str(error))
            self._failing = True

    def set_metrics(self, now_ms: int) -> None:
        """Set the metrics as of now."""
        records = max(0, self._end - max(self.offset, 0))
        behind_ms = now_ms - self._learned_at_ms if records and self._learned_at_ms is not None else 0
        metrics.LAG_RECORDS.set(records)
        metrics.LAG_EXAMPLES.set(records * self._examples_a_record)
        metrics.LAG_SECONDS.set(max(0, behind_ms) / 1_000)
