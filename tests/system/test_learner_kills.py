"""kill -9 of a learner, or a retrain, inside each phase of its life: whatever it did, it ends in the same bits."""

import shutil
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import Checkpoint, restore, take
from learner.retraining.judgement import RetrainVerdict
from learner.retraining.retrain_files import Outcome, RetrainFiles
from learner.training.model import Model
from stream.runtime.settings import Settings
from tests.support.changing_world import IDS_MAX, mixed_log
from tests.support.event_flow import SEEDS, SOAK
from tests.support.kill_phases import PHASES, PROMOTION, RETRAIN
from tests.support.killable_learner import BOUNDS, PAGES, SPEC, checkpoints_in, killable_learner
from tests.support.learned_models import assert_same

KILLS = 200 if SOAK else 30
KILLS_A_STORY = 15
PROMOTIONS = 40 if SOAK else 5  # stories of a new model that takes over
RETRAINS = 22 if SOAK else 1  # stories of retrains, with a kill in each phase
RETRAINED_AT = PAGES // 6  # the next record that it has to learn

pytestmark = [pytest.mark.timeout(1_800 if SOAK else 300), pytest.mark.parametrize("seed", SEEDS)]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the learner that is killed, as far as learning depends on them."""
    for name in ("learner.deep.vocabulary.EVICT_EXAMPLES", *(n for n in BOUNDS if n.startswith("learner.training."))):
        monkeypatch.setattr(name, BOUNDS[name])


def learned(model: Model, first: int, last: int) -> Model:
    """It learns these records of the log."""
    model.learned_ids.ids_max = IDS_MAX
    for offset, record in enumerate(mixed_log(SPEC, PAGES)[first:last], first):
        model.learn(record, offset, offset % 2)
    return model


@pytest.fixture
def expected(bounds: None) -> Model:
    """The model that nobody killed, which learned the log without a service, checkpoints and versions."""
    model = learned(Model(SPEC), 0, PAGES // 3)
    assert model.held_out.anchor is not None
    assert not model.held_out.outcomes["worse"], "it would have been rolled back"
    return model


def test_a_learner_that_is_killed_in_any_phase_ends_bit_equal(seed: int, expected: Model, tmp_path: Path) -> None:
    """Stories of several kills, each proven to lie inside its phase; no checkpoint is ever found damaged."""
    random, kills = np.random.default_rng(seed), Counter[str]()
    with killable_learner() as learner:
        for story in count():
            folder = tmp_path / f"story{story}"
            folder.mkdir()
            for _ in range(KILLS_A_STORY):
                phase = min(PHASES, key=lambda name: kills[name])
                entries, lines = PHASES[phase][2:]
                death = learner.live(
                    folder, phase, int(random.integers(1, entries + 1)), int(random.integers(1, lines))
                )
                if not death.signal:
                    break  # it has learned all
                assert death.signal == 9
                assert death.entered == death.left + 1, f"not inside {phase}"
                assert death.line > 0
                kills[phase] += 1
            learner.live(folder, "", 0, 0)
            found = checkpoints_in(folder).newest()
            assert found is not None
            assert found.meta.offset == PAGES // 3
            assert_same(restore(SPEC, found), expected)
            assert "damaged" not in (folder / "learner.log").read_text()
            if kills.total() >= KILLS:
                break
    assert all(kills[phase] >= KILLS // len(PHASES) for phase in PHASES)
    print(kills)


@pytest.fixture
def candidate(bounds: None) -> Checkpoint:
    """A new model of half the log, which differs a little from the one that learns."""
    model = learned(Model(SPEC), 0, RETRAINED_AT)
    assert model.deep is not None
    model.deep.freeze_quantiles()
    model.deep.tower.flat[:] *= np.float32(0.99)
    model.warm_starts, model.warm_start_at = 1, model.examples
    return take(model, RETRAINED_AT, 0, 0)


def test_a_learner_that_is_killed_while_a_new_model_takes_over_ends_bit_equal(
    seed: int, candidate: Checkpoint, tmp_path: Path
) -> None:
    """Whenever it is killed, the new model takes over once, and has learned what follows, to the bit."""
    expected = learned(restore(SPEC, candidate), RETRAINED_AT, PAGES // 3)
    assert not expected.held_out.outcomes["worse"], "it would have been rolled back"
    random, kills = np.random.default_rng(seed), Counter[str]()
    outcome = Outcome(RetrainVerdict(True, "", 1, 1, 1.0, 1.0, 0.0, 0.0), "by hand", RETRAINED_AT, 1)
    with killable_learner() as learner:
        for story in range(PROMOTIONS):
            folder = tmp_path / f"story{story}"
            folder.mkdir()
            assert learner.live(folder, "dropping checkpoints", 1, 1).signal == 9  # it leaves one of the old model
            retrains = RetrainFiles(Settings(local=folder), SPEC.name)
            with retrains.lock():
                retrains.write(outcome, candidate)
            for phase in random.permutation([*PROMOTION]).tolist() if story else PROMOTION:
                entry, line = (int(random.integers(1, most + 1)) for most in PROMOTION[phase][2:])
                death = learner.live(folder, phase, entry, line)
                if death.signal:
                    assert (death.signal, death.entered) == (9, death.left + 1), f"not inside {phase}"
                    kills[phase] += 1
            learner.live(folder, "", 0, 0)
            found = checkpoints_in(folder).newest()
            assert found is not None
            assert found.meta.warm_starts == 1
            assert_same(restore(SPEC, found), expected)
    assert kills.total() > PROMOTIONS, kills
    assert kills["going on with the new model"], kills
    print(kills)


def retrained(folder: Path) -> tuple[Outcome, list[bytes]] | None:
    """The outcome that a learner would find, and its candidate's bytes; None: there is none."""
    retrains = RetrainFiles(Settings(local=folder), SPEC.name)
    outcome = retrains.read()
    return (outcome, [path.read_bytes() for path in retrains.candidates.paths()]) if outcome else None


