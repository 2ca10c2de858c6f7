"""The judge by itself: what it finds of planted faults, and what it lets pass, in a made-up world of pages of ten."""

import numpy as np
import pytest

from benchmarks.held_out_course import ITEMS, Course, probability
from learner.training.held_out_judge import HeldOutJudge, JudgeConfig, Outcome, Verdict
from learner.training.paired_comparison import Pairs, compare, plausible_examples


def judged(pairs: Pairs, rate: float) -> Verdict:
    """The verdict over these."""
    judge = HeldOutJudge(usual_rate=rate)
    judge.record(pairs)
    return judge.verdict()


RATES = [0.05, 0.01, 0.002]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("fault", ["inverted", "constant", "half", "spoiled"])
def test_a_fault_is_worse(rate: float, fault: str) -> None:
    """By 300 positives, and the reason has numbers."""
    for seed in range(5):
        course = Course(rate, 300, seed)
        live = course.model()
        mean = live.mean()
        faults = {
            "inverted": 2 * mean - live,
            "constant": np.full_like(live, np.log(rate / (1 - rate))),
            "half": live - np.log(2.2),
            "spoiled": live + course.random.normal(0, 2, live.shape),
        }
        verdict = judged(course.pairs(faults[fault]), rate)
        assert verdict.outcome == "worse", (seed, verdict)
        assert "of the anchor" in verdict.reason


def test_a_prediction_that_is_no_number_is_a_fault() -> None:
    """One is enough, at once, until the window begins again."""
    course = Course(0.01, 30)
    live = course.model()
    live[-1, -1] = np.nan
    judge = HeldOutJudge(usual_rate=0.01)
    judge.record(course.pairs(live))
    assert judge.recent_verdict().reason == "1 predictions of held-out examples aren't numbers"
    assert judge.verdict().outcome == "worse"
    judge.restart()
    judge.record(course.pairs(course.anchor))
    assert judge.verdict().outcome == "waiting"


@pytest.mark.parametrize("rate", RATES)
def test_a_good_model_passes(rate: float) -> None:
    """It's never worse, and with more of the truth than the anchor it becomes the next one, mostly at once."""
    outcomes: list[Outcome] = []
    for seed in range(20):
        course = Course(rate, 300, seed)
        outcomes.append(judged(course.pairs(0.5 * course.anchor + 0.5 * course.model()), rate).outcome)
    assert "worse" not in outcomes
    assert outcomes.count("better") + outcomes.count("equal") > 12


def test_whoever_learned_a_changed_world_is_better() -> None:
    """Tastes flip: the anchor knows nothing of it, and a model that has learned a tenth of it isn't worse."""
    for seed in range(5):
        course = Course(0.01, 300, seed)
        live = course.model()
        course.anchor = 2 * course.anchor.mean() - course.anchor
        verdict = judged(course.pairs(0.9 * course.anchor + 0.1 * live), 0.01)
        assert verdict.outcome == "better"


def test_a_rate_that_rises_is_followed() -> None:
    """Three times as many positives, from all users: the model that is on the way up is better."""
    course = Course(0.01, 300)
    course.labels = course.random.random(course.truth.shape) < probability(course.truth + np.log(3))
    assert judged(course.pairs(course.model() + np.log(2)), 0.01).outcome == "better"


@pytest.mark.parametrize("rate", [0.05, 0.01])
def test_users_that_click_everything_are_left_out(rate: float) -> None:
    """A tenth of users: a model that learned from them is judged by what it does to the others."""
    for seed in range(5):
        course = Course(rate, 400, seed)
        bots = course.users % 10 == 0
        course.labels[bots] = True
        good = 0.5 * course.anchor + 0.5 * course.model()
        harmless, spoiled = np.where(bots[:, None], good + 4, good), np.where(bots[:, None], good + 4, good + 1.0)
        kept = judged(course.pairs(harmless), rate)
        assert kept.outcome != "worse"
        assert kept.implausible >= 0.9 * ITEMS * bots.sum()
        assert judged(course.pairs(spoiled), rate).outcome == "worse"


