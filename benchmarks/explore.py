"""Exploration: propensities against 100,000 draws, what each kind costs a request, what it earns in the store.

*Propensities*: how often each candidate was drawn for the first position, against its propensity, for candidates with
at least LIKELY; and for the positions below, where the mean of 1 / propensity is the number of candidates left, if
each is right given the items above. The greatest relative difference is `propensity_error_max`.

*Cost*: 100 candidates, MovieLens' spec, one thread, kinds in turn.

*The store* (`explore_store.py`) and *cold start* (`explore_cold.py`): by the defaults of each kind, and a scale of 1.
`cold_impressions_p50`, `_p90` and `cold_reached` are those of COLD: new items by quota, and `thompson`.
"""

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final, TypeVar

import msgspec
import numpy as np
from rich.console import Group
from rich.progress import track
from rich.table import Table

from benchmarks.explore_cold import PAGES, QUOTA, ColdStart, cold_start
from benchmarks.explore_coverage import covered
from benchmarks.explore_store import TRIED, TRIED_HOURS, Explored, explored
from benchmarks.serving import Publisher, World
from ranker.explore.draws import Draw, epsilon_greedy, thompson
from ranker.explore.exploration import draw_of, random_of
from ranker.ranking.rank import rank_with
from ranker.ranking.score import Scorer
from ranker.ranking.selection import choose
from ranker.versions.version_loader import load_version
from stream.snapshots.memory_store import MemoryStore
from stream.spec.explore import Explore, ExploreKind
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec

KINDS: Final[tuple[ExploreKind, ...]] = ("none", "epsilon", "thompson", "ucb")
DRAWS: Final = 100_000
KEYS: Final = np.array([0.05, 0.04, 0.06, 0.045, 0.02])
DEVIATIONS: Final = np.array([0.3, 0.5, 0.2, 0.4, 0.9])
LIKELY: Final = 0.15
POSITIONS: Final = 3
CANDIDATES, BEST, NOW_MS = 100, 10, 2_100_000
IN_STORE: Final = ("installs", "installs_late", "gap_closed", "tried")
WAYS: Final = {
    "none": Explore(),
    "epsilon": Explore("epsilon"),
    "thompson": Explore("thompson"),
    "thompson_1": Explore("thompson", scale=1.0),
    "ucb": Explore("ucb"),
    "ucb_1": Explore("ucb", scale=1.0),
}
NO_QUOTA, COLD = "no_quota", "thompson_1"  # of cold starts
T = TypeVar("T")


def propensity_error(way: Callable[[np.random.Generator], Draw], draws: int) -> float:
    """The greatest relative difference between propensities and what draws of different requests came to."""
    first: Counter[int] = Counter()
    said, inverse = dict[int, float](), np.zeros(POSITIONS)
    for n in range(draws):
        chosen = choose(KEYS, POSITIONS, draw=way(random_of(0, f"request {n}")))
        first[chosen.order[0]] += 1
        said[chosen.order[0]] = chosen.propensities[0]
        inverse += 1 / np.array(chosen.propensities)
    left = len(KEYS) - np.arange(POSITIONS)
    errors = [abs(first[i] / draws / p - 1) for i, p in said.items() if p >= LIKELY]
    return float(max(*errors, *abs(inverse / draws / left - 1)))


