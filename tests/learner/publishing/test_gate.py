"""The publish gate: which versions it rejects, and with which reason."""

import math

import pytest

from learner.publishing.gate_rules import FINAL_LABELS, labels_refusal
from learner.training.figures import Figures
from stream.spec.parts import Gate, Label

EARLY, FAKE_NEGATIVE = Label(policy="delayed_negative"), Label(policy="fake_negative")
STORES = Gate(calibration=(0.5, 2.0))


@pytest.mark.parametrize(
    ("window", "word"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.5), ""),
        (Figures(2000, 0.5, 0.02, 0.0, 0.02), "no install among the last 2000 examples, where 40 were predicted"),
        (Figures(2000, 0.5, 0.002, 0.0, 0.002), ""),
        (Figures(2000, 0.7, 0.65, 0.5, 0.65), "calibration"),
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), "log loss"),
        (Figures(100, 0.4, 0.80, 0.5, 0.65), ""),
        (Figures(2000, 0.4, 0.066, 0.01, 0.01), "log loss"),
        (Figures(2000, 0.4, 0.059, 0.01, 0.01), ""),
    ],
)
def test_the_gate(window: Figures, word: str) -> None:
    """Calibrated within bounds, no worse than a constant; judged once there are predictions enough."""
    reason = refused(Gate(), window)
    assert (word in reason) if word else not reason


@pytest.mark.parametrize("base_rate", [0.0, 1.0])
def test_corrections_that_leave_no_rate_are_not_judged(base_rate: float) -> None:
    """Where labels come as corrections and leave no positive or no negative, nothing is refused."""
    window = Figures(2000, 0.5, 1.3, base_rate, 0.3)
    assert refused(Gate(), window)
    assert refused(Gate(), window, EARLY) == ""


def refused(gate: Gate, window: Figures, label: Label = FINAL_LABELS, usual_rate: float = 1.0) -> str:
    """The reason; empty for none."""
    found = labels_refusal(gate, window, label, usual_rate)
    return found.reason if found else ""


def ebbing(base_rate: float, corrections: int, of_installs: float) -> Figures:
    """A window of 2,000: negatives predicted at the base rate, and since traffic ceased corrections of other pages,
    predicted as `of_installs`."""
    negatives = 2000 - corrections
    loss = -negatives * math.log(1 - base_rate) + corrections * math.log((1 - of_installs) / of_installs)
    return Figures(negatives, 0.8, loss / negatives, min(1.0, corrections / negatives), base_rate)


@pytest.mark.parametrize("base_rate", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("lift", [1.0, 2.0, 6.0])
def test_labels_that_come_when_traffic_has_ceased_reject_nothing(base_rate: float, lift: float) -> None:
    """Where every positive is a correction, labels of many pages may come beside few predictions, however many."""
    for corrections in range(max(1, round(2000 * base_rate)), 2000, 7):
        window = ebbing(base_rate, corrections, lift * base_rate)
        assert refused(STORES, window, FAKE_NEGATIVE, base_rate) == "", corrections
    assert refused(STORES, ebbing(base_rate, 400, base_rate), EARLY, base_rate), "other policies judge them"


@pytest.mark.parametrize("base_rate", [0.05, 0.01])
@pytest.mark.parametrize("factor", [0.02, 0.2, 3.0, 15.0])
def test_what_is_predicted_wrongly_is_rejected_though_labels_are_corrections(base_rate: float, factor: float) -> None:
    """Too little or too much, by what is usual; and a ranking upside down by its log loss."""
    p = factor * base_rate
    loss = -(1 - base_rate) * math.log(1 - p) - base_rate * math.log(p)
    reason = refused(STORES, Figures(2000, 0.5, loss, base_rate, p), FAKE_NEGATIVE, base_rate)
    assert "calibration" in reason
    upside_down = Figures(2000, 0.3, 0.35, base_rate, base_rate)
    assert "log loss" in refused(STORES, upside_down, FAKE_NEGATIVE, base_rate)


@pytest.mark.parametrize(
    ("window", "bound"),
    [
        (Figures(2000, 0.7, 0.65, 0.5, 0.35), "calibration"),
        (Figures(2000, 0.4, 0.80, 0.5, 0.5), "log_loss_rise_max"),
    ],
)
def test_a_rejection_over_labels_of_older_pages_says_so(window: Figures, bound: str) -> None:
    """Where labels come as corrections it names the bound to widen; elsewhere that would mislead."""
    reason = refused(Gate(), window, EARLY)
    assert "labels of this window come from older pages" in reason
    assert f"widen `[publish] gate.{bound}`" in reason
    assert "older pages" not in refused(Gate(), window)
