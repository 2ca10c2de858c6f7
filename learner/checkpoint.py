"""Checkpoints: the whole learner state and the offset it belongs to, in one file.

A file is a NumPy archive (npz: arrays only, each with a CRC), written to a draft, synced, then renamed: a crash leaves
the old one intact. Tables are saved as rows, whatever their layout: no weight depends on layout.
"""

import os
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

from learner.deep.deep_model import DeepModel
from learner.training.model import Model
from learner.training.shown_items import ShownItems
from learner.wide.ftrl import WIDTH as WIDE_WIDTH
from learner.wide.ftrl import Ftrl
from stream.features.statistics import WIDTH as STATISTICS_WIDTH
from stream.features.statistics import Statistics
from stream.runtime.durable_files import DRAFT, replacing
from stream.runtime.errors import BadSnapshot, CheckpointError
from stream.snapshots.item_names import pack_names, unpack_names
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec, encode_spec
from stream.tables.hash_table import HashTable

KEEP = 2
log = structlog.get_logger("checkpoint")
Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]


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
    spec: str = ""  # as JSON, with its identity and tunables; earlier builds wrote the fingerprint alone
    previous: list[str] = []  # specs that it evolved from


@dataclass(frozen=True)
class Checkpoint:
    """A copy of the model's state, which another thread can write."""

    meta: Meta
    arrays: Arrays


def take(model: Model, offset: int, token: int, version: int) -> Checkpoint:
    """Copy the model's state."""
    progress, shown = model.progress, model.shown
    arrays: Arrays = {
        **_wide_arrays(model.wide),
        "statistics": model.statistics.table.rows(),
        "statistics_sweep": model.statistics.evictor.state(),
        "likenesses": model.statistics.likenesses.rows(),
        "likenesses_sweep": model.statistics.likeness_evictor.state(),
        **progress.arrays(),
        **model.learned_ids.arrays(),
        **{f"shown_young_{name}": array for name, array in pack_names(shown.young).items()},
        **{f"shown_old_{name}": array for name, array in pack_names(shown.old).items()},
        "shown_since_ms": np.array([shown.since_ms], np.int64),
        "losses": np.array(model.drift.losses, np.float64),
        "pages": np.frombuffer(b"".join(model.recent_pages), np.uint64),
        "page_bytes": np.array([len(page) for page in model.recent_pages], np.int64),
    }
    if model.deep:
        arrays.update(_deep_arrays(model.deep))
    meta = Meta(
        model.spec.fingerprint(), offset, model.examples, model.duplicates, model.watermark_ms, model.learned_ms,
        model.warm_starts, model.warm_start_at, list(progress.names[1:]), token, version, model.organic,
        encode_spec(model.spec).decode(), [encode_spec(spec).decode() for spec in model.previous],
    )  # fmt: skip
    return Checkpoint(meta, arrays)


def _wide_arrays(wide: Ftrl) -> Arrays:
    """Rows, with their last sightings if these are stamped; the state of admission and eviction."""
    rows, seen, admission = wide.table.rows(), wide.table.stamps(), wide.admission
    if len(wide.table.last_seen):
        rows = np.column_stack([rows, seen.astype(np.uint64)])
    return {
        "wide": rows,
        "wide_sweep": wide.evictor.state(),
        "admission_young": admission.young.copy(),
        "admission_old": admission.old.copy(),
        "admission_added": admission.added.copy(),
    }


def _deep_arrays(deep: DeepModel) -> Arrays:
    vocabulary = deep.vocabulary
    return {
        "vocabulary": vocabulary.table.rows(),
        "embeddings": vocabulary.embeddings[: vocabulary.rows].copy(),
        "free": vocabulary.free_rows(),
        "dense": deep.tower.flat,
        "dense_squares": deep.tower.squares,
        "boundaries": deep.boundaries.copy(),
        "sample": deep.sample.copy(),
        "sampled": deep.sampled.copy(),
    }


def restore(spec: Spec, checkpoint: Checkpoint, seed: int = 0) -> Model:
    """The model that `take` copied. Raises CheckpointError when it belongs to another spec."""
    meta, arrays = checkpoint.meta, checkpoint.arrays
    if meta.fingerprint != spec.fingerprint():
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} belongs to another spec "
            f"(fingerprint {meta.fingerprint}, now {spec.fingerprint()}): `thalweg evolve --spec FILE` carries the "
            "model over to the changed spec; or give that a new name, and it is learned from the log's beginning"
        )
    model = Model(spec, seed, previous=[decode_spec(text.encode()) for text in meta.previous])
    try:
        _restore_model(model, meta, arrays)
    except (KeyError, ValueError, IndexError, BadSnapshot) as error:
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} has an array missing or of the wrong shape: {error!r}"
        ) from error
    return model


