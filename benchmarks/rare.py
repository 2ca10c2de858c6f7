"""What the publish gate stops where labels are rare, and what it refuses wrongly; statistics and sums at such rates.

At 5, 1 and .1 % of positives, in the store's time (`rare_world.py`):

faults      ten that are planted into a model that has learned, or into what it learns; 300 trials each: stopped by
            the first step, before the version is served; by the second, after how many held-out positives; or missed
honest      every version of courses on which nothing is wrong: ordinary ones, and those whose tastes flip, whose
            traffic rises tenfold, or ceases
statistics  how far rates, residuals, affinities and position-corrected rates are from the truth (`statistics_bias.py`)
sums        calibration of a bias after 10⁸ examples at .1 %, by the wide part's kernel (`calibration.py`)
"""

import multiprocessing
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.progress import track
from rich.table import Table

from benchmarks.calibration import EXAMPLES, QUICK_EXAMPLES, calibration, kernel_predictions
from benchmarks.rare_faults import FAULTS
from benchmarks.rare_trials import Honest, HonestCourse, Trial, TrialCourse, play_honest, play_trials
from benchmarks.statistics_bias import NAMES, PAGES, QUICK_PAGES, biases

RATES: Final = (0.05, 0.01, 0.001)
SCENARIOS: Final = ("ordinary", "flip", "ramp", "pause")
SEEDS, QUICK_SEEDS = 12, 1
TRIALS, QUICK_TRIALS = 25, 4  # of a seed
HONEST_SEEDS: Final = 4
Trials = dict[tuple[str, float], list[Trial]]  # by fault and rate
Errors = dict[tuple[str, float], float]  # by statistic and rate


class BiasJob(NamedTuple):
    """Statistics to be measured."""

    rate: float
    pages: int
    seed: int


class TrialsFound(NamedTuple):
    """Trials of a course, by fault."""

    rate: float
    trials: dict[str, list[Trial]]


class HonestFound(NamedTuple):
    """What was refused of an honest course."""

    job: HonestCourse
    found: Honest


class BiasFound(NamedTuple):
    """Errors by statistic."""

    rate: float
    errors: dict[str, float]


Job = TrialCourse | HonestCourse | BiasJob | int  # int: examples of the calibration
Found = TrialsFound | HonestFound | BiasFound | float


def play(job: Job) -> Found:
    """Do it, in whatever process."""
    if isinstance(job, TrialCourse):
        return TrialsFound(job.rate, play_trials(job))
    if isinstance(job, HonestCourse):
        return HonestFound(job, play_honest(job))
    return BiasFound(job.rate, biases(*job)) if isinstance(job, BiasJob) else calibration(kernel_predictions, job)


def jobs_of(*, quick: bool) -> list[Job]:
    """All that is to be done, the longest first."""
    seeds, trials = (QUICK_SEEDS, QUICK_TRIALS) if quick else (SEEDS, TRIALS)
    honest, pages = (1, dict.fromkeys(RATES, QUICK_PAGES)) if quick else (HONEST_SEEDS, PAGES)
    found: list[Job] = [QUICK_EXAMPLES if quick else EXAMPLES]
    found += [TrialCourse(rate, trials, seed) for seed in range(seeds) for rate in RATES]
    found += [HonestCourse(rate, name, 100 + seed) for seed in range(honest) for rate in RATES for name in SCENARIOS]
    return found + [BiasJob(rate, pages[rate], seed) for seed in range(1 if quick else 2) for rate in RATES]


def played(jobs: list[Job]) -> Iterable[Found]:
    """Do all, on as many cores as there are."""
    fork = multiprocessing.get_context("fork")  # kernels are compiled once; nothing runs in this process yet
    with fork.Pool(min(len(jobs), os.cpu_count() or 1), maxtasksperchild=4) as pool:
        yield from track(pool.imap_unordered(play, jobs), "courses", len(jobs), console=Console(stderr=True))


