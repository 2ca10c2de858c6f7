"""The learner's side of a retrain: starts its process when the model calls for one, and takes what it leaves.

A new model is restored in a thread of its own. When the learner has reached its offset, it catches up with the learner,
which waits; then it's written as the learner's checkpoint, and one reference is swapped. A kill before the checkpoint's
rename: never promoted, and the verdict is taken again. After: promoted. Replay after either ends in the same bits.
"""

import math
import subprocess
import sys
import threading
from contextlib import closing
from time import monotonic as monotonic_s
from typing import Final

import structlog

from learner.learner import Learner
from learner.retraining.resumption import resume, spec_of
from learner.retraining.retrain_files import Outcome, RetrainFiles
from learner.training import metrics
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.runtime.errors import CheckpointError, LogGap, ThalwegError
from stream.runtime.settings import Settings

LOOK_S: Final = 1.0  # between two looks for a verdict
POLL_S: Final = 0.5
RETRY_S: Final = 10.0  # from a checkpoint that couldn't be written to the next try: each writes a whole base
log = structlog.get_logger("learner")


class Promotion:
    """Watches a model's retrains. All but restoring runs on the learner's thread."""

    def __init__(self, learner: Learner, settings: Settings) -> None:
        self._learner, self._settings = learner, settings
        self.files = RetrainFiles(settings, learner.model.spec.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._looked_s = 0.0
        self._failed_s = -math.inf  # when the checkpoint couldn't be written
        self._outcome: Outcome | None = None  # being taken
        self._offset = 0  # the next one that the restored model has to learn
        self._restoring: threading.Thread | None = None
        self._restored: Model | None = None

    def step(self) -> bool:
        """Start a retrain if one is called for; take a verdict. Returns whether the model was replaced.

        Raises LogUnavailable, LogError: the live model stays, and the next call tries again.
        """
        self._start_process()
        if self._outcome is None:
            self._look()
        if self._outcome is None or (self._restoring and self._restoring.is_alive()):
            return False
        if self._restored is None:
            self._drop("its checkpoint can't be restored")
            return False
        if self._learner.offset < self._outcome.offset or monotonic_s() - self._failed_s < RETRY_S:
            return False
        return self._promote(self._outcome, self._restored)

    def close(self) -> None:
        """End the process; what it was at is dropped."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _start_process(self) -> None:
        model = self._learner.model
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
        if outcome is None:
            return
        if not outcome.verdict.promoted:
            self._drop(outcome.verdict.reason)
        elif outcome.warm_starts != self._learner.model.warm_starts + 1:
            self._drop("another model was promoted meanwhile")
        elif outcome.roll_backs != self._learner.model.roll_backs:
            self._drop("learning was rolled back meanwhile, and it was trained from what was before")
        else:
            self._restoring = threading.Thread(target=self._restore, name="restore", daemon=True)
            self._restoring.start()

    def _restore(self) -> None:
        try:
            checkpoint = self.files.candidates.newest()
            spec = spec_of(checkpoint.meta) if checkpoint else None
            if checkpoint and spec and self._outcome and checkpoint.meta.offset == self._outcome.offset:
                self._offset = checkpoint.meta.offset
                live = self._learner.model  # its tunables are those that were configured last
                restored = resume(live.spec if live.spec.identity() == spec.identity() else spec, checkpoint)
                restored.learned_ids.ids_max = live.learned_ids.ids_max
                self._restored = restored
        except ThalwegError as error:
            log.error("a new model can't be restored", reason=str(error))

    def _promote(self, outcome: Outcome, model: Model) -> bool:
        learner = self._learner
        try:
            self._catch_up(model)
            learner.replace_model(model)
        except LogGap as error:
            self._drop(str(error))
            return False
        except CheckpointError as error:
            self._failed_s = monotonic_s()
            log.error("a new model can't be written, so it isn't promoted yet", reason=str(error), retry_s=RETRY_S)
            return False
        verdict = outcome.verdict
        log.info(
            "a new model is live", why=outcome.why, examples=model.examples, offset=learner.offset,
            normalised_entropy=round(verdict.new, 5), was=round(verdict.live, 5), low=round(verdict.low, 5),
            high=round(verdict.high, 5), judged=verdict.examples, positives=verdict.positives,
            spec=model.spec.fingerprint(),
        )  # fmt: skip
        metrics.RETRAINS.labels("promoted").inc()
        self._forget()
        return True

    def _catch_up(self, model: Model) -> None:
        """Let the new model learn what the learner has learned since; dead letters were written then."""
        if self._offset >= self._learner.offset:
            return
        with closing(self._learner.log.reader(EXAMPLES.name, {0: self._offset})) as reader:
            while self._offset < self._learner.offset:
                records = [record for record in reader.poll(POLL_S) if record.offset < self._learner.offset]
                for chunk in model.record_encoder.records(records):
                    for first, last in model.steps(chunk):
                        model.learn_records(chunk, first, last)
                        self._offset = chunk.origins[last - 1].offset + 1

    def _drop(self, reason: str) -> None:
        assert self._outcome is not None
        verdict = self._outcome.verdict
        log.warning(
            "a new model is dropped", reason=reason, why=self._outcome.why, judged=verdict.examples,
            normalised_entropy=round(verdict.new, 5), was=round(verdict.live, 5),
        )  # fmt: skip
        metrics.RETRAINS.labels("dropped").inc()
        self._forget()

    def _forget(self) -> None:
        if self._outcome is not None:
            self.files.forget(self._outcome)
        self._outcome = self._restored = self._restoring = None
