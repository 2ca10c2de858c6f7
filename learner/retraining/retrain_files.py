"""What a retrain leaves for the learner: a verdict and, if the new model may take over, its checkpoint."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from learner.checkpoints.checkpoint import Checkpoint
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.retraining.judgement import RetrainVerdict
from stream.runtime.durable_files import DRAFT, replacing, sync_folder
from stream.runtime.errors import CheckpointError
from stream.runtime.settings import Settings

VERDICT: Final = "verdict.json"
PROMOTED: Final = "promoted.json"  # the verdict of a model that is live, and of which there is no checkpoint yet
LOCK: Final = "lock"


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A retrain's verdict. `offset`: the next one in `examples` that the new model has to learn."""

    verdict: RetrainVerdict
    why: str  # by hand, periodic, drift, evolve
    offset: int
    warm_starts: int  # of the new model: one more than the live model's, unless another was promoted meanwhile
    roll_backs: int = 0  # of the new model: as many as the live model's, unless that was rolled back meanwhile

    def why_outdated(self, warm_starts: int, roll_backs: int) -> str:
        """Why it may not take over from a model of so many retrains and roll backs; empty: it may."""
        if self.warm_starts != warm_starts + 1:
            return "another model was promoted meanwhile"
        if self.roll_backs != roll_backs:
            return "learning was rolled back meanwhile, and it was trained from what was before"
        return ""


def checkpoints_of(settings: Settings, model: str) -> Path:
    """The folder of a model's checkpoints."""
    return settings.local / "checkpoints" / f"{settings.topic_prefix}{model}"


class RetrainFiles:
    """A model's folder for retrains, beside its checkpoints. Who doesn't hold its `lock` reads, and forgets."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.folder = settings.local / "retrains" / f"{settings.topic_prefix}{model}"
        self.candidates = CheckpointFiles(self.folder / "candidate", owned=False)
        self._verdict, self._promoted = self.folder / VERDICT, self.folder / PROMOTED

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While this runs, no other retrain of the model does, and what one that was killed was writing is gone.

        Raises CheckpointError when one is running, or the folder can't be written.
        """
        with self._lock_file() as file:
            self._begin(file)
            yield

    def _begin(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"another retrain of this model is running ({self.folder / LOCK}): wait until it ends"
            ) from None
        for draft in self.folder.glob(f"*{DRAFT}"):
            draft.unlink(missing_ok=True)
        self.candidates = CheckpointFiles(self.folder / "candidate")

    def _lock_file(self) -> IO[bytes]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / LOCK).open("wb")
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} can't be written ({error.strerror}): free space, or set THALWEG_LOCAL to a writable "
                "folder"
            ) from error

    def write(self, outcome: Outcome, candidate: Checkpoint | None) -> None:
        """The candidate first, if there's one: a verdict that can be read has its candidate. Inside `lock`.

        Raises CheckpointError, too, while the candidate that is there is live and in no checkpoint.
        """
        with self._removing():
            if self.is_promoted:
                raise CheckpointError(
                    "another new model has taken over, and the learner's checkpoint of it isn't written yet: retrain "
                    "again once it is"
                )
            self.clear()
        if candidate is not None:
            self.candidates.write(candidate)
        self._write_verdict(outcome)

    def _write_verdict(self, outcome: Outcome) -> None:
        try:
            with replacing(self._verdict) as file:
                file.write(msgspec.json.encode(outcome))
        except OSError as error:
            raise CheckpointError(f"{self._verdict} can't be written ({error.strerror}): free space") from error

    def read(self) -> Outcome | None:
        """The last verdict that the learner hasn't taken; None: there is none. One that can't be read is none."""
        return _decoded(self._promoted) or _decoded(self._verdict)

    @property
    def is_promoted(self) -> bool:
        """Whether the candidate is live: a learner that finds it so when it starts goes on with it."""
        return _decoded(self._promoted) is not None

    def promote(self, outcome: Outcome) -> bool:
        """Record that this one's candidate goes live; False: another verdict has taken its place.

        It stays, with the candidate, until `forget`.
        """
        with self._removing():
            if self.read() != outcome:
                return False
            if not self.is_promoted:  # else it is promoted again, after a restart
                self._verdict.replace(self._promoted)
                sync_folder(self.folder)
        return True

    def forget(self, outcome: Outcome) -> None:
        """Remove this one and its candidate; a newer one stays, also while a retrain writes it."""
        with self._removing():
            if self.read() == outcome:
                self.clear()

    @contextmanager
    def _removing(self) -> Iterator[None]:
        """A lock for moments: a retrain clears before it writes, so nothing is written between a look and a removal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def clear(self) -> None:
        """Remove the verdict, then its candidate."""
        self._verdict.unlink(missing_ok=True)
        self._promoted.unlink(missing_ok=True)
        for path in self.candidates.paths():
            path.unlink(missing_ok=True)


def _decoded(path: Path) -> Outcome | None:
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return msgspec.json.decode(path.read_bytes(), type=Outcome)
    return None
