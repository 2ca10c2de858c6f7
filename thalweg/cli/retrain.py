"""`thalweg retrain` and `thalweg evolve`: a new model from the live one, in this process."""

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import SpecError
from thalweg.cli.options import JsonFile, ModelSpec, model_name, print_stderr, read_settings, read_spec, write_json

if TYPE_CHECKING:
    from stream.runtime.settings import Settings
    from stream.spec.spec import Spec

Before = Annotated[
    Path | None,
    typer.Option("--before", help="The spec of a checkpoint that an earlier version wrote; others say it themselves."),
]


def retrain(spec: ModelSpec = None, before: Before = None, json_file: JsonFile = None) -> None:
    """Train a new model from the live one, and judge it.

    Run it beside the learner, on the same machine: it begins with the learner's newest checkpoint, freezes quantiles
    again, drops expired ids, trains the deep part on the newest examples (`[deep.warm_start] window`), then learns on
    until it has been compared with the live model on as many as `judged` says. Learning goes on meanwhile. The learner
    takes the new model at an example's index, if it is no worse, and publishes it. Exit code 1 when it is dropped, with
    the reason.
    """
    settings = read_settings()
    _run(settings, model_name(settings, spec), "by hand", None, read_spec(before) if before else None, json_file)


def evolve(
    spec: Annotated[Path | None, typer.Option("--spec", help="The changed spec (TOML); required.")] = None,
    before: Before = None,
    json_file: JsonFile = None,
) -> None:
    """Carry the model over to a changed spec.

    What both specs have is carried over: wide weights by cross, statistics by definition, embeddings by column, the
    tower's first layer by the names of its inputs. What is new starts fresh and learns the newest examples, as in
    `thalweg retrain`. For pages that were logged before, new columns are taken from the topics items and users (as they
    are now), and new statistics are computed as of the page's time; other new columns are missing there. Then start the
    learner with the changed spec from its next start on: rankers get it with the next version.
    """
    if spec is None:
        raise SpecError("no spec is named: pass the changed one with --spec FILE")
    new = read_spec(spec)
    _run(read_settings(), new.name, "evolve", new, read_spec(before) if before else None, json_file)


def _run(
    settings: "Settings", model: str, why: str, spec: "Spec | None", before: "Spec | None", json_file: Path | None
) -> None:
    from learner.retraining.retrain_process import NICENESS, run_retrain
    from stream.log.kafka_log import KafkaLog

    settings.need_kafka()
    os.nice(NICENESS)
    with closing(KafkaLog(settings)) as log:
        outcome = run_retrain(settings, log, model, why, print_stderr, spec, before)
    verdict = outcome.verdict
    print(
        f"normalised entropy {verdict.new:.4f}, live {verdict.live:.4f}, difference {verdict.low:+.4f} to "
        f"{verdict.high:+.4f}, on {verdict.examples:,} examples with {verdict.positives:,} positives"
    )
    print("the learner takes over the new model" if verdict.promoted else f"dropped: {verdict.reason}")
    write_json(json_file, {**verdict._asdict(), "offset": outcome.offset, "why": why})
    if not verdict.promoted:
        raise typer.Exit(1)
