"""Sums of squares that fade by event time, against Algorithm 1 in float64 that fades every one of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.wide.forgetting import AGE_MS, LIMIT, RESCALE, Forgetting, advance
from learner.wide.ftrl import Ftrl, FtrlRates
from stream.tables.dtypes import F32, F64
from tests.support.wide_steps import keys_of, predict_then_learn

HALF_LIFE_MS = 1_000
BETA, L1, L2 = 1.0, 0.3, 0.5
ALPHAS = np.array([0.5, 0.2], np.float32)


def forgetful(half_life_ms: int = HALF_LIFE_MS, l1: float = L1) -> Ftrl:
    """A wide part whose sums fade."""
    return Ftrl(FtrlRates(ALPHAS, BETA, l1, L2, half_life_ms))


class Reference:
    """Algorithm 1 of McMahan et al. 2013 in float64. As time goes on every n fades, and its z is moved so that its
    weight stays."""

    def __init__(self, half_life_ms: int = HALF_LIFE_MS) -> None:
        self.half_life_ms, self.newest_ms = half_life_ms, 0.0
        self.z: dict[int, float] = {}
        self.n: dict[int, float] = {}

    def damping(self, key: int, n: float) -> float:
        """D."""
        return (BETA + math.sqrt(n)) / float(ALPHAS[key % 2]) + L2

    def weight(self, key: int) -> float:
        """By z and n."""
        z, n = self.z.get(key, 0.0), self.n.get(key, 0.0)
        return 0.0 if abs(z) <= L1 else -(z - math.copysign(L1, z)) / self.damping(key, n)

    def fade(self, time_ms: float) -> None:
        """Event time goes on."""
        gap_ms = min(time_ms - self.newest_ms, self.half_life_ms)
        if gap_ms <= 0:
            return
        self.newest_ms = time_ms
        for key, n in self.n.items():
            weight, faded = self.weight(key), n * 2 ** (-gap_ms / self.half_life_ms)
            if weight:
                self.z[key] = math.copysign(L1, -weight) - weight * self.damping(key, faded)
            self.n[key] = faded

    def learn(self, keys: list[int], label: float, importance: float, time_ms: float, corrects: bool) -> float:
        """The logit before the step."""
        self.fade(time_ms)
        weights = [self.weight(key) for key in keys]
        p = 1 / (1 + math.exp(-sum(weights)))
        g = importance * (p - label)
        square = g * g
        if corrects:
            left = 2 ** ((time_ms - self.newest_ms) / self.half_life_ms)
            g, square = importance * (1 - 2 * label), square - left * (importance * (p - 1 + label)) ** 2
        for key, weight in zip(keys, weights, strict=True):
            n = self.n.get(key, 0.0)
            after = max(0.0, n + square)
            self.z[key] = self.z.get(key, 0.0) + g - (math.sqrt(after) - math.sqrt(n)) / float(ALPHAS[key % 2]) * weight
            self.n[key] = after
        return sum(weights)


row = st.tuples(
    st.lists(st.integers(1, 8), min_size=1, max_size=5, unique=True),
    st.booleans(),
    st.floats(0.1, 3),
    st.one_of(st.integers(-800, 800), st.integers(0, 20_000)),  # since the page before: some come late
    st.booleans(),
)


@given(st.lists(row, min_size=1, max_size=40))
def test_equals_the_slow_definition(rows: list[tuple[list[int], bool, float, int, bool]]) -> None:
    """Logits and weights, whatever the times, with corrections, which take back what is left of a square."""
    ftrl, reference, time_ms, wanted = forgetful(), Reference(), 5_000.0, list[float]()
    times_ms, corrects = np.empty(len(rows)), np.array([r[4] for r in rows])
    for i, (keys, label, importance, step_ms, correction) in enumerate(rows):
        time_ms += step_ms
        times_ms[i] = time_ms
        wanted.append(reference.learn(keys, float(label), importance, time_ms, correction))
    labels, weights = (np.array([r[i] for r in rows], np.float32) for i in (1, 2))
    for part in np.array_split(np.arange(len(rows)), 3):  # three records
        if not len(part):
            continue
        found = predict_then_learn(ftrl, keys_of([rows[i][0] for i in part]), 0 * labels[part], labels[part],
                                   weights[part], time_ms=times_ms[part],
                                   earlier=weights[part] * corrects[part])  # fmt: skip
        np.testing.assert_allclose(found.logits, [wanted[i] for i in part], rtol=1e-3, atol=1e-3)
    stored = ftrl.table.rows()
    for key, weight in zip((stored[:, 0] >> np.uint64(8)).tolist(), ftrl.weights(stored).tolist(), strict=True):
        assert weight == pytest.approx(reference.weight(key), rel=1e-3, abs=1e-3)


def learned_randomly(ftrl: Ftrl, examples: int, times_ms: F64, keys: int = 6, seed: int = 0) -> F32:
    """Learn random labels of some keys; returns the logits."""
    random = np.random.default_rng(seed)
    chosen = [random.choice(np.arange(1, keys + 1), 2, replace=False).tolist() for _ in range(examples)]
    labels, ones = (random.random(examples) < 0.3).astype(np.float32), np.ones(examples, np.float32)
    return predict_then_learn(ftrl, keys_of(chosen), 0 * ones, labels, ones, time_ms=times_ms).logits


def test_time_alone_moves_no_weight() -> None:
    """Others are learned for two hundred half-lives, sums are scaled down several times: a weight stays to the bit."""
    ftrl = forgetful()
    learned_randomly(ftrl, 50, np.linspace(0, 500, 50))
    before = ftrl.table.rows()
    weights = ftrl.weights(before)
    assert np.count_nonzero(weights) >= 4
    for n in range(200):
        predict_then_learn(ftrl, keys_of([[100]]), *np.ones((3, 1), np.float32), time_ms=(n + 1) * HALF_LIFE_MS)
    after = ftrl.table.rows_of(before[:, 0].copy())
    assert ftrl.weights(after).tobytes() == weights.tobytes()
    squares, faded = before.view(np.float32)[:, 3], after.view(np.float32)[:, 3]
    assert (faded < 1e-30 * squares).all(), "their sums are gone"


def test_time_leaves_the_bias_where_it_started() -> None:
    """The base rate from which a model starts isn't forgotten, whatever would pull the weight back to it."""
    ftrl, start = forgetful(), -4.2
    ftrl.set_initial_weight(int(keys_of([[2]]).keys[0]), start)
    for n in range(100):
        predict_then_learn(ftrl, keys_of([[100]]), *np.ones((3, 1), np.float32), time_ms=(n + 1) * HALF_LIFE_MS)
    assert ftrl.weights(ftrl.table.rows_of(keys_of([[2]]).keys))[0] == pytest.approx(start, rel=1e-6)


