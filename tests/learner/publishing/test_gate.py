"""The publish gate: which versions it rejects, and with which reason."""

import pytest

from learner.publishing.gate import rejection
from learner.training.figures import Figures
from stream.spec.spec import Gate


@pytest.mark.parametrize(
    ("window", "finite", "word"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.5), True, ""),
        (Figures(2000, 0.5, 0.02, 0.0, 0.02), True, "no install among the last 2000 examples, where 40 were predicted"),
        (Figures(2000, 0.5, 0.002, 0.0, 0.002), True, ""),
        (Figures(2000, 0.7, 0.65, 0.5, 0.65), True, "calibration"),
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), True, "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), True, "log loss"),
        (Figures(100, 0.4, 0.80, 0.5, 0.65), True, ""),
        (Figures(2000, 0.7, float("nan"), 0.5, 0.5), True, "finite"),
        (Figures(2000, 0.7, 0.65, 0.5, 0.5), False, "finite"),
    ],
)
def test_the_gate(window: Figures, finite: bool, word: str) -> None:
    """Finite, calibrated within bounds, no worse than a constant; judged once there are predictions enough."""
    reason = rejection(Gate(), window, finite)
    assert (word in reason) if word else not reason


@pytest.mark.parametrize("base_rate", [0.0, 1.0])
def test_corrections_that_leave_no_rate_are_not_judged(base_rate: float) -> None:
    """Where labels come as corrections and leave no positive or no negative, only what isn't finite is rejected."""
    window = Figures(2000, 0.5, 1.3, base_rate, 0.3)
    assert rejection(Gate(), window, True)
    assert rejection(Gate(), window, True, corrected=True) == ""
    assert "finite" in rejection(Gate(), window, False, corrected=True)
    assert "finite" in rejection(Gate(), Figures(2000, 0.5, float("nan"), base_rate, 0.3), True, corrected=True)


@pytest.mark.parametrize(
    ("window", "word"),
    [
        (Figures(1766, 0.87, 0.158, 0.12, 0.042), ""),
        (Figures(1766, 0.87, 0.30, 0.12, 0.30), "calibration"),
        (Figures(2000, 0.87, 0.26, 0.05, 0.005), "log loss"),
    ],
)
def test_labels_that_come_when_traffic_has_ceased_reject_nothing(window: Figures, word: str) -> None:
    """Where every positive is a correction, labels of many pages may come beside few predictions: a window in which
    nearly three times as many are positive as were predicted. Too high predictions are rejected there as elsewhere,
    and far too low ones by their log loss."""
    gate = Gate(calibration=(0.5, 2.0))
    reason = rejection(gate, window, True, corrected=True, all_corrected=True)
    assert (word in reason) if word else not reason
    assert "calibration" in rejection(gate, window, True, corrected=True)


@pytest.mark.parametrize(
    ("window", "bound"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), "log_loss_rise_max"),
    ],
)
def test_a_rejection_over_labels_of_older_pages_says_so(window: Figures, bound: str) -> None:
    """Where labels come as corrections it names the bound to widen; elsewhere that would mislead."""
    reason = rejection(Gate(), window, True, corrected=True)
    assert "labels of this window come from older pages" in reason
    assert f"widen `[publish] gate.{bound}`" in reason
    assert "older pages" not in rejection(Gate(), window, True)