def test_flipped_labels_are_no_evidence() -> None:
    """While labels are flipped whoever learns that would be right; no user has so many positives, so nobody is asked.

    Afterwards the model that learned it is found out by few examples.
    """
    course = Course(0.01, 40)
    course.labels = ~course.labels
    flipped = course.pairs(-course.anchor)
    judge = HeldOutJudge(usual_rate=0.01)
    judge.record(flipped.last(600))
    assert judge.verdict().outcome == "waiting"
    later = Course(0.01, 40, seed=1)
    pages = later.pairs(later.anchor + 4.0).last(600)
    judge.record(pages._replace(pages=pages.pages + 10**6))
    assert judge.recent_verdict().outcome == "worse"


def test_a_world_of_more_positives_is_believed_in_the_end() -> None:
    """When most of a whole window is implausible by the old rate, the new one is the usual rate."""
    judge, course = HeldOutJudge(usual_rate=0.01), Course(0.6, 20_000)
    judge.record(course.pairs(course.model()))
    verdict = judge.verdict()
    assert judge.usual_rate is not None
    assert judge.usual_rate > 0.4
    assert verdict.implausible == 0


def test_a_flood_of_positives_fills_no_window() -> None:
    """It's as long as so many positives usually take."""
    course = Course(0.02, 120)
    found = judged(course.pairs(course.anchor - 0.001), 0.008)
    assert found.comparison.positives >= JudgeConfig().positives
    assert found.comparison.examples < JudgeConfig().positives / 0.008 / 2
    assert found.outcome == "waiting"


def test_the_window_is_bounded_by_positives() -> None:
    """By those of plausible users; the oldest examples go first."""
    judge = HeldOutJudge(JudgeConfig(positives=10, positives_max=50), usual_rate=0.05)
    course = Course(0.05, 400)
    pairs = course.pairs(course.model())
    judge.record(pairs)
    verdict = judge.verdict()
    assert verdict.comparison.positives == 50
    assert judge.window.pages[-1] == pairs.pages[-1]
    assert len(judge.window.labels) < len(pairs.labels) / 4


def test_a_judge_resumes() -> None:
    """From its arrays: the same verdicts."""
    course = Course(0.05, 300)
    pairs = course.pairs(course.model())
    one = HeldOutJudge(usual_rate=0.04)
    one.record(pairs.part(np.arange(len(pairs.labels)) < 500))
    other = HeldOutJudge()
    other.restore({name: array.copy() for name, array in one.arrays().items()})
    for judge in (one, other):
        judge.record(pairs.part(np.arange(len(pairs.labels)) >= 500))
    assert one.due_verdict() == other.due_verdict()
    assert one.verdict() == other.verdict()


def test_equal_models_don_t_differ() -> None:
    """The difference is exactly 0, with an error of 0."""
    course = Course(0.05, 100)
    found = compare(course.pairs(course.anchor), 0.05)
    assert found.entropy == (0.0, 0.0)
    assert found.live_calibration == found.anchor_calibration


def test_intervals_hold_the_truth() -> None:
    """Two models, equally good: the difference's interval of two errors has 0 about as often as it should."""
    inside = 0
    for seed in range(100):
        course = Course(0.02, 100, seed)
        found = compare(course.pairs(course.model()), 0.02).entropy
        inside += abs(found.value) < 2 * found.error
    assert 88 <= inside <= 99


def test_one_user_alone_is_no_evidence() -> None:
    """Examples of a user aren't independent: where one has nearly all, its pages are what is counted."""
    course = Course(0.05, 300)
    course.users[:] = 1
    assert compare(course.pairs(course.model()), 0.05).groups == len(course.users)
    course.users[:] = np.arange(len(course.users)) % 25
    assert compare(course.pairs(course.model()), 0.05).groups == 25


def test_plausible_users() -> None:
    """A lucky user stays, however few examples; one with nothing but positives goes after some."""
    users = np.repeat([1, 2, 3], [3, 10, 10])
    labels = np.array([1, 1, 1, *[1] * 10, *[1] * 4, *[0] * 6], np.float32)
    assert plausible_examples(users, labels, 0.01).tolist() == [True] * 3 + [False] * 10 + [True] * 10
    assert plausible_examples(users, labels, 0.5).all()
