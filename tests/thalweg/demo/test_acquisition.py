"""Acquisition: lately, overall and over time, from what a store reports."""

import pytest
from rich.console import Console

from thalweg.demo.acquisition import LATELY, Acquisition, ArmTotals, StoreProgress, sparkline
from thalweg.demo.screen import ScreenState, line, panel


def grown(reports: int, *, model_from: int = 0) -> Acquisition:
    """A report a second: both show ten items; what is popular is worth 0.5, the model's 0.5, then twice as much.

    It is from `model_from` reports on.
    """
    acquisition, expected = Acquisition(), 0.0
    for n in range(1, reports + 1):
        expected += 0.5 if n <= model_from else 1.0
        arms = {
            "popular": ArmTotals(n, 10 * n, n, 0.5 * n, 2.0 * n, 0.5 * n),
            "wide_deep": ArmTotals(n, 10 * n, 2 * n, expected, 2.0 * n, 0.5 * n),
        }
        acquisition.add(StoreProgress(arms))
    return acquisition


def test_lately_forgets_what_was() -> None:
    """The last reports alone, while `overall` has everything; gains are of the model over the control."""
    acquisition = grown(2 * LATELY, model_from=LATELY)
    lately, overall = acquisition.lately(), acquisition.overall()
    assert lately == (50.0, 100.0, 200.0, 1.0)
    assert overall == (50.0, 75.0, 200.0, 0.5)


def test_figures_are_of_the_whole_run_and_its_end() -> None:
    """Expected installs and those that happened, per 1,000 shown items."""
    figures = grown(2 * LATELY, model_from=LATELY).figures()
    assert (figures["acquisition_gain"], figures["acquisition_gain_lately"]) == (0.5, 1.0)
    assert (figures["installs_popular"], figures["installs_wide_deep"]) == (100.0, 200.0)


def test_users_who_differ_make_no_gain() -> None:
    """The model's users install three times as much of anything: it gains what it shows better than what is popular."""
    acquisition = Acquisition()
    acquisition.add(
        StoreProgress({"popular": ArmTotals(9, 90, 0, 0.9, 1.8, 0.9), "wide_deep": ArmTotals(1, 10, 0, 0.36, 0.6, 0.3)})
    )
    assert acquisition.overall() == pytest.approx((12.0, 14.4, 24.0, 0.2))


@pytest.mark.parametrize("arms", [{}, {"popular": ArmTotals(1, 10, 1, 0.5, 1.0, 0.5)}])
def test_nothing_shown_is_no_figure(arms: dict[str, ArmTotals]) -> None:
    """A model that has shown nothing has gained nothing."""
    acquisition = Acquisition()
    acquisition.add(StoreProgress(arms))
    assert acquisition.overall().model is None
    assert acquisition.overall().gain is None
    assert acquisition.over_time(10) == []


def test_over_time_has_spans_of_equal_length() -> None:
    """The spans cover the run once: their sums are the run's."""
    spans = grown(100, model_from=50).over_time(10)
    assert [span.model for span in spans] == [50.0] * 5 + [100.0] * 5
    assert len(grown(3).over_time(10)) == 3


def test_heights_are_within_the_blocks() -> None:
    """Beyond the scale a value is drawn at its end; on a scale without extent all are low."""
    assert sparkline([0.0, 1.0, 2.0, 9.0], 1.0, 2.0) == "▁▁██"
    assert sparkline([1.0, 1.0], 1.0, 1.0) == "▁▁"


def test_the_screen_shows_both_arms_and_the_ceiling() -> None:
    """In the panel with a plot, in the plain line as numbers; MovieLens has neither."""
    acquisition = grown(2 * LATELY, model_from=LATELY)
    console = Console(width=160, record=True, force_terminal=False)
    console.print(panel(ScreenState(acquisition=acquisition)))
    said = console.export_text()
    assert "▁" * 20 + "█" * 20 in said
    assert "+100.0%" in said
    assert "oracle (the ceiling)" in said
    plain = line(ScreenState(acquisition=acquisition))
    assert "popular 50.0 (50.0), wide_deep 100.0 (75.0), gain +100.0% (+50.0%), oracle 200" in plain
    assert "acquisition" not in line(ScreenState())
    assert "popular" not in line(ScreenState())
