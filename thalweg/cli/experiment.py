"""Commands for data scientists: a model's spec and its quality, before anything runs in production."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.runtime.errors import DataError, SettingsError
from thalweg.cli.options import (
    SPECS,
    JsonFile,
    SourceSpec,
    ago_ms,
    inspect_settings,
    print_stderr,
    read_settings,
    read_source_spec,
    read_spec,
    span_ms,
    write_json,
    write_output,
)

if TYPE_CHECKING:
    from ranker.versions.model import Version

STORE_SPEC = SPECS / "store.toml"
FULL, QUICK, ABLATE = (10, 100_000), (2, 5_000), (4, 20_000)  # seeds, pages

experiment = typer.Typer()


@experiment.command()
def init(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    out: Annotated[Path | None, typer.Option(help="Write the spec here; without it, print it.")] = None,
    name: Annotated[str, typer.Option(help="The model's name; without it, derived from the file's.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Draft a spec from events.

    The draft declares columns with types, statistics, crosses and label rules; a comment on each line gives the reason.
    """
    from thalweg.onboarding.draft import draft_spec

    if out and out.exists() and not force:
        raise DataError(f"{out} exists already: name another file with --out, or overwrite it with --force")
    text = draft_spec(source, read_settings(), name, print_stderr)
    if out is None:
        print(text, end="")
        return
    write_output(out, text.encode(), "--out")
    print_stderr(f"{out} is written; next: thalweg check {source} --spec {out}")


@experiment.command()
def check(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    spec: SourceSpec = None,
    json_file: JsonFile = None,
) -> None:
    """Validate events under a spec.

    Prints each problem with its count, first lines and remedy. Exit code 1 on errors.
    """
    from stream.events.topics import DAY_MS
    from thalweg.onboarding.check import Check, figures, findings_table
    from thalweg.sources.reading import read_source
    from thalweg.views.tables import print_table

    settings = read_settings()
    checked = Check(read_source_spec(source, spec), settings.events_days * DAY_MS)
    for line, event in read_source(source, settings):
        checked.add(line, event)
    found = checked.findings()
    print_table(findings_table(found))
    counts = figures(checked, found)
    write_json(json_file, counts)
    if counts["errors"]:
        raise typer.Exit(1)


