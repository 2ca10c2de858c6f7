"""What each scenario of the store does to the model: both parts, alone, in closed loop, against the ordinary course.

20,000 pages a seed are two days of the store; scenarios begin after the first. `gap closed` is the share of the gap
between popularity and the oracle, on the same pages, over both days.
"""

from pathlib import Path

from rich.table import Table

from stream.spec.spec_file import load_spec
from thalweg.experiment.ablations import (
    ablation_figures,
    ablation_rows,
    ablation_table,
    run_settings,
    scenario_settings,
)
from thalweg.experiment.experiment import ExperimentConfig

SEEDS, PAGES = 2, 20_000
QUICK_SEEDS, QUICK_PAGES = 1, 12_000


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """Run all; the table and the figures."""
    seeds, pages = (QUICK_SEEDS, QUICK_PAGES) if quick else (SEEDS, PAGES)
    chosen = scenario_settings(ExperimentConfig(load_spec(Path("specs/store.toml")), pages=pages))
    rows = ablation_rows(chosen, run_settings(chosen, range(seeds), lambda played: None))
    return ablation_table(rows, f"scenarios: {seeds} seeds of {pages:,} pages", seeds), ablation_figures(rows)
