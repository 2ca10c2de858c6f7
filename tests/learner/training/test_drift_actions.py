"""What follows drift: both parts forget, or publishing is frozen; after a restart, too."""

from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.learner import Learner
from learner.training.drift import DUE, Alarm
from learner.training.drift_kernels import SINCE
from learner.training.model import Model
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.log.memory_log import MemoryLog
from stream.spec.spec import Spec
from tests.support.learned_models import assert_same, learned, state_of
from tests.support.learner_world import records, small_spec
from tests.support.publisher_bench import Bench
from tests.support.written_checkpoints import write_now

FORGETS = {"[label]": '[drift]\naction = "forget"\nkeeps = 0.25\n[label]', "every = 300": "every = 50000"}


def spec_of(parts: str = '["wide", "deep"]') -> Spec:
    """A spec with [drift]."""
    return small_spec(**FORGETS, **{'name = "small"': f'name = "small"\nparts = {parts}'})


def alarmed(spec: Spec, due: int) -> Model:
    """A model with an action that is due after so many examples."""
    model = Model(spec)
    model.drift.clock[DUE] = due
    return model


@pytest.mark.parametrize("parts", ['["wide", "deep"]', '["wide"]', '["deep"]'])
def test_a_model_that_forgets_keeps_its_weights(parts: str) -> None:
    """The sums of squares of its parts are scaled down; all else is as it was."""
    spec = spec_of(parts)
    log = records(spec, 100)
    one, other = learned(spec, log), learned(spec, log)
    other.forget(0.25)
    rows = one.wide.table.rows().view(np.float32)[:, 2:4], other.wide.table.rows().view(np.float32)[:, 2:4]
    np.testing.assert_array_equal(rows[0][:, 0], rows[1][:, 0])
    np.testing.assert_array_equal(0.25 * rows[0][:, 1], rows[1][:, 1])
    if one.deep and other.deep:
        np.testing.assert_array_equal(one.deep.tower.flat, other.deep.tower.flat)
        np.testing.assert_array_equal(0.25 * one.deep.tower.squares, other.deep.tower.squares)
        np.testing.assert_array_equal(one.deep.vocabulary.vectors, other.deep.vocabulary.vectors)
        np.testing.assert_array_equal(0.25 * one.deep.vocabulary.sums, other.deep.vocabulary.sums)


def test_what_sums_start_at_is_kept() -> None:
    """AdaGrad's first steps are damped by it, whenever they are."""
    spec = small_spec(**{"micro_batch = 4": "micro_batch = 4\ninitial_accumulator = 0.5"})
    log = records(spec, 100)
    one, other = learned(spec, log), learned(spec, log)
    other.forget(0.25)
    assert one.deep
    assert other.deep
    sums = [model.tower.state.squares for model in (one.deep, other.deep)]
    np.testing.assert_allclose(sums[1] - 0.5, 0.25 * (sums[0] - 0.5), atol=1e-6)
    assert sums[1].min() >= 0.5
    assert sums[0].max() > 0.6


@pytest.mark.parametrize("parts", ['["wide", "deep"]', '["wide"]'])
def test_an_action_is_due_after_a_restart_too(tmp_path: Path, parts: str) -> None:
    """The count of examples at which it's due is in the checkpoint."""
    spec = spec_of(parts)
    log = records(spec, 100)
    whole = learned(spec, log, alarmed(spec, 150))
    assert not whole.drift.is_due(10**9)
    plain = learned(spec, log)
    assert state_of(whole)["wide_rows"] != state_of(plain)["wide_rows"], "it has forgotten"
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:10], alarmed(spec, 150)), 10, 1, 1))
    found = files.newest()
    assert found
    resumed = restore(spec, found)
    assert resumed.drift.is_due(150)
    assert_same(learned(spec, log, resumed, 10), whole)


def test_a_checkpoint_has_all_sums_after_forgetting(tmp_path: Path) -> None:
    """Though no row was learned in between: an incremental one has every row again."""
    spec = spec_of()
    model, files = learned(spec, records(spec, 100)), CheckpointFiles(tmp_path)
    checkpointer = Checkpointer(model, files, 0)
    write_now(checkpointer, 100, 0, 0)
    model.forget(0.25)
    write_now(checkpointer, 101, 0, 0)
    found = files.newest()
    assert found
    assert_same(restore(spec, found), model)


def test_no_version_goes_out_while_publishing_is_frozen(tmp_path: Path) -> None:
    """Learning goes on; versions are published again when the alarm is over."""
    bench = Bench(tmp_path, spec=small_spec(**{"[label]": '[drift]\naction = "freeze"\n[label]'}))
    assert bench.turn()
    bench.model.drift.rows[0, SINCE] = 1
    assert bench.model.publishing_frozen
    assert not any(bench.turn() for _ in range(3))
    bench.model.drift.rows[0, SINCE] = 0
    assert bench.turn()


def test_an_alarm_freezes_nothing_else() -> None:
    """Only where the spec wants it."""
    model = Model(small_spec())
    model.drift.rows[0, SINCE] = 1
    assert not model.publishing_frozen


def test_alarms_are_logged(tmp_path: Path) -> None:
    """One line an alarm: the slice, its numbers, what follows; one when publishing is frozen, one when it goes on."""
    spec = small_spec(**{"[label]": '[drift]\naction = "freeze"\n[label]'})
    log, model = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000), Model(spec)
    learner = Learner(log, model, 0, CheckpointFiles(tmp_path), 10_000)
    events = records(spec, 40)
    with capture_logs() as logged:
        for n, since in enumerate((0, 1, 1, 0)):
            if n == 1:
                model.drift.alarms.append(Alarm("all", 0.03, -0.06, 0.01, 11.5, "freeze"))
            model.drift.rows[0, SINCE] = since
            learner.learn(model.record_encoder.of_events([events[n]], [n], 0), lambda: None)
    assert not model.drift.alarms
    found = [line for line in logged if "drift" in line["event"]]
    assert len(found) == 3
    assert found[0]["slice"] == "all"
    assert (found[0]["excess"], found[0]["reference"], found[0]["action"]) == (0.03, -0.06, "freeze")
