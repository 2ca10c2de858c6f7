"""The thread that writes a checkpoint's file, from what the learner's thread has copied."""

import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple

from learner.checkpoints.checkpoint import Meta, Origin
from learner.checkpoints.checkpoint_files import CheckpointFiles, cant_write
from learner.checkpoints.file_format import Chunk, FileWriter, Footer, TableFooter
from learner.checkpoints.layers import SUFFIXES
from learner.checkpoints.migrations import encode_meta
from learner.checkpoints.model_arrays import Arrays
from learner.training import metrics
from stream.runtime.durable_files import replacing
from stream.runtime.errors import CheckpointError

SLICES_MAX: Final = 16  # that wait to be written


class _Slice(NamedTuple):
    """Rows of a table. `took_room`: whether room was taken for it."""

    layer: int
    arrays: Arrays
    took_room: bool


class _End(NamedTuple):
    """The rest of a checkpoint."""

    meta: Meta
    tables: Mapping[str, TableFooter]
    arrays: Arrays


class _Abandoned(Exception):
    """What was written isn't wanted."""


class CheckpointWriter(threading.Thread):
    """Writes one checkpoint. Once it has ended there is an `origin` or an `error`, unless it was abandoned.

    `chain`: the checkpoint that it lies over; None: it's a base.
    """

    def __init__(self, files: CheckpointFiles, chain: Origin | None) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self.origin: Origin | None = None
        self.error: CheckpointError | None = None
        self._files, self._chain = files, chain
        self._queue: queue.SimpleQueue[_Slice | _End | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(SLICES_MAX)

    def take_room(self, *, wait: bool) -> bool:
        """Whether there is room for a slice, which must follow. Nobody waits for a writer that has failed."""
        return self._room.acquire(blocking=wait)

    def put(self, layer: int, arrays: Arrays, *, took_room: bool) -> None:
        """Write rows of a table next."""
        self._queue.put(_Slice(layer, arrays, took_room))

    def end(self, meta: Meta, tables: Mapping[str, TableFooter], arrays: Arrays) -> None:
        """Write these, and that was all. `tables`: those that the model has; `arrays`: those that are no tables."""
        self._queue.put(_End(meta, tables, arrays))

    def abandon(self) -> None:
        """End, and leave no file."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """Until `end` or `abandon`."""
        path = self._files.next_path()
        try:
            with metrics.CHECKPOINT.time(), replacing(path) as file:
                origin = self._write(file, path)
            self._files.drop_old()
            self.origin = origin
        except _Abandoned:
            pass
        except OSError as error:
            self.error = cant_write(path, error)
        finally:
            self._room.release()

    def _write(self, file: IO[bytes], path: Path) -> Origin:
        writer, written = FileWriter(file, path.name, self._files.version), list[Chunk]()
        while isinstance(item := self._queue.get(), _Slice):
            written += [writer.add(name, item.layer, array) for name, array in item.arrays.items()]
            if item.took_room:
                self._room.release()
        if item is None:
            raise _Abandoned
        chain = self._chain.footer.chunks if self._chain else []
        oldest = {name + suffix: table.layer for name, table in item.tables.items() for suffix in SUFFIXES}
        chunks = [c for c in (*chain, *written) if c.name in oldest and c.layer >= oldest[c.name]]
        known = {chunk.name: chunk for chunk in chain}
        chunks += [writer.add(name, 0, array, known.get(name)) for name, array in item.arrays.items()]
        digests = self._chain.footer.files | {self._chain.name: self._chain.digest} if self._chain else {}
        files = {chunk.file: digests[chunk.file] for chunk in chunks if chunk.file != path.name}
        footer = Footer(encode_meta(item.meta, self._files.version), dict(item.tables), chunks, files)
        digest = writer.end(footer)
        metrics.CHECKPOINT_BYTES.set(writer.bytes)
        return Origin(path.name, digest, footer)
