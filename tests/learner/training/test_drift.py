"""The drift detector: a model is compared with always predicting the recent label rate, in blocks of rarer labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.training.drift import DUE, HEARD, STEP_MAX, DriftDetector
from learner.training.drift_kernels import CUSUM, EXCESS, LABELS, POSITIVES, SINCE
from learner.training.negative_sampling import Multiplicities
from stream.spec.parts import Drift
from stream.tables.dtypes import F32, Bools

RATE = 0.05
PER_DAY = 20_000
DAY_MS = 86_400_000
NOON = np.full(2, 43_200_000.0)


def labels_of(logits: F32, seed: int) -> F32:
    """Drawn by these log-odds."""
    drawn = np.random.default_rng((seed, 2)).random(len(logits))
    return (drawn < 1 / (1 + np.exp(-logits))).astype(np.float32)


def world(examples: int, seed: int = 0) -> tuple[F32, F32]:
    """Effects and log-odds: the rate doubles by day and halves by night."""
    effects = np.random.default_rng((seed, 1)).normal(0, 1, examples).astype(np.float32)
    wave = np.log(RATE / (1 - RATE)) + np.log(2) * np.sin(2 * np.pi * np.arange(examples) / PER_DAY)
    return effects, (wave + effects).astype(np.float32)


def ones(n: int) -> Multiplicities:
    """Each label stands for itself."""
    return Multiplicities(np.ones(n, np.float32), np.zeros(n, np.float32), np.ones(n, np.bool_))


def hear(detector: DriftDetector, logits: F32, labels: F32, members: Bools | None = None, size: int = 1_000,
         begun_ms: float = 0.0) -> None:  # fmt: skip
    """Add predictions of these log-odds in steps of `size`."""
    predictions = (1 / (1 + np.exp(-logits))).astype(np.float32)
    if members is None:
        members = np.zeros((len(labels), len(detector.names) - 1), np.bool_)
    times_ms = (begun_ms + DAY_MS / PER_DAY * np.arange(len(labels))).astype(np.float64)
    for first in range(0, len(labels), size):
        step = slice(first, first + size)
        detector.add(predictions[step], labels[step], times_ms[step], ones(len(labels[step])), members[step])


def test_a_wave_of_the_label_rate_is_no_drift() -> None:
    """A perfect model's log loss doubles with the rate each day; no alarm is raised in ten days."""
    _, logits = world(200_000)
    detector = DriftDetector()
    hear(detector, logits, labels_of(logits, 0))
    assert not detector.alarms
    assert not detector.is_due(10**9)


def test_hours_may_differ() -> None:
    """By night effects are weaker, so that a perfect model is worth less: after some days that is usual of an hour."""
    n, random = 400_000, np.random.default_rng(7)
    day = np.arange(n) / PER_DAY
    effects = random.normal(0, 1, n) * (1 + 0.25 * np.sin(2 * np.pi * day))
    logits = (np.log(0.5) + effects).astype(np.float32)
    detector = DriftDetector(Drift(action="forget"))
    labels, alarms = labels_of(logits, 7), []
    for first in range(0, n, PER_DAY):
        step = slice(first, first + PER_DAY)
        hear(detector, logits[step], labels[step])
        alarms.append(len(detector.alarms))
        if detector.is_due():
            detector.take_due()
    assert alarms[-1] == alarms[4] <= 2


def test_a_turn_is_found_within_some_hundred_positives() -> None:
    """Effects turn into their opposite, but the model predicts as before."""
    effects, logits = world(60_000)
    detector, turned = DriftDetector(), labels_of(logits - 2 * effects, 1)
    hear(detector, logits[:50_000], labels_of(logits, 0)[:50_000])
    assert not detector.alarms
    hear(detector, logits[50_000:], turned[50_000:], size=1)
    (alarm,) = detector.alarms
    assert alarm.slice == "all"
    assert alarm.excess > alarm.reference + alarm.deviation
    found = int(detector.clock[DUE]) - STEP_MAX
    assert turned[50_000:found].sum() <= 200


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 3_000), seed=st.integers(0, 9))
def test_steps_make_no_difference(size: int, seed: int) -> None:
    """Added in whatever steps, the state is the same, to the bit, and so is when an action is due."""
    effects, logits = world(30_000, seed)
    labels = labels_of(logits - 2 * effects * (np.arange(30_000) > 25_000), seed)
    members = (effects > 0)[:, None]
    whole, parts = DriftDetector(Drift(), ["half"]), DriftDetector(Drift(), ["half"])
    hear(whole, logits, labels, members, size=len(labels))
    hear(parts, logits, labels, members, size=size)
    assert whole.alarms == parts.alarms != []
    assert whole.arrays()["drift_rows"].tobytes() == parts.arrays()["drift_rows"].tobytes()
    assert whole.clock.tolist() == parts.clock.tolist()


def test_a_restored_detector_goes_on() -> None:
    """From a checkpoint's arrays, where slices have other rows."""
    effects, logits = world(40_000)
    labels, members = labels_of(logits - 2 * effects * (np.arange(40_000) > 35_000), 0), (effects > 0)[:, None]
    whole, before = DriftDetector(Drift(), ["half"]), DriftDetector(Drift(), ["half"])
    hear(whole, logits, labels, members)
    hear(before, logits[:35_500], labels[:35_500], members[:35_500])
    after = DriftDetector(Drift(), ["new", "half"])
    after.restore(before.arrays(), ["half"])
    more = np.column_stack([np.zeros(4_500, np.bool_), members[35_500:]])
    hear(after, logits[35_500:], labels[35_500:], more, begun_ms=35_500 * DAY_MS / PER_DAY)
    assert after.rows[[0, 2]].tobytes() == whole.rows.tobytes()
    assert after.clock.tolist() == whole.clock.tolist()
    fresh = DriftDetector()
    fresh.restore({"losses": np.zeros(3)}, [])  # of an earlier build
    assert not fresh.rows.any()


