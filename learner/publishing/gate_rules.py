"""The gate's rules: each says why a version must not go live, or nothing. Pure functions of what was measured."""

import math
from typing import Final, NamedTuple

import numpy as np

from learner.publishing.comparison import ScoreComparison
from learner.training.figures import Figures, cross_entropy, entropy_of
from stream.snapshots.verdict import CALIBRATION, COLUMN, LOG_LOSS, NORMS, RANKING, SHIFT, SPREAD
from stream.spec.parts import Gate, Label
from stream.tables.dtypes import F64

EXAMPLES_MIN: Final = 500  # below it calibration and log loss mean nothing
CHANCE_SIGMAS: Final = 3.0
YOUNG: Final = 2.0  # how much sooner bounds widen for a model that has learned little
COVERAGE_MIN: Final = 0.1  # a column that fewer items have may vanish
COVERAGE_SIGMAS: Final = 5.0
FINAL_LABELS: Final = Label(policy="wait")
OLDER_LABELS: Final = (
    "; under this policy the labels of this window come from older pages than its predictions: if traffic has just "
    "changed, wait, or widen `[publish] gate.{}`"
)


class Refusal(NamedTuple):
    """Why a version must not go live: one of `stream.snapshots.verdict.CAUSES`, and words."""

    cause: str
    reason: str


def widening(gate: Gate, since: int, learned: int) -> float:
    """How much wider bounds are for a version that learned `since` examples more than one that had `learned`.

    >>> widening(Gate(patience=1_000), 1_000, 1_000_000)
    2.002
    """
    return 1.0 + since / gate.patience + YOUNG * since / max(learned, 1)


def comparison_refusal(gate: Gate, found: ScoreComparison, width: float, what: str) -> Refusal | None:
    """Of scores of the same items. `width`: of the bounds; `what` they are compared with."""
    spread_max = 1.0 + (gate.spread_max - 1.0) * width
    if not 1.0 / spread_max <= found.spread <= spread_max:
        why = f"scores of recent pages differ among themselves {found.spread:.2f} times as much as in {what}"
        return Refusal(SPREAD, f"{why} (allowed {1 / spread_max:.2f} to {spread_max:.2f})")
    agreement_min = gate.agreement_min / width
    if found.agreement < agreement_min:
        why = f"{found.agreement:.0%} of the order within recent pages is that of {what}"
        return Refusal(RANKING, f"{why} (at least {agreement_min:.0%})")
    shift_max = gate.shift_max * width
    if abs(found.shift) > shift_max:
        why = f"the mean log-odds of recent pages moved by {found.shift:+.2f} from {what} (allowed {shift_max:.2f})"
        return Refusal(SHIFT, why)
    return None


def norms_refusal(gate: Gate, ratios: F64, width: float, what: str) -> Refusal | None:
    """Of the norms of layers and embeddings, each over the older version's."""
    norm_max = 1.0 + (gate.norm_max - 1.0) * width
    worst = max(float(ratios.max()), 1.0 / max(float(ratios.min()), 1e-9))
    if worst <= norm_max:
        return None
    return Refusal(NORMS, f"a norm of layers or embeddings is {worst:.2f} times that of {what}, or less than 1 / that "
                          f"(allowed {norm_max:.2f})")  # fmt: skip


def coverage_refusal(names: list[str], older: F64, newer: F64, pages: int, width: float, what: str) -> Refusal | None:
    """Of the share of items for which each column has a value: none may fall by more than half, unless by chance."""
    error = np.sqrt(np.maximum(older * (1 - older), 1.0 / pages) * 2 / pages)
    fallen = (older >= COVERAGE_MIN) & (newer < older / (1.0 + width)) & (older - newer > COVERAGE_SIGMAS * error)
    if not fallen.any():
        return None
    lost = int(np.argmax(fallen))
    return Refusal(COLUMN, f"{newer[lost]:.0%} of recent pages' items have {names[lost]}, after {older[lost]:.0%} when "
                           f"{what} was published")  # fmt: skip


def labels_refusal(
    gate: Gate, window: Figures, label: Label = FINAL_LABELS, usual_rate: float = 1.0, margin: float = 1.0
) -> Refusal | None:
    """Of predictions and labels of the recent past. `margin`: by which the bounds of a slice are wider.

    Log loss is compared with that of the constant prediction of the window's own label rate, in proportion to it: the
    bound moves with the world, so drift can't lock the gate.

    Where labels come as corrections (`are_negatives_early`), those of a window are of older pages than its predictions.
    While they leave no positive or no negative in it, as before the first installs, there is no rate to compare with:
    then nothing is refused.

    Under `fake_negative` every positive is such a correction. When traffic ebbs, and most when it ceases, labels of
    more pages than the window's go on coming, and no version could go live until traffic resumes. So labels beyond
    `usual_rate`, the share of positives over the model's life, don't make its predictions too low; and log loss is
    compared with that of the constant prediction of the window's mean prediction, which errs as much.
    """
    if window.examples < EXAMPLES_MIN:
        return None
    if label.are_negatives_early and not 0.0 < window.base_rate < 1.0:
        return None
    why_else = OLDER_LABELS if label.are_negatives_early else ""
    late = label.policy == "fake_negative"
    low, high = gate.calibration[0] / margin, gate.calibration[1] * margin
    labels, predicted = window.base_rate * window.examples, window.predicted * window.examples
    expected = min(labels, usual_rate * window.examples) if late else labels
    by_chance = margin * CHANCE_SIGMAS * math.sqrt(max(predicted, labels))  # few labels differ by that much
    is_low = predicted < low * expected and expected - predicted > by_chance
    if is_low or (predicted > high * labels and predicted - labels > by_chance):
        if window.base_rate <= 0.0:
            return Refusal(
                CALIBRATION,
                f"no install among the last {window.examples} examples, where {predicted:.0f} were predicted",
            )
        calibration = predicted / (expected if is_low else labels)
        reason = f"calibration {calibration:.3f} over the last {window.examples} is outside {low:g} to {high:g}"
        return Refusal(CALIBRATION, reason + why_else.format("calibration"))
    if margin > 1.0:
        return None
    constant = window.predicted if late else window.base_rate
    rise = window.log_loss - cross_entropy(window.base_rate, constant)
    usual = max(entropy_of(window.base_rate), entropy_of(window.predicted))
    chance = 1.0 + CHANCE_SIGMAS / math.sqrt(max(labels, 1.0))  # a few labels may be unlikely ones
    allowed = gate.log_loss_rise_max * usual / math.log(2) * chance
    if rise > allowed:
        reason = (
            f"log loss {window.log_loss:.4f} over the last {window.examples} is {rise:.4f} above that of a constant "
            f"prediction (allowed {allowed:.4f})"
        )
        return Refusal(LOG_LOSS, reason + why_else.format("log_loss_rise_max"))
    return None
