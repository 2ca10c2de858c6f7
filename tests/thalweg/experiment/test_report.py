"""The report of an experiment: its table, its flat figures, its plots, its ablations."""

import io
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from producers.store.parameters import preset
from producers.store.scenario import scenario_names
from stream.runtime.errors import DataError
from stream.spec.spec_file import load_spec
from tests.support.seed_figures import EXPECTED, seed_figures
from thalweg.cli.options import SPECS
from thalweg.experiment.ablations import (
    AblationRow,
    Setting,
    ablation_figures,
    ablation_rows,
    ablation_table,
    run_settings,
    scenario_settings,
    settings,
)
from thalweg.experiment.experiment import ExperimentConfig
from thalweg.experiment.paired import paired_gain
from thalweg.experiment.plots import terminal_plot, write_png
from thalweg.experiment.report import figures, gain_of, gain_over, regrets, rows, same_pages_gain, table
from thalweg.experiment.seed_figures import PERIODS, SeedFigures

SEEDS = [seed_figures(seed, {"wide_deep": 1 + seed / 100}) for seed in range(4)]
CONFIG = ExperimentConfig(load_spec(SPECS / "store.toml"), pages=1_000)


def text_of(made: Table) -> str:
    """The table as a terminal shows it."""
    console = Console(file=io.StringIO(), width=250)
    console.print(made)
    written = console.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()


def line_of(text: str, name: str) -> list[str]:
    """The cells of a row, its name first."""
    lines = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
    assert len(lines) == 1, text
    return [cell.strip() for cell in lines[0].strip("│").split("│")]


def test_figures_have_the_columns_of_the_paper_and_more() -> None:
    """Keys that others read: gains over wide, deep, vw and popular with intervals, AUC by arm, share of the gap."""
    found = figures(SEEDS)
    arms = set(EXPECTED)
    assert found.keys() >= {
        "acquisition_gain_wide_deep", "acquisition_gain_deep", "gain_low", "gain_high", "gap_closed", "gain_over_deep",
        "gain_over_deep_low", "gain_over_deep_high", "gain_over_vw_low", "gain_over_popular_low", "base_rate", "seeds",
        "pages", "versions_rejected",
    }  # fmt: skip
    assert found["error_auc_wide"] == pytest.approx(0.01 / 2), "of the mean of four seeds"
    assert {name for name in found if name.startswith("auc_")} == {f"auc_{arm}" for arm in arms - {"popular"}}
    for name in ("expected", "gap_closed", "regret"):
        assert {f"{name}_{arm}" for arm in (*arms, "oracle", "random")} <= found.keys()
    assert not {"acquisition_gain_wide", "installs_oracle", "coverage_random", "auc_oracle"} & found.keys()
    assert np.isfinite(list(found.values())).all(), "it becomes JSON"


def test_gains_are_paired_by_seed() -> None:
    """Of means over seeds, with their interval; wide_deep's stand under short names, too."""
    found = figures(SEEDS)
    values = {name: np.array([seed.arms[name].expected for seed in SEEDS]) for name in EXPECTED}
    for other, key in (("wide", "gain"), ("deep", "gain_over_deep"), ("vw", "gain_over_vw")):
        gain = gain_of(values["wide_deep"], values[other])
        assert (found[f"{key}_low"], found[f"{key}_high"]) == (gain.low, gain.high)
        assert gain.low < gain.gain < gain.high
    assert found["acquisition_gain_wide_deep"] == pytest.approx(values["wide_deep"].sum() / values["wide"].sum() - 1)
    assert found["gap_closed"] == found["gap_closed_wide_deep"] != found["gap_closed_wide"]
    assert found["auc_vw"] == pytest.approx(0.7 + 0.015)
    assert found["versions_rejected"] == 0 + 1 + 2 + 3
    same = same_pages_gain(SEEDS, "wide_deep", "deep")
    pages = {name: np.array([seed.same_pages[name] for seed in SEEDS]) for name in ("wide_deep", "deep")}
    assert same == gain_of(pages["wide_deep"], pages["deep"])
    assert (found["same_pages_gain_over_deep"], found["same_pages_gain_over_deep_low"]) == (same.gain, same.low)
    installs = gain_over(SEEDS, "deep", "wide", of="installs")
    assert found["installs_gain_deep"] == installs.gain == pytest.approx(21 / 20 - 1)


