"""Keys that are let in, expire, and are bounded, in the whole model: checkpoints, deltas, and what a ranker serves."""

from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.publishing.version_builder import serving_wide_logits
from learner.training.model import Model
from learner.wide.ftrl import Ftrl, FtrlRates, KeyBounds
from stream.events.types import Examples
from stream.features.encoder import WideKeys
from stream.spec.spec import Spec
from tests.support.learned_models import assert_same, learned, served_versions
from tests.support.learner_world import records, small_spec
from tests.support.wide_steps import predict_then_learn

NEVER_WAITS = np.ones(2, np.uint8)


def living(**changes: str) -> Spec:
    """The small spec with admission, expiry of all but the bias, one cross of its own, and the least bounds."""
    lives = 'alpha = 0.1\nadmit = 2\nexpire = "8m"\nmax_keys = 1000'
    bounded = {'name = "small"': 'name = "small"\nmax_statistics = 1000', "alpha = 0.1": lives}
    bounded["crosses = ["] = 'crosses = [["user.id", "item.id"], '
    return small_spec(**{**bounded, "alpha = 0.2": 'alpha = 0.2, admit = 1, expire = "1m"', **changes})


def many(spec: Spec, pages: int = 450) -> list[list[Examples]]:
    """Pages whose users and items give more keys than the bounds allow."""
    return records(spec, pages)


@pytest.mark.parametrize("stop", [1, 33, 100, 149])
def test_resuming_is_never_having_stopped(tmp_path: Path, stop: int) -> None:
    """Filters, last sightings and the sweep's place are in the checkpoint: the same keys go, bit for bit."""
    spec = living()
    log = many(spec)
    whole = learned(spec, log)
    assert whole.wide.evictor.tally[0] > 0, "some expired"
    assert whole.statistics.evictor.tally[1] > 0, "some went by the bound"
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:stop]), stop, 3, 4))
    found = files.newest()
    assert found is not None
    assert_same(learned(spec, log, restore(spec, found), stop), whole)


def test_the_bounds_hold() -> None:
    """Neither table is ever above its bound, and learning goes on."""
    spec = living(**{'expire = "8m"': 'expire = "9000d"', "admit = 2": "admit = 1"})
    model = Model(spec)
    for offset, record in enumerate(many(spec)):
        model.learn(record, offset)
        assert len(model.wide.table) <= 1_000
        assert len(model.statistics.table) <= 1_000
    assert model.wide.evictor.tally[1] > 0
    assert model.progress.lifetime().auc > 0.55


def test_rankers_drop_what_is_gone() -> None:
    """By deltas, version after version, a ranker's logits and statistics are the learner's, for keys that went too."""
    spec = living(**{'name = "small"': 'name = "small"\nparts = ["wide"]\nmax_statistics = 1000'})
    log = many(spec, 700)
    model = Model(spec)
    pages = [np.frombuffer(e.page.features, np.uint64) for record in log for e in record]
    gone = 0
    for offset, version in served_versions(model, log):
        gone = int(model.statistics.evictor.tally.sum())
        for words in pages[: 3 * offset : 17]:
            np.testing.assert_allclose(version.logits(words.copy()), serving_wide_logits(model, words), atol=1e-6)
        for words in pages[3 * offset :: 97]:
            here, there = words.copy(), words.copy()
            model.statistics.fill(here, 10_000_000)
            version.fill(there, 10_000_000)
            assert here.tobytes() == there.tobytes()
    assert gone > 0, "some statistics were gone by the last version"


def reference(stream: list[tuple[list[int], int, float]], lives_s: list[int]) -> list[float]:
    """Logits by plain dicts: a key that wasn't seen for longer than it lives begins again."""
    state: dict[int, tuple[float, float, int]] = {}
    logits = []
    for keys, now_s, label in stream:
        for key in keys:
            life = lives_s[(key & 255) - 1]
            if key in state and life and now_s - state[key][2] > life:
                del state[key]
        known = {key: state.get(key, (0.0, 0.0, 0))[:2] for key in keys}
        weights = {key: -z / (1.0 + np.sqrt(n)) * 0.5 for key, (z, n) in known.items()}
        logits.append(sum(weights.values()))
        g = 1 / (1 + np.exp(-logits[-1])) - label
        for key, (z, n) in known.items():
            sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / 0.5
            state[key] = z + g - sigma * weights[key], n + g * g, now_s
    return logits


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_expired_key_begins_anew(seed: int) -> None:
    """Whether the sweep took it already or not: as plain dicts would have it."""
    random = np.random.default_rng(seed)
    rates = FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.0, 0.0)
    ftrl = Ftrl(rates, bounds=KeyBounds(NEVER_WAITS, np.array([0, 50], np.uint32), 100_000))
    stream, now_s = [], 1_000
    for _ in range(600):
        now_s += int(random.integers(0, 9))
        numbers = random.choice(300 if random.random() < 0.5 else 20, 6, replace=False)
        stream.append(([int(n) << 8 | int(n) % 2 + 1 for n in numbers], now_s, float(random.random() < 0.5)))
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    logits = []
    for keys, at_s, label in stream:
        given = WideKeys(np.array(keys, np.uint64), np.array([0, len(keys)]))
        wide, _ = predict_then_learn(ftrl, given, zero, np.array([label], np.float32), one, time_ms=at_s * 1_000 + 999)
        logits.append(float(wide[0]))
    np.testing.assert_allclose(logits, reference(stream, [0, 50]), atol=2e-5)
    assert ftrl.evictor.tally[0] > 20
