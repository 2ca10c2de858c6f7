"""`thalweg experiment`: runs the seeds with a line of progress, prints tables and plots, returns the figures."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from producers.store.parameters import DAY_MS, preset
from producers.store.scenario import load_scenario
from producers.store.storefront import PAGE_ITEMS
from stream.runtime.errors import SettingsError
from stream.spec.suggestions import near
from thalweg.experiment.ablations import ablation_figures, ablation_rows, ablation_table, run_settings, settings
from thalweg.experiment.closed_loop import ALL_ARMS, PARTS
from thalweg.experiment.experiment import ExperimentConfig, run_seeds
from thalweg.experiment.plots import terminal_plot, write_png
from thalweg.experiment.report import figures, table
from thalweg.experiment.seed_figures import SeedFigures
from thalweg.views.tables import print_table

LINE_EVERY_S: Final = 60.0
SINGLE_ARM: Final = "wide_deep"  # of `page_items_s`
SINGLE_SHARE: Final = 0.1  # of the pages are played once more by a single arm alone, for its speed


@dataclass(frozen=True)
class Plan:
    """What is run: seeds 0 to `seeds` - 1 of `config`. With `ablate` the ablations instead.

    Raises SettingsError, DataError when a name is wrong.
    """

    config: ExperimentConfig
    seeds: int
    ablate: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        for arm in self.config.arms:
            if arm not in ALL_ARMS:
                raise SettingsError(f"no arm {arm!r}: {near(arm, list(ALL_ARMS))}")
        if not set(self.config.arms) & set(PARTS):
            raise SettingsError(f"at least one arm must be a model of ours: {', '.join(PARTS)}")
        if len(set(self.config.arms)) < len(self.config.arms):
            raise SettingsError("an arm is named twice")
        preset(self.config.rate)  # wrong names are reported here, not by the first process that meets one
        load_scenario(self.config.scenarios)
        if self.ablate and self.config.scenarios:
            raise SettingsError(
                "--ablate compares choices in the ordinary course: leave out --scenario, "
                "which `python -m benchmarks scenarios` compares"
            )
        if self.ablate and self.plot:
            raise SettingsError("--ablate prints a table and no plot: leave out --plot")
        if self.plot and (self.plot.suffix != ".png" or not self.plot.parent.is_dir()):
            raise SettingsError(
                f"{self.plot} can't be written: --plot takes a file ending in .png, in a folder that exists"
            )


def conduct(plan: Plan, console: Console) -> dict[str, float]:
    """Run it and print what came out. Raises SettingsError, DataError."""
    return _ablate(plan, console) if plan.ablate else _compare(plan, console)


def _compare(plan: Plan, console: Console) -> dict[str, float]:
    config, seeds = plan.config, range(plan.seeds)
    alone = replace(config, arms=[SINGLE_ARM], pages=max(1, round(SINGLE_SHARE * config.pages)))
    with _progress(plan.seeds * config.pages + alone.pages) as on_progress:
        found = run_seeds([(config, seed) for seed in seeds], on_progress)
        single = run_seeds([(alone, 0)], lambda pages: on_progress(plan.seeds * config.pages + pages))
    title = f"{plan.seeds} seed{'s' * (plan.seeds > 1)} of {config.pages:,} pages, base rate {config.rate}"
    title += f", scenarios {', '.join(config.scenarios)}" if config.scenarios else ""
    print_table(table(found, title), console)
    _note_unreached(config, console)
    if rejected := sum(seed.versions_rejected for seed in found):
        console.print(
            f"{rejected:,} versions were rejected by their gates: older ones served meanwhile", highlight=False
        )
    console.print(terminal_plot(found, min(100, console.width)), highlight=False)
    if plan.plot:
        write_png(plan.plot, found, title)
        console.print(f"{plan.plot} is written", highlight=False)
    speeds = {"page_items_s": _items_s(single), "page_items_s_all": _items_s(found)}
    console.print(
        f"{speeds['page_items_s_all']:,.0f} page items/s a process with all arms, "
        f"{speeds['page_items_s']:,.0f} with {SINGLE_ARM} alone",
        highlight=False,
    )
    return figures(found) | speeds


def _ablate(plan: Plan, console: Console) -> dict[str, float]:
    chosen, seeds = settings(plan.config), range(plan.seeds)
    runs = len({id(one.config) for one in chosen}) * plan.seeds
    with _progress(runs * plan.config.pages) as on_progress:
        found = run_settings(chosen, seeds, on_progress)
    rows = ablation_rows(chosen, found)
    title = f"ablations: {plan.seeds} seeds of {plan.config.pages:,} pages, base rate {plan.config.rate}"
    print_table(ablation_table(rows, title, plan.seeds), console)
    return ablation_figures(rows)


def _note_unreached(config: ExperimentConfig, console: Console) -> None:
    """Say which scenarios have nothing that begins before the runs end."""
    days = config.pages / preset(config.rate).traffic.pages_a_day
    unreached = [
        name for name in config.scenarios if all(one.at_ms >= days * DAY_MS for one in load_scenario([name]).happens)
    ]
    if unreached:
        console.print(
            f"a run ends after about {days:.2g} days of the store, before anything of {', '.join(unreached)} "
            "happens: more --pages get there",
            style="red", highlight=False,
        )  # fmt: skip


def _items_s(found: Sequence[SeedFigures]) -> float:
    """Shown items per second of a process, median over seeds."""
    return float(np.median([PAGE_ITEMS * seed.pages / seed.seconds["all"] for seed in found]))


@contextmanager
def _progress(pages: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, or a line now and then; yields what is called with the pages played so far."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, pages).show
        return
    columns = (
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} pages"), BarColumn(), TimeElapsedColumn(),
        TextColumn("to go"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("pages", total=pages)
        yield lambda played: progress.update(task, completed=played)


class _Lines:
    """A line each LINE_EVERY_S."""

    def __init__(self, console: Console, pages: int) -> None:
        self._console, self._pages = console, pages
        self._begun_s = self._last_s = time.monotonic()

    def show(self, played: int) -> None:
        """So many pages were played so far."""
        now_s = time.monotonic()
        if now_s >= self._last_s + LINE_EVERY_S:
            self._last_s = now_s
            line = f"{played:,} of {self._pages:,} pages in {(now_s - self._begun_s) / 60:.0f} min"
            self._console.print(line, highlight=False)
