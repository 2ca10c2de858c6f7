"""`thalweg experiment` from the command line: what it writes, and its errors of one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thalweg.cli.main import app
from thalweg.experiment import conduct
from thalweg.experiment.experiment import run_seed


@pytest.fixture(autouse=True)
def _nowhere(local: Path) -> None:
    """No stack, no settings."""


def said_once(words: list[str]) -> str:
    """The one line on stderr with which the command fails before it runs anything."""
    ran = CliRunner().invoke(app, ["experiment", *words])
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert type(ran.exception) is SystemExit
    (line,) = ran.stderr.splitlines()
    assert line.startswith("thalweg: ")
    return line


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--arms", "popular,wide_dep"], "no arm 'wide_dep': did you mean 'wide_deep'"),
        (["--arms", "popular,vw"], "at least one arm must be a model of ours"),
        (["--arms", "wide,deep,wide"], "an arm is named twice"),
        (["--rate", "usul"], "no preset 'usul'; did you mean 'usual'"),
        (["--rate", "comon", "--ablate"], "did you mean 'common'"),
        (["--scenario", "flp"], "no scenario 'flp'; did you mean 'flip'"),
        (["--scenario", "flip", "--scenario", "nowhere.toml"], "nowhere.toml can't be read"),
        (["--spec", "nowhere.toml"], "nowhere.toml"),
        (["--ablate", "--scenario", "flip"], "leave out --scenario"),
        (["--ablate", "--plot", "plot.png"], "leave out --plot"),
        (["--plot", "nowhere/plot.png"], "--plot takes a file ending in .png"),
        (["--plot", "plot.nonsense"], "--plot takes a file ending in .png"),
        (["--since", "6h"], "--since goes with --live only"),
        (["--control", "wide"], "--control goes with --live only"),
        (["--live", "--seeds", "3"], "--seeds and --live don't go together"),
        (["--live"], "thalweg up"),
        (["--live", "--since", "soon"], "'soon' isn't a duration"),
        (["--live", "--shares", "popular=90,popular=10"], "shares are written as popular=90,wide_deep=10"),
        (["--live", "--shares", "popular:wide"], "not 'popular:wide'"),
        (["--live", "--shares", "popular=0"], "one above 0"),
    ],
)
def test_what_is_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch, words: list[str], remedy: str) -> None:
    """Before any run begins."""

    def runs(*_: object) -> None:
        raise AssertionError("nothing runs")

    for module in ("conduct", "ablations"):
        monkeypatch.setattr(f"thalweg.experiment.{module}.run_seeds", runs)
    assert remedy in said_once(words)


def test_a_run_prints_its_table_and_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table, plots and keys; the report and the plot where they were asked for. (CI runs seeds in processes, too.)"""
    monkeypatch.setattr(conduct, "run_seeds", lambda runs, on_progress: [run_seed(*one) for one in runs])
    monkeypatch.setenv("COLUMNS", "200")
    report, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    command = ["experiment", "--pages", "100", "--seeds", "1", "--arms", "popular,wide,wide_deep", "--rate", "common"]
    command += ["--scenario", "hit", "--json", str(report), "--plot", str(plot)]
    ran = CliRunner().invoke(app, command)
    assert (ran.exit_code, ran.stderr) == (0, "")
    found = json.loads(report.read_text())
    assert found.keys() >= {
        "acquisition_gain_wide_deep", "gain_over_popular", "gap_closed", "auc_wide", "auc_wide_deep", "page_items_s",
        "page_items_s_all", "expected_oracle", "regret_random", "seeds", "pages",
    }  # fmt: skip
    assert found["seeds"] == 1
    assert found["pages"] >= 100
    assert min(found["page_items_s"], found["page_items_s_all"]) > 0
    assert found["gap_closed_oracle"] == pytest.approx(1)
    assert "1 seed of 100 pages, base rate common, scenarios hit" in ran.stdout
    lines = [line for line in ran.stdout.splitlines() if line.startswith("│ wide_deep ")]
    assert len(lines) == 1
    assert f"{found['auc_wide_deep']:.4f}" in lines[0]
    assert f"{100 * found['acquisition_gain_wide_deep']:+.1f} %" in lines[0]
    assert f"{plot} is written" in ran.stdout
    assert "before anything of hit happens" in ran.stdout, "100 pages are 15 minutes"
    assert plot.read_bytes().startswith(b"\x89PNG")
