"""A retrain beside a learner, and its promotion: real log, checkpoints, verdicts, no processes; kills between steps."""

from pathlib import Path

import pytest

from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpointer import Checkpointer
from learner.learner import Learner
from learner.promotion import Promotion
from learner.publishing.version_allocator import HighWater
from learner.retraining.judgement import RetrainVerdict
from learner.retraining.retrain_files import Outcome
from tests.support.learned_models import assert_same
from tests.support.learner_world import small_spec
from tests.support.retrain_house import CUT, NEVER_MS, SEEN, SPEC, House, learn_to, promoted, saved

WORSE = RetrainVerdict(False, "it is worse than the live one", 150, 40, 0.8, 0.9, 0.05, 0.15)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A learner has learned 40 records of 80, and written a checkpoint."""
    return House.begun(tmp_path)


def test_a_new_model_is_promoted_where_the_learner_is(house: House) -> None:
    """It has learned all that the learner has, once; and a checkpoint has it."""
    outcome = house.retrain()
    assert outcome.verdict.promoted, outcome
    assert outcome.verdict.examples == 9 * (SEEN - CUT)
    assert outcome.offset == SEEN
    house.grow()
    learner = house.learner()
    learn_to(learner, 95)
    undisturbed = learner.model
    promotion = Promotion(learner, house.settings)
    promoted(promotion)
    assert house.retrain_files().is_promoted
    saved(learner, promotion)
    assert learner.model is not undisturbed
    assert learner.model.examples == undisturbed.examples == 9 * 95
    assert (learner.model.warm_starts, undisturbed.warm_starts) == (1, 0)
    found = house.files.newest()
    assert found is not None
    assert found.meta.offset == 95
    assert_same(restore(SPEC, found), learner.model)
    assert house.retrain_files().read() is None
    learn_to(learner, 100)
    assert learner.model.examples == 900


def test_a_learner_that_is_behind_reaches_the_new_model_s_offset_first(house: House) -> None:
    """Until then it goes on with its own."""
    outcome = house.retrain()
    learner = house.learner()
    promotion = Promotion(learner, house.settings)
    assert learner.offset < outcome.offset
    promoted(promotion)
    assert learner.model.warm_starts == 0
    learn_to(learner, outcome.offset)
    assert promotion.step()
    assert learner.model.warm_starts == 1
    assert learner.offset == outcome.offset


def test_a_new_model_that_held_out_pages_find_worse_is_dropped(house: House) -> None:
    """While it catches up: live, it would take the learner back to the checkpoint of its anchor."""
    house.retrain()
    learner = house.learner()
    before, promotion = learner.model, Promotion(learner, house.settings)
    promoted(promotion)
    assert promotion._restored is not None
    promotion._restored.model.held_out.worse = "log loss"
    learn_to(learner, SEEN)
    assert not promotion.step()
    assert learner.model is before
    assert house.retrain_files().read() is None


def test_a_new_model_takes_the_learner_s_tunables(house: House) -> None:
    """A learner that was restarted with other rates while a retrain ran keeps them."""
    assert house.retrain().verdict.promoted
    spec = small_spec(**{"every = 300, window = 200": "window = 200, judged = 150", "alpha = 0.1": "alpha = 0.05"})
    learner = house.learner(spec)
    learn_to(learner, SEEN)
    promoted(Promotion(learner, house.settings))
    assert learner.model.warm_starts == 1
    assert learner.model.spec.wide.alpha == 0.05
    assert learner.model.spec.fingerprint() == spec.fingerprint()


class Killed(BaseException):
    """kill -9: nothing runs any more."""


def kill(*_: object, **__: object) -> None:
    """In place of a step."""
    raise Killed


KILLS: dict[str, tuple[str, bool]] = {
    "in the retrain": ("learner.retraining.retrain_process.take", False),
    "before the candidate is written": ("learner.retraining.retrain_files.CheckpointFiles.write", False),
    "before the verdict": ("learner.retraining.retrain_files.replacing", False),
    "before it is recorded": ("learner.retraining.retrain_files.RetrainFiles.promote", True),
    "before the swap": ("learner.learner.Learner.replace_model", True),
    "before the checkpoint": ("learner.learner.Checkpointer", True),
    "in the checkpoint": ("learner.checkpoints.checkpointer.Checkpointer.cut", True),
    "before the verdict is removed": ("learner.retraining.retrain_files.RetrainFiles.clear", True),
}
NOT_LIVE = [*KILLS][:4]


@pytest.mark.parametrize("where", KILLS)
def test_a_kill_anywhere_ends_in_one_of_two_models(house: House, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a learner whose retrain was never promoted; or, once it may be live, the new one: to the bit."""
    step, has_outcome = KILLS[where]
    if has_outcome:
        house.retrain()
    house.grow()
    plain, learner = house.learner(), house.learner()
    learn_to(plain, 100)
    learn_to(learner, 90)
    candidate = house.retrain_files().candidates.newest()

    def live() -> None:
        if not has_outcome:
            house.retrain()
        promotion = Promotion(learner, house.settings)
        promoted(promotion)
        learn_to(learner, 95)
        saved(learner, promotion)

    with monkeypatch.context() as patched:
        patched.setattr(step, kill)
        with pytest.raises(Killed):
            live()
    again = house.learner()
    assert again.model.warm_starts == (where not in NOT_LIVE)
    learn_to(again, 100)
    if where in NOT_LIVE:
        assert_same(again.model, plain.model)
    else:
        assert candidate is not None
        other = Learner(house.log, restore(SPEC, candidate), SEEN, house.files, NEVER_MS)
        learn_to(other, 100)
        assert_same(again.model, other.model)
        promoted(Promotion(again, house.settings))
        assert again.model.warm_starts == 1, "a verdict isn't taken twice"
        assert house.retrain_files().read() is None
    with house.retrain_files().lock():
        pass


