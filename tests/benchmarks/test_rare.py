"""The benchmark `rare`: its world, its faults, its trials."""

import numpy as np
import pytest

from benchmarks.delays import ITEMS, WINDOW_S
from benchmarks.rare_faults import FAULTS, first_step, with_bots
from benchmarks.rare_trials import second_step
from benchmarks.rare_world import Course, in_copy
from benchmarks.statistics_bias import NAMES, biases

RATE, UNTIL_S = 0.05, 45.0


@pytest.fixture(scope="module")
def course() -> Course:
    """One that has learned for a while, judged version by version; tests leave it as it is."""
    found = Course(RATE, "ordinary", UNTIL_S, 1)
    while found.now_s < WINDOW_S:
        found.advance()
        assert found.model.examples == 0, "labels wait for their window"
    while found.goes_on:
        found.advance()
        assert found.judge().passed, found.gate.verdict
    return found


def test_a_course_learns_what_its_world_says(course: Course) -> None:
    """Every page whose window closed, by its own labels, but those that are held out."""
    closed = int((course.of.times_ms < 1_000 * (UNTIL_S - WINDOW_S)).sum())
    assert 0.9 * closed * ITEMS < course.model.examples < closed * ITEMS
    wanted = course.of.installed[:closed].mean()
    assert course.model.progress.lifetime().base_rate == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if not fault.learns], ids=lambda fault: fault.name)
def test_a_fault_is_stopped_in_a_copy(course: Course, fault: object) -> None:
    """What happens in a copy is reported, and changes nothing here: the next fault begins from the same model."""
    before = course.predictions(np.arange(3))
    versions, cause = in_copy(lambda: first_step(course, fault), tuple[int, str])  # type: ignore[arg-type]  # a Fault
    assert (versions, bool(cause)) == (0, True)
    assert np.array_equal(course.predictions(np.arange(3)), before)


def test_a_copy_that_fails_says_so() -> None:
    """A trial that raises isn't taken for one that was passed."""
    with pytest.raises(RuntimeError, match="failed in its copy"):
        in_copy(lambda: 1 // 0, int)


def test_the_second_step_rolls_back_what_is_worse(course: Course) -> None:
    """A model that predicts twice the rate; one that predicts the same isn't."""
    pages = np.arange(300)
    truth = course.of.probabilities[pages]
    found = second_step(course, pages, 2 * truth, truth, bots=False)
    assert found.step == "second"
    assert 0 < found.positives < 400
    assert second_step(course, pages, truth, truth, bots=False).step == ""


def test_bots_install_everything() -> None:
    """A tenth of the users; the others' labels stay."""
    users, labels = np.arange(20), np.zeros((20, ITEMS), np.bool_)
    labels[1, 2] = True
    found = with_bots(users, labels)
    assert found[[0, 10]].all()
    assert found.sum() == 2 * ITEMS + 1


def test_statistics_come_near_the_truth() -> None:
    """More pages, less bias; after a few thousand each rate is within a tenth."""
    few, more = (biases(RATE, pages, 1) for pages in (300, 3_000))
    assert few.keys() == set(NAMES)
    assert all(more[name] < few[name] for name in NAMES)
    assert more["rate"] < 0.1
