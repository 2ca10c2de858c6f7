"""The learner: learns records in log order, passes on dead letters, writes checkpoints."""

import threading
from collections.abc import Callable, Iterable

import structlog

from learner.checkpoint import Checkpoint, CheckpointFiles, take
from learner.dead_letters import DeadLetterBuffer
from learner.lag import Lag
from learner.publishing.publisher import Publisher
from learner.publishing.version_allocator import HighWater
from learner.training import metrics
from learner.training.figures import HEADER
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.log.protocol import Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import CheckpointError

BACKOFF_S = (0.5, 1.0, 2.0, 5.0)
METRICS_EVERY_MS = 200
log = structlog.get_logger("learner")


class Learner:
    """Learns records, then publishes and writes checkpoints. Everything it needs is passed in; one thread runs it.

    `offset`: the next one in `examples`; START while there is neither a checkpoint nor a record.
    """

    def __init__(self, log_: Log, model: Model, offset: int, files: CheckpointFiles, checkpoint_every_ms: int) -> None:
        self.log, self.model, self.files = log_, model, files
        self.offset = offset
        self.used = HighWater()  # versions and tokens, as the checkpoint knows
        self.publisher: Publisher | None = None
        self.dead_letters = DeadLetterBuffer(log_)
        self.lag = Lag(log_, model.spec.name, offset)
        self.stopping = threading.Event()
        self.mid_record = False  # half a record is learned, which a checkpoint can't express
        self._checkpoint_every_ms = checkpoint_every_ms
        self._checkpoint_ms, self._checkpoint_offset = now_ms(), offset  # of the last attempt, of the last written
        self._writing: threading.Thread | None = None
        self._printed_header = False
        self._metrics_ms = 0  # when the metrics were last set

    def learn(self, chunks: Iterable[TrainingRecords], after_step: Callable[[], None]) -> None:
        """Learn these records in order, one or several in a step; `after_step` is called after each step.

        Raises LogUnavailable, LogError: what was learned stays learned.
        """
        for records in chunks:
            for first, last in self.model.steps(records):
                origins = records.origins[first:last]
                assert origins[0].offset >= self.offset, f"offset {origins[0].offset} was learned already"
                self.mid_record = True
                new = self.model.learn_records(records, first, last)
                self.mid_record = False
                for origin, rejected in zip(origins, records.rejected[first:last], strict=True):
                    for raw, reason in rejected:
                        self.dead_letters.add(raw, reason, origin)
                self.offset = origins[-1].offset + 1
                self.lag.learned(origins, new)
                self._print_progress()
                self.update_metrics()
                after_step()
        self.dead_letters.confirm()

    def maybe_checkpoint(self, *, now: bool = False) -> None:
        """Write a checkpoint in a thread of its own, if it's due and the last one is written; at once, when `now`.

        Dead letters before its offset are confirmed first. Raises LogUnavailable, LogError.
        """
        at_ms = now_ms()
        if self._writing is not None:
            if self._writing.is_alive() and not now:
                return
            self._writing.join()
        due = now or at_ms - self._checkpoint_ms >= self._checkpoint_every_ms
        if not due or self._checkpoint_offset == self.offset:
            return
        self.dead_letters.confirm()
        self._checkpoint_ms = at_ms
        used = self.publisher.used if self.publisher else self.used
        checkpoint = take(self.model, self.offset, used.token, used.version)
        self._writing = threading.Thread(target=self._write, args=(checkpoint,), name="checkpoint")
        self._writing.start()
        if now:
            self._writing.join()

    def replace_model(self, model: Model) -> None:
        """Learn with a model that has learned up to this learner's offset; its checkpoint is durable before.

        Raises CheckpointError, LogUnavailable, LogError: then nothing has changed.
        """
        self.dead_letters.confirm()
        if self._writing is not None:
            self._writing.join()
        model.learned_ids.ids_max, model.installs = self.model.learned_ids.ids_max, self.model.installs
        model.progress.milestones.clear()  # the other process's
        used = self.publisher.used if self.publisher else self.used
        self.files.write(take(model, self.offset, used.token, used.version))
        self._checkpoint_ms, self._checkpoint_offset = now_ms(), self.offset
        self.model = model
        if self.publisher:
            self.publisher.replace_model(model)

    def _write(self, checkpoint: Checkpoint) -> None:
        with metrics.CHECKPOINT.time():
            try:
                self.files.write(checkpoint)
                self._checkpoint_offset = checkpoint.meta.offset
            except CheckpointError as error:
                log.error("no checkpoint was written; learning goes on", reason=str(error))

    def _print_progress(self) -> None:
        """Lines at doubling counts, as Vowpal Wabbit prints them."""
        marks = self.model.progress.milestones
        for mark in marks:
            lines = mark.lines() if self._printed_header else [HEADER, *mark.lines()]
            self._printed_header = True
            try:
                print(*lines, sep="\n", flush=True)
            except OSError as error:  # a full disk, or a closed pipe
                log.warning("progress can't be printed; learning goes on", reason=str(error))
        marks.clear()

    def update_metrics(self, *, now: bool = False) -> None:
        """Set the metrics every METRICS_EVERY_MS; at once, when `now`."""
        if not now and now_ms() - self._metrics_ms < METRICS_EVERY_MS:
            return
        self._metrics_ms = now_ms()
        metrics.set_model(self.model)
        metrics.DEAD_LETTERS.set(self.dead_letters.count)
        metrics.OFFSET.set(max(self.offset, 0))
        self.lag.set_metrics(self._metrics_ms)
        if self.publisher:
            metrics.VERSION.set(self.publisher.uploader.published)
            metrics.REJECTED.set(self.publisher.rejected)


def back_off(error: Exception, attempt: int, stopping: threading.Event) -> int:
    """Log why, and wait longer at each attempt. Returns the next attempt's number."""
    wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
    log.warning("waiting", reason=str(error), again_in_s=wait_s)
    stopping.wait(wait_s)
    return attempt + 1