def test_a_sum_that_faded_steps_as_a_new_one() -> None:
    """After sixty half-lives a key's step is that of a key of the same weight that has learned nothing."""
    ftrl = forgetful(l1=0.0)
    learned_randomly(ftrl, 200, np.linspace(0, 500, 200))
    for n in range(60):
        predict_then_learn(ftrl, keys_of([[100]]), *np.ones((3, 1), np.float32), time_ms=(n + 1) * HALF_LIFE_MS)
    one = np.ones(1, np.float32)
    found = predict_then_learn(ftrl, keys_of([[2]]), 0 * one, one, one, time_ms=61 * HALF_LIFE_MS)
    weight = float(ftrl.weights(ftrl.table.rows_of(keys_of([[2]]).keys))[0])
    g = float(found.gradients[0])
    assert weight - float(found.logits[0]) == pytest.approx(-g / ((BETA + abs(g)) / float(ALPHAS[0]) + L2), rel=1e-4)


def test_sums_stay_numbers_for_ever() -> None:
    """A year of steps of a few half-lives: nothing overflows, and the logits are those of the definition."""
    ftrl, reference = forgetful(l1=L1), Reference()
    random = np.random.default_rng(1)
    time_ms = 0.0
    for _ in range(1_500):
        time_ms += float(random.integers(0, 900))
        keys, label = [int(random.integers(1, 5))], float(random.random() < 0.3)
        one = np.array([label], np.float32)
        found = predict_then_learn(ftrl, keys_of([keys]), 0 * one, one, 0 * one + 1, time_ms=int(time_ms))
        wanted = reference.learn(keys, label, 1.0, int(time_ms), corrects=False)
        assert found.logits[0] == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert time_ms > 10 * RESCALE * HALF_LIFE_MS
    sums = np.abs(ftrl.table.rows().view(np.float32)[:, 3])
    assert np.isfinite(sums).all()
    assert (sums < 2.0**70).all()


