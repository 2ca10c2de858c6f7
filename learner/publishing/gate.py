"""The publish gate: what a version must keep to go live. What fails goes to quarantine with its evidence."""

import json
from pathlib import Path

import numpy as np

from learner.training.model import Model
from learner.training.progressive_validation import Figures
from stream.spec.spec import Gate

JUDGED_MIN = 500  # predictions before calibration and log loss mean anything
QUARANTINE_MAX = 20
CHANCE_SIGMAS = 3.0
OLDER = (
    "; under fake_negative the labels of this window come from older pages than its predictions: if traffic has just "
    "changed, wait, or widen `[publish] gate.{}`"
)


def refusal(gate: Gate, window: Figures, finite: bool, *, corrected: bool = False) -> str:
    """Why this version must not go live, or nothing.

    `window`: figures of the last 2,000 progressive predictions. Log loss is held against that of the constant
    prediction of the window's own label rate: a bound that moves with the world, so that drift can't lock the gate.

    `corrected`: labels come as corrections (`fake_negative`), so those of the window are of older pages than its
    predictions. Where they leave no positive or no negative in it, as before the first installs come, there is no rate
    to hold anything against: only what isn't finite is refused then.
    """
    if not finite or not np.isfinite(window.log_loss):
        return "a weight or a prediction isn't finite"
    if window.examples < JUDGED_MIN:
        return ""
    if corrected and not 0.0 < window.base_rate < 1.0:
        return ""
    low, high = gate.calibration
    labels, predicted = window.base_rate * window.examples, window.predicted * window.examples
    by_chance = CHANCE_SIGMAS * np.sqrt(max(predicted, labels))  # few labels differ from their number by that much
    if not low <= window.calibration <= high and abs(predicted - labels) > by_chance:
        if window.base_rate <= 0.0:
            return f"no install among the last {window.examples} examples, where {predicted:.0f} were predicted"
        reason = f"calibration {window.calibration:.3f} over the last {window.examples} is outside {low} to {high}"
        return reason + (OLDER.format("calibration") if corrected else "")
    rise = window.log_loss - window.entropy()
    if rise > gate.log_loss_rise_max:
        reason = (
            f"log loss {window.log_loss:.4f} over the last {window.examples} is {rise:.4f} above that of a constant "
            f"prediction (allowed {gate.log_loss_rise_max})"
        )
        return reason + (OLDER.format("log_loss_rise_max") if corrected else "")
    return ""


def quarantine(folder: Path, version: int, reason: str, model: Model) -> Path:
    """Keep the evidence of a refused version: reason, figures, how far it had learned."""
    folder.mkdir(parents=True, exist_ok=True)
    window, names = model.progress.window(), ("examples", "auc", "log_loss", "base_rate", "calibration")
    evidence = {
        "version": version, "reason": reason, "examples": model.examples, "watermark_ms": model.watermark_ms,
        "window": {n: v if np.isfinite(v) else None for n in names for v in [float(getattr(window, n))]},
    }  # fmt: skip
    path = folder / f"{version:012d}-{model.examples:012d}.json"
    path.write_text(json.dumps(evidence, indent=1))
    for old in sorted(folder.glob("*.json"))[:-QUARANTINE_MAX]:
        old.unlink()
    return path
