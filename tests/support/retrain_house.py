"""A learner with a checkpoint, its log and folder, for tests of retrains and promotions."""

import shutil
from pathlib import Path
from typing import Self

import pytest

from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.promotion import Promotion
from learner.retraining.resumption import resume
from learner.retraining.retrain_files import Outcome, RetrainFiles, checkpoints_of
from learner.retraining.retrain_process import run_retrain
from learner.service import _newest
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ, ITEMS, USERS
from stream.log.memory_log import MemoryLog
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from tests.support.learner_world import records, small_spec

SPEC = small_spec(**{"every = 300, window = 200": "window = 200, judged = 150"})
LOG = records(SPEC, 300)
CUT = 40  # records learned when the checkpoint was written
SEEN = 80  # records in the log when a retrain reads it
NEVER_MS = 10**9


class House:
    """A machine's local folder and its log of `seen` records; learners and retrains come and go."""

    def __init__(self, local: Path, seen: int = SEEN) -> None:
        self.settings = Settings(local=local)
        self.log = MemoryLog({t.name: 1 for t in (EXAMPLES, EXAMPLES_DLQ, ITEMS, USERS)}, lambda: 1_000)
        self.log.send(ITEMS.name, 0, b"no item", b"bad")
        self.grow(0, seen)
        self.files = CheckpointFiles(checkpoints_of(self.settings, SPEC.name))

    @classmethod
    def begun(cls, local: Path, seen: int = SEEN) -> Self:
        """A learner has learned 40 records of 80, and written a checkpoint."""
        made = cls(local, seen)
        learner = made.learner()
        learn_to(learner, CUT)
        learner.maybe_checkpoint(now=True)
        return made

    def grow(self, first: int = SEEN, last: int = 100) -> None:
        """More records."""
        for record in LOG[first:last]:
            self.log.send(EXAMPLES.name, 0, encode_record(record), b"0")

    def learner(self, spec: Spec = SPEC) -> Learner:
        """From the newest checkpoint, as the service starts it."""
        found = _newest(self.settings, spec, self.files, lambda: self.log)
        model, offset = (resume(spec, found), found.meta.offset) if found else (Model(spec), 0)
        return Learner(self.log, model, offset, self.files, NEVER_MS, found)

    def copied(self, name: str) -> "House":
        """The machine as it is now, with the same log: where a process is killed now, and another one starts."""
        copy = object.__new__(House)
        copy.settings = Settings(local=self.settings.local.with_name(f"{self.settings.local.name}-{name}"))
        shutil.copytree(self.settings.local, copy.settings.local)
        copy.log, copy.files = self.log, CheckpointFiles(checkpoints_of(copy.settings, SPEC.name))
        return copy

    def retrain_files(self) -> RetrainFiles:
        """Verdict and candidate."""
        return RetrainFiles(self.settings, SPEC.name)

    def retrain(self, spec: Spec | None = None) -> Outcome:
        """In this process. Nobody writes meanwhile, so none of its polls waits."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("learner.retraining.retrain_process.POLL_S", 0.0)
            return run_retrain(self.settings, self.log, SPEC.name, "by hand", lambda line: None, spec)


def learn_to(learner: Learner, end: int) -> None:
    """Learn the log up to this offset."""
    reader = learner.log.reader(EXAMPLES.name, {0: learner.offset})
    read = reader.poll(0.0, end - learner.offset)
    chunks: list[TrainingRecords] = list(learner.model.record_encoder.records(read))
    learner.learn(chunks, lambda: None)


def saved(learner: Learner, promotion: Promotion) -> None:
    """Write a checkpoint, and let the promotion see it."""
    learner.maybe_checkpoint(now=True)
    promotion.step()


def promoted(promotion: Promotion) -> None:
    """Take the verdict, whatever it is; the checkpoint of a model that takes over is still to come."""
    promotion._looked_s = 0.0
    promotion.step()
    if promotion._restoring:
        promotion._restoring.join()
    promotion.step()