def test_a_retrain_that_is_killed_in_any_phase_leaves_nothing_or_all(seed: int, bounds: None, tmp_path: Path) -> None:
    """Each kill is proven to be inside its phase. The next retrain ends in the same bits; the learner takes them."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    checkpoints_in(undisturbed).write(take(learned(Model(SPEC), 0, RETRAINED_AT), RETRAINED_AT, 0, 0))
    random, kills, found_after = np.random.default_rng(seed), Counter[str](), Counter[bool]()
    with killable_learner() as learner:
        assert learner.retrain(undisturbed).signal == 0
        expected = retrained(undisturbed)
        candidate = RetrainFiles(Settings(local=undisturbed), SPEC.name).candidates.newest()
        assert expected is not None
        assert candidate is not None
        assert expected[0].verdict.promoted, expected[0]
        promoted = learned(restore(SPEC, candidate), expected[0].offset, PAGES // 3)
        for story in range(RETRAINS):
            folder = tmp_path / f"story{story}"
            shutil.copytree(undisturbed, folder)  # with an outcome that no learner took
            for phase in random.permutation([*RETRAIN]).tolist():
                death = learner.retrain(folder, phase, int(random.integers(1, RETRAIN[phase].lines)))
                assert (death.signal, death.entered) == (9, death.left + 1), f"not inside {phase}"
                kills[phase] += 1
                found = retrained(folder)
                assert found in (None, expected), phase
                found_after[found is not None] += 1
            assert learner.retrain(folder).signal == 0
            assert retrained(folder) == expected
            learner.live(folder, "", 0, 0)
            newest = checkpoints_in(folder).newest()
            assert newest is not None
            assert newest.meta.warm_starts == 1
            assert_same(restore(SPEC, newest), promoted)
    print(kills, found_after)
