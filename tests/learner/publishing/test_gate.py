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
    """Where labels come as corrections and leave no positive or no negative, only what isn't finite is refused."""
    window = Figures(2000, 0.5, 1.3, base_rate, 0.3)
    assert rejection(Gate(), window, True)
    assert rejection(Gate(), window, True, corrected=True) == ""
    assert "finite" in rejection(Gate(), window, False, corrected=True)
    assert "finite" in rejection(Gate(), Figures(2000, 0.5, float("nan"), base_rate, 0.3), True, corrected=True)


@pytest.mark.parametrize(
    ("window", "bound"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), "log_loss_rise_max"),
    ],
)
def test_a_refusal_over_labels_of_older_pages_says_so(window: Figures, bound: str) -> None:
    """Where labels come as corrections it tells which bound to widen; elsewhere that would mislead."""
    reason = rejection(Gate(), window, True, corrected=True)
    assert "labels of this window come from older pages" in reason
    assert f"widen `[publish] gate.{bound}`" in reason
    assert "older pages" not in rejection(Gate(), window, True)
