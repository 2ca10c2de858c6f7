"""Writes a model's checkpoints while it learns, run by run: between two steps the learner's thread copies a slice, and
another thread writes it; so learning pauses for milliseconds.

    sweep    copy the runs of hashes that changed since the last checkpoint, or all of them, slice by slice
    again    copy the runs that changed meanwhile, until they are few
    cut      copy the rest, and all that isn't a table, at once: this is the state, at this offset

A run that changes after it was copied is copied again, and the later copy counts (`table_runs.py`): so a checkpoint is
the state at its cut, to the bit, though its slices are of different times.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog

from learner.checkpoints.checkpoint import Origin, meta_of
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.file_format import TableFooter
from learner.checkpoints.layers import EMPTIED
from learner.checkpoints.model_arrays import VALUES, Arrays, Part, parts_of, small_arrays
from learner.checkpoints.writer import CheckpointWriter
from learner.training import metrics
from learner.training.model import Model
from stream.runtime.errors import CheckpointError
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable
from stream.tables.table_runs import all_runs, bits_for, copy_runs, values_of

SLICE: Final = 4 << 20  # bytes of slots that are copied at once: about a millisecond
CUT_RUNS: Final = 1 << 15  # changed runs that a cut may copy
SLOTS_A_RUN: Final = 8  # whose reading takes as long as finding a run
ROUNDS_MAX: Final = 8  # then a cut copies whatever is left
REBASE_SHARE: Final = 0.5  # of a base's bytes, in increments: then comes a new base
FILES_MAX: Final = 64  # of a chain
log = structlog.get_logger("checkpoint")


@dataclass
class _Sweep:
    """What has to be copied of a table in this round, from run `next` on."""

    name: str
    part: Part
    runs: U64
    is_whole: bool
    next: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all was copied."""
        return self.next == 64 * len(self.runs)

    def copy(self) -> Arrays:
        """The next slice."""
        table, values = self.part.table, self.part.values
        row_bytes = 8 * table.slots.shape[1] + (values.itemsize * values.shape[1] if len(values) else 0)
        rows, emptied, self.next = copy_runs(table, self.runs, self.next, SLICE // row_bytes)
        arrays: Arrays = {self.name: rows}
        if len(values):
            arrays[self.name + VALUES] = values_of(rows, values)
        if not self.is_whole and len(emptied):
            arrays[self.name + EMPTIED] = emptied
        return arrays


@dataclass
class _Coverage:
    """The tables whose rows are in a chain, but for the runs that they have marked since, and their oldest layers."""

    tables: dict[str, HashTable] = field(default_factory=dict)
    oldest: dict[str, int] = field(default_factory=dict)

    def has(self, name: str, table: HashTable) -> bool:
        """Whether it has this very table."""
        return self.tables.get(name) is table


class Checkpointer:
    """Writes checkpoints of one model. `resumed`: the checkpoint whose state it has; None: it's on no disk.

    `offset`: of the last that was written; before one was, the model's own, or START for one that must be written.
    """

    def __init__(self, model: Model, files: CheckpointFiles, offset: int, resumed: Origin | None = None) -> None:
        self.offset = offset
        self.is_saved = resumed is not None  # whether a checkpoint of this model is on disk
        self.error: CheckpointError | None = None  # why the last one wasn't written
        self._model, self._files, self._chain = model, files, resumed
        self._covered = _Coverage()  # by the chain
        footers = resumed.footer.tables if resumed else {}
        for name, part in parts_of(model).items():
            if name in footers:
                part.table.track_runs(footers[name].bits)
                self._covered.tables[name], self._covered.oldest[name] = part.table, footers[name].layer
        self._writer: CheckpointWriter | None = None
        self._is_sweeping = False
        self._sweeps: list[_Sweep] = []
        self._now = _Coverage()  # by the chain and the checkpoint that is being written
        self._taken: dict[str, U64] = {}  # runs of covered tables that are no longer marked
        self._layer = self._rounds = self._cut_offset = 0

    @property
    def written(self) -> Origin | None:
        """The file of the last that was written, or else of the one that the model was restored from.

        None: there is none, or a base is being written.
        """
        return self._chain

    @property
    def is_sweeping(self) -> bool:
        """Whether a checkpoint has begun whose cut is still to come."""
        return self._is_sweeping

    def is_idle(self, *, wait: bool) -> bool:
        """Whether none is being written any more."""
        if self._writer is None:
            return True
        if self._writer.is_alive() and not wait:
            return False
        self._collect()
        return True

    def begin(self) -> None:
        """Begin a checkpoint: an increment, or a base where nothing is covered or a chain is long."""
        assert self._writer is None, "one at a time"
        if not self._covered.tables or self._is_long():
            self._chain, self._covered = None, _Coverage()
        self._layer = 1 + max((c.layer for c in self._chain.footer.chunks), default=-1) if self._chain else 0
        self._now = _Coverage(dict(self._covered.tables), dict(self._covered.oldest))
        self._rounds, self._taken, self._sweeps = 0, {}, []
        self._writer = CheckpointWriter(self._files, self._chain)
        self._writer.start()
        self._is_sweeping = True

    def sweep(self, *, wait: bool) -> bool:
        """Copy a slice; with `wait` all. Returns whether it's time for the cut, which must follow before any learning.

        False, too, when writing has failed: then nothing is being written any more.
        """
        assert self._writer is not None, "it has begun"
        while not self._is_ready():
            if not self._sweeps:
                self._begin_round()
            if not self._writer.take_room(wait=wait):
                return False
            if not self._writer.is_alive():
                self._collect()
                return False
            with metrics.CHECKPOINT_PAUSE.time():
                self._writer.put(self._layer, self._next_slice(), took_room=True)
            if not wait:
                return False
        return True

    def cut(self, offset: int, token: int, version: int, refusals: int = 0, log_ms: int = 0) -> None:
        """Copy the rest. The checkpoint is of now: of this next offset in `examples`."""
        assert self._writer is not None, "it has begun"
        with metrics.CHECKPOINT_PAUSE.time():
            self._begin_round()
            while self._sweeps:
                self._writer.put(self._layer, self._next_slice(), took_room=False)
            parts = parts_of(self._model)
            tables = {
                name: TableFooter(len(part.table), (64 * len(part.table.runs)).bit_length() - 1, self._now.oldest[name])
                for name, part in parts.items()
            }
            meta = meta_of(self._model, offset, token, version, refusals, log_ms)
            self._writer.end(meta, tables, small_arrays(self._model))
        self._now = _Coverage({n: p.table for n, p in parts.items()}, {n: t.layer for n, t in tables.items()})
        self._cut_offset, self._is_sweeping = offset, False

    def abandon(self) -> None:
        """Delete what was written of a checkpoint whose cut hasn't come, and wait for one that is being written."""
        if self._writer and self._is_sweeping:
            self._writer.abandon()
        if self._writer:
            self._collect()

    def _is_long(self) -> bool:
        """Whether a new base costs less than what increments have added."""
        if self._chain is None:
            return False
        names = sorted({*self._chain.footer.files, self._chain.name})
        sizes = [(self._files.folder / name).stat().st_size for name in names]
        return len(names) >= FILES_MAX or sum(sizes[1:]) > REBASE_SHARE * sizes[0]

    def _is_ready(self) -> bool:
        """Whether the rest is small enough for a cut."""
        if self._sweeps:
            return False
        changed = 0
        for name, (table, _, _) in parts_of(self._model).items():
            if self._now.has(name, table):
                changed += int(np.bitwise_count(table.runs).sum())
            else:
                changed += (len(table.slots) + len(table.old)) // SLOTS_A_RUN
        return changed <= CUT_RUNS or self._rounds >= ROUNDS_MAX

    def _begin_round(self) -> None:
        """What has changed since the last round has to be copied, and what isn't covered."""
        if self._rounds:
            self._layer += 1
        self._rounds += 1
        for name, part in parts_of(self._model).items():
            table = part.table
            is_whole = not self._now.has(name, table)
            if is_whole:
                table.track_runs(bits_for(max(len(table), part.keys)))
                self._now.tables[name], self._now.oldest[name] = table, self._layer
                runs = all_runs(bits_for(len(table)))
            else:
                runs = table.take_runs()
            if self._covered.has(name, table):
                self._taken[name] = self._taken[name] | runs if name in self._taken else runs
            if runs.any():
                self._sweeps.append(_Sweep(name, part, runs, is_whole))

    def _next_slice(self) -> Arrays:
        """Copy the next runs, of several tables if they are small."""
        arrays: Arrays = {}
        while self._sweeps and sum(array.nbytes for array in arrays.values()) < SLICE // 4:
            sweep = self._sweeps[0]
            arrays |= sweep.copy()
            if not sweep.is_done:
                break
            del self._sweeps[0]
        return arrays

    def _collect(self) -> None:
        """Wait until it's written. What couldn't be written has changed still."""
        assert self._writer is not None, "it has begun"
        writer, self._writer, self._is_sweeping = self._writer, None, False
        writer.join()
        self.error = writer.error
        if writer.origin:
            self._chain, self._covered, self.offset = writer.origin, self._now, self._cut_offset
            self.is_saved = True
            return
        for name, runs in self._taken.items():
            self._covered.tables[name].runs |= runs
        if writer.error:
            log.error("no checkpoint was written; learning goes on", reason=str(writer.error))
