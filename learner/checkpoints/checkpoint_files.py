"""The folder of a model's checkpoints: files that are written once and never changed.

A *base* has everything. An *increment* has the runs of the tables' keys that changed since the checkpoint before it,
and names the files that have the rest: together they are a *chain* (`file_format.py`: their bytes). A file is
written to a draft, synced, then renamed: a crash leaves the earlier ones intact. `Checkpointer` writes them while the
model learns. Checkpoints of earlier builds are NumPy archives (npz: arrays only, each with a CRC); they are read.

The newest KEEP chains are kept, and *pinned* checkpoints with the files that they need, to roll back to: the last whose
state PASSED the publish gate, and the last one before the anchor that held-out pages are judged by.
"""

import os
import threading
import zipfile
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import structlog

from learner.checkpoints.checkpoint import Checkpoint, Meta, Origin
from learner.checkpoints.file_format import (
    Damaged,
    FileReader,
    FileWriter,
    Footer,
    OtherFormat,
    read_footer,
    version_of,
)
from learner.checkpoints.layers import read_arrays
from learner.checkpoints.migrations import decode_meta, encode_meta
from stream.runtime.durable_files import DRAFT, replacing
from stream.runtime.errors import CheckpointError
from stream.runtime.formats import CHECKPOINT

KEEP: Final = 2  # chains: should the newest be damaged, there is another
SUFFIX: Final = ".checkpoint"
PASSED, ANCHORED = "pinned", "anchored"  # names of the files that name pinned checkpoints
READ_ERRORS: Final = (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError, EOFError)
log = structlog.get_logger("checkpoint")


class CheckpointFiles:
    """The checkpoints of one model, in a folder: the newest KEEP chains, and pinned ones. Raises CheckpointError.

    `owned`: this process writes them; one that only reads leaves the folder as it is. `version`: in which they are
    written, or in that of a newer one that was read: what only the newer one can say isn't lost.
    """

    def __init__(self, folder: Path, *, owned: bool = True, version: int = CHECKPOINT.version) -> None:
        self.folder, self.version = folder, version
        self._needs: dict[str, set[str]] = {}  # files that a checkpoint's file needs, itself among them
        self._lock = threading.Lock()  # of what is kept: one thread pins, another drops
        if not owned:
            return
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
                writer = FileWriter(file, path.name, self.version)
                chunks = [writer.add(name, 0, array) for name, array in checkpoint.arrays.items()]
                writer.end(Footer(encode_meta(checkpoint.meta, self.version), {}, chunks, {}))
        except OSError as error:
            raise cant_write(path, error) from error
        self.drop_old()
        return path

    def drop_old(self) -> None:
        """Delete all but the newest KEEP chains and pinned checkpoints: what is old, or was abandoned since a newer
        one was damaged or rolled back.
        """
        with self._lock:
            kept: set[str] = set()
            chains = 0
            pinned = [name for kind in (PASSED, ANCHORED) if (name := self.pinned(kind))]
            pinned_files = set[str]().union(*(self._needed(self.folder / name) for name in pinned))
            for path in reversed(self.paths()):
                if path.name in kept:
                    continue
                needed = self._needed(path)
                if chains < KEEP and not needed & kept:
                    kept |= needed
                    chains += 1
                elif path.name not in pinned_files:
                    path.unlink(missing_ok=True)

    def pin(self, name: str, kind: str = PASSED) -> None:
        """Keep this checkpoint until another one of this kind is pinned. Raises CheckpointError."""
        path = self.folder / kind
        with self._lock:
            self._check_kept(name)
            try:
                with replacing(path) as file:
                    file.write(name.encode())
            except OSError as error:
                raise cant_write(path, error) from error

    def pinned(self, kind: str = PASSED) -> str | None:
        """The name of the pinned checkpoint of this kind; None: there is none."""
        try:
            name = (self.folder / kind).read_text()
        except (OSError, ValueError):
            return None
        return name if name in {path.name for path in self.paths()} else None

    def named(self, name: str) -> Checkpoint:
        """One of the checkpoints that are kept. Raises CheckpointError when it's gone, damaged, or of another build."""
        self._check_kept(name)
        try:
            return self._read(self.folder / name)
        except (OtherFormat, *READ_ERRORS) as error:
            raise CheckpointError(
                f"the checkpoint {self.folder / name} can't be read ({error}): restore the newest one, or another"
            ) from error

    def _check_kept(self, name: str) -> None:
        if name not in {path.name for path in self.paths()}:
            raise CheckpointError(
                f"{self.folder} has no checkpoint {name!r}, which is deleted once newer ones are kept: pin it earlier, "
                "or take the newest one"
            )

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
                return self._read(path)
            except OtherFormat as error:
                raise CheckpointError(
                    f"{path} was written by another build ({error}): start that build, or move the file away to go on "
                    "from the checkpoint before it"
                ) from error
            except READ_ERRORS as error:
                log.error("a checkpoint is damaged; trying the one before", path=str(path), reason=str(error))
        if paths:
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read: move them away "
                "to learn from the log's beginning"
            )
        return None

    def _read(self, path: Path) -> Checkpoint:
        """One checkpoint, verified. Raises OtherFormat, READ_ERRORS."""
        if path.suffix == ".npz":
            return self._read_archive(path)
        footer, digest = read_footer(path)
        reader = FileReader(self.folder)
        reader.check(footer, path)
        self.version = max(self.version, version_of(path))
        return Checkpoint(decode_meta(footer.meta), read_arrays(footer, reader), Origin(path.name, digest, footer))

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