def test_intervals_are_students_t_with_few_seeds() -> None:
    """No bootstrap over five seeds is a 95 % interval; over six it's the one."""
    values = np.array([1.1, 1.2, 1.3, 1.15, 1.25, 1.22])
    for seeds, is_t in ((5, True), (6, False)):
        of, gain = values[:seeds], gain_of(values[:seeds], np.ones(seeds))
        whole = paired_gain(of, np.ones(seeds), 0)
        assert (gain.low, gain.high) == ((whole.t_low, whole.t_high) if is_t else (whole.low, whole.high))


def test_without_wide_there_are_no_gains() -> None:
    """Nor is anything invented for arms that didn't run."""
    seeds = [seed_figures(seed, {}, ["popular", "wide_deep"]) for seed in range(2)]
    found = figures(seeds)
    assert "acquisition_gain_wide_deep" not in found
    assert "gain_low" not in found
    assert "gain_over_vw_low" not in found
    assert found["gain_over_popular"] == pytest.approx(22 / 10 - 1)
    assert [row.arm for row in rows(seeds)] == ["popular", "wide_deep", "oracle", "random"]


def test_the_table_shows_the_paper_beside_ours() -> None:
    """A row an arm, the shadows last; the paper's AUC and gain beside its three; no cell says nan."""
    text = text_of(table(SEEDS, "four seeds"))
    found = figures(SEEDS)
    assert "four seeds" in text
    assert "fewer than 6 seeds" in text
    assert "fewer than" not in text_of(table([*SEEDS, *SEEDS], "eight"))
    assert (found["gain_t_low_wide_deep"], found["gain_t_high_wide_deep"]) == (found["gain_low"], found["gain_high"])
    assert "nan" not in text
    cells = line_of(text, "wide_deep")
    assert cells[1:3] == [f"{found['auc_wide_deep']:.4f}", "0.728"]
    assert cells[3:5] == [f"{found['group_auc_wide_deep']:.4f}", f"{found['page_auc_wide_deep']:.4f}"]
    low, high = 100 * found["gain_low"], 100 * found["gain_high"]
    gain = 100 * found["acquisition_gain_wide_deep"]
    assert cells[8:10] == [f"{gain:+.1f} % [{low:+.1f}, {high:+.1f}]", "+3.9%"]
    assert line_of(text, "wide")[8:10] == ["", "+0.0%"]
    assert line_of(text, "vw")[2] == ""
    order = [line.split()[1] for line in text.splitlines() if line.startswith("│")]
    assert order == [*EXPECTED, "oracle", "random"]


def test_one_seed_has_gains_without_intervals() -> None:
    """Neither figures nor table pretend to know how it varies."""
    found = figures(SEEDS[:1])
    assert found["acquisition_gain_wide_deep"] == pytest.approx(0.1)
    assert not {"gain_low", "gain_high", "gain_over_deep_low"} & found.keys()
    assert line_of(text_of(table(SEEDS[:1], "one")), "wide_deep")[8] == "+10.0 %"


def test_plots_show_every_arm(tmp_path: Path) -> None:
    """A PNG of some size, and a text; regret is the mean over seeds, random's among it."""
    found = regrets(SEEDS)
    assert list(found) == [*EXPECTED, "random"]
    assert found["deep"] == pytest.approx(np.mean([seed.arms["deep"].regret for seed in SEEDS], axis=0))
    path = tmp_path / "plot.png"
    write_png(path, SEEDS, "four seeds")
    raw = path.read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert len(raw) > 20_000
    text = terminal_plot(SEEDS, 90)
    assert all(name in text for name in (*EXPECTED, "random", "regret"))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) == 90
    write_png(tmp_path / "one.png", SEEDS[:1], "one seed has no intervals")


