"""Quality of predictions on MovieLens-100k, by backtest's protocol: each page is predicted when it is shown, by the
model as of then, and learned when the joiner emits its label (`eager`, window 2 s, one record an event).

Everyone sees the same pages and labels in the same order, in one pass. Vowpal Wabbit and River get the wide part's
keys, the deep part's categories, and every number of the deep part as a quantile bucket. Everyone's settings are the
best of equally many random trials on the first 30,000 pages (`benchmarks/tuning.py`); "rest" is what comes after them.
`shipped` is Wide & Deep with the settings of `specs/movielens.toml`, which took more trials (`docs/benchmarks.md`). The
ensemble is wide and deep, each trained alone, their logits summed and halved, or their probabilities averaged,
whichever is better for it.

Figures are means of 3 seeds. A seed makes the deep part's first layers; wide, Vowpal Wabbit and River start at zero
and have nothing random, so they run once; so does what is shipped.
"""

import json
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.tuning import FILE, TUNED_ON, entrant
from producers.movielens import fetch_movielens, read_movielens
from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32
from thalweg.backtest.backtest import Backtest, Scores, exact_auc
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant

SEEDS = 3
QUICK_PAGES, QUICK_REST = 12_000, 4_000
P_MIN = 1e-6
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
    spec, log = load_spec(Path("specs/movielens.toml")), ExampleLog()
    best = json.loads(FILE.read_text())
    ours = [entrant("wide", spec, best["wide"], log)]
    for seed in range(seeds):
        ours += [entrant(kind, spec, best[kind], log, seed) for kind in ("deep", "wide_deep")]
    peers: list[Entrant] = [entrant(kind, spec, best[kind], log) for kind in ("vw", "river")]
    peers.append(ModelEntrant(spec, ["wide", "deep"], 0, log))
    source = read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print))
    return Backtest(spec, [*ours, *peers], log).run(source, pages)


def together(wide: F32, deep: F32, *, logits: bool) -> F32:
    """Predictions of an ensemble of two: mean of logits, or of probabilities. float32 [N]."""
    if not logits:
        mean: F32 = (wide + deep) / np.float32(2)
        return mean
    one, other = (np.clip(p.astype(np.float64), P_MIN, 1 - P_MIN) for p in (wide, deep))
    logit = (np.log(one / (1 - one)) + np.log(other / (1 - other))) / 2
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def aucs(scores: Scores, first: int, seeds: int) -> tuple[dict[str, list[float]], str]:
    """AUC of rows from `first` on, by seed where there's one; and how the ensemble was made."""
    found = {
        "wide": [scores.auc(0, first)],
        "deep": [scores.auc(1 + 2 * seed, first) for seed in range(seeds)],
        "wide_deep": [scores.auc(2 + 2 * seed, first) for seed in range(seeds)],
        "vw": [scores.auc(1 + 2 * seeds, first)],
        "river": [scores.auc(2 + 2 * seeds, first)],
        "shipped": [scores.auc(3 + 2 * seeds, first)],
    }
    ways = {}
    for way, logits in (("logits", True), ("probabilities", False)):
        mixed = [together(scores.predictions[0], scores.predictions[1 + 2 * s], logits=logits) for s in range(seeds)]
        ways[way] = [exact_auc(one[first:], scores.labels[first:]) for one in mixed]
    best = max(ways, key=lambda way: float(np.mean(ways[way])))
    found["ensemble"] = ways[best]
    return found, best


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    seeds = 1 if quick else SEEDS
    first = QUICK_REST if quick else TUNED_ON
    scores = played(QUICK_PAGES if quick else None, seeds)
    whole, way = aucs(scores, 0, seeds)
    rest, _ = aucs(scores, first, seeds)
    title = f"MovieLens-100k, AUC at page time, {scores.pages:,} pages, {len(scores.labels):,} examples"
    table = Table("", "whole", f"after the first {first:,}", "seeds, whole", title=title,
                  caption=f"the ensemble averages {way}")  # fmt: skip
    figures: dict[str, float] = {}
    for name, says in ROWS.items():
        figures[f"auc_{name}"], figures[f"auc_{name}_rest"] = float(np.mean(whole[name])), float(np.mean(rest[name]))
        by_seed = " ".join(f"{auc:.4f}" for auc in whole[name]) if len(whole[name]) > 1 else ""
        table.add_row(says, f"{figures[f'auc_{name}']:.4f}", f"{figures[f'auc_{name}_rest']:.4f}", by_seed)
    return table, figures
