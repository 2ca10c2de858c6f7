"""The publish gate: what a version must satisfy to go live. Evidence of a rejected one goes to quarantine."""

import json
from pathlib import Path

import numpy as np

from learner.training.figures import Figures, cross_entropy
from learner.training.model import Model
from stream.spec.spec import Gate, Label

EXAMPLES_MIN = 500  # below it calibration and log loss mean nothing
QUARANTINE_MAX = 20
CHANCE_SIGMAS = 3.0
FINAL_LABELS = Label(policy="wait")
OLDER_LABELS = (
    "; under this policy the labels of this window come from older pages than its predictions: if traffic has just "
    "changed, wait, or widen `[publish] gate.{}`"
)


def rejection(gate: Gate, window: Figures, finite: bool, label: Label = FINAL_LABELS, usual_rate: float = 1.0) -> str:
    """Why this version must not go live; empty when it may.

    `window`: figures of the last 2,000 progressive predictions. Log loss is compared with that of the constant
    prediction of the window's own label rate: the bound moves with the world, so drift can't lock the gate.

    Where labels come as corrections (`are_negatives_early`), those of a window are of older pages than its predictions.
    While they leave no positive or no negative in it, as before the first installs, there is no rate to compare with:
    then only numbers that aren't finite are rejected.

    Under `fake_negative` every positive is such a correction. When traffic ebbs, and most when it ceases, labels of
    more pages than the window's go on coming, and no version could go live until traffic resumes. So labels beyond
    `usual_rate`, the share of positives over the model's life, don't make its predictions too low; and log loss is
    compared with that of the constant prediction of the window's mean prediction, which errs as much.
    """
    if not finite or not np.isfinite(window.log_loss):
        return "a weight or a prediction isn't finite"
    if window.examples < EXAMPLES_MIN:
        return ""
    if label.are_negatives_early and not 0.0 < window.base_rate < 1.0:
        return ""
    why_else = OLDER_LABELS if label.are_negatives_early else ""
    late = label.policy == "fake_negative"
    low, high = gate.calibration
    labels, predicted = window.base_rate * window.examples, window.predicted * window.examples
    expected = min(labels, usual_rate * window.examples) if late else labels
    by_chance = CHANCE_SIGMAS * np.sqrt(max(predicted, labels))  # few labels differ from their expectation by that much
    is_low = predicted < low * expected and expected - predicted > by_chance
    if is_low or (predicted > high * labels and predicted - labels > by_chance):
        if window.base_rate <= 0.0:
            return f"no install among the last {window.examples} examples, where {predicted:.0f} were predicted"
        calibration = predicted / (expected if is_low else labels)
        reason = f"calibration {calibration:.3f} over the last {window.examples} is outside {low} to {high}"
        return reason + why_else.format("calibration")
    constant = window.predicted if late else window.base_rate
    rise = window.log_loss - cross_entropy(window.base_rate, constant)
    if rise > gate.log_loss_rise_max:
        reason = (
            f"log loss {window.log_loss:.4f} over the last {window.examples} is {rise:.4f} above that of a constant "
            f"prediction (allowed {gate.log_loss_rise_max})"
        )
        return reason + why_else.format("log_loss_rise_max")
    return ""


def rejection_of(model: Model) -> str:
    """As `rejection`, of the version that this model would publish now."""
    spec, progress = model.spec, model.progress
    usual_rate = progress.lifetime().base_rate
    return rejection(spec.publish.gate, progress.window(), model.finite(), spec.label, usual_rate)


def quarantine(folder: Path, version: int, reason: str, model: Model) -> None:
    """Write the evidence of a rejected version: reason, metrics, how far it had learned. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    window, names = model.progress.window(), ("examples", "auc", "log_loss", "base_rate", "calibration")
    evidence = {
        "version": version, "reason": reason, "examples": model.examples, "watermark_ms": model.watermark_ms,
        "window": {n: v if np.isfinite(v) else None for n in names for v in [float(getattr(window, n))]},
    }  # fmt: skip
    (folder / f"{version:012d}-{model.examples:012d}.json").write_text(json.dumps(evidence, indent=1))
    for old in sorted(folder.glob("*.json"))[:-QUARANTINE_MAX]:
        old.unlink()
