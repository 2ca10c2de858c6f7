"""A new model learns exported files, then the log from there on, and is what it had been had the log had everything."""

from pathlib import Path

import pytest

from learner.promotion import Promotion
from learner.retraining import relearning
from learner.retraining.relearning import write_first_checkpoint
from learner.retraining.retrain_process import RetrainJob, run_retrain
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.runtime.errors import CheckpointError, SpecError
from stream.spec.spec import Spec
from tests.support.learned_models import assert_same
from tests.support.learner_world import small_spec
from tests.support.retrain_house import CUT, LOG, SEEN, SPEC, House, learn_to, promoted
from thalweg.exports.export_examples import export_examples
from thalweg.exports.past import past_of

EXPORTED = 30
WARM = "every = 300, window = 200", "window = 200, judged = 150"


def quiet(line: str) -> None:
    """Nobody reads it."""


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Of 80 records the first 30 were exported, the log has lost 25, a learner has learned 40."""
    made = House(tmp_path / "local", EXPORTED)
    export_examples(made.log, tmp_path / "files", None, None)
    made.grow(EXPORTED, SEEN)
    learner = made.learner()
    learn_to(learner, CUT)
    learner.maybe_checkpoint(now=True)
    made.log.truncate(EXAMPLES.name, 0, 25)
    return made


def learned_all(end: int, spec: Spec = SPEC) -> Model:
    """A model that learned the log's first records one by one."""
    model = Model(spec)
    for offset, record in enumerate(LOG[:end]):
        if offset == CUT:
            model.warm_start_at = model.examples
        model.learn(record, offset, 0)
    model.installs.clear()  # who publishes takes them
    model.progress.milestones.clear()
    return model


def relearned(house: House, folder: Path, spec: Spec | None = None) -> tuple[Model, int]:
    """The new model once it is judged, and the offset that it has learned up to."""
    checkpoint = house.files.newest()
    assert checkpoint is not None
    job = RetrainJob(house.log, checkpoint, spec, None, quiet, past_of(folder, house.log))
    retraining, offset = job.run(lambda: True)
    retraining.new.installs.clear()
    retraining.new.progress.milestones.clear()
    return retraining.new, offset


def test_it_is_to_the_bit_a_model_that_learned_the_whole_log(house: House, tmp_path: Path) -> None:
    """Files and log meet at an offset, whatever both have."""
    new, offset = relearned(house, tmp_path / "files")
    assert offset == SEEN
    expected = learned_all(SEEN)
    expected.warm_starts = 1
    assert_same(new, expected)


def test_its_learner_takes_it_over(house: House, tmp_path: Path) -> None:
    """As any new model: judged beside the live one, then promoted at an example's index."""
    past = past_of(tmp_path / "files", house.log)
    outcome = run_retrain(house.settings, house.log, SPEC.name, "by hand", quiet, past=past)
    assert outcome.verdict.promoted
    learner = house.learner()
    learn_to(learner, SEEN)
    promoted(Promotion(learner, house.settings))
    assert learner.model.warm_starts == 1
    assert learner.model.examples == learned_all(SEEN).examples


def test_a_changed_spec_relearns(house: House, tmp_path: Path) -> None:
    """Pages that were logged under the previous one are translated; a statistic that they lack is refused."""
    changed = small_spec(**{WARM[0]: WARM[1], "alpha = 0.1\n": "alpha = 0.05\n", "l1 = 0.1": "l1 = 0.2"})
    crossed = small_spec(**{WARM[0]: WARM[1], 'features = ["user.id", "item.id"]': 'features = ["item.id"]'})
    for spec in (changed, crossed):
        expected = learned_all(SEEN, spec)
        expected.warm_starts = 1
        expected.previous = [SPEC] if spec is crossed else ()
        assert_same(relearned(house, tmp_path / "files", spec)[0], expected)
    more = small_spec(**{WARM[0]: WARM[1], "[wide]": 'more = { kind = "rate", by = ["item.tags"] }\n[wide]'})
    with pytest.raises(SpecError, match="evolve to them without --from"):
        relearned(house, tmp_path / "files", more)


def test_a_model_without_a_checkpoint_gets_its_first_one(house: House, tmp_path: Path) -> None:
    """Its learner goes on from there; one that has begun meanwhile isn't overwritten."""
    past = past_of(tmp_path / "files", house.log)
    for path in house.files.paths():
        path.unlink()
    meta = write_first_checkpoint(house.settings, house.log, SPEC, past, quiet)
    learner = house.learner()
    assert (learner.offset, meta.offset) == (SEEN, SEEN)
    expected = learned_all(SEEN)
    expected.warm_start_at = learner.model.warm_start_at
    assert_same(learner.model, expected)
    with pytest.raises(CheckpointError, match="has begun meanwhile"):
        write_first_checkpoint(house.settings, house.log, SPEC, past, quiet)


def test_how_far_it_is_is_said_once_a_minute(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year takes hours."""
    monkeypatch.setattr("learner.record_prefetcher.CHUNK_RECORDS", 5)
    lines, times_s = list[str](), iter(range(0, 10_000, 25))
    past = past_of(tmp_path / "files", house.log)
    relearning.relearn(Model(SPEC), past(EXPORTED), lines.append, lambda: next(times_s))
    assert lines == ["135 examples learned, up to offset 14", "270 examples learned, up to offset 29"]