def _restore_model(model: Model, meta: Meta, arrays: Arrays) -> None:
    model.examples, model.duplicates, model.organic = meta.examples, meta.duplicates, meta.organic
    model.watermark_ms, model.learned_ms = meta.watermark_ms, meta.learned_ms
    model.warm_starts, model.warm_start_at = meta.warm_starts, meta.warm_at
    _restore_wide(model.wide, arrays)
    _restore_statistics(model.statistics, arrays)
    model.progress.restore(arrays, meta.slices)
    model.learned_ids.restore(arrays)
    model.shown = _shown(arrays)
    ends = np.cumsum([0, *arrays["page_bytes"]])
    raw = arrays["pages"].tobytes()
    model.recent_pages.extend(raw[a:b] for a, b in pairwise(ends.tolist()))
    model.drift.restore(arrays["losses"].tolist())
    if model.deep:
        _restore_deep(model.deep, arrays)


def _restore_statistics(statistics: Statistics, arrays: Arrays) -> None:
    """Checkpoints of earlier builds have the rows of likenesses among the others': nothing tells them apart."""
    statistics.evictor.restore(arrays["statistics_sweep"])
    statistics.table = _table(STATISTICS_WIDTH, arrays["statistics"])
    if statistics.program.memory_rows or "likenesses" in arrays:
        statistics.likeness_evictor.restore(arrays["likenesses_sweep"])
        statistics.likenesses = _table(STATISTICS_WIDTH, arrays["likenesses"])


def _shown(arrays: Arrays) -> ShownItems:
    """Checkpoints of earlier builds have no shown items."""
    if "shown_since_ms" not in arrays:
        return ShownItems()
    young, old = ({name: arrays[f"shown_{age}_{name}"] for name in ("names", "ends")} for age in ("young", "old"))
    return ShownItems(unpack_names(young), unpack_names(old), int(arrays["shown_since_ms"][0]))


def _restore_wide(wide: Ftrl, arrays: Arrays) -> None:
    rows = arrays["wide"]
    wide.table = _table(WIDE_WIDTH, rows[:, :WIDE_WIDTH])
    if rows.shape[1] > WIDE_WIDTH:
        wide.table.stamp(rows[:, 0].copy(), rows[:, WIDE_WIDTH].astype(np.uint32))
    wide.evictor.restore(arrays["wide_sweep"])
    wide.admission.restore(arrays["admission_young"], arrays["admission_old"], arrays["admission_added"])


def _restore_deep(deep: DeepModel, arrays: Arrays) -> None:
    deep.vocabulary.restore(arrays["vocabulary"], arrays["embeddings"], arrays["free"])
    deep.tower.restore(arrays["dense"], arrays["dense_squares"])
    deep.boundaries = arrays["boundaries"]
    deep.sample[:], deep.sampled[:] = arrays["sample"], arrays["sampled"]


def _table(width: int, rows: "np.ndarray[Any, np.dtype[np.uint64]]") -> HashTable:
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"rows of shape {rows.shape}, wanted width {width}")
    table = HashTable(width, len(rows))
    table.put(rows)
    return table


class CheckpointFiles:
    """The newest KEEP checkpoints of one model, in a folder. Raises CheckpointError.

    `owned`: this process writes them; one that only reads leaves the folder as it is.
    """

    def __init__(self, folder: Path, *, owned: bool = True) -> None:
        self.folder = folder
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

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write a draft, sync, rename, delete the oldest."""
        path = self.folder / f"{checkpoint.meta.offset:015d}.npz"
        meta = np.frombuffer(msgspec.json.encode(checkpoint.meta), np.uint8)
        try:
            with replacing(path) as file:
                np.savez(file, allow_pickle=False, meta=meta, **checkpoint.arrays)
            for old in self.paths()[:-KEEP]:
                old.unlink()
        except OSError as error:
            raise CheckpointError(
                f"{path} can't be written ({error.strerror}): the checkpoint before it is intact; free space"
            ) from error
        return path

    def paths(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(self.folder.glob("*.npz"))

    def newest(self) -> Checkpoint | None:
        """The newest that can be read; None when there is none at all."""
        paths = self.paths()
        for path in reversed(paths):
            try:
                return self._read(path)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError, EOFError) as error:
                log.error("a checkpoint can't be read; trying the one before", path=str(path), reason=repr(error))
        if paths:
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read: move them away "
                "to learn from the log's beginning"
            )
        return None

    @staticmethod
    def _read(path: Path) -> Checkpoint:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Checkpoint(msgspec.json.decode(arrays.pop("meta").tobytes(), type=Meta), arrays)
