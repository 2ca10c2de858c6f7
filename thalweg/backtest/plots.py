"""AUC over time of a backtest: as a picture (PNG) and in the terminal."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from learner.training.progressive_validation import auc_of
from stream.runtime.errors import DataError
from thalweg.backtest.backtest import F64, Scores, auc_counts

POINTS: Final = 40
LEAST: Final = 500  # examples of a window
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # told apart by everyone
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Curves:
    """`at`: examples so far, [points]; `window` and `total`: AUC [entrants, points]; `width`: examples of a window."""

    names: list[str]
    at: list[int]
    window: F64
    total: F64
    width: int


def curves(scores: Scores) -> Curves:
    """AUC in windows, and over all examples up to the end of each. Windows don't overlap, but for the last one."""
    n = len(scores.labels)
    width = max(LEAST, -(-n // POINTS))
    ends = [*range(width, n, width), n]
    window, total = np.zeros((2, len(scores.names), len(ends)))
    for i, predictions in enumerate(scores.predictions):
        known, places = np.unique(predictions, return_inverse=True)
        counts = np.zeros((2, len(known)))
        for p, (before, end) in enumerate(pairwise([0, *ends])):
            counts += auc_counts(places[before:end], scores.labels[before:end], len(known))
            window[i, p], total[i, p] = scores.auc(i, max(0, end - width), end), auc_of(counts)
    return Curves(scores.names, ends, window, total, width)


def write_png(path: Path, found: Curves, title: str) -> None:
    """Two panels with one legend: windows above, the whole below. Raises DataError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 8), sharex=True, layout="constrained")
    at = np.array(found.at) / 1_000
    marker = "o" if len(at) < 3 else ""
    for axes, values, label in (
        (upper, found.window, f"AUC of each {found.width:,} examples"),
        (lower, found.total, "AUC of all examples so far"),
    ):
        for i, name in enumerate(found.names):
            style = "-" if i < len(COLOURS) else "--"
            said = f"{name}: {found.total[i, -1]:.4f}"
            axes.plot(
                at,
                values[i],
                color=COLOURS[i % len(COLOURS)],
                linewidth=1.8,
                marker=marker,
                linestyle=style,
                label=said,
            )
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_xlabel("examples, in thousands, in the order of pages")
    lower.legend(title="AUC over all", loc="best", framealpha=0.9)
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as bad:
        raise DataError(f"{path} can't be written: {bad}; name another file ending in .png with --plot") from None
    finally:
        plt.close(figure)


def terminal(found: Curves, width: int = 100, height: int = 20) -> str:
    """AUC so far, drawn with characters, one letter for each entrant; no colours."""
    from plotext import figure, uncolorize

    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    for letter, name, values in zip(LETTERS, found.names, found.total, strict=False):
        signal = figure.signal(found.at, values.tolist(), marker=letter)
        signal.lines()
        signal.label(name)
        figure.draw(signal)
    figure.title("AUC of all examples so far")
    figure.label("examples, in the order of pages")
    return str(uncolorize(str(figure.build())))
