"""The learner's files as they are now: opened, so that nothing that the learner deletes meanwhile is missed."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import structlog

from learner.backup.backup_manifest import BLOB_BYTES, CHECKPOINTS, NUMBERS, PINS, Blob, StoredFile
from learner.backup.backups import BlobWriter
from learner.checkpoints.checkpoint import Meta
from learner.checkpoints.checkpoint_files import ANCHORED, PASSED, READ_ERRORS, CheckpointFiles
from learner.checkpoints.file_format import Damaged, Footer, OtherFormat, read_footer_of
from learner.checkpoints.migrations import decode_meta
from learner.retraining.retrain_files import checkpoints_of
from stream.runtime.errors import BackupError, BadSnapshot
from stream.runtime.settings import Settings
from stream.snapshots.manifest import named_blobs
from stream.snapshots.version_files import VersionFiles

TRIES: Final = 5  # the learner may delete a file between two looks
# Bytes. Arrays that don't change, and those that only grow, such as a copy of the model that isn't complete yet, have
# the same blobs in the next file; slices of tables never do.
PIECE: Final = 1 << 20
log = structlog.get_logger("backup")


class Folders(NamedTuple):
    """Where a model's state is."""

    checkpoints: Path
    pins: Path
    numbers: Path

    @classmethod
    def of(cls, settings: Settings, model: str) -> "Folders":
        """Those of a deployment."""
        name = f"{settings.topic_prefix}{model}"
        return cls(checkpoints_of(settings, model), settings.local / "pins" / name, settings.local / "numbers" / name)

    def path(self, stored: str) -> Path:
        """Where a file of a backup belongs."""
        if stored == NUMBERS:
            return self.numbers
        area, _, name = stored.partition("/")
        return (self.checkpoints if area == CHECKPOINTS[:-1] else self.pins) / name


class OpenFile(NamedTuple):
    """A file that doesn't change. `spans`: first and past-last offsets of the arrays in it, rising."""

    path: str
    file: IO[bytes]
    spans: list[tuple[int, int]]
    mark: str = ""

    def store(self, writer: BlobWriter, known: dict[str, StoredFile]) -> StoredFile:
        """Write its blobs. One that an earlier backup has isn't read again. Raises BackupError, OSError."""
        before = known.get(self.path)
        if self.mark and before and before.mark == self.mark and all(map(writer.has, before.blobs)):
            return before
        blobs, begin, size = list[Blob](), 0, os.fstat(self.file.fileno()).st_size
        for end in _ends(self.spans, size):
            raw = os.pread(self.file.fileno(), end - begin, begin)
            if len(raw) != end - begin:
                raise BackupError(f"{self.path} ends at {begin + len(raw)}, and had {size} bytes: back up again")
            blobs.append(writer.put(raw))
            begin = end
        return StoredFile(self.path, blobs, self.mark)


class LocalState(NamedTuple):
    """All files, the name of the newest checkpoint, and its description."""

    files: list[OpenFile]
    checkpoint: str
    meta: Meta


def _ends(spans: list[tuple[int, int]], size: int) -> Iterator[int]:
    """Where blobs end: large arrays are cut by PIECE from their beginning on, small ones share blobs.

    >>> [*_ends([(8, 9), (9, 9 + (5 << 19))], 6 << 19)] == [9, 9 + (1 << 20), 9 + (2 << 20), 6 << 19]
    True
    """
    begin = 0
    for start, end in (*spans, (size, size)):
        is_large = end - start >= PIECE
        if is_large or start == size or end - begin >= PIECE:
            to = start if is_large else end
            yield from range(begin + BLOB_BYTES, to, BLOB_BYTES)
            if to > begin:
                yield to
            begin = to
        if is_large:
            yield from range(start + PIECE, end + 1, PIECE)
            begin = start + (end - start) // PIECE * PIECE


@contextmanager
def opened_state(folders: Folders) -> Iterator[LocalState]:
    """The newest checkpoint that can be read, pinned ones, the pin's files, and the numbers.

    Raises BackupError where there's no checkpoint, OSError.
    """
    for attempt in range(TRIES):
        with ExitStack() as stack:
            try:
                state = _open(folders, stack)
            except FileNotFoundError as error:
                if attempt == TRIES - 1:
                    raise BackupError(f"{error.filename} is gone each time it is opened: back up again") from error
                continue
            yield state
            return


def _open(folders: Folders, stack: ExitStack) -> LocalState:
    files = CheckpointFiles(folders.checkpoints, owned=False)
    found: dict[str, OpenFile] = {}
    newest: tuple[str, Meta] | None = None
    pinned = [files.pinned(kind) for kind in (PASSED, ANCHORED)]
    for path in reversed(files.paths()):
        if newest and path.name not in pinned:
            continue
        try:
            meta = _open_chain(path, found, stack)
            newest = newest or (path.name, meta)
        except FileNotFoundError:
            raise
        except (OtherFormat, *READ_ERRORS) as error:
            log.error("a checkpoint isn't backed up", path=str(path), reason=str(error))
    if newest is None:
        raise BackupError(
            f"{folders.checkpoints} has no checkpoint to back up: start the learner, or set THALWEG_LOCAL to its folder"
        )
    of_pins = [*_names(folders.checkpoints, pinned), *_pin_files(folders.pins)]
    others = [(NUMBERS, folders.numbers)] if folders.numbers.exists() else []
    for stored, path in (*of_pins, *others):
        mark = path.name if path.parent.name == "blobs" else ""
        found[stored] = OpenFile(stored, stack.enter_context(path.open("rb")), [], mark)
    return LocalState([*found.values()], *newest)


def _open_chain(path: Path, found: dict[str, OpenFile], stack: ExitStack) -> Meta:
    """Open what a checkpoint consists of. Raises FileNotFoundError, OtherFormat, READ_ERRORS."""
    if path.suffix == ".npz":
        raise OtherFormat("it's of an earlier build: let the learner write one")
    footer = _open_file(path, found, stack)
    for name, digest in footer.files.items():
        _open_file(path.with_name(name), found, stack)
        if found[CHECKPOINTS + name].mark != digest:
            raise Damaged(f"{name}, which it needs, is another one")
    return decode_meta(footer.meta)


def _open_file(path: Path, found: dict[str, OpenFile], stack: ExitStack) -> Footer:
    file = stack.enter_context(path.open("rb"))
    footer, digest = read_footer_of(file)
    own = [chunk for chunk in footer.chunks if chunk.file == path.name]
    stored = CHECKPOINTS + path.name
    found[stored] = OpenFile(stored, file, sorted((one.offset, one.offset + one.size) for one in own), digest)
    return footer


def _names(folder: Path, pinned: list[str | None]) -> list[tuple[str, Path]]:
    """The files that name pinned checkpoints."""
    return [(CHECKPOINTS + kind, folder / kind) for kind, name in zip((PASSED, ANCHORED), pinned, strict=True) if name]


def _pin_files(folder: Path) -> list[tuple[str, Path]]:
    """The latest decision about what is served, and the version that it pins."""
    files = VersionFiles(folder)
    try:
        decision = files.decision()
        manifest = files.manifest(decision.version) if decision.version else None
    except BadSnapshot as error:
        log.error("the pinned version isn't backed up", reason=str(error))
        return []
    names = ["decision"] if decision.number else []
    names += ["version", *(f"blobs/{digest}" for digest in sorted(set(named_blobs(manifest))))] if manifest else []
    return [(PINS + name, folder / name) for name in names]
