"""FTRL-Proximal against its formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.wide.ftrl import Ftrl, FtrlRates
from learner.wide.ftrl_kernels import WideExamples, WideOutput, learn_wide_examples
from stream.tables.dtypes import F32
from stream.tables.hash_kernels import hash32
from tests.support.wide_steps import keys_of, predict_then_learn


def numbers_of(ftrl: Ftrl) -> F32:
    """u and n of each key, float32 [N, 2]."""
    found: F32 = ftrl.table.rows().view(np.float32)[:, 2:].copy()
    found[:, 1] = np.abs(found[:, 1])  # its sign says that it changed
    return found


def reference(
    examples: list[list[int]],
    labels: list[float],
    weights: list[float],
    deep: list[float],
    alphas: list[float],
    beta: float,
    l1: float,
    l2: float,
) -> tuple[list[float], dict[int, float]]:
    """Algorithm 1 of McMahan et al. 2013, coordinate by coordinate, in float32 state."""
    z: dict[int, np.float32] = {}
    n: dict[int, np.float32] = {}

    def weight(key: int) -> float:
        zk, nk = float(z.get(key, np.float32(0))), float(n.get(key, np.float32(0)))
        if abs(zk) <= l1:
            return 0.0
        return -(zk - math.copysign(l1, zk)) / ((beta + math.sqrt(nk)) / float(alphas[key % 2]) + l2)

    wide = []
    for example, label, importance, other in zip(examples, labels, weights, deep, strict=True):
        held = [weight(key) for key in example]
        wide.append(sum(held))
        g = importance * (1 / (1 + math.exp(-(wide[-1] + other))) - label)
        for key, w in zip(example, held, strict=True):
            before = float(n.get(key, np.float32(0)))
            sigma = (math.sqrt(before + g * g) - math.sqrt(before)) / alphas[key % 2]
            z[key] = np.float32(z.get(key, np.float32(0)) + np.float32(g - sigma * w))
            n[key] = np.float32(before + g * g)
    return wide, {key: weight(key) for key in z}


one = st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True)


@given(
    st.lists(st.tuples(one, st.booleans(), st.floats(0.1, 5), st.floats(-2, 2)), min_size=1, max_size=30),
    st.floats(0.01, 1),
    st.floats(0, 2),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_equals_the_slow_reference(
    rows: list[tuple[list[int], bool, float, float]], alpha: float, beta: float, l1: float, l2: float
) -> None:
    """Predictions and weights are those of Algorithm 1, each example predicted after the one before was learned."""
    examples = [r[0] for r in rows]
    labels = np.array([r[1] for r in rows], np.float32)
    weights, deep = np.array([r[2] for r in rows], np.float32), np.array([r[3] for r in rows], np.float32)
    alphas = np.array([alpha, alpha / 2], np.float32)
    ftrl = Ftrl(FtrlRates(alphas, beta, l1, l2))
    wide, _ = predict_then_learn(ftrl, keys_of(examples), deep, labels, weights)
    expected, final = reference(
        examples, labels.tolist(), weights.tolist(), deep.tolist(), alphas.tolist(), beta, l1, l2
    )
    np.testing.assert_allclose(wide, expected, rtol=2e-4, atol=2e-4)
    rows_held = ftrl.table.rows()
    got = dict(zip((rows_held[:, 0] >> np.uint64(8)).tolist(), ftrl.weights(rows_held).tolist(), strict=True))
    assert got.keys() == final.keys()
    for key, value in final.items():
        assert got[key] == pytest.approx(value, rel=2e-4, abs=2e-4)


@pytest.mark.parametrize("first", [0.0, -4.2, 1.3])
def test_without_regularisation_it_is_adaptive_gradient_descent(first: float) -> None:
    """With λ1 = λ2 = 0 it equals w ← w − α/(β + √Σg²) · g, wherever it begins."""
    rates = FtrlRates(np.array([0.3, 0.3], np.float32), 1.0, 0.0, 0.0)
    ftrl = Ftrl(rates)
    if first:
        ftrl.set_initial_weight(int(keys_of([[2]]).keys[0]), first)
    w, n = first, 0.0
    for label in (1, 0, 0, 1, 1, 0, 1):
        wide, _ = predict_then_learn(
            ftrl, keys_of([[2]]), np.zeros(1, np.float32), np.array([label], np.float32), np.ones(1, np.float32)
        )
        assert wide[0] == pytest.approx(w, abs=1e-6)
        g = 1 / (1 + math.exp(-w)) - label
        n += g * g
        w -= 0.3 / (1.0 + math.sqrt(n)) * g


def test_a_weight_starts_where_it_should_whatever_pulls_it() -> None:
    """β, λ1 and λ2 don't move a weight's start, and pull it back there, not to 0."""
    key = int(keys_of([[2]]).keys[0])
    for beta, l1, l2 in ((1.0, 0.0, 0.0), (1.0, 4.0, 5.0), (0.0, 0.5, 2.0)):
        for first in (-4.2, 1.3):
            ftrl = Ftrl(FtrlRates(np.array([0.3, 0.3], np.float32), beta, l1, l2))
            ftrl.set_initial_weight(key, first)
            assert ftrl.weights(ftrl.table.rows())[0] == pytest.approx(first, rel=1e-5)
    ftrl, ones = Ftrl(FtrlRates(np.array([0.3, 0.3], np.float32), 1.0, 0.5, 1e4)), np.ones(1, np.float32)
    ftrl.set_initial_weight(key, -4.2)
    for _ in range(20):
        predict_then_learn(ftrl, keys_of([[2]]), np.zeros(1, np.float32), ones, ones)
    assert -4.2 < ftrl.weights(ftrl.table.rows())[0] < -4.19


def test_a_weight_returns_to_exactly_zero() -> None:
    """L1 keeps a weight at exactly 0 until |z| passes λ1, and takes it back there when gradients cancel."""
    ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.6, 0.0))
    seen = []
    for label in (1, 1, 0, 0, 0):
        predict_then_learn(
            ftrl, keys_of([[2]]), np.zeros(1, np.float32), np.array([label], np.float32), np.ones(1, np.float32)
        )
        seen.append(float(ftrl.weights(ftrl.table.rows())[0]))
    assert seen[0] == 0.0, "one gradient of 0.5 is within λ1"
    assert seen[1] > 0.0
    assert 0.0 in seen[2:], f"cancelled gradients bring it back to 0: {seen}"


def test_hand_computed_sparsity() -> None:
    """λ1 = 1: gradients of −0.5 leave z at −0.5, −1 (weight 0) and then −1.5, weight α·0.5/(β + √0.75); and back."""
    ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 1.0, 0.0))
    one = np.ones(1, np.float32)

    def step(label: float) -> float:
        predict_then_learn(ftrl, keys_of([[2]]), np.zeros(1, np.float32), np.array([label], np.float32), one)
        return float(ftrl.weights(ftrl.table.rows())[0])

    assert step(1) == 0.0
    assert step(1) == 0.0, "|z| = λ1 is still 0"
    assert step(1) == pytest.approx(0.5 * 0.5 / (1 + math.sqrt(0.75)), rel=1e-6)
    g = 1 / (1 + math.exp(-0.25 / (1 + math.sqrt(0.75))))  # of a negative label at that weight
    z = -1.5 + g - (math.sqrt(0.75 + g * g) - math.sqrt(0.75)) / 0.5 * 0.25 / (1 + math.sqrt(0.75))
    assert step(0) == pytest.approx(-(z + 1) * 0.5 / (1 + math.sqrt(0.75 + g * g)), rel=1e-3)
    assert step(0) == 0.0, "exactly, not nearly"


def test_any_run_of_examples_is_the_same() -> None:
    """A record learned at once, or in runs that end anywhere, leaves the same bits."""
    random = np.random.default_rng(4)
    examples = [random.choice(50, int(random.integers(0, 20)), replace=True).tolist() for _ in range(60)]
    keys, labels = keys_of(examples), (random.random(60) < 0.5).astype(np.float32)
    ones, deep = np.ones(60, np.float32), random.normal(size=60).astype(np.float32)
    rates = FtrlRates(np.array([0.5, 0.2], np.float32), 1.0, 0.1, 0.1)
    whole, parts = Ftrl(rates), Ftrl(rates)
    wide, gradients = predict_then_learn(whole, keys, deep, labels, ones)
    state, output = parts.prepare(keys.keys, 0), WideOutput(np.empty(60, np.float32), np.empty(60, np.float32))
    for first, last in ((0, 1), (1, 9), (9, 9), (9, 40), (40, 60)):
        pages = np.arange(1, 61, dtype=np.uint64)
        known = WideExamples(deep, labels, ones, np.zeros(60), pages)
        learn_wide_examples(state, keys, known, first, last, np.zeros(60, np.float32), output)
    assert wide.tobytes() == output.logits.tobytes()
    assert gradients.tobytes() == output.gradients.tobytes()
    assert whole.table.rows().tobytes() == parts.table.rows().tobytes()
    assert whole.table.take_changed().tobytes() == parts.table.take_changed().tobytes()


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 5), min_size=1, max_size=8),
            st.booleans(),
            st.sampled_from([1e-30, 1e-6, 1.0, 1e6]),
            st.sampled_from([0.0, 88.0, -88.0, 1e30, -1e30, math.inf, -math.inf, math.nan]),
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1e-6, 0.05, 1e3]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 1.0, 1e6]),
)
def test_state_stays_finite(
    rows: list[tuple[list[int], bool, float, float]], alpha: float, beta: float, penalty: float
) -> None:
    """Extreme weights, rates and deep logits, NaN among them: u, n and weights are numbers, n never falls below 0."""
    ftrl = Ftrl(FtrlRates(np.array([alpha, alpha], np.float32), beta, penalty, penalty))
    columns = (np.array([row[i] for row in rows], np.float32) for i in (3, 1, 2))
    wide, _ = predict_then_learn(ftrl, keys_of([row[0] for row in rows]), *columns)
    held = ftrl.table.rows()
    assert np.isfinite(held.view(np.float32)[:, 2:]).all()
    assert (held.view(np.float32)[:, 3] >= 0).all()
    assert np.isfinite(ftrl.weights(held)).all()
    assert np.isfinite(wide).all()


def test_ids_that_all_collide_are_learned_as_others() -> None:
    """Forty keys that want the same slot of the table's end learn what forty others learn."""
    crowd: list[int] = []
    number = 1
    while len(crowd) < 40:
        if int(hash32(np.uint64(number << 8 | number % 2 + 1))) * 1024 >> 32 == 1023:
            crowd.append(number)
        number += 1
    random, found = np.random.default_rng(2), []
    labels = (random.random(200) < 0.5).astype(np.float32)
    picks = [random.choice(len(crowd), 5, replace=False) for _ in labels]
    for known in (crowd, list(range(2, 2 * len(crowd) + 2, 2))):
        ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.1, 0.0))
        keys = keys_of([[known[i] for i in pick] for pick in picks])
        found.append(predict_then_learn(ftrl, keys, np.zeros(200, np.float32), labels, labels + 1)[0])
        assert len(ftrl.table) == len(crowd)
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logit", [-3.0, 0.7, 4.0])
def test_a_correction_takes_back_the_label_it_corrects(label: int, logit: float) -> None:
    """Wrong label, then right one: gradients and sums are those of the right label alone, at the same prediction."""
    rates = FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 10.0, 0.0)  # L1 holds the prediction still
    corrected, plain = Ftrl(rates), Ftrl(rates)
    labels, weights = np.array([1 - label, label], np.float32), np.array([2, 2], np.float32)
    deep, earlier = np.full(2, logit, np.float32), np.array([0, 2], np.float32)
    _, g = predict_then_learn(corrected, keys_of([[2], [2]]), deep, labels, weights, earlier=earlier)
    _, right = predict_then_learn(plain, keys_of([[2]]), deep[:1], labels[1:], weights[1:])
    assert g[1] == 2 - 4 * label
    assert g.sum() == pytest.approx(right[0], abs=1e-5)
    np.testing.assert_allclose(numbers_of(corrected), numbers_of(plain), rtol=1e-4, atol=1e-5)


