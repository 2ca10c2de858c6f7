"""Ablations: what a choice of the model or of its training costs, each setting in its own runs of the closed loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from rich.table import Table

from producers.store.parameters import BASE_RATES, preset
from producers.store.scenario import scenario_names
from stream.tables.dtypes import F64
from thalweg.experiment.closed_loop import ENSEMBLE
from thalweg.experiment.experiment import ExperimentConfig, run_seeds
from thalweg.experiment.paired import PairedGain
from thalweg.experiment.report import NO_GAIN, few_seeds, gain_of, gain_text
from thalweg.experiment.seed_figures import SeedFigures

ARM: Final = "wide_deep"
SYNC_S: Final = {"1 s": 1, "1 min": 60, "10 min": 600, "1 h": 3_600, "1 day": 86_400}  # of the store's time
FROZEN_FROM: Final = 0.2  # share of the pages


class Setting(NamedTuple):
    """One row of a table: what runs, the arm that is judged, and the row that it is compared with (empty: none)."""

    table: str
    name: str
    config: ExperimentConfig
    arm: str = ARM
    against: str = ""


class AblationRow(NamedTuple):
    """A setting's means over seeds, and the gain of expected installs over the row that it is compared with."""

    table: str
    name: str
    auc: float
    group_auc: float
    calibration: float
    expected: float  # per 1,000 items
    gap_closed: float
    gain: PairedGain


def settings(config: ExperimentConfig) -> list[Setting]:
    """All of them. Each changes one thing of `config`."""
    alone = replace(config, arms=[ARM])
    apart = replace(config, arms=[ARM, ENSEMBLE])
    compress = preset(config.rate).compress
    intervals_ms = {name: max(1, round(1_000 * seconds / compress)) for name, seconds in SYNC_S.items()}
    synced = {name: replace(alone, sync_ms=interval_ms) for name, interval_ms in intervals_ms.items()}
    frozen = replace(alone, sync_ms=intervals_ms["10 min"], frozen_from=FROZEN_FROM)
    return [
        Setting("joint or apart", "joint", apart),
        Setting("joint or apart", "ensemble of parts trained apart", apart, ENSEMBLE, "joint"),
        *(Setting("sync interval", name, one, against="10 min") for name, one in synced.items()),
        Setting("sync interval", f"frozen after {FROZEN_FROM:.0%} of the pages", frozen, against="10 min"),
        *(
            Setting("label policy", policy, replace(alone, policy=policy), against=config.spec.label.policy)
            for policy in ("wait", "eager", "fake_negative")
        ),
        *(Setting("base rate", rate, replace(config, rate=rate, arms=["popular", ARM])) for rate in BASE_RATES),
    ]


def scenario_settings(config: ExperimentConfig) -> list[Setting]:
    """The ordinary course, and each scenario by its name."""
    alone = replace(config, arms=[ARM])
    return [
        Setting("scenario", "none", alone),
        *(Setting("scenario", name, replace(alone, scenarios=[name]), against="none") for name in scenario_names()),
    ]


def run_settings(
    chosen: Sequence[Setting], seeds: Sequence[int], on_progress: Callable[[int], None]
) -> list[list[SeedFigures]]:
    """Each setting's figures by seed. Settings that share a config share its runs."""
    configs = list({id(one.config): one.config for one in chosen}.values())
    found = run_seeds([(config, seed) for config in configs for seed in seeds], on_progress)
    of_config = {id(config): found[n * len(seeds) : (n + 1) * len(seeds)] for n, config in enumerate(configs)}
    return [of_config[id(one.config)] for one in chosen]


def ablation_rows(chosen: Sequence[Setting], found: Sequence[Sequence[SeedFigures]]) -> list[AblationRow]:
    """One row a setting, in the same order."""
    by_name = {(one.table, one.name): seeds for one, seeds in zip(chosen, found, strict=True)}
    rows = []
    for one, seeds in zip(chosen, found, strict=True):
        gain = NO_GAIN
        if one.against and one.against != one.name:
            reference = next(two for two in chosen if (two.table, two.name) == (one.table, one.against))
            gain = gain_of(_expected(seeds, one.arm), _expected(by_name[one.table, one.against], reference.arm))
        learner, arm = [seed.learners[one.arm] for seed in seeds], [seed.arms[one.arm] for seed in seeds]
        rows.append(
            AblationRow(
                one.table, one.name, float(np.mean([of.auc for of in learner])),
                float(np.mean([of.group_auc for of in learner])), float(np.mean([of.calibration for of in learner])),
                float(np.mean([of.expected for of in arm])), float(np.mean([of.gap_closed for of in arm])), gain,
            )
        )  # fmt: skip
    return rows


def ablation_table(rows: Sequence[AblationRow], title: str, seeds: int) -> Table:
    """All rows, a section for each table."""
    heads = ("", "AUC", "group AUC", "calibration", "expected ‰", "gap closed", "expected installs against")
    caption = f"‰: per 1,000 shown items. Brackets: 95 %, paired by seed.{few_seeds(seeds)}"
    made = Table(*heads, title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in made.columns[1:]:
        column.justify = "right"
    for row, before in zip(rows, [None, *rows], strict=False):
        if before is None or before.table != row.table:
            made.add_section()
            made.add_row(f"[bold]{row.table}[/]")
        made.add_row(
            row.name, f"{row.auc:.4f}", f"{row.group_auc:.4f}", f"{row.calibration:.3f}", f"{row.expected:.2f}",
            f"{row.gap_closed:.1%}", gain_text(row.gain),
        )  # fmt: skip
    return made


def ablation_figures(rows: Sequence[AblationRow]) -> dict[str, float]:
    """One flat object: `sync interval.10 min.auc`, …"""
    names = ("auc", "group_auc", "calibration", "expected", "gap_closed")
    found = {f"{row.table}.{row.name}.{name}": getattr(row, name) for row in rows for name in names}
    for row in rows:
        found |= {f"{row.table}.{row.name}.{name}": getattr(row.gain, name) for name in ("gain", "low", "high")}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _expected(seeds: Sequence[SeedFigures], arm: str) -> F64:
    return np.array([seed.arms[arm].expected for seed in seeds])
