"""A life whose checkpoints take many slices."""

from pathlib import Path

import pytest

from learner.checkpoints import checkpointer
from stream.tables import hash_table
from tests.support.checkpointed_life import Life


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep takes many slices of small tables, which grow slowly, and evict often."""
    monkeypatch.setattr(checkpointer, "SLICE", 16_384)
    monkeypatch.setattr(checkpointer, "CUT_RUNS", 500)
    monkeypatch.setattr(checkpointer, "REBASE_SHARE", 2.5)  # small models are mostly small arrays
    monkeypatch.setattr(hash_table, "STEP", 64)
    monkeypatch.setattr("learner.deep.vocabulary.EVICT_EXAMPLES", 32)


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """A model that has learned nothing."""
    return Life(tmp_path)