def costs_us(count: int) -> dict[str, float]:
    """Median time of ranking a page by each kind, in µs."""
    spec = load_spec(Path("specs/movielens.toml"))
    works = {kind: _ranking(msgspec.structs.replace(spec, explore=Explore(kind))) for kind in KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    gc.collect()
    for n in range(count + 50):
        for kind, work in works.items():
            begun = time.perf_counter()
            work(n)
            taken[kind].append(time.perf_counter() - begun)
    return {kind: 1e6 * float(np.median(times[50:])) for kind, times in taken.items()}


def _ranking(spec: Spec) -> Callable[[int], None]:
    """Ranks the n-th request by a model of this spec."""
    world = World(spec, items=4_000, users=150)
    store = MemoryStore(spec.name)
    Publisher(world, store, wide_keys=100_000, rows=20_000).base()
    version, scorer = load_version(store, spec.name, 1), Scorer(1)
    pages = [world.page(world.request(CANDIDATES)) for _ in range(50)]

    def rank(n: int) -> None:
        rank_with(version, pages[n % 50], NOW_MS, BEST, scorer, explorer=partial(draw_of, f"request {n}"))

    return rank


def run(*, quick: bool) -> tuple[Group, dict[str, float]]:
    """The tables and their figures."""
    draws, seeds, pages, worlds = (DRAWS // 10, 1, 4_000, 20) if quick else (DRAWS, 2, 10_000, 100)
    errors = {
        "epsilon": propensity_error(partial(epsilon_greedy, 0.5), draws),
        "thompson": propensity_error(partial(thompson, DEVIATIONS), draws),
    }
    costs = costs_us(200 if quick else 2_000)
    snips = covered(worlds, 2_500 if quick else 5_000, 1_000)["snips"] / worlds
    stores = _by_way(lambda explore, seed: explored(explore, seed, pages), seeds, "stores")
    colds = _colds(2 * seeds, PAGES // 4 if quick else PAGES)
    figures = {"propensity_error_max": max(errors.values()), "snips_coverage": snips}
    figures |= {f"{kind}_us": cost for kind, cost in costs.items()}
    figures |= {f"{way}_{name}": _mean(runs, name) for way, runs in stores.items() for name in IN_STORE}
    cold = {way: _cold(runs) for way, runs in colds.items()}
    figures |= {f"{way}_cold_{name}": figure for way, found in cold.items() for name, figure in found.items()}
    figures |= {f"cold_{name}": cold[COLD][name] for name in ("impressions_p50", "impressions_p90", "reached")}
    tables = _costs_table(errors, costs, snips), _store_table(stores, pages), _cold_table(cold, 2 * seeds)
    return Group(*tables), {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def _by_way(play: Callable[[Explore, int], T], seeds: int, title: str) -> dict[str, list[T]]:
    """Runs of each way to explore, one a seed."""
    found: dict[str, list[T]] = {way: [] for way in WAYS}
    for way, seed in track([(way, seed) for way in WAYS for seed in range(seeds)], title, transient=True):
        found[way].append(play(WAYS[way], seed))
    return found


def _colds(seeds: int, pages: int) -> dict[str, list[ColdStart]]:
    """Cold starts of each way to explore, and without a quota of new items."""
    found = _by_way(lambda explore, seed: cold_start(explore, seed, pages=pages), seeds, "cold starts")
    return {NO_QUOTA: [cold_start(WAYS["none"], seed, 0, pages) for seed in range(seeds)], **found}


def _mean(runs: Sequence[Explored], name: str) -> float:
    return fmean(getattr(one, name) for one in runs)


def _cold(runs: Sequence[ColdStart]) -> dict[str, float]:
    """% of new items that became known, quantiles of their impressions and pages until then; what pages earned."""
    impressions, pages = (np.concatenate([getattr(one, name) for one in runs]) for name in ("impressions", "pages"))
    known = np.isfinite(impressions)
    p50, p90 = np.quantile(impressions[known], (0.5, 0.9)) if known.any() else (math.nan, math.nan)
    return {
        "reached": 100 * float(known.mean()),
        "impressions_p50": float(p50),
        "impressions_p90": float(p90),
        "pages_p50": float(np.median(pages[known])) if known.any() else math.nan,
        "earned": fmean(one.earned for one in runs),
    }


def _costs_table(errors: dict[str, float], costs: dict[str, float], snips: float) -> Table:
    says = f"off-policy: SNIPS' 95 % interval holds the truth in {snips:.0%} of simulated logs"
    table = Table("", "propensities off by", "a request, µs", "above none, µs", title="draws and cost", caption=says)
    for kind, cost in costs.items():
        error = f"{errors[kind]:.2%}" if kind in errors else ""
        table.add_row(kind, error, f"{cost:.0f}", f"{cost - costs['none']:.0f}")
    return table


def _store_table(stores: dict[str, list[Explored]], pages: int) -> Table:
    title = f"the store, {len(stores['none'])} seeds of {pages:,} pages"
    tried = f"new apps with {TRIED} impressions in {TRIED_HOURS} h, %"
    heads = "expected installs / 1,000 items", "in the second half", "gap closed, %"
    table = Table("", *heads, tried, title=title)
    for way, runs in stores.items():
        table.add_row(way, *(f"{_mean(runs, name):.1f}" for name in IN_STORE))
    return table


def _cold_table(colds: dict[str, dict[str, float]], seeds: int) -> Table:
    heads = "known, %", "impressions until known: p50", "p90", "pages until known: p50", "earned, % of the best"
    title = f"cold start: {QUOTA} of 50 candidates by the quota of new items, {seeds} seeds"
    table = Table("", *heads, title=title)
    for way, found in colds.items():
        known, *until, earned = found.values()
        texts = (f"{value:.0f}" if math.isfinite(value) else "-" for value in until)
        table.add_row(way, f"{known:.0f}", *texts, f"{earned:.1f}")
    return table
