"""Resumes from a checkpoint, with the tunables of a spec that may have changed since."""

import structlog

from learner.checkpoints.checkpoint import Checkpoint, Meta, restore
from learner.retraining.carry_over import carry_over
from learner.training.model import Model
from stream.runtime.errors import CheckpointError
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec

log = structlog.get_logger("learner")


def spec_of(meta: Meta) -> Spec | None:
    """The spec of a checkpoint; None: it's of a build that wrote its fingerprint alone."""
    return decode_spec(meta.spec.encode()) if meta.spec else None


def resume(spec: Spec, checkpoint: Checkpoint, seed: int = 0) -> Model:
    """The checkpoint's model with this spec, which may differ in tunables.

    Raises CheckpointError when it is of another identity.
    """
    meta = checkpoint.meta
    old = spec_of(meta)
    if old is None or meta.fingerprint == spec.fingerprint():
        return restore(spec, checkpoint, seed)
    if old.identity() != spec.identity():
        raise CheckpointError(
            f"the checkpoint of {spec.name!r} belongs to another spec (identity {old.identity()}, now "
            f"{spec.identity()}): `thalweg evolve --spec FILE` carries the model over to the changed spec; or give "
            "that a new name, and it is learned from the log's beginning"
        )
    model = carry_over(restore(old, checkpoint, seed), spec, seed)
    log.info("resumed with other tunables", model=spec.name, was=meta.fingerprint, now=spec.fingerprint())
    return model