def test_a_gap_counts_as_one_half_life() -> None:
    """Neither a pause nor a clock that is years ahead forgets more than half; a page that comes late turns nothing
    back; and one record never brings more age than float32 bears."""
    forgetting = Forgetting(HALF_LIFE_MS)
    for time_ms, age_ms in ((10**12, 1_000), (10**12 + 300, 1_300), (10**12 - 5_000, 1_300), (10**13, 2_300)):
        advance(forgetting.clock, HALF_LIFE_MS, float(time_ms))
        assert forgetting.clock[AGE_MS] == age_ms
    for n in range(200):
        advance(forgetting.clock, HALF_LIFE_MS, 2.0e13 + n * HALF_LIFE_MS)
    assert forgetting.inflation() == 2.0**LIMIT
    assert forgetting.rescale() == 2.0**-LIMIT
    assert forgetting.inflation() == 1.0


@pytest.mark.parametrize("now_ms", [0, HALF_LIFE_MS, 7 * HALF_LIFE_MS])
def test_another_half_life_keeps_what_sums_stand_for(now_ms: int) -> None:
    """Sums are stored inflated by the half-life of then: with another one, or none, they still stand for the same."""
    ftrl, other = forgetful(), forgetful(now_ms)
    learned_randomly(ftrl, 200, np.linspace(0, 9_500, 200))
    other.table.put(ftrl.table.rows())
    other.restore_clock(ftrl.forgetting.state())
    found, wanted = (
        np.abs(one.table.rows().view(np.float32)[:, 3]) / one.forgetting.inflation() for one in (other, ftrl)
    )
    assert ftrl.forgetting.inflation() > 500
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_clock_of_another_shape_is_rejected() -> None:
    """Checkpoints cross processes."""
    with pytest.raises(ValueError, match="a clock of shape"):
        Forgetting(HALF_LIFE_MS).restore(np.zeros(2, np.int64))


def test_a_step_is_quiet_until_sums_are_scaled_down() -> None:
    """Records that are learned in one step are those before each of which nothing is scaled down."""
    forgetting = Forgetting(HALF_LIFE_MS)
    advance(forgetting.clock, HALF_LIFE_MS, 1e12)
    newest = 10**12 + (RESCALE - 1) * HALF_LIFE_MS
    assert forgetting.is_quiet(newest)
    assert not forgetting.is_quiet(newest + 1)
    assert Forgetting(0).is_quiet(newest + 10**9), "nothing fades"


@pytest.mark.parametrize("half_life_ms", [0, 400])
def test_recovery_depends_on_the_past_only_without_forgetting(half_life_ms: int) -> None:
    """A rate of 90 % turns to 10 %: how many examples the model takes to follow, after 2,000 and after 40,000."""
    random, taken = np.random.default_rng(3), list[int]()
    for past in (2_000, 40_000):
        ftrl = forgetful(half_life_ms)
        labels = (random.random(past + 20_000) < np.where(np.arange(past + 20_000) < past, 0.9, 0.1)).astype(np.float32)
        keys, ones, logits = keys_of([[2]] * 500), np.ones(500, np.float32), list[F32]()
        for first in range(0, len(labels), 500):
            times_ms = np.arange(first, first + 500, dtype=np.float64)
            record = labels[first : first + 500]
            logits.append(predict_then_learn(ftrl, keys, 0 * ones, record, ones, time_ms=times_ms).logits)
        taken.append(int(np.argmax(np.concatenate(logits)[past:] < math.log(0.2 / 0.8))))
        assert taken[-1] > 10
    if half_life_ms:
        assert taken[1] <= 1.5 * taken[0]
    else:
        assert taken[1] > 3 * taken[0]