def test_a_restart_goes_on_with_the_model_that_was_live(house: House) -> None:
    """Even before a checkpoint has it; and with the version numbers of the newest one."""
    house.retrain()
    house.grow()
    learner = house.learner()
    learn_to(learner, 90)
    learner.used = HighWater(7, 3)
    learner.maybe_checkpoint(now=True)
    promoted(Promotion(learner, house.settings))
    learn_to(learner, 95)
    house.learner()
    found = house.files.newest()
    assert found is not None
    assert (found.meta.offset, found.meta.warm_starts, found.meta.version, found.meta.token) == (SEEN, 1, 7, 3)
    assert house.retrain_files().read() is None


def test_a_checkpoint_that_is_being_written_isnt_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new model takes over once it's there."""
    house.retrain()
    learner = house.learner()
    learn_to(learner, SEEN)
    learner.checkpointer.begin()
    assert learner.checkpointer.sweep(wait=True)
    learner.checkpointer.cut(learner.offset, 0, 0)
    promotion = Promotion(learner, house.settings)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpointer, "is_idle", lambda *_, wait: False)
        promoted(promotion)
        assert learner.model.warm_starts == 0
    assert learner.checkpointer.is_idle(wait=True)
    assert promotion.step()
    assert learner.model.warm_starts == 1


def test_a_worse_model_is_dropped_with_its_reason(house: House) -> None:
    """The learner goes on as if nothing had been."""
    files = house.retrain_files()
    with files.lock():
        files.write(Outcome(WORSE, "drift", 90, 1), None)
    learner = house.learner()
    before = learner.model
    promoted(Promotion(learner, house.settings))
    assert learner.model is before
    assert files.read() is None


def test_a_retrain_that_is_called_for_waits_for_the_new_model_s_checkpoint(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm calls once; a retrain that began before would begin with the old model."""
    house.retrain()
    learner, started = house.learner(), list[list[str]]()

    class Process:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

    monkeypatch.setattr("learner.promotion.subprocess.Popen", Process)
    learn_to(learner, SEEN)
    promotion = Promotion(learner, house.settings)
    promoted(promotion)
    learner.model.call_for_retrain("drift")
    promotion.step()
    assert not started
    saved(learner, promotion)
    promotion.step()
    assert [command[-1] for command in started] == ["drift"]


@pytest.mark.parametrize("is_restored", [False, True])
def test_what_was_trained_before_a_roll_back_is_dropped(house: House, *, is_restored: bool) -> None:
    """It comes from the state that learning has left; even where it waits to take over already."""
    learner = house.learner()
    newest = house.files.newest()
    assert newest is not None
    assert newest.origin is not None
    house.files.pin(newest.origin.name)
    assert house.retrain().verdict.promoted
    promotion = Promotion(learner, house.settings)
    if is_restored:
        promoted(promotion)
    learn_to(learner, SEEN)
    learner.roll_back("because")
    learner.maybe_checkpoint(now=True)
    promoted(promotion)
    assert learner.model.warm_starts == 0
    assert house.retrain_files().read() is None
    house.grow()
    assert house.retrain().roll_backs == 1, "the next one begins after it"
    learn_to(learner, 100)
    promoted(Promotion(learner, house.settings))
    assert learner.model.warm_starts == 1