def test_a_correction_takes_back_the_weight_that_was_learned() -> None:
    """A negative was learned at weight 10, its positive comes at 1: together they are worth that positive."""
    rates = FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 50.0, 0.0)  # L1 holds the prediction still
    corrected, plain = Ftrl(rates), Ftrl(rates)
    labels, weights = np.array([0, 1], np.float32), np.array([10, 1], np.float32)
    deep, earlier = np.full(2, -1.3, np.float32), np.array([0, 10], np.float32)
    predict_then_learn(corrected, keys_of([[2], [2]]), deep, labels, weights, earlier=earlier)
    predict_then_learn(plain, keys_of([[2]]), deep[:1], labels[1:], weights[1:])
    np.testing.assert_allclose(numbers_of(corrected), numbers_of(plain), rtol=1e-4, atol=1e-5)


def test_an_example_of_no_weight_is_only_predicted() -> None:
    """Its gradient is 0, and it makes no row: what isn't learned leaves no trace."""
    ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.0, 0.0))
    one = np.ones(1, np.float32)
    predict_then_learn(ftrl, keys_of([[2]]), 0 * one, one, one)
    before = ftrl.table.rows().tobytes()
    ftrl.table.take_changed()
    wide, g = predict_then_learn(ftrl, keys_of([[2, 3]]), 0 * one, one, 0 * one)
    assert wide[0] > 0
    assert g[0] == 0
    assert ftrl.table.rows().tobytes() == before
    assert not len(ftrl.table.take_changed())


