"""The learner: learns records in log order, passes on dead letters, writes checkpoints."""

import threading
from collections.abc import Callable, Iterable

import structlog

from learner.checkpoints.checkpoint import Checkpoint
from learner.checkpoints.checkpoint_files import ANCHORED, PASSED, CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.dead_letters import DeadLetterBuffer
from learner.lag import Lag
from learner.publishing.publisher import Publisher
from learner.publishing.version_allocator import HighWater
from learner.retraining.resumption import resume, spec_of
from learner.training import metrics
from learner.training.figures import ALL, HEADER
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.log.protocol import START, Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import CheckpointError
from stream.runtime.logs import is_json
from stream.runtime.metrics import UPDATING

BACKOFF_S = (0.5, 1.0, 2.0, 5.0)
METRICS_EVERY_MS = 200
log = structlog.get_logger("learner")


class Learner:
    """Learns records, then publishes and writes checkpoints. Everything it needs is passed in; one thread runs it.

    `offset`: the next one in `examples`; START while there is neither a checkpoint nor a record. `resumed`: the
    checkpoint that the model was restored from.
    """

    def __init__(
        self, log_: Log, model: Model, offset: int, files: CheckpointFiles, checkpoint_every_ms: int,
        resumed: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        self.log, self.model = log_, model
        self.offset = offset
        self.checkpointer = Checkpointer(model, files, offset, resumed.origin if resumed else None)
        self.log_ms = resumed.meta.log_ms if resumed else 0  # when the log began, if an earlier one was lost
        self.used = HighWater()  # versions and tokens, as the checkpoint knows
        self.refusals: int | None = None  # versions rejected in a row, as the checkpoint knows; None: there was none
        self._files = files
        begun = model.held_out.begun  # a process that was killed may not have pinned a checkpoint for the last one
        self._anchors_pinned = begun if files.pinned(ANCHORED) else max(begun - 1, 0)  # when one was pinned
        self._is_rolled_back = False  # to a state that may be on no disk
        self._is_due = False  # a checkpoint, whatever was learned and when
        self._unproven: tuple[int, int] | None = None  # offset, and `model.learned`, of a checkpoint that may be good
        self.publisher: Publisher | None = None
        self.dead_letters = DeadLetterBuffer(log_)
        self.lag = Lag(log_, model.spec.name, offset)
        self.stopping = threading.Event()
        self.mid_record = False  # half a record is learned, which a checkpoint can't express
        self._checkpoint_every_ms = checkpoint_every_ms
        self._checkpoint_ms = now_ms()  # of the last attempt
        self._printed_header = self._is_frozen = False
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
                for removal in self.model.removals:
                    self.dead_letters.add_removal(removal)
                self.model.removals.clear()
                self.offset = origins[-1].offset + 1
                self.lag.learned(origins, new)
                self._print_progress()
                self._log_alarms()
                self.obey_judgements()
                self.update_metrics()
                after_step()
        self.dead_letters.confirm()

    def maybe_checkpoint(self, *, now: bool = False) -> None:
        """Go on with a checkpoint, or begin one, if it's due and the last one is written; all of it, when `now`.

        Dead letters before its offset are confirmed first. Raises LogUnavailable, LogError.
        """
        at_ms, checkpointer = now_ms(), self.checkpointer
        if not checkpointer.is_sweeping:
            if not checkpointer.is_idle(wait=now):
                return
            self._maybe_pin()
            due = now or at_ms - self._checkpoint_ms >= self._checkpoint_every_ms
            if not self._is_due and not (due and checkpointer.offset != self.offset):
                return
            self._checkpoint_ms, self._is_due = at_ms, False
            checkpointer.begin()
        if not checkpointer.sweep(wait=now):
            return
        self.dead_letters.confirm()
        used, refusals = self._used_by_now, self.publisher.gate.refusals if self.publisher else 0
        checkpointer.cut(self.offset, used.token, used.version, refusals, self.log_ms)
        self._unproven = self.offset, self.model.learned
        checkpointer.is_idle(wait=now)

    @property
    def _used_by_now(self) -> HighWater:
        """Versions and tokens: the publisher's, once there is one."""
        return self.publisher.used if self.publisher else self.used

    def _begin_checkpoints(self) -> None:
        """Of a model that was replaced; the first one is due at once, and written beside learning."""
        self.checkpointer = Checkpointer(self.model, self._files, START)  # one that fails is due though nothing comes
        self._is_due, self._unproven = True, None

    @property
    def may_publish(self) -> bool:
        """Not before the state that learning was rolled back to is saved, or can't be: a process that is killed
        meanwhile goes on with the state before, and would contradict what is live.
        """
        return not self._is_rolled_back or self.checkpointer.is_saved or self.checkpointer.error is not None

    def roll_back(self, reason: str, kind: str = PASSED) -> None:
        """Return to the checkpoint that is pinned, of this kind, between two records; a checkpoint of that begins.

        Weights, embeddings and statistics are those of then; the offset, ids learned and figures are those of now, so
        no example is learned again, and what was learned between is lost. A process that is killed restarts from the
        state before or after; nothing is published (`may_publish`) until it is the one after. Without a pinned
        checkpoint nothing changes. Raises LogUnavailable, LogError before anything changes.
        """
        assert not self.mid_record, "between two records"
        self.dead_letters.confirm()
        self.checkpointer.abandon()
        self._unproven = None
        good = self._pinned(kind)
        if good is None:
            log.error("can't roll back: no checkpoint was proven; learning goes on", reason=reason)
            self.model.held_out.begin_again()
        else:
            self.model.return_to(resume(self.model.spec, good))
            self.model.roll_backs += 1
            self._begin_checkpoints()
            self._is_rolled_back = True
            if good.origin and kind != PASSED:  # what passed the gate since was worse
                self._pin(good.origin.name, PASSED)
            lost = self.model.examples - good.meta.examples
            log.error("learning is rolled back", reason=reason, to_offset=good.meta.offset, examples_lost=lost)
        if self.publisher:
            self.publisher.rolled_back(reason, good.meta.offset if good else None)
            if good and kind == ANCHORED:
                self.publisher.renew_gate()

    def _pinned(self, kind: str) -> Checkpoint | None:
        """The pinned checkpoint of this kind, if there is one that this spec can have written."""
        name = self._files.pinned(kind)
        try:
            found = self._files.named(name) if name else None
        except CheckpointError as error:
            log.error("the pinned checkpoint can't be read", reason=str(error))
            return None
        if found is None or found.meta.fingerprint == self.model.spec.fingerprint():
            return found
        before = spec_of(found.meta)
        return found if before and before.identity() == self.model.spec.identity() else None

    def resume_gate(self) -> None:
        """Let the gate compare versions with what passed before this process began: the model as it is, or, while
        versions were rejected, that of the last checkpoint that passed."""
        if self.publisher is None or self.refusals is None:
            return
        gate, good = self.publisher.gate, self._pinned(PASSED) if self.refusals else None
        gate.refusals = self.refusals
        if good:
            gate.trust(resume(self.model.spec, good))
        elif not self.refusals:
            gate.trust()

    def _maybe_pin(self) -> None:
        """Pin the last checkpoint once it's written, and a later version has passed the gate and was packed.

        So it lies between two states that passed. A refusal between them says that it may not be good.
        """
        if self.publisher is None or self._unproven is None:
            return
        offset, learned = self._unproven
        if self.publisher.gate.refusals:
            self._unproven = None
        elif self.publisher.proven >= learned and self.checkpointer.offset == offset and self.checkpointer.written:
            self._unproven = None
            self._pin(self.checkpointer.written.name, PASSED)

    def _pin(self, name: str, kind: str) -> None:
        try:
            self._files.pin(name, kind)
        except CheckpointError as error:
            log.error("the last good checkpoint can't be pinned", reason=str(error))

    def replace_model(self, model: Model) -> None:
        """Learn with a model that has learned up to this learner's offset, once dead letters before it are confirmed.

        Its first checkpoint begins; until `is_saved` the caller keeps what the model can be made from again.
        """
        self.checkpointer.abandon()
        model.installs, model.removals = self.model.installs, []
        model.progress.milestones.clear()  # the other process's
        self.model, self._is_rolled_back = model, False
        self._begin_checkpoints()
        if model.held_out.share and model.held_out.anchor is None:  # what is pinned may be of another spec
            self._anchors_pinned = model.held_out.begun - 1
        if self.publisher:
            self.publisher.replace_model(model)

    def _print_progress(self) -> None:
        """Lines at doubling counts, as Vowpal Wabbit prints them."""
        marks = self.model.progress.milestones
        for mark in marks:
            if is_json():
                log.info("progress", since_last=mark.since_last, **mark.lifetime[ALL].named())
                continue
            lines = mark.lines() if self._printed_header else [HEADER, *mark.lines()]
            self._printed_header = True
            try:
                print(*lines, sep="\n", flush=True)
            except OSError as error:  # a full disk, or a closed pipe
                log.warning("progress can't be printed; learning goes on", reason=str(error))
        marks.clear()

    def _log_alarms(self) -> None:
        for alarm in self.model.drift.alarms:
            log.warning("drift: the model became worse", **alarm._asdict())
        self.model.drift.alarms.clear()
        if self.model.publishing_frozen != self._is_frozen:
            self._is_frozen = not self._is_frozen
            log.warning(
                "drift: no version is published" if self._is_frozen else "drift is over: versions are published"
            )

    def obey_judgements(self) -> None:
        """Log what held-out pages say of the model; pin what is good, and return to it when the model is worse."""
        held_out = self.model.held_out
        while held_out.news:
            at, anchor, verdict = held_out.news.popleft()
            say = log.error if verdict.outcome == "worse" else log.info
            say("judged by held-out pages", outcome=verdict.outcome, reason=verdict.reason, examples=at, anchor=anchor)
        if held_out.begun != self._anchors_pinned and (written := self.checkpointer.written):
            self._anchors_pinned = held_out.begun
            self._pin(written.name, ANCHORED)
        if held_out.worse:
            self.roll_back(f"worse by held-out pages: {held_out.worse}", ANCHORED)

    def update_metrics(self, *, now: bool = False) -> None:
        """Set the metrics every METRICS_EVERY_MS; at once, when `now`."""
        if not now and now_ms() - self._metrics_ms < METRICS_EVERY_MS:
            return
        self._metrics_ms = now_ms()
        with UPDATING:  # else what was learned and the offset may not belong together
            metrics.set_model(self.model)
            metrics.DEAD_LETTERS.set(self.dead_letters.count)
            metrics.OFFSET.set(max(self.offset, 0))
        self.lag.set_metrics(self._metrics_ms)
        if self.publisher:
            metrics.VERSION.set(self.publisher.uploader.published)
            metrics.REJECTED.set(self.publisher.rejected)
            metrics.ROLL_BACKS.set(self.publisher.roll_backs)
            metrics.set_verdict(self.publisher.gate.verdict, self.publisher.rejected_by_cause)


def back_off(error: Exception, attempt: int, stopping: threading.Event) -> int:
    """Log why, and wait longer at each attempt. Returns the next attempt's number."""
    wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
    log.warning("waiting", reason=str(error), again_in_s=wait_s)
    stopping.wait(wait_s)
    return attempt + 1
