"""A model of a small world that learns, and its checkpoints."""

from pathlib import Path
from typing import Final

from learner.checkpoints.checkpoint import Checkpoint, restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.training.model import Model
from tests.support.changing_world import IDS_MAX, changing_spec, mixed_log

SPEC: Final = changing_spec()
LOG: Final = mixed_log(SPEC, 330)
SLICES: Final = 24  # between two records


def new_model() -> Model:
    """A model of the whole spec whose memory of ids is short."""
    model = Model(SPEC)
    model.learned_ids.ids_max = IDS_MAX
    return model


def resumed(files: CheckpointFiles) -> tuple[Model, Checkpoint]:
    """The model of the newest checkpoint."""
    found = files.newest()
    assert found is not None
    model = restore(SPEC, found)
    model.learned_ids.ids_max = IDS_MAX
    return model, found


def learn(model: Model, offset: int) -> None:
    """The record at this offset, of one of two sources."""
    model.learn(LOG[offset], offset, offset % 2)


class Life:
    """A model that learns, and its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.files = CheckpointFiles(folder)
        self.model = new_model()
        self.writer = Checkpointer(self.model, self.files, 0)
        self.offset = self.steps = 0

    def restart(self) -> None:
        """Go on from the newest checkpoint."""
        self.model, found = resumed(self.files)
        self.offset = found.meta.offset
        self.writer = Checkpointer(self.model, self.files, self.offset, found.origin)

    def learn_until(self, stop: int, *, sweeps: bool = True) -> None:
        """Learn up to this offset; slices, or a cut, are between any two records."""
        while self.offset < stop:
            learn(self.model, self.offset)
            self.offset += 1
            if sweeps:
                self.go_on()

    def go_on(self) -> bool:
        """Some slices, or a cut: then there is a checkpoint of now."""
        self.steps += 1
        if not self.writer.is_sweeping:
            self.writer.begin()
        for _ in range(SLICES):
            if self.writer.sweep(wait=False):
                self.writer.cut(self.offset, 3, 4)
                return self.writer.is_idle(wait=True)
        return False

    def finish(self) -> Path:
        """A whole checkpoint, now."""
        if not self.writer.is_sweeping:
            self.writer.begin()
        assert self.writer.sweep(wait=True)
        self.writer.cut(self.offset, 3, 4)
        self.writer.is_idle(wait=True)
        return self.files.paths()[-1]


def raise_full(*_: object) -> None:
    """A full disk."""
    raise OSError(28, "No space left on device")
