"""AUC over time, reliability and drift of a backtest, drawn as a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from learner.training.progressive_validation import auc_of
from stream.tables.dtypes import F32, F64
from thalweg.backtest.backtest import Scores, auc_counts
from thalweg.views.figure_file import save_figure

POINTS: Final = 40
BINS: Final = 20  # of a reliability diagram
RATE_LOG: Final = 0.1  # with fewer labels positive, a reliability diagram has logarithmic axes
WINDOW_MIN: Final = 500  # examples
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # safe for colour-blind


@dataclass(frozen=True)
class Curves:
    """AUC and calibration of each entrant over the course of a backtest."""

    names: list[str]  # of entrants
    ends: list[int]  # [points], examples so far
    window: F64  # [entrants, points], AUC of the window that ends there
    total: F64  # [entrants, points], AUC of all examples so far
    calibration: F64  # [entrants, points], mean prediction / mean label of the window; NaN without a positive
    label_rate: F64  # [points], of the window
    width: int  # examples of a window


@dataclass(frozen=True)
class Reliability:
    """Predictions against what came, in bins of about equally many examples, by rising prediction."""

    predicted: F64  # [bins], mean prediction
    came: F64  # [bins], share of positives
    examples: F64  # [bins]


def curves(scores: Scores) -> Curves:
    """AUC in windows, and over all examples up to the end of each. Windows don't overlap, but for the last one."""
    n = len(scores.labels)
    width = max(WINDOW_MIN, -(-n // POINTS))
    ends = [*range(width, n, width), n]
    window, total, calibration = np.zeros((3, len(scores.names), len(ends)))
    label_rate = np.array([scores.labels[max(0, end - width) : end].mean() for end in ends])
    for i, predictions in enumerate(scores.predictions):
        distinct, ranks = np.unique(predictions, return_inverse=True)
        counts = np.zeros((2, len(distinct)))
        for p, (before, end) in enumerate(pairwise([0, *ends])):
            counts += auc_counts(ranks[before:end], scores.labels[before:end], len(distinct))
            window[i, p], total[i, p] = scores.auc(i, max(0, end - width), end), auc_of(counts)
            predicted = float(predictions[max(0, end - width) : end].mean(dtype=np.float64))
            calibration[i, p] = predicted / label_rate[p] if label_rate[p] > 0 else np.nan
    return Curves(scores.names, ends, window, total, calibration, label_rate, width)


def reliabilities(scores: Scores) -> list[Reliability]:
    """Of each entrant. Equal predictions stay in one bin."""
    return [reliability(predictions, scores.labels) for predictions in scores.predictions]


def reliability(predictions: F32, labels: F32) -> Reliability:
    """Of predictions [N]; as many bins as their quantiles are apart, at most BINS."""
    bounds = np.unique(np.quantile(predictions, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    _, bins = np.unique(np.searchsorted(bounds, predictions), return_inverse=True)
    examples = np.bincount(bins).astype(np.float64)
    return Reliability(np.bincount(bins, predictions) / examples, np.bincount(bins, labels) / examples, examples)


def write_png(path: Path, drawn: Curves, reliable: Sequence[Reliability], title: str) -> None:
    """Four panels with one legend. Left: AUC of windows above, of all examples so far below. Right: reliability above,
    drift below. Raises DataError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(15, 8), layout="constrained")
    (upper, diagram), (lower, drift) = panels
    thousands = np.array(drawn.ends) / 1_000
    marker = "o" if len(thousands) < 3 else ""
    for axes, values, label in (
        (upper, drawn.window, f"AUC of each {drawn.width:,} examples"),
        (lower, drawn.total, "AUC of all examples so far"),
        (drift, drawn.calibration, f"mean prediction / mean label, each {drawn.width:,}"),
    ):
        for i, name in enumerate(drawn.names):
            legend = f"{name}: {drawn.total[i, -1]:.4f}"
            axes.plot(thousands, values[i], _style(i), color=_colour(i), linewidth=1.8, marker=marker, label=legend)
        axes.set_ylabel(label)
        axes.set_xlabel("examples, in thousands, in the order of pages")
    _draw_drift(drift, thousands, drawn.label_rate)
    _draw_reliability(diagram, reliable)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.spines["top"].set_visible(False)
    lower.legend(title="AUC over all", loc="best", framealpha=0.9)
    figure.suptitle(title)
    save_figure(figure, path)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _style(i: int) -> str:
    return "-" if i < len(COLOURS) else "--"


def _draw_drift(axes: Any, thousands: F64, label_rate: F64) -> None:
    """The line of perfect calibration, and the label rate on an axis of its own."""
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_yscale("log")
    other = axes.twinx()
    other.plot(thousands, label_rate, ":", color="#555555", linewidth=1.4)
    other.set_ylim(bottom=0)
    other.set_ylabel("label rate (dotted)")


def _draw_reliability(axes: Any, reliable: Sequence[Reliability]) -> None:
    """Share of positives by mean prediction, with the 95 % interval that the draws of independent labels give."""
    drawn = [one for one in reliable if (one.came > 0).any()]
    for i, one in enumerate(reliable):
        error = 1.96 * np.sqrt(one.came * (1 - one.came) / one.examples)
        below = np.minimum(error, one.came * 0.9)  # a logarithm has no zero
        axes.errorbar(one.predicted, one.came, [below, error], fmt="o", linestyle=_style(i), color=_colour(i),
                      linewidth=1.2, markersize=3.5, elinewidth=0.8)  # fmt: skip
    axes.set_xlabel(f"mean prediction, in up to {BINS} bins of equally many examples")
    axes.set_ylabel("share of positives")
    if not drawn:
        return
    rate = float((drawn[0].came * drawn[0].examples).sum() / drawn[0].examples.sum())
    if rate < RATE_LOG:
        axes.set_xscale("log")
        axes.set_yscale("log")
    low = min(float(one.predicted.min()) for one in drawn)
    high = max(float(side.max()) for one in drawn for side in (one.predicted, one.came))
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
