"""AUC over time of a backtest, drawn as a PNG."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from learner.training.progressive_validation import auc_of
from stream.runtime.errors import DataError
from stream.tables.dtypes import F64
from thalweg.backtest.backtest import Scores, auc_counts

POINTS: Final = 40
WINDOW_MIN: Final = 500  # examples
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # safe for colour-blind


@dataclass(frozen=True)
class Curves:
    """AUC of each entrant over the course of a backtest."""

    names: list[str]  # of entrants
    ends: list[int]  # [points], examples so far
    window: F64  # [entrants, points], AUC of the window that ends there
    total: F64  # [entrants, points], AUC of all examples so far
    width: int  # examples of a window


def curves(scores: Scores) -> Curves:
    """AUC in windows, and over all examples up to the end of each. Windows don't overlap, but for the last one."""
    n = len(scores.labels)
    width = max(WINDOW_MIN, -(-n // POINTS))
    ends = [*range(width, n, width), n]
    window, total = np.zeros((2, len(scores.names), len(ends)))
    for i, predictions in enumerate(scores.predictions):
        distinct, ranks = np.unique(predictions, return_inverse=True)
        counts = np.zeros((2, len(distinct)))
        for p, (before, end) in enumerate(pairwise([0, *ends])):
            counts += auc_counts(ranks[before:end], scores.labels[before:end], len(distinct))
            window[i, p], total[i, p] = scores.auc(i, max(0, end - width), end), auc_of(counts)
    return Curves(scores.names, ends, window, total, width)


def write_png(path: Path, drawn: Curves, title: str) -> None:
    """Two panels with one legend: AUC of windows above, of all examples so far below. Raises DataError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 8), sharex=True, layout="constrained")
    thousands = np.array(drawn.ends) / 1_000
    marker = "o" if len(thousands) < 3 else ""
    for axes, values, label in (
        (upper, drawn.window, f"AUC of each {drawn.width:,} examples"),
        (lower, drawn.total, "AUC of all examples so far"),
    ):
        for i, name in enumerate(drawn.names):
            colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
            legend = f"{name}: {drawn.total[i, -1]:.4f}"
            axes.plot(thousands, values[i], style, color=colour, linewidth=1.8, marker=marker, label=legend)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_xlabel("examples, in thousands, in the order of pages")
    lower.legend(title="AUC over all", loc="best", framealpha=0.9)
    figure.suptitle(title)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write and close a figure. Raises DataError."""
    import matplotlib.pyplot as plt

    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as bad:
        raise DataError(f"{path} can't be written: {bad}; name another file ending in .png with --plot") from None
    finally:
        plt.close(figure)
