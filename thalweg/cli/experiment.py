"""Commands for data scientists: a model's spec and its quality, before anything runs in production."""

import json
from pathlib import Path
from typing import Annotated

import typer

from stream.runtime.errors import DataError
from thalweg.cli.options import JsonFile, SourceSpec, read_settings, read_source_spec, say, write_json

lab = typer.Typer()


@lab.command()
def init(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    out: Annotated[Path | None, typer.Option(help="Write the spec here; without it, print it.")] = None,
    name: Annotated[str, typer.Option(help="The model's name; else it's made of the file's.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Draft a spec from events, each line with its reason.

    Columns with types, statistics, crosses and labels.
    """
    from thalweg.onboarding.draft import drafted

    if out and out.exists() and not force:
        raise DataError(f"{out} is there already: name another file with --out, or write over it with --force")
    text = drafted(source, read_settings(), name, say)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as bad:
        raise DataError(f"{out} can't be written: {bad.strerror}; name another file with --out") from None
    say(f"{out} is written; next: thalweg check {source} --spec {out}")


@lab.command()
def check(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    spec: SourceSpec = None,
    json_file: JsonFile = None,
) -> None:
    """Say what is wrong with events under a spec.

    Counts, first lines, what to do. Exit code 1 on errors.
    """
    from thalweg.onboarding.check import Check, figures, findings_table
    from thalweg.sources.reading import read_through
    from thalweg.views.show import printed

    checked = Check(read_source_spec(source, spec))
    for line, event in read_through(source, read_settings()):
        checked.take(line, event)
    found = checked.findings()
    printed(findings_table(found))
    counts = figures(checked, found)
    write_json(json_file, counts)
    if counts["errors"]:
        raise typer.Exit(1)


@lab.command()
def backtest(
    source: Annotated[str, typer.Argument(help="A file of events as JSON lines, - for stdin, or a data set's name.")],
    spec: SourceSpec = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(help="wide, deep, or wide,deep; repeat it to compare several. Without it: the spec's."),
    ] = None,
    policy: Annotated[str, typer.Option(help="wait, eager or fake_negative, in place of the spec's.")] = "",
    peer: Annotated[
        str,
        typer.Option(
            help="vw, river, or both (vw,river): they get the same features in the same order (numbers as quantiles)."
        ),
    ] = "",
    peer_rate: Annotated[
        list[str] | None,
        typer.Option(
            help="alpha, beta, l1, l2 of vw, or river, such as alpha=0.1; repeat it. They're tuned to movielens."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many pages; 0: play all.")] = 0,
    seed: Annotated[
        int, typer.Option(help="Of the deep part's first layers. Nothing else is random; peers start at zero.")
    ] = 0,
    pack: Annotated[
        int,
        typer.Option(min=1, help="Events a record: micro-batches are cut within records, so it changes the deep part."),
    ] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw AUC over time into this PNG, too.")] = None,
    dump_vw: Annotated[Path | None, typer.Option(help="Write what Vowpal Wabbit is given, a line an example.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Join and learn in one process, and judge the predictions.

    A second run prints the same figures. Each page is predicted when it is shown, by the model as it is then, and
    learned when the joiner emits its label: that is `auc`. `auc_arrival` is the learner's own, just before it learns.
    What counts is the label as of the close of the page's window, whatever the policy.

    With --dump-vw FILE anyone can do Vowpal Wabbit's part again:
    python -m vowpalwabbit -d FILE ARGUMENTS -p PREDICTIONS, the ARGUMENTS being those that are printed. A line
    without a label is a page that is predicted, one with a label is learned; the tag after ' is the example's number
    in the order of pages. The first prediction of a tag is the one at page time.
    """
    from thalweg.backtest.contest import ContestConfig, by_hand, figures, hold, peer_rates, scores_table, slices_table
    from thalweg.backtest.plots import curves, terminal, write_png
    from thalweg.sources.play import open_source
    from thalweg.views.show import printed

    config = ContestConfig(parts or (), policy, peer, peer_rate or (), limit, seed, pack, dump_vw)
    scores = hold(read_source_spec(source, spec), open_source(source, read_settings()), config)
    found = curves(scores)
    print(terminal(found))
    printed(scores_table(scores))
    if scores.slices:
        printed(slices_table(scores))
    if dump_vw:
        command = by_hand(peer_rates(peer_rate or ())).replace("FILE", str(dump_vw))
        say(f"{dump_vw} is written; again by hand: {command}")
    if plot:
        write_png(plot, found, f"{source}: {scores.pages:,} pages, each predicted when it was shown")
        say(f"{plot} is drawn")
    write_json(json_file, figures(scores))


@lab.command()
def schema() -> None:
    """Print the JSON schema of a spec file, for editors.

    specs/spec.schema.json is this.
    """
    from stream.spec.spec_file import json_schema

    print(json.dumps(json_schema(), indent=2))
