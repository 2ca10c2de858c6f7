"""Checkpoints: the whole learner state and the offset it belongs to, in files that are written once and never changed.

A *base* has everything. An *increment* has the runs of the tables' keys that changed since the checkpoint before it,
and names the files that have the rest: together they are a *chain* (`checkpoint_file.py`: their bytes). A file is
written to a draft, synced, then renamed: a crash leaves the earlier ones intact. `Checkpointer` writes them while the
model learns. Checkpoints of earlier builds are NumPy archives (npz: arrays only, each with a CRC); they are read.
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import structlog

from learner.checkpoint_arrays import Arrays, restore_arrays, rows_of_parts, small_arrays
from learner.checkpoint_file import Damaged, FileReader, FileWriter, Footer, OtherFormat, read_footer
from learner.checkpoint_layers import read_arrays
from learner.training.model import Model
from stream.runtime.durable_files import DRAFT, replacing
from stream.runtime.errors import BadSnapshot, CheckpointError
from stream.spec.spec import Spec

KEEP: Final = 2  # chains: should the newest be damaged, there is another
SUFFIX: Final = ".checkpoint"
log = structlog.get_logger("checkpoint")


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What isn't an array. `offset`: the next one in `examples`; `token`, `version`: the last published."""

    fingerprint: str
    offset: int
    examples: int
    duplicates: int
    watermark_ms: int
    learned_ms: int
    warm_starts: int
    warm_at: int
    slices: list[str]  # rows of the metrics' arrays, after the first
    token: int
    version: int
    organic: int = 0


class Origin(NamedTuple):
    """The file that a checkpoint was written to, or read from."""

    name: str
    digest: str
    footer: Footer


@dataclass(frozen=True)
class Checkpoint:
    """A copy of the model's state, which another thread can write. `origin`: of one that was read."""

    meta: Meta
    arrays: Arrays
    origin: Origin | None = None


def take(model: Model, offset: int, token: int, version: int) -> Checkpoint:
    """Copy the model's state at once; a `Checkpointer` does it run by run."""
    return Checkpoint(meta_of(model, offset, token, version), small_arrays(model) | rows_of_parts(model))


def meta_of(model: Model, offset: int, token: int, version: int) -> Meta:
    """What isn't an array."""
    return Meta(
        model.spec.fingerprint(), offset, model.examples, model.duplicates, model.watermark_ms, model.learned_ms,
        model.warm_starts, model.warm_start_at, list(model.progress.names[1:]), token, version, model.organic,
    )  # fmt: skip


def restore(spec: Spec, checkpoint: Checkpoint, seed: int = 0) -> Model:
    """The model that was copied. Raises CheckpointError when it belongs to another spec."""
    meta = checkpoint.meta
    if meta.fingerprint != spec.fingerprint():
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} belongs to another spec "
            f"(fingerprint {meta.fingerprint}, now {spec.fingerprint()}): give the changed spec a new name, "
            "and it is learned from the log's beginning"
        )
    model = Model(spec, seed)
    try:
        model.examples, model.duplicates, model.organic = meta.examples, meta.duplicates, meta.organic
        model.watermark_ms, model.learned_ms = meta.watermark_ms, meta.learned_ms
        model.warm_starts, model.warm_start_at = meta.warm_starts, meta.warm_at
        restore_arrays(model, checkpoint.arrays, meta.slices)
    except (KeyError, ValueError, IndexError, BadSnapshot) as error:
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} has an array missing or of the wrong shape: {error!r}"
        ) from error
    return model


class CheckpointFiles:
    """The checkpoints of one model, in a folder: the newest KEEP chains. Raises CheckpointError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._needs: dict[str, set[str]] = {}  # files that a checkpoint's file needs, itself among them
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            for draft in folder.glob(f"*{DRAFT}"):  # of a process that was killed while writing
                draft.unlink()
        except OSError as error:
            raise CheckpointError(
                f"{folder} can't be written ({error.strerror}): free space, or set THALWEG_LOCAL to a writable folder"
            ) from error

    def paths(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return [*sorted(self.folder.glob("*.npz")), *sorted(self.folder.glob(f"*{SUFFIX}"))]

    def next_path(self) -> Path:
        """Where the next checkpoint is written: greater than all there are, whichever of them it follows."""
        numbers = [int(path.stem) for path in self.folder.glob(f"*{SUFFIX}") if path.stem.isdigit()]
        return self.folder / f"{max(numbers, default=0) + 1:012d}{SUFFIX}"

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write a base of it at once."""
        path = self.next_path()
        try:
            with replacing(path) as file:
                writer = FileWriter(file, path.name)
                chunks = [writer.add(name, 0, array) for name, array in checkpoint.arrays.items()]
                writer.end(Footer(msgspec.Raw(msgspec.json.encode(checkpoint.meta)), {}, chunks, {}))
        except OSError as error:
            raise cant_write(path, error) from error
        self.drop_old()
        return path

    def drop_old(self) -> None:
        """Delete all but the newest KEEP chains, and what was abandoned because something newer was damaged."""
        kept: set[str] = set()
        chains = 0
        for path in reversed(self.paths()):
            if path.name in kept:
                continue
            needed = self._needed(path)
            if chains < KEEP and not needed & kept:
                kept |= needed
                chains += 1
            else:
                path.unlink(missing_ok=True)

    def _needed(self, path: Path) -> set[str]:
        """The names of the files that a checkpoint consists of."""
        if path.name not in self._needs:
            try:
                self._needs[path.name] = {path.name, *(read_footer(path)[0].files if path.suffix == SUFFIX else ())}
            except (Damaged, OtherFormat, OSError):
                return {path.name}
        return self._needs[path.name]

    def newest(self) -> Checkpoint | None:
        """The newest that can be read; None when there is none at all."""
        paths = self.paths()
        for path in reversed(paths):
            try:
                return self._read_archive(path) if path.suffix == ".npz" else self.read(path)
            except OtherFormat as error:
                raise CheckpointError(
                    f"{path} was written by another build ({error}): start that build, or move the file away to go on "
                    "from the checkpoint before it"
                ) from error
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError, EOFError) as error:
                log.error("a checkpoint is damaged; trying the one before", path=str(path), reason=str(error))
        if paths:
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read: move them away "
                "to learn from the log's beginning"
            )
        return None

    def read(self, path: Path) -> Checkpoint:
        """One checkpoint, verified. Raises Damaged, OtherFormat, OSError, MsgspecError."""
        footer, digest = read_footer(path)
        reader = FileReader(self.folder)
        reader.check(footer, path)
        meta = msgspec.json.decode(footer.meta, type=Meta)
        return Checkpoint(meta, read_arrays(footer, reader), Origin(path.name, digest, footer))

    @staticmethod
    def _read_archive(path: Path) -> Checkpoint:
        """A checkpoint of an earlier build."""
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Checkpoint(msgspec.json.decode(arrays.pop("meta").tobytes(), type=Meta), arrays)


def cant_write(path: Path, error: OSError) -> CheckpointError:
    """For whoever waits for the checkpoint."""
    return CheckpointError(
        f"{path} can't be written ({error.strerror}): the checkpoint before it is intact; free space"
    )
