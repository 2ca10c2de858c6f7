"""Forgetting in the whole model: restarts, checkpoints of earlier builds, what a version has."""

from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import Checkpoint, restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.model_arrays import Arrays
from learner.training.model import Model
from learner.wide.ftrl import Ftrl
from stream.tables.dtypes import F32
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records, small_spec

WIDE = {"l1 = 0.1\nfeatures": 'l1 = 0.1\nhalf_life = "30s"\nfeatures'}
DEEP = {"micro_batch = 4": 'micro_batch = 4\nhalf_life = "20s"'}


@pytest.mark.parametrize("stop", [1, 17, 50, 79])
def test_resuming_is_never_having_stopped(tmp_path: Path, stop: int) -> None:
    """The clocks of both parts and the number of steps are in the checkpoint: all bits are those of a whole run."""
    spec = small_spec(**WIDE, **DEEP)
    log = records(spec, 240)
    whole = learned(spec, log)
    assert whole.wide.forgetting.inflation() > 1
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:stop]), stop, 1, 1))
    found = files.newest()
    assert found
    assert_same(learned(spec, log, restore(spec, found), stop), whole)


def test_a_part_without_a_half_life_keeps_its_sums() -> None:
    """Each part has its own."""
    log = records(small_spec(), 200)
    plain, wide, deep = (learned(small_spec(**changes), log) for changes in ({}, WIDE, DEEP))
    assert plain.deep
    assert wide.deep
    assert deep.deep
    for model, wide_fades, deep_fades in ((plain, False, False), (wide, True, False), (deep, False, True)):
        assert model.deep
        assert (model.wide.forgetting.inflation() > 1) == wide_fades
        assert (model.deep.forgetting.inflation() > 1) == deep_fades


def as_earlier_builds_wrote(ftrl: Ftrl, arrays: Arrays) -> Arrays:
    """z and n in a row, z by Algorithm 1, and neither clocks nor steps."""
    found = {name: array for name, array in arrays.items() if name not in ("wide_clock", "wide_steps", "deep_clock")}
    rows = found.pop("wide_rows").copy()
    un, crosses = rows.view(np.float32), (rows[:, 0] & np.uint64(255)).astype(np.int64) - 1
    inverse, (beta, l1, l2) = ftrl._rates
    u, n = un[:, 2].astype(np.float64), un[:, 3].astype(np.float64)
    clipped = np.clip(u, -l1, l1)
    un[:, 2] = -clipped - (u - clipped) * ((beta + np.sqrt(n)) * inverse[crosses] + l2)
    return {**found, "wide": rows}


def weights_of(model: Model) -> F32:
    """All wide weights, by key."""
    rows = model.wide.table.rows()
    return model.wide.weights(rows[np.argsort(rows[:, 0])])


def test_checkpoints_of_earlier_builds_are_read() -> None:
    """Their z become what rows have now: the same weights, and learning goes on as it would have."""
    spec = small_spec()
    before = learned(spec, records(spec, 240)[:60])
    checkpoint = take(before, 60, 1, 1)
    again = restore(spec, Checkpoint(checkpoint.meta, as_earlier_builds_wrote(before.wide, checkpoint.arrays)))
    np.testing.assert_allclose(weights_of(again), weights_of(before), rtol=1e-4, atol=1e-5)
    log = records(spec, 240)
    found, wanted = learned(spec, log, again, 60), learned(spec, log, before, 60)
    np.testing.assert_allclose(weights_of(found), weights_of(wanted), rtol=1e-3, atol=1e-3)


def test_an_earlier_build_does_not_take_one_of_today() -> None:
    """Its name for rows is another one: it would read u as z."""
    assert "wide" not in take(learned(small_spec(), []), 0, 1, 1).arrays
