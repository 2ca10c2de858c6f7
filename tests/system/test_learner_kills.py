"""kill -9 of a learner inside each phase of its life: whatever it was doing, it ends in the same bits."""

from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.training.model import Model
from tests.support.changing_world import IDS_MAX, mixed_log
from tests.support.event_flow import SEEDS, SOAK
from tests.support.killable_learner import BOUNDS, PAGES, PHASES, SPEC, killable_learner
from tests.support.learned_models import assert_same

KILLS = 200 if SOAK else 30
KILLS_A_STORY = 15

pytestmark = [pytest.mark.timeout(1_800 if SOAK else 300), pytest.mark.parametrize("seed", SEEDS)]


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model that nobody killed, which learned the log without a service, checkpoints and versions."""
    for name in ("learner.deep.vocabulary.EVICT_EXAMPLES", *(n for n in BOUNDS if n.startswith("learner.training."))):
        monkeypatch.setattr(name, BOUNDS[name])  # those that learning depends on
    log, model = mixed_log(SPEC, PAGES), Model(SPEC)
    model.learned_ids.ids_max = IDS_MAX
    for offset, record in enumerate(log):
        model.learn(record, offset, offset % 2)
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
            found = CheckpointFiles(folder / "checkpoints").newest()
            assert found is not None
            assert found.meta.offset == PAGES // 3
            assert_same(restore(SPEC, found), expected)
            assert "damaged" not in (folder / "learner.log").read_text()
            if kills.total() >= KILLS:
                break
    assert all(kills[phase] >= KILLS // len(PHASES) for phase in PHASES)
    print(kills)
