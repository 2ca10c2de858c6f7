"""A checkpoint: what isn't an array, and the arrays; and the model of it."""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from learner.checkpoints.file_format import Footer
from learner.checkpoints.model_arrays import Arrays, restore_arrays, rows_of_parts, small_arrays
from learner.training.model import Model
from stream.runtime.errors import BadSnapshot, CheckpointError
from stream.runtime.formats import RELEASES
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec, encode_spec


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What isn't an array. `offset`: the next one in `examples`; `token`, `version`: the last published.

    `refusals`: how many versions in a row the publish gate had refused. `release`: whose build wrote it; empty:
    0.2's, or an earlier one's. `log_ms`: when the log began that the offset is of, if an earlier one was lost; else 0.
    """

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
    left_out: int = 0
    sampled_out: int = 0
    refusals: int = 0
    spec: str = ""  # as JSON, with its identity and tunables; earlier builds wrote the fingerprint alone
    previous: list[str] = []  # specs that it evolved from
    roll_backs: int = 0
    erased: list[int] = []  # ids of users
    release: str = ""
    log_ms: int = 0


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


def meta_of(model: Model, offset: int, token: int, version: int, refusals: int = 0, log_ms: int = 0) -> Meta:
    """What isn't an array."""
    return Meta(
        model.spec.fingerprint(), offset, model.examples, model.duplicates, model.watermark_ms, model.learned_ms,
        model.warm_starts, model.warm_start_at, list(model.progress.names[1:]), token, version, model.organic,
        model.left_out, model.sampled_out, refusals, encode_spec(model.spec).decode(),
        [encode_spec(spec).decode() for spec in model.previous], model.roll_backs, list(model.erased), RELEASES[-1],
        log_ms,
    )  # fmt: skip


def restore(spec: Spec, checkpoint: Checkpoint, seed: int = 0) -> Model:
    """The model that was copied. Raises CheckpointError when it belongs to another spec."""
    meta = checkpoint.meta
    if meta.fingerprint != spec.fingerprint():
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} belongs to another spec (fingerprint {meta.fingerprint}, now "
            f"{spec.fingerprint()}): start with the spec that it was written with, or carry the model over with "
            "`thalweg evolve --spec FILE` (and `--before OLD` if an earlier build wrote it)"
        )
    model = Model(spec, seed, draws=False, previous=[decode_spec(text.encode()) for text in meta.previous])
    try:
        model.examples, model.duplicates, model.organic = meta.examples, meta.duplicates, meta.organic
        model.left_out, model.sampled_out = meta.left_out, meta.sampled_out
        model.watermark_ms, model.learned_ms = meta.watermark_ms, meta.learned_ms
        model.warm_starts, model.warm_start_at, model.roll_backs = meta.warm_starts, meta.warm_at, meta.roll_backs
        model.erased = list(meta.erased)
        restore_arrays(model, checkpoint.arrays, meta.slices)
    except (KeyError, ValueError, IndexError, BadSnapshot) as error:
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} has an array missing or of the wrong shape: {error!r}"
        ) from error
    return model
