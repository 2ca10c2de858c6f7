"""Quality of predictions in the store: 1 % of shown items are installed, ten items a page, installs after hours.

The experiment's closed loop (`thalweg/experiment/closed_loop.py`): all arms serve, all learn the whole traffic in the
same order, and predict each page when it is shown. Rates are those of the experiment: each kind's best of equally many
random trials on the first 30,000 pages of other seeds (`benchmarks/tuning.py`); "rest" is what comes after as many.
The ensemble is wide and deep, each trained alone, their odds averaged. An example's label is the world's own: what is
installed at last, and stays so.
"""

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.tuning import TUNED_ON
from learner.training.ranking_figures import SESSION_GAP_MS, ranking_figures
from producers.store.parameters import preset
from producers.store.world import StoreWorld
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32, F64, I64
from thalweg.backtest.backtest import exact_auc
from thalweg.experiment.assignment import Assignment
from thalweg.experiment.closed_loop import ALL_ARMS, POPULAR, ClosedLoop
from thalweg.experiment.traffic_scores import ScoredTraffic

SEEDS, PAGES = 3, 40_000
QUICK_PAGES, QUICK_REST = 1_500, 500
LEARNERS: Final = tuple(name for name in ALL_ARMS if name != POPULAR)
FIGURES: Final = ("auc", "session_auc", "session_ndcg", "page_auc")


def play(seed: int, pages: int, progress: Progress) -> ScoredTraffic:
    """One seed's traffic, predicted by all learners."""
    task = progress.add_task(f"store, seed {seed}", total=pages)
    assign = Assignment("quality", dict.fromkeys(ALL_ARMS, 1.0)).arm_of
    spec, world = load_spec(Path("specs/store.toml")), StoreWorld(preset("usual"), seed)
    loop = ClosedLoop(
        spec, world, ALL_ARMS, assign, seed, on_progress=lambda played: progress.update(task, completed=played)
    )
    return loop.run(pages)


def sessions(traffic: ScoredTraffic) -> I64:
    """Each page's user session, int64 [N]: a pause of SESSION_GAP_MS ends one."""
    order = np.lexsort((traffic.time_ms, traffic.user))
    users, times = traffic.user[order], traffic.time_ms[order]
    begins = np.r_[True, (users[1:] != users[:-1]) | (np.diff(times) > SESSION_GAP_MS)]
    found = np.empty(len(users), np.int64)
    found[order] = np.cumsum(begins)
    return found


def measured(traffic: ScoredTraffic, predictions: F32, first: int) -> F64:
    """The FIGURES of pages from `first` on. `predictions` float32 [N, k]."""
    p, y = predictions[first:].ravel(), traffic.labels[first:].ravel().astype(np.float32)
    pages, items = traffic.labels[first:].shape
    by_session = ranking_figures(p, y, np.repeat(sessions(traffic)[first:], items))
    by_page = ranking_figures(p, y, np.repeat(np.arange(pages), items))
    return np.array([exact_auc(p, y), by_session.auc, by_session.ndcg, by_page.auc])


def run_store(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures; their names begin with `store_`."""
    seeds, pages, first = (1, QUICK_PAGES, QUICK_REST) if quick else (SEEDS, PAGES, TUNED_ON)
    found = {name: np.empty((seeds, 2, len(FIGURES))) for name in LEARNERS}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for seed in range(seeds):
            traffic = play(seed, pages, progress)
            for name in LEARNERS:
                for part, begin in enumerate((0, first)):
                    found[name][seed, part] = measured(traffic, traffic.predictions[name], begin)
    title = f"the store, 1 %, pages of ten, at page time, {pages:,} pages, {seeds} seeds"
    heads = [head for of in FIGURES for head in (of.replace("_", " "), "rest")]
    table = Table("", *heads, title=title, caption=f"rest: after the first {first:,} pages")
    figures: dict[str, float] = {}
    for name, values in found.items():
        means = values.mean(0)
        for part, end in enumerate(("", "_rest")):
            figures |= {f"store_{of}_{name}{end}": float(means[part, f]) for f, of in enumerate(FIGURES)}
        cells = [f"{means[part, f]:.4f}" for f in range(len(FIGURES)) for part in (0, 1)]
        table.add_row(name.replace("_", " & "), *cells)
    return table, figures