@experiment.command()
def backtest(  # typer needs a parameter for each option, however many they are
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    spec: SourceSpec = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(help="Parts to learn: wide, deep or wide,deep. Repeat to compare. Default: the spec's."),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="wait, eager, fake_negative or delayed_negative; default: the spec's.")
    ] = "",
    peer: Annotated[
        str,
        typer.Option(
            help="vw and river get our features (numbers as quantiles); popular, rules and knn (item-kNN, V-SkNN) who "
            "installed what. By commas: vw,rules,knn. With one of the last three the next install is judged, too."
        ),
    ] = "",
    peer_rate: Annotated[
        list[str] | None,
        typer.Option(
            help="alpha, beta, l1, l2 of vw, river, or an option of a session peer, such as vsknn_k=500 "
            "(docs/peers.md); repeat it. Defaults tuned on MovieLens."
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Ask about every nth next install: all rank 100 items.")] = 1,
    limit: Annotated[int, typer.Option(min=0, help="Stop after this many pages; 0: play all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed for the deep part's initial weights (the only randomness).")] = 0,
    pack: Annotated[
        int,
        typer.Option(
            min=1,
            help="Events per record. Micro-batches don't cross records, so this changes the deep part's result.",
        ),
    ] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw AUC over time, reliability and drift into this PNG.")] = None,
    dump_vw: Annotated[Path | None, typer.Option(help="Write Vowpal Wabbit's input (docs/figures.md).")] = None,
    off_policy: Annotated[
        bool,
        typer.Option(
            "--off-policy",
            help="Estimate what the models would have earned, had they filled the logged pages (docs/off-policy.md).",
        ),
    ] = False,
    version: Annotated[
        list[int] | None,
        typer.Option(min=1, help="--off-policy: ask this published version; repeat to compare.", show_default="models"),
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(
            help="--off-policy: show any item with this probability; repeat to compare. Default: 0, or --target alone."
        ),
    ] = None,
    target: Annotated[
        list[Path] | None,
        typer.Option(help="--off-policy: fill pages by this TOML file's [rules] and [explore]; repeat to compare."),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="--off-policy: greatest weight.", show_default="weights aren't clipped")
    ] = None,
    weighting: Annotated[
        Literal["cascade", "independent"] | None,
        typer.Option(help="--off-policy: whether a place's weight has those above it in it.", show_default="cascade"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Join and learn in one process, and judge the predictions.

    Each page is predicted when it is shown and learned when the joiner emits its label. A second run prints the same
    figures. There are two AUCs:

    * auc: of the predictions at page time, judged by the label as of the close of the page's window.
    * auc_arrival: of the learner's predictions, each just before it learns the label.

    Figures of ranking (AUC, NDCG@10, HR@10) are means over pages, and over user sessions, that have both labels;
    docs/figures.md says when they mislead. Intervals are 95 %, by bootstrap over users.
    """
    of_off_policy = {
        "--version": version, "--epsilon": epsilon, "--target": target, "--clip": clip is not None,
        "--weighting": weighting,
    }  # fmt: skip
    of_contest = {"--peer": peer, "--peer-rate": peer_rate, "--every": every > 1, "--plot": plot, "--dump-vw": dump_vw}
    refuse_misplaced(of_contest if off_policy else of_off_policy, "--off-policy", is_given=off_policy)
    from thalweg.backtest.contest import ContestConfig, run_contest, vw_command
    from thalweg.backtest.plots import curves, reliabilities, write_png
    from thalweg.backtest.rank_report import rank_figures, rank_judgements, rank_tables
    from thalweg.backtest.report import figures, judgements, tables
    from thalweg.sources.play import open_source
    from thalweg.views.tables import print_table

    config = ContestConfig(parts or (), policy, peer, peer_rate or (), every, limit, seed, pack, dump_vw)
    read, events = read_source_spec(source, spec), open_source(source, read_settings())
    if off_policy:
        from thalweg.backtest.off_policy import EstimateOptions
        from thalweg.backtest.off_policy_report import off_policy_figures, off_policy_table
        from thalweg.backtest.off_policy_run import TargetConfig, run_off_policy

        options = EstimateOptions(math.inf if clip is None else clip, weighting or "cascade", seed=seed)
        targets = TargetConfig(epsilon or (), target or (), load_versions(version or (), read.name))
        found = run_off_policy(read, events, config, targets, options)
        print_table(off_policy_table(found))
        write_json(json_file, off_policy_figures(found))
        return
    scores = run_contest(read, events, config)
    judged, ranked = judgements(scores), rank_judgements(scores)
    for table in [*tables(scores, judged), *rank_tables(scores, ranked)]:
        print_table(table)
    if dump_vw:
        print_stderr(f"{dump_vw} is written; to repeat it: {vw_command(config.rates, dump_vw)}")
    if plot:
        title = f"{source}: {scores.pages:,} pages, each predicted when it was shown"
        write_png(plot, curves(scores), reliabilities(scores), title)
        print_stderr(f"{plot} is written")
    write_json(json_file, figures(scores, judged) | rank_figures(scores, ranked))


@experiment.command("experiment")
def run_experiment(  # typer needs a parameter for each option, however many they are
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs, each of a world of its own: seeds 0, 1, ...", show_default="10")
    ] = None,
    pages: Annotated[int | None, typer.Option(min=100, help="Pages of each run.", show_default="100000")] = None,
    rate: Annotated[
        str, typer.Option(help="Base rate of installs: common (5 %), usual (1 %), rare (0.1 %).")
    ] = "usual",
    arms: Annotated[
        str, typer.Option(help="Arms, by commas: popular, wide, deep, wide_deep, vw, ensemble.")
    ] = "popular,wide,deep,wide_deep,vw",
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="What happens in the store, by name or TOML file (docs/store.md); repeat to combine."),
    ] = None,
    spec: Annotated[
        Path, typer.Option("--spec", help="The models' spec (TOML).", show_default="specs/store.toml")
    ] = STORE_SPEC,
    quick: Annotated[
        bool, typer.Option("--quick", help="2 seeds of 5,000 pages, to see that it runs: too few to conclude from.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Compare choices of model and training instead: 4 seeds of 20,000 pages.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw gains and regret into this PNG.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Read a running log instead, and compare the arms that its pages name.")
    ] = False,
    control: Annotated[str, typer.Option(help="--live: the arm that others are compared with.")] = "popular",
    shares: Annotated[
        str,
        typer.Option(
            help="--live: users' declared shares, such as popular=90,wide_deep=10.", show_default="equal ones"
        ),
    ] = "",
    since: Annotated[str, typer.Option(help="--live: only labels of the last 90s, 30m, 6h, 7d.")] = "",
    every: Annotated[str, typer.Option(help="--live: look again after this long, such as 5s, until Ctrl-C.")] = "",
    json_file: JsonFile = None,
) -> None:
    """Compare rankers in closed loop: the paper's table 1, repeated.

    A simulated app store with known truth asks each arm for its users' pages, and what it shows is what it learns from.
    Every learning arm learns from all traffic; only serving is split. The same seeds print the same figures.

    With --live it reads the labels of a running system, whose impressions name their variant: an A/B test of your own.
    """
    from rich.console import Console

    of_live = {"--control": control != "popular", "--shares": shares, "--since": since, "--every": every}
    of_simulation = {
        "--seeds": seeds, "--pages": pages, "--scenario": scenario, "--quick": quick, "--ablate": ablate,
        "--plot": plot,
    }  # fmt: skip
    refuse_misplaced(of_simulation if live else of_live, "--live", is_given=live)
    if live:
        from thalweg.experiment.assignment import parse_shares
        from thalweg.experiment.live import LiveOptions, run_live

        since_ms, every_s = ago_ms(since) if since else None, span_ms(every) / 1_000 if every else 0.0
        options = LiveOptions(control, parse_shares(shares), since_ms, every_s)
        write_json(json_file, run_live(inspect_settings(), options, Console()))
        return
    from thalweg.experiment.conduct import Plan, conduct
    from thalweg.experiment.experiment import ExperimentConfig

    usual_seeds, usual_pages = QUICK if quick else ABLATE if ablate else FULL
    names = [arm.strip() for arm in arms.split(",")]
    config = ExperimentConfig(read_spec(spec), rate, pages or usual_pages, names, scenario or ())
    write_json(json_file, conduct(Plan(config, seeds or usual_seeds, ablate, plot), Console()))


def load_versions(numbers: Sequence[int], model: str) -> "list[Version]":
    """Published versions of a model. Raises SnapshotError."""
    from ranker.versions.version_loader import load_version
    from stream.snapshots.redis_store import RedisStore

    if not numbers:
        return []
    with closing(RedisStore(inspect_settings(), model)) as store:
        return [load_version(store, model, number) for number in numbers]


def refuse_misplaced(options: Mapping[str, object], switch: str, *, is_given: bool) -> None:
    """Raises SettingsError when one of these options is given, which go against (`is_given`) or only with a switch."""
    if misplaced := [name for name, value in options.items() if value]:
        where = "don't go together" if is_given else f"goes with {switch} only"
        raise SettingsError(f"{misplaced[0]}{f' and {switch}' * is_given} {where}: leave one out")


@experiment.command()
def schema() -> None:
    """Print the JSON schema of a spec file, for editors.

    Committed as specs/spec.schema.json.
    """
    from stream.spec.spec_file import json_schema

    print(json.dumps(json_schema(), indent=2))
