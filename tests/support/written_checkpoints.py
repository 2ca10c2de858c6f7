"""Checkpoints that are written at once."""

from learner.checkpoints.checkpoint import Origin
from learner.checkpoints.checkpointer import Checkpointer


def write_now(checkpointer: Checkpointer, offset: int, token: int, version: int) -> Origin:
    """Begin a checkpoint, and wait until it's on disk."""
    assert checkpointer.is_idle(wait=True)
    checkpointer.begin()
    assert checkpointer.sweep(wait=True)
    checkpointer.cut(offset, token, version)
    assert checkpointer.is_idle(wait=True)
    assert checkpointer.error is None
    assert checkpointer.written is not None
    return checkpointer.written
