"""Checkpoints: the whole learner state and the offset it belongs to, on disk, written run by run while it learns."""
