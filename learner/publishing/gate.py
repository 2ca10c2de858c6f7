"""The publish gate: what a version must satisfy to go live. Evidence of a rejected one goes to quarantine."""

import json
from pathlib import Path

import numpy as np

from learner.training.figures import Figures
from learner.training.model import Model
from stream.spec.spec import Gate

EXAMPLES_MIN = 500  # below it calibration and log loss mean nothing
QUARANTINE_MAX = 20
CHANCE_SIGMAS = 3.0
OLDER_LABELS = (
    "; under this policy the labels of this window come from older pages than its predictions: if traffic has just "
    "changed, wait, or widen `[publish] gate.{}`"
)


def rejection(
    gate: Gate, window: Figures, finite: bool, *, corrected: bool = False, all_corrected: bool = False
) -> str:
    """Why this version must not go live; empty when it may.

    `window`: figures of the last 2,000 progressive predictions. Log loss is compared with that of the constant
    prediction of the window's own label rate: the bound moves with the world, so drift can't lock the gate.

    `corrected`: labels come as corrections (`Label.are_negatives_early`), so the window's labels are of older pages
    than its predictions. While they leave no positive or no negative in it, as before the first installs, there is no
    rate to compare with: then only numbers that aren't finite are rejected.

    `all_corrected`: every positive is such a correction, however soon it comes (`fake_negative`). Then a window may
    have more labels than its predictions promise though the model is sound: when traffic ebbs, and most when it ceases,
    labels of more pages than the window's go on coming. So the lower bound of calibration isn't judged: no version
    could go live until traffic resumes. A model that predicts far too little is found by its log loss.
    """
    if not finite or not np.isfinite(window.log_loss):
        return "a weight or a prediction isn't finite"
    if window.examples < EXAMPLES_MIN:
        return ""
    if corrected and not 0.0 < window.base_rate < 1.0:
        return ""
    low, high = gate.calibration
    if all_corrected:
        low = 0.0
    labels, predicted = window.base_rate * window.examples, window.predicted * window.examples
    by_chance = CHANCE_SIGMAS * np.sqrt(max(predicted, labels))  # few labels differ from their expectation by that much
    if not low <= window.calibration <= high and abs(predicted - labels) > by_chance:
        if window.base_rate <= 0.0:
            return f"no install among the last {window.examples} examples, where {predicted:.0f} were predicted"
        reason = f"calibration {window.calibration:.3f} over the last {window.examples} is outside {low} to {high}"
        return reason + (OLDER_LABELS.format("calibration") if corrected else "")
    rise = window.log_loss - window.entropy()
    if rise > gate.log_loss_rise_max:
        reason = (
            f"log loss {window.log_loss:.4f} over the last {window.examples} is {rise:.4f} above that of a constant "
            f"prediction (allowed {gate.log_loss_rise_max})"
        )
        return reason + (OLDER_LABELS.format("log_loss_rise_max") if corrected else "")
    return ""


def rejection_of(model: Model) -> str:
    """As `rejection`, of the version that this model would publish now."""
    label, progress = model.spec.label, model.progress
    return rejection(
        model.spec.publish.gate,
        progress.window(),
        model.finite(),
        corrected=label.are_negatives_early,
        all_corrected=label.policy == "fake_negative",
    )


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
