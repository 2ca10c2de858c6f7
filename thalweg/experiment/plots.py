"""An experiment's plots: gains beside the paper's, and regret over time; as PNG and in the terminal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stream.tables.dtypes import F64
from thalweg.backtest.plots import COLOURS
from thalweg.experiment.report import BASELINE, PAPER, regrets, rows
from thalweg.experiment.seed_figures import SeedFigures
from thalweg.views.figure_file import save_figure


def write_png(path: Path, seeds: Sequence[SeedFigures], title: str) -> None:
    """Gains over the wide arm with intervals, the paper's beside them; regret over time. Raises DataError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", width_ratios=(2, 3))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(regrets(seeds))}
    found = [row for row in rows(seeds) if np.isfinite(row.gain.gain) and row.arm in seeds[0].arms]
    for place, row in enumerate(found):
        gain = 100 * np.array([row.gain.low, row.gain.gain, row.gain.high])
        left.errorbar(
            gain[1], place, xerr=np.maximum(np.diff(gain), 0.0)[:, None] if np.isfinite(gain).all() else None,
            fmt="o", color=colours[row.arm], capsize=4, markersize=7, linewidth=2,
        )  # fmt: skip
        if row.arm in PAPER:
            left.plot(100 * PAPER[row.arm].gain, place, "D", markerfacecolor="none", markeredgecolor="#555555")
    left.axvline(0.0, color="#555555", linewidth=0.8)
    left.set_yticks(range(len(found)), [row.arm for row in found])
    left.set_xlabel(f"acquisition gain over {BASELINE}, % (bars: 95 % over seeds; hollow: the paper)")
    left.margins(y=0.2)
    for name, values in regrets(seeds).items():
        right.plot(_thousands(seeds, len(values)), values, color=colours[name], linewidth=1.8, label=name)
    right.set_xlabel("pages, in thousands")
    right.set_ylabel("expected installs per 1,000 items below the best")
    right.set_ylim(bottom=0)
    right.legend(title="regret", framealpha=0.9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    save_figure(figure, path)


def terminal_plot(seeds: Sequence[SeedFigures], width: int = 100, height: int = 20) -> str:
    """Regret over time as text."""
    import plotext

    plotext.clear_figure()
    plotext.limit_size(False, False)  # the terminal's size is the caller's concern; a title that doesn't fit is dropped
    plotext.theme("clear")
    for name, values in regrets(seeds).items():
        known = np.isfinite(values)
        plotext.plot(_thousands(seeds, len(values))[known].tolist(), values[known].tolist(), label=name)
    plotext.title("regret: expected installs ‰ below the best, by thousands of pages")
    plotext.plotsize(width, height)
    return str(plotext.uncolorize(plotext.build()))


def _thousands(seeds: Sequence[SeedFigures], periods: int) -> F64:
    return (np.arange(periods) + 0.5) / periods * seeds[0].pages / 1_000