def test_arms_that_show_or_cause_nothing_leave_gaps(tmp_path: Path) -> None:
    """A short run: periods without a page of some arm, an arm without any, a baseline without installs."""
    nan = float("nan")
    short = []
    for seed in SEEDS[:2]:
        arms = dict(seed.arms)
        arms["deep"] = replace(arms["deep"], expected=nan, installs=nan, regret=[nan] * PERIODS)
        arms["vw"] = replace(arms["vw"], regret=[*arms["vw"].regret[1:], nan])
        arms["wide"] = replace(arms["wide"], installs=0.0)
        short.append(replace(seed, arms=arms))
    found = figures(short)
    assert not {"acquisition_gain_deep", "installs_gain_vw", "regret_deep"} & found.keys()
    assert found.keys() >= {"acquisition_gain_vw", "regret_vw"}
    assert np.isfinite(list(found.values())).all()
    text = text_of(table(short, "short"))
    assert "nan" not in text
    assert "inf" not in text
    assert "deep" not in regrets(short)
    assert np.isnan(regrets(short)["vw"]).tolist() == [False] * (PERIODS - 1) + [True]
    assert "random" in terminal_plot(short, 90)
    write_png(tmp_path / "short.png", short, "short")


@pytest.mark.parametrize("name", ["plot.nonsense", "nowhere/plot.png"])
def test_a_plot_that_cant_be_written_is_said(tmp_path: Path, name: str) -> None:
    """With the option to change."""
    with pytest.raises(DataError, match="--plot"):
        write_png(tmp_path / name, SEEDS, "four seeds")


def test_each_ablation_changes_one_thing() -> None:
    """Of the config: within a table the settings differ in one field, which the row's name says."""
    chosen = settings(CONFIG)
    by_table: dict[str, list[Setting]] = {}
    for one in chosen:
        by_table.setdefault(one.table, []).append(one)
    field_of = {
        "joint or apart": set(), "sync interval": {"sync_ms"}, "label policy": {"policy"}, "base rate": {"rate"},
    }  # fmt: skip
    assert by_table.keys() == field_of.keys()
    for name, some in by_table.items():
        first = some[0].config
        changed = {
            field.name for one in some for field in fields(one.config)
            if getattr(one.config, field.name) != getattr(first, field.name)
        }  # fmt: skip
        assert changed == field_of[name] | ({"frozen_from"} if name == "sync interval" else set())
        assert first == replace(CONFIG, arms=first.arms, **{key: getattr(first, key) for key in field_of[name]})
    frozen = [one for one in by_table["sync interval"] if one.config.frozen_from < 1]
    assert [one.config.sync_ms for one in frozen] == [
        one.config.sync_ms for one in by_table["sync interval"] if one.name == "10 min"
    ]
    assert [one.name for one in frozen] == ["frozen after 20% of the pages"]
    compress = preset("usual").compress
    assert [one.config.sync_ms for one in by_table["sync interval"]][:5] == [
        max(1, round(1_000 * seconds / compress)) for seconds in (1, 60, 600, 3_600, 86_400)
    ]
    assert [one.config.policy for one in by_table["label policy"]] == ["wait", "eager", "fake_negative"]
    assert [one.arm for one in by_table["joint or apart"]] == ["wide_deep", "ensemble"]
    assert by_table["joint or apart"][0].config is by_table["joint or apart"][1].config, "in the same runs"


def test_each_scenario_is_compared_with_the_ordinary_course() -> None:
    """All that are built in, by name, nothing else changed."""
    ordinary, *others = scenario_settings(CONFIG)
    assert [one.name for one in others] == scenario_names()
    for one in others:
        assert (one.config.scenarios, one.against) == ([one.name], ordinary.name)
        assert replace(one.config, scenarios=()) == ordinary.config


