"""The learner's side of a retrain: starts its process when the model calls for one, and takes what it leaves.

A new model is restored in a thread of its own, where it learns most of what came since its verdict; the learner's
thread does the rest, and swaps one reference. Learning and publishing go on at once, and the new model's first
checkpoint is written beside them. Until it's there, verdict and candidate stay, and say that it's live: a learner that
was killed begins with the candidate (`service.py`), and comes to the same model, to the bit. A kill before the swap:
the verdict is taken again.
"""

import subprocess
import sys
import threading
from time import monotonic as monotonic_s
from typing import Final

import structlog

from learner.learner import Learner
from learner.retraining.resumption import resume, spec_of
from learner.retraining.retrain_files import Outcome, RetrainFiles
from learner.training import metrics
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.log.protocol import Log, Reader, Record
from stream.runtime.errors import LogError, LogGap, LogUnavailable, ThalwegError
from stream.runtime.settings import Settings

LOOK_S: Final = 1.0  # between two looks for a verdict
POLL_S: Final = 0.5
ROUNDS: Final = 4  # of catching up beside the learner: in each one it is behind by less
log = structlog.get_logger("learner")


class _Candidate:
    """A restored model that learns what its learner has learned since. One thread after the other uses it."""

    def __init__(self, log_: Log, model: Model, offset: int) -> None:
        self.model, self._offset, self._log = model, offset, log_
        self._reader: Reader | None = None
        self._unlearned: list[Record] = []

    def learn_to(self, end: int) -> None:
        """Learn what lies before this offset; its dead letters were written when the learner learned it.

        Raises LogGap, LogUnavailable, LogError.
        """
        while self._offset < end:
            if not self._unlearned:
                self._reader = self._reader or self._log.reader(EXAMPLES.name, {0: self._offset})
                self._unlearned = self._reader.poll(POLL_S)
            records = [record for record in self._unlearned if record.offset < end]
            for chunk in self.model.record_encoder.records(records):
                for first, last in self.model.steps(chunk):
                    self.model.learn_records(chunk, first, last)
                    self._offset = chunk.origins[last - 1].offset + 1
            self._unlearned = self._unlearned[len(records) :]

    def close(self) -> None:
        """Close its reader; learning goes on with another one."""
        if self._reader:
            self._reader.close()
        self._reader = None