@pytest.mark.parametrize("slices", [True, False])
def test_drift_of_a_slice_is_found_in_it(slices: bool) -> None:
    """Each slice has blocks of its own, unless they aren't watched."""
    effects, logits = world(120_000)
    members = (np.random.default_rng(3).random(120_000) < 0.3)[:, None] ^ np.array([False, True])
    turned = members[:, 0] & (np.arange(120_000) > 100_000)
    detector = DriftDetector(Drift(slices=slices), ["turned", "steady"])
    hear(detector, logits, labels_of(logits - 2 * effects * turned, 0), members)
    assert {alarm.slice for alarm in detector.alarms} == ({"all", "turned"} if slices else {"all"})


def test_a_correction_is_worth_the_label_that_it_brings() -> None:
    """A negative that is corrected at its prediction leaves the excess and the rate of a positive."""
    p, members, one = np.full(1, 0.2, np.float32), np.zeros((1, 0), np.bool_), np.ones(1, np.float32)
    direct, corrected = DriftDetector(), DriftDetector()
    direct.add(p, one, NOON[:1], ones(1), members)
    corrected.add(p, 0 * one, NOON[:1], ones(1), members)
    corrected.add(p, one, NOON[:1], Multiplicities(one, one, np.ones(1, np.bool_)), members)
    assert corrected.rows[0, POSITIVES] == direct.rows[0, POSITIVES] == 1
    assert corrected.rows[0, LABELS] == pytest.approx(direct.rows[0, LABELS], abs=0.02)


def test_sampled_negatives_count_for_those_left_out() -> None:
    """A tenth of the negatives at ten times the weight: the same rate, about the same excess."""
    _, logits = world(30_000)
    labels = labels_of(logits, 0)
    all_, few = DriftDetector(), DriftDetector()
    hear(all_, logits, labels)
    kept = (labels > 0.5) | (np.random.default_rng(4).random(30_000) < 0.1)
    now = np.where(labels > 0.5, 1, 10).astype(np.float32)[kept]
    n = int(kept.sum())
    predictions = (1 / (1 + np.exp(-logits[kept]))).astype(np.float32)
    counts = Multiplicities(now, np.zeros(n, np.float32), np.ones(n, np.bool_))
    few.add(predictions, labels[kept], np.zeros(n), counts, np.zeros((n, 0), np.bool_))
    rates = [one.rows[0, POSITIVES] / one.rows[0, LABELS] for one in (all_, few)]
    assert rates[1] == pytest.approx(rates[0], rel=0.1)
    assert not few.alarms


def test_what_is_no_number_is_left_out() -> None:
    """A prediction that isn't a number, and a label that stands for none."""
    detector = DriftDetector()
    nothing = Multiplicities(np.zeros(2, np.float32), np.zeros(2, np.float32), np.ones(2, np.bool_))
    members = np.zeros((2, 0), np.bool_)
    detector.add(np.full(2, np.nan, np.float32), np.ones(2, np.float32), NOON, ones(2), members)
    detector.add(np.full(2, 0.5, np.float32), np.ones(2, np.float32), NOON, nothing, members)
    assert not detector.rows.any()
    assert detector.clock[HEARD] == 4


def alarmed(action: str) -> tuple[DriftDetector, F32, F32]:
    """A detector that has raised an alarm, and effects and log-odds of what may come next."""
    effects, logits = world(120_000)
    detector = DriftDetector(Drift(action=action))  # type: ignore[arg-type]  # one of the parameters
    labels = labels_of(logits - 2 * effects * (np.arange(120_000) >= 50_000), 0)
    hear(detector, logits[:54_000], labels[:54_000])
    assert len(detector.alarms) == 1
    return detector, effects[54_000:], logits[54_000:]


def test_an_alarm_ends_when_the_model_is_as_good_as_before() -> None:
    """Or after 40 blocks: what is now becomes the reference. There is no other alarm meanwhile."""
    detector, _, logits = alarmed("freeze")
    assert detector.is_alarmed
    hear(detector, logits[:20_000], labels_of(logits[:20_000], 5))
    assert not detector.is_alarmed
    assert detector.rows[0, CUSUM] < 10
    detector, effects, logits = alarmed("freeze")
    labels = labels_of(logits - 2 * effects, 5)
    hear(detector, logits[:20_000], labels[:20_000])
    assert detector.is_alarmed
    hear(detector, logits[20_000:], labels[20_000:])
    assert not detector.is_alarmed
    assert len(detector.alarms) == 1


@pytest.mark.parametrize("action", ["retrain", "forget", "freeze", "none"])
def test_an_action_is_due_once(action: str) -> None:
    """After an action that changes the model references begin again; after another one the alarm goes on."""
    detector, _, _ = alarmed(action)
    assert detector.is_due()
    assert detector.take_due() == action
    assert not detector.is_due(10**9)
    assert bool(detector.rows[0, SINCE]) == (action in ("freeze", "none"))
    assert detector.rows[0, POSITIVES] > 0
    assert detector.rows[0, EXCESS] == 0 or action in ("freeze", "none")