def test_each_ablation_is_compared_with_a_row_of_its_table() -> None:
    """Which exists, and is what the spec or the paper has."""
    chosen = settings(CONFIG)
    names = {(one.table, one.name) for one in chosen}
    against = {one.table: one.against for one in chosen if one.against}
    assert against == {
        "joint or apart": "joint", "sync interval": "10 min", "label policy": "fake_negative",
    }  # fmt: skip
    assert all((one.table, one.against) in names for one in chosen if one.against)
    label = msgspec.structs.replace(CONFIG.spec.label, policy="wait")
    other = settings(replace(CONFIG, spec=msgspec.structs.replace(CONFIG.spec, label=label)))
    assert {one.against for one in other if one.table == "label policy"} == {"wait"}


def made_up(factor: float, arm: str = "wide_deep") -> list[SeedFigures]:
    """Three seeds in which an arm has so many times the installs that it has in others."""
    return [seed_figures(seed, {arm: factor * (1 + seed / 100)}, ["wide_deep", "ensemble"]) for seed in range(3)]


def test_ablation_rows_compare_with_the_right_row() -> None:
    """By table and name, whatever stands between them; another arm of the same runs where that is what is compared."""
    chosen = [
        Setting("one", "ours", CONFIG, against="ours"),
        Setting("one", "theirs", CONFIG, against="ours"),
        Setting("two", "ours", CONFIG),
        Setting("two", "apart", CONFIG, "ensemble", "ours"),
    ]
    found = ablation_rows(chosen, [made_up(1.0), made_up(1.5), made_up(2.0), made_up(2.0)])
    assert [(row.table, row.name) for row in found] == [(one.table, one.name) for one in chosen]
    assert np.isnan([found[0].gain.gain, found[2].gain.gain]).all()
    assert found[1].gain.gain == pytest.approx(0.5)
    ensemble = [seed.arms["ensemble"].expected for seed in made_up(2.0)]
    ours = [seed.arms["wide_deep"].expected for seed in made_up(2.0)]
    assert found[3].gain.gain == pytest.approx(np.sum(ensemble) / np.sum(ours) - 1)
    assert found[3].expected == pytest.approx(np.mean(ensemble))
    flat = ablation_figures(found)
    assert flat["one.theirs.gain"] == found[1].gain.gain
    assert flat["two.ours.auc"] == pytest.approx(0.71)
    assert "one.ours.gain" not in flat
    lines = text_of(ablation_table(found, "what it costs", 3))
    assert "fewer than 6 seeds" in lines
    assert "fewer than 6 seeds" not in text_of(ablation_table(found, "what it costs", 6))
    assert line_of(lines, "theirs")[-1].startswith("+50.0 % [")
    assert "nan" not in lines
    assert all(isinstance(row, AblationRow) for row in found)


def test_settings_that_share_a_config_share_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each config runs once a seed; its figures go to all of its settings."""
    asked: list[tuple[ExperimentConfig, int]] = []

    def run_seeds(runs: list[tuple[ExperimentConfig, int]], on_progress: object) -> list[SeedFigures]:
        asked.extend(runs)
        return [seed_figures(seed, {"wide_deep": config.sync_ms}) for config, seed in runs]

    monkeypatch.setattr("thalweg.experiment.ablations.run_seeds", run_seeds)
    shared, other = replace(CONFIG, sync_ms=2), replace(CONFIG, sync_ms=3)
    chosen = [Setting("t", "a", shared), Setting("t", "b", other), Setting("t", "c", shared, "vw")]
    found = run_settings(chosen, [0, 1], lambda pages: None)
    assert asked == [(shared, 0), (shared, 1), (other, 0), (other, 1)]
    assert [[seed.seed for seed in seeds] for seeds in found] == [[0, 1]] * 3
    assert found[0] == found[2] != found[1]