def test_a_correction_of_what_was_never_learned_is_harmless() -> None:
    """Sums of squares stay positive, though nothing is there to be taken back; what isn't finite is left out."""
    ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.1, 0.0))
    deep, ones = np.array([3, np.nan], np.float32), np.ones(2, np.float32)
    _, g = predict_then_learn(ftrl, keys_of([[2, 2], [2]]), deep, ones, ones, earlier=ones)
    assert g[0] == -1.0
    assert np.isnan(g[1])
    np.testing.assert_allclose(numbers_of(ftrl), [[2 * (0.1 + 0.9 / 2), 0.0]], rtol=1e-6)
    assert np.isfinite(ftrl.weights(ftrl.table.rows())).all()
    predict_then_learn(ftrl, keys_of([[2]]), deep[:1], ones[:1], ones[:1])
    assert len(ftrl.table.take_changed()) == 1, "a sum of 0 has the mark of what changed, too"


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_labels_that_come_late_lead_where_labels_at_once_lead(rate: float) -> None:
    """Negatives at once and positives 500 examples later: the same rate is learned, as soon after far too many."""
    random, count, lag = np.random.default_rng(3), 40_000, 500
    happened = random.random(count) < np.where((np.arange(count) > 5_000) & (np.arange(count) < 7_000), 0.95, rate)
    labels, corrects = list[float](), list[bool]()
    for n in range(count):
        corrections = 1 if n >= lag and happened[n - lag] else 0
        labels += [0.0] + [1.0] * corrections
        corrects += [False] + [True] * corrections
    found = []
    for values, later in (
        (happened.astype(np.float32), np.zeros(count, np.bool_)),
        (np.array(labels), np.array(corrects)),
    ):
        ftrl, ones = Ftrl(FtrlRates(np.array([0.1], np.float32), 1.0, 0.0, 0.0)), np.ones(len(values), np.float32)
        keys, wanted = keys_of([[2]] * len(values)), values.astype(np.float32)
        logits = predict_then_learn(ftrl, keys, 0 * ones, wanted, ones, earlier=later.astype(np.float32)).logits[~later]
        found.append(1 / (1 + np.exp(-logits.astype(np.float64))))
    at_once, late = found
    assert at_once[6_999] > 0.7
    assert late[7_499] > 0.7
    assert late[8_000:12_000].mean() < 1.2 * at_once[7_500:11_500].mean()
    assert late[-10_000:].mean() == pytest.approx(at_once[-10_000:].mean(), rel=0.05)
