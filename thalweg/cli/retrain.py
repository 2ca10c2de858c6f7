"""`thalweg retrain` and `thalweg evolve`: a new model from the live one, in this process."""

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import SpecError
from thalweg.cli.options import JsonFile, ModelSpec, model_name, print_stderr, read_settings, read_spec, write_json

if TYPE_CHECKING:
    from stream.log.protocol import Log
    from stream.runtime.settings import Settings
    from stream.spec.spec import Spec
    from thalweg.exports.past import Past

Before = Annotated[
    Path | None,
    typer.Option("--before", help="The spec of a checkpoint that an earlier version wrote; others say it themselves."),
]


Source = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Learn from nothing: files of `thalweg export examples`, then the log."),
]


def retrain(
    spec: ModelSpec = None, source: Source = None, before: Before = None, json_file: JsonFile = None
) -> None:  # fmt: skip
    """Train a new model from the live one, and judge it.

    Run it beside the learner, on the same machine: it begins with the learner's newest checkpoint, freezes quantiles
    again, drops expired ids, trains the deep part on the newest examples (`[deep.warm_start] window`), then learns on
    until it has been compared with the live model on as many as `judged` says. Learning goes on meanwhile. The learner
    takes the new model at an example's index, if it is no worse, and publishes it. Exit code 1 when it is dropped, with
    the reason.

    With --from the new model begins with nothing, and learns all examples of the files and of the log from there on,
    then is judged in the same way. A model that has no checkpoint yet, of a spec with a new name, gets its first one:
    start its learner afterwards. docs/export.md says what is refused.
    """
    settings = read_settings()
    name = model_name(settings, spec)
    _run(settings, name, "by hand", None, read_spec(before) if before else None, json_file, source, spec)


def evolve(
    spec: Annotated[Path | None, typer.Option("--spec", help="The changed spec (TOML); required.")] = None,
    source: Source = None,
    before: Before = None,
    json_file: JsonFile = None,
) -> None:
    """Carry the model over to a changed spec.

    What both specs have is carried over: wide weights by cross, statistics by definition, embeddings by column, the
    tower's first layer by the names of its inputs. What is new starts fresh and learns the newest examples, as in
    `thalweg retrain`. For pages that were logged before, new columns are taken from the topics items and users (as they
    are now), and new statistics are computed as of the page's time; other new columns are missing there. Then start the
    learner with the changed spec from its next start on: rankers get it with the next version.

    With --from the changed model begins with nothing, as in `thalweg retrain`; the spec can't add statistics then.
    """
    if spec is None:
        raise SpecError("no spec is named: pass the changed one with --spec FILE")
    new = read_spec(spec)
    _run(read_settings(), new.name, "evolve", new, read_spec(before) if before else None, json_file, source)


def _past(folder: Path, log: "Log") -> "Past":
    from thalweg.exports.past import past_of

    return past_of(folder, log)


def _run(
    settings: "Settings", model: str, why: str, spec: "Spec | None", before: "Spec | None", json_file: Path | None,
    source: Path | None, first: Path | None = None,
) -> None:  # fmt: skip
    """`first`: the spec of a model that has no checkpoint."""
    from learner.checkpoints.checkpoint_files import CheckpointFiles
    from learner.retraining.relearning import write_first_checkpoint
    from learner.retraining.retrain_files import checkpoints_of
    from learner.retraining.retrain_process import NICENESS, run_retrain
    from stream.log.kafka_log import KafkaLog

    settings.need_kafka()
    os.nice(NICENESS)
    with closing(KafkaLog(settings)) as log:
        past = _past(source, log) if source else None
        if past and first and not CheckpointFiles(checkpoints_of(settings, model), owned=False).paths():
            meta = write_first_checkpoint(settings, log, read_spec(first), past, print_stderr)
            print(f"{model} begins with {meta.examples:,} examples, to offset {meta.offset:,}: start its learner")
            write_json(json_file, {"examples": meta.examples, "offset": meta.offset, "why": "first"})
            return
        outcome = run_retrain(settings, log, model, why, print_stderr, spec, before, past=past)
    verdict = outcome.verdict
    print(
        f"normalised entropy {verdict.new:.4f}, live {verdict.live:.4f}, difference {verdict.low:+.4f} to "
        f"{verdict.high:+.4f}, on {verdict.examples:,} examples with {verdict.positives:,} positives"
    )
    print("the learner takes over the new model" if verdict.promoted else f"dropped: {verdict.reason}")
    write_json(json_file, {**verdict._asdict(), "offset": outcome.offset, "why": why})
    if not verdict.promoted:
        raise typer.Exit(1)
