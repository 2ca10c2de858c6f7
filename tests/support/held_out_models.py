"""Models that hold out a large share of a small world's pages, and judge often."""

import pytest

from learner.training import held_out
from stream.spec.spec import Spec
from tests.support.learner_world import small_spec

EVERY = 64
FIRST_POSITIVES = 50


def judge_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act every EVERY examples, from the first positives on; copies take several runs."""
    monkeypatch.setattr(held_out, "EVERY", EVERY)
    monkeypatch.setattr(held_out, "FIRST_POSITIVES", FIRST_POSITIVES)
    monkeypatch.setattr("learner.training.frozen_model.RUN_KEYS", 200)
    monkeypatch.setattr("learner.training.frozen_model.RUN_FLOATS", 40)


def holding_spec(share: float = 0.2, **changes: str) -> Spec:
    """The small spec with this share held out."""
    return small_spec(**{"holdout = 0.0": f"holdout = {share}", **changes})
