"""Quality of predictions on MovieLens-100k, and in the store (`quality_store.py`).

On MovieLens by backtest's protocol: each page is predicted when it is shown, by the model as of then, and learned when
the joiner emits its label (`eager`, window 2 s, one record an event).

Everyone sees the same pages and labels in the same order, in one pass. Vowpal Wabbit and River get the wide part's
keys, the deep part's categories, and every number of the deep part as a quantile bucket. Everyone's settings are the
best of equally many random trials on the first 30,000 pages (`benchmarks/tuning.py`); "rest" is what comes after them.
`shipped` is Wide & Deep with the settings of `specs/movielens.toml`, which took more trials (`docs/benchmarks.md`). The
ensemble is wide and deep, each trained alone, their logits summed and halved, or their probabilities averaged,
whichever is better for it.

Beside AUC over all examples stand AUC and NDCG@10 within users' sessions (`docs/figures.md`), which is what ranking is
worth: a page has one item here.

Figures are means of 3 seeds. A seed makes the deep part's first layers; wide, Vowpal Wabbit and River start at zero
and have nothing random, so they run once; so does what is shipped.
"""

import json
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.quality_store import run_store
from benchmarks.tuning import FILE, TUNED_ON, entrant
from learner.training.ranking_figures import ranking_figures
from producers.movielens import fetch_movielens, read_movielens
from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32, F64
from thalweg.backtest.backtest import Backtest, Scores, exact_auc
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant

SEEDS = 3
QUICK_PAGES, QUICK_REST = 12_000, 4_000
P_MIN = 1e-6
FIGURES = ("auc", "session_auc", "session_ndcg")
TITLES = ("auc", "session auc", "session ndcg@10")
ROWS = {
    "wide": "wide alone",
    "deep": "deep alone",
    "wide_deep": "Wide & Deep, joint",
    "ensemble": "ensemble of the two, trained apart",
    "vw": "Vowpal Wabbit --ftrl",
    "river": "River, logistic regression",
    "shipped": "Wide & Deep, as specs/movielens.toml has it",
}


def played(pages: int | None, seeds: int) -> Scores:
    """Everyone, in one pass; entrants: wide, then deep and joint by seed, the peers, and what is shipped."""
    spec = load_spec(Path("specs/movielens.toml"))
    best = json.loads(FILE.read_text())
    ours = [entrant("wide", spec, best["wide"])]
    for seed in range(seeds):
        ours += [entrant(kind, spec, best[kind], seed) for kind in ("deep", "wide_deep")]
    peers: list[Entrant] = [entrant(kind, spec, best[kind]) for kind in ("vw", "river")]
    peers.append(ModelEntrant(spec, ["wide", "deep"], 0))
    source = read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print))
    return Backtest(spec, [*ours, *peers], ExampleLog()).run(source, pages)


def together(wide: F32, deep: F32, *, logits: bool) -> F32:
    """Predictions of an ensemble of two: mean of logits, or of probabilities. float32 [N]."""
    if not logits:
        mean: F32 = (wide + deep) / np.float32(2)
        return mean
    one, other = (np.clip(p.astype(np.float64), P_MIN, 1 - P_MIN) for p in (wide, deep))
    logit = (np.log(one / (1 - one)) + np.log(other / (1 - other))) / 2
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def measured(scores: Scores, predictions: F32, first: int) -> F64:
    """The FIGURES of rows from `first` on."""
    p, y = predictions[first:], scores.labels[first:]
    sessions = ranking_figures(p, y, scores.rows.sessions[first:])
    return np.array([exact_auc(p, y), sessions.auc, sessions.ndcg])


def measured_all(scores: Scores, first: int, seeds: int) -> tuple[dict[str, F64], str]:
    """The FIGURES of rows from `first` on, float64 [seeds, 3] of each row of the table; and how the ensemble was made,
    which is the better way by AUC."""
    entrants = {
        "wide": [0],
        "deep": [1 + 2 * seed for seed in range(seeds)],
        "wide_deep": [2 + 2 * seed for seed in range(seeds)],
        "vw": [1 + 2 * seeds],
        "river": [2 + 2 * seeds],
        "shipped": [3 + 2 * seeds],
    }
    found = {
        name: np.array([measured(scores, scores.predictions[i], first) for i in chosen])
        for name, chosen in entrants.items()
    }
    ways = {}
    for way, logits in (("logits", True), ("probabilities", False)):
        mixed = [together(scores.predictions[0], scores.predictions[1 + 2 * s], logits=logits) for s in range(seeds)]
        ways[way] = np.array([measured(scores, one, first) for one in mixed])
    best = max(ways, key=lambda way: float(ways[way][:, 0].mean()))
    found["ensemble"] = ways[best]
    return found, best


def run(*, quick: bool) -> tuple[RenderableType, dict[str, float]]:
    """The tables of both worlds and their figures."""
    movielens, figures = run_movielens(quick=quick)
    store, of_store = run_store(quick=quick)
    return Group(movielens, store), figures | of_store


def run_movielens(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    seeds = 1 if quick else SEEDS
    first = QUICK_REST if quick else TUNED_ON
    scores = played(QUICK_PAGES if quick else None, seeds)
    whole, way = measured_all(scores, 0, seeds)
    rest, _ = measured_all(scores, first, seeds)
    title = f"MovieLens-100k, at page time, {scores.pages:,} pages, {len(scores.labels):,} examples"
    heads = [head for of in TITLES for head in (of, "rest")]
    caption = f"rest: after the first {first:,}; session: within users' sessions; the ensemble averages {way}"
    table = Table("", *heads, "auc by seed", title=title, caption=caption)
    figures: dict[str, float] = {}
    for name, says in ROWS.items():
        cells = []
        for f, figure in enumerate(FIGURES):
            for end, found in (("", whole), ("_rest", rest)):
                figures[f"{figure}_{name}{end}"] = mean = float(found[name][:, f].mean())
                cells.append(f"{mean:.4f}")
        by_seed = " ".join(f"{auc:.4f}" for auc in whole[name][:, 0]) if len(whole[name]) > 1 else ""
        table.add_row(says, *cells, by_seed)
    return table, figures