def run(*, quick: bool) -> tuple[RenderableType, dict[str, float]]:
    """The tables and their figures."""
    found = list(played(jobs_of(quick=quick)))
    trials: Trials = {}
    for course in (of for of in found if isinstance(of, TrialsFound)):
        for fault, more in course.trials.items():
            trials.setdefault((fault, course.rate), []).extend(more)
    errors: Errors = {}
    for bias in (of for of in found if isinstance(of, BiasFound)):
        for name, error in bias.errors.items():
            errors[name, bias.rate] = max(errors.get((name, bias.rate), 0.0), error)
    (calibrated,) = (of for of in found if isinstance(of, float))
    figures = {"calibration_1e8": calibrated}
    tables = [
        faults_table(trials, figures),
        honest_table([of for of in found if isinstance(of, HonestFound)], figures),
        bias_table(errors, figures),
    ]
    return Group(*tables, f"calibration after 1e8 examples at .1 %: {calibrated:.4f}"), figures


def faults_table(trials: Trials, figures: dict[str, float]) -> Table:
    """Shares stopped by each step; adds to `figures`."""
    count = len(next(iter(trials.values())))
    heads = [f"{100 * rate:g} %" for rate in RATES]
    table = Table("planted", *heads, title=f"stopped before served + rolled back later, of {count} trials; why")
    missed = []
    for fault in FAULTS:
        cells = []
        for rate in RATES:
            of = trials[fault.name, rate]
            shares = {step: sum(one.step == step for one in of) / len(of) for step in ("first", "second", "")}
            missed.append(shares[""])
            key = f"{fault.name.replace(' ', '_').replace(',', '')}_{rate}"
            figures |= {f"first_{key}": shares["first"], f"second_{key}": shares["second"], f"missed_{key}": shares[""]}
            causes = ", ".join(cause for cause, _ in Counter(one.cause for one in of if one.cause).most_common(2))
            cell = f"{100 * shares['first']:.1f} + {100 * shares['second']:.1f} %; {causes}"
            if fault.learns and shares["first"]:
                figures[f"versions_{key}"] = live = statistics.median(one.versions for one in of if one.step == "first")
                cell += f" after {live:g} versions"
            if later := [one for one in of if one.step == "second"]:
                figures[f"examples_{key}"] = examples = statistics.median(one.examples for one in later)
                figures[f"positives_{key}"] = positives = statistics.median(one.positives for one in later)
                cell += f"; {examples:,.0f} held-out examples, {positives:g} positive"
            cells.append(cell)
        table.add_row(fault.name, *cells)
    figures["missed_max"] = max(missed)
    figures["trials"] = count
    return table


def honest_table(honest: list[HonestFound], figures: dict[str, float]) -> Table:
    """Versions refused of courses on which nothing is wrong; adds to `figures`."""
    table = Table("honest", *(f"{100 * rate:g} %" for rate in RATES),
                  title="refused of versions; `worse` of held-out verdicts")  # fmt: skip
    shares = []
    for scenario in SCENARIOS:
        cells = []
        for rate in RATES:
            of = [one.found for one in honest if (one.job.scenario, one.job.rate) == (scenario, rate)]
            versions, judged, worse = (
                sum(getattr(one, name) for one in of) for name in ("versions", "judged", "worse")
            )
            refused = sum(sum(one.refused.values()) for one in of)
            figures[f"refused_{scenario}_{rate}"] = refused / versions
            figures[f"rolled_back_{scenario}_{rate}"] = worse / len(of)
            shares += [refused / versions, worse / max(judged, 1)]
            cells.append(f"{refused} of {versions:,}; {worse} of {judged}")
        table.add_row(scenario, *cells)
    figures["false_refusals"] = max(shares)
    return table


def bias_table(errors: Errors, figures: dict[str, float]) -> Table:
    """Biases of statistics; adds to `figures`."""
    table = Table("statistic", *(f"{100 * rate:g} %" for rate in RATES), title="bias, as a share of the rate")
    for name in NAMES:
        table.add_row(name, *(f"{errors[name, rate]:.4f}" for rate in RATES))
        figures |= {f"bias_{name}_{rate}": errors[name, rate] for rate in RATES}
    figures["statistic_bias_max"] = max(errors.values())
    return table