class Promotion:
    """Watches a model's retrains. All but restoring runs on the learner's thread."""

    def __init__(self, learner: Learner, settings: Settings) -> None:
        self._learner, self._settings = learner, settings
        self.files = RetrainFiles(settings, learner.model.spec.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._looked_s = 0.0
        self._outcome: Outcome | None = None  # being taken
        self._restoring: threading.Thread | None = None
        self._restored: _Candidate | None = None
        self._left: Outcome | None = None  # one that couldn't be removed
        self._is_live = False  # the outcome's model; there may be no checkpoint of it yet

    def step(self) -> bool:
        """Start a retrain if one is called for; take a verdict. Returns whether the model was replaced.

        Raises LogUnavailable, LogError: the live model stays, and the next call tries again.
        """
        self._start_process()
        if self._outcome is None:
            self._look()
        if self._outcome is None or (self._restoring and self._restoring.is_alive()):
            return False
        if self._is_live:
            self._forget_once_saved()
            return False
        if self._restored is None or self._why_outdated(self._outcome):
            self._drop(self._why_outdated(self._outcome) or "its checkpoint can't be restored")
            return False
        checkpointer = self._learner.checkpointer  # one that is being written would be waited for
        is_free = checkpointer.is_sweeping or checkpointer.is_idle(wait=False)
        return is_free and self._learner.offset >= self._outcome.offset and self._promote(self._outcome, self._restored)

    def close(self) -> None:
        """End the process; what it was at is dropped."""
        if self._is_live:
            self._forget_once_saved()
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _start_process(self) -> None:
        model = self._learner.model
        if self._is_live:  # a retrain would begin with the model before: the call waits for the new one's checkpoint
            return
        why, model.retrain_wanted = model.retrain_wanted, ""
        if not why or (self._process and self._process.poll() is None) or self._outcome:
            return
        log.info("a retrain begins", why=why, examples=model.examples)
        command = [sys.executable, "-m", "learner.retraining.retrain_process", model.spec.name, why]
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "NUMBA", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(command, env=self._settings.environment() | threads)

    def _look(self) -> None:
        """Look for a verdict; restore a model that may take over."""
        if monotonic_s() - self._looked_s < LOOK_S:
            return
        self._looked_s = monotonic_s()
        self._outcome = outcome = self.files.read()
        if outcome is None or outcome == self._left:
            self._outcome = None
            return
        if not outcome.verdict.promoted:
            self._drop(outcome.verdict.reason)
        elif reason := self._why_outdated(outcome):
            self._drop(reason)
        else:
            self._restoring = threading.Thread(target=self._restore, name="restore", daemon=True)
            self._restoring.start()

    def _why_outdated(self, outcome: Outcome) -> str:
        """Why it may no longer take over from the model that learns now; empty: it may."""
        model = self._learner.model
        return outcome.why_outdated(model.warm_starts, model.roll_backs)

    def _restore(self) -> None:
        try:
            checkpoint = self.files.candidates.newest()
            spec = spec_of(checkpoint.meta) if checkpoint else None
            if checkpoint and spec and self._outcome and checkpoint.meta.offset == self._outcome.offset:
                live = self._learner.model  # its tunables are those that were configured last
                restored = resume(live.spec if live.spec.identity() == spec.identity() else spec, checkpoint)
                restored.learned_ids.ids_max = live.learned_ids.ids_max
                self._restored = _Candidate(self._learner.log, restored, checkpoint.meta.offset)
                for _ in range(ROUNDS):
                    self._restored.learn_to(self._learner.offset)
        except LogError:
            pass  # the learner's thread comes upon it, too, and says so
        except ThalwegError as error:
            log.error("a new model can't be restored", reason=str(error))

    def _promote(self, outcome: Outcome, candidate: _Candidate) -> bool:
        learner, model = self._learner, candidate.model
        try:
            candidate.learn_to(learner.offset)
            if (
                worse := model.held_out.worse
            ):  # live, it would be rolled back, and with it what this learner has learned
                self._drop(f"worse by held-out pages: {worse}")
                return False
            learner.dead_letters.confirm()
            if not self.files.promote(outcome):
                self._drop("another retrain's verdict has taken the place of its own")
                return False
        except LogGap as error:
            self._drop(str(error))
            return False
        except LogUnavailable:
            candidate.close()
            raise
        except OSError as error:
            self._drop(f"{self.files.folder} can't be written ({error.strerror})")
            return False
        learner.replace_model(model)
        candidate.close()
        self._restored, self._is_live = None, True
        verdict = outcome.verdict
        log.info(
            "a new model is live", why=outcome.why, examples=model.examples, offset=learner.offset,
            normalised_entropy=round(verdict.new, 5), was=round(verdict.live, 5), low=round(verdict.low, 5),
            high=round(verdict.high, 5), judged=verdict.examples, positives=verdict.positives,
            spec=model.spec.fingerprint(),
        )  # fmt: skip
        metrics.RETRAINS.labels("promoted").inc()
        return True

    def _drop(self, reason: str) -> None:
        assert self._outcome is not None
        verdict = self._outcome.verdict
        log.warning(
            "a new model is dropped", reason=reason, why=self._outcome.why, judged=verdict.examples,
            normalised_entropy=round(verdict.new, 5), was=round(verdict.live, 5),
        )  # fmt: skip
        metrics.RETRAINS.labels("dropped").inc()
        self._forget()

    def _forget_once_saved(self) -> None:
        """A checkpoint of the model that is live needs its verdict no more."""
        if self._learner.checkpointer.is_saved:
            self._forget()

    def _forget(self) -> None:
        try:
            if self._outcome is not None:
                self.files.forget(self._outcome)
        except OSError as error:
            log.error(
                "a verdict can't be removed; the next start tries it again", folder=str(self.files.folder),
                reason=error.strerror,
            )  # fmt: skip
            self._left = self._outcome
        if self._restored:
            self._restored.close()
        self._outcome = self._restored = self._restoring = None
        self._is_live = False
