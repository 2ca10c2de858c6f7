"""Versions of a checkpoint: each is read; the one that is asked for is written, unless a newer one was read."""

import msgspec
import pytest

from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.file_format import read_footer, version_of
from learner.checkpoints.migrations import ADDED
from stream.runtime.formats import CHECKPOINT, RELEASES
from tests.support.checkpointed_life import Life, resumed
from tests.support.learned_models import assert_same


@pytest.mark.parametrize("version", range(1, CHECKPOINT.version + 1))
def test_each_version_has_the_fields_of_its_time(life: Life, version: int) -> None:
    """A base and an increment; read again they are the same model, by a build that writes any version."""
    life.files.version = version
    for stop in (5, 10):
        life.learn_until(stop, sweeps=False)
        path = life.finish()
        footer, _ = read_footer(path)
        later = {name for first, names in ADDED.items() if first > version for name in names}
        earlier = {name for first, names in ADDED.items() if first <= version for name in names}
        fields = msgspec.json.decode(footer.meta).keys()
        assert version_of(path) == version
        assert earlier - {"log_ms"} <= fields, "it's there once a log was lost"
        assert not later & fields
    assert footer.files, "the second one is an increment"
    model, found = resumed(CheckpointFiles(life.files.folder))
    assert_same(model, life.model)
    assert found.meta.release == (RELEASES[-1] if version >= 2 else "")


def test_an_increment_may_be_of_a_newer_version_than_its_base(life: Life) -> None:
    """The upgrade was finalized between them."""
    life.files.version = CHECKPOINT.at(1)
    life.learn_until(5, sweeps=False)
    base = life.finish()
    life.files.version = CHECKPOINT.version
    life.learn_until(10, sweeps=False)
    increment = life.finish()
    assert base.name in read_footer(increment)[0].files
    assert version_of(base) < version_of(increment)
    assert_same(resumed(CheckpointFiles(life.files.folder))[0], life.model)


def test_who_has_read_a_newer_version_writes_it(life: Life) -> None:
    """Though the format level is lower, as where its topic was lost: an older version may lack a part of the state."""
    life.learn_until(5, sweeps=False)
    life.finish()
    files = CheckpointFiles(life.files.folder, version=CHECKPOINT.at(1))
    found = files.newest()
    assert found is not None
    assert version_of(files.write(found)) == CHECKPOINT.version
