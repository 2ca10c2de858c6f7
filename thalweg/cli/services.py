"""Commands that run Thalweg: the local stack, topics, services, replays."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.logs import log_to_stderr
from thalweg.cli.console import console
from thalweg.cli.extras import Rooms
from thalweg.cli.options import (
    AcceptGap,
    JsonFile,
    ModelSpec,
    SourceSpec,
    SpecFile,
    model_names,
    print_stderr,
    read_settings,
    read_source_spec,
    read_spec,
    warn,
    warn_of_memory,
    write_json,
)
from thalweg.cli.topics import topics

if TYPE_CHECKING:
    from stream.runtime.settings import Settings

services = typer.Typer()
run_app = typer.Typer(cls=Rooms, no_args_is_help=True, help="Run a service until Ctrl-C: joiner, learner or ranker.")
services.add_typer(run_app, name="run")
services.command()(console)


@services.command()
def up() -> None:
    """Start the local stack: one Kafka and one Redis.

    They listen on free loopback ports. Does nothing if the stack is already up.
    """
    from thalweg.stack import stack

    stack.up(read_settings(with_stack=False).local, progress=print_stderr)


@services.command()
def down() -> None:
    """Stop the local stack, and a demo that was kept up.

    Data and logs stay.
    """
    from thalweg.demo.demo_state import DemoState
    from thalweg.stack import stack

    settings = read_settings(with_stack=False)
    local = settings.local
    demo = DemoState.read(local)
    if demo:
        demo.stop(local, settings, progress=print_stderr)
        if not (local / "stack.json").exists():
            return
    stack.down(local, progress=print_stderr)


@services.command()
def status(json_file: JsonFile = None) -> None:
    """Show which servers and services run here, and their state.

    Also how far each service is behind the topics that it reads.

    Exit code 1 when a server or registered service isn't running.
    """
    from thalweg.demo.demo_state import DemoState
    from thalweg.stack.status import statuses
    from thalweg.views.tables import print_table, status_table

    settings = read_settings(with_stack=False)
    found = statuses(settings.local)
    demo = DemoState.read(settings.local)
    if demo:
        found += statuses(Path(demo.local))
    print_table(status_table(found))
    lags = {f"{one.name} {lag.topic}": lag for one in found for lag in one.lags}
    states: dict[str, object] = {one.name: one.state for one in found}
    states |= {f"{name} lag_records": lag.records for name, lag in lags.items()}
    write_json(json_file, states | {f"{name} lag_seconds": lag.seconds for name, lag in lags.items()})
    if not found or any(one.state != "up" for one in found):
        raise typer.Exit(1)


@services.command()
def doctor(json_file: JsonFile = None) -> None:
    """Check what Thalweg needs; list all settings.

    For what is missing it names the command that installs it. Exit code 1 when something needed is missing.
    """
    from thalweg.stack.doctor import requirements, requirements_table, settings_table
    from thalweg.views.tables import print_table

    found = requirements(read_settings(with_stack=False))
    print_table(requirements_table(found))
    print_table(settings_table())
    write_json(json_file, {one.name: one.ok for one in found})
    if any(one.needed and not one.ok for one in found):
        raise typer.Exit(1)


services.command("apply-topics")(topics)


@services.command()
def replay(
    source: Annotated[
        str, typer.Argument(help="A file of events as JSON lines, - for stdin, or movielens or openbandit.")
    ],
    spec: SourceSpec = None,
    rate: Annotated[float, typer.Option(min=0, help="Pages a second; 0: as fast as it goes.")] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Stop after this many pages; 0: play all.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Play a data set or a file of events into the log.

    Computes features for pages that have none. Waits while Kafka is down. Writes ticks at the end, so that windows
    close.
    """
    from thalweg.sources.play import play

    read = read_source_spec(source, spec)
    played = play(source, read_settings(), read, rate=rate or None, limit=limit or None)
    for name, value in played.items():
        print(f"{name:12} {value}")
    write_json(json_file, played)


def _logging(room: str) -> "Settings":
    """The settings; logs as they say from now on, also what the imports that follow warn of."""
    settings = read_settings()
    log_to_stderr(settings, room)
    return settings


@run_app.command("joiner")
def run_joiner(
    spec: SpecFile = None,
    accept_gap: AcceptGap = False,
    accept_rules: Annotated[
        bool,
        typer.Option(
            "--accept-rules",
            help="Resume although the commit was made by other label rules or another model. Open pages then follow "
            "the new rules; emitted labels stay.",
        ),
    ] = False,
) -> None:
    """Join pages and installs to labelled examples.

    To run several, give each its own THALWEG_WORKER.
    """
    settings = _logging("joiner")

    from stream.events.topics import DAY_MS
    from stream.joiner.label_rules import label_rules
    from stream.joiner.record_processor import JoinerOptions
    from stream.joiner.supervisor import run_joiner as run
    from thalweg.text.retention import REMEDY, retention_problem

    read = read_spec(spec)
    settings.need_kafka()
    rules = label_rules(read)
    if short := retention_problem(rules, settings.events_days * DAY_MS):
        warn(f"{short}: {REMEDY}")  # an operator may have raised the topic's retention
    options = JoinerOptions(
        accept_gap=accept_gap,
        accept_rules=accept_rules,
        model=read.name,
        uncommitted_max=settings.uncommitted_max,
        poison_s=settings.joiner_poison_s,
        outage_grace_s=settings.joiner_outage_grace_s,
    )
    run(settings, rules, options)


@run_app.command("learner")
def run_learner(spec: SpecFile = None, accept_gap: AcceptGap = False) -> None:
    """Learn the examples, write checkpoints, publish snapshots.

    One learner per model: a second one takes over and the first exits.
    """
    if not find_spec("torch"):  # only a new model imports it, perhaps after hours
        raise ModuleNotFoundError(name="torch")
    settings = _logging("learner")

    from learner.memory import learner_needs
    from learner.service import run_learner as run
    from stream.snapshots.redis_memory import redis_memory, redis_problem

    read = read_spec(spec)
    warn_of_memory("learner", settings, read, partial(learner_needs, settings=settings))
    memory = redis_memory(settings, read.name)
    if memory and (problem := redis_problem(memory, read)):
        warn(f"Redis's {problem}")
    run(settings, read, accept_gap=accept_gap)


@run_app.command("ranker")
def run_ranker(
    spec: ModelSpec = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model to serve, beside the spec's; several times for several models."),
    ] = None,
    named_only: Annotated[
        bool, typer.Option("--named-only", help="Leave requests on Kafka that name no model to other rankers.")
    ] = False,
    http: Annotated[
        str,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help="Also answer over HTTP at this address; port 0: any free one.",
            show_default="THALWEG_RANKER_HTTP",
        ),
    ] = "",
) -> None:
    """Answer ranking requests with the live versions of its models.

    A live version is the pinned one, else the newest. The first model answers requests that name none. To run several
    rankers, give each its own THALWEG_WORKER: those of a model share its requests.
    """
    settings = _logging("ranker")

    from ranker.memory import ranker_needs
    from ranker.serving.process import run_ranker as run

    if spec:
        warn_of_memory("ranker", settings, read_spec(spec), ranker_needs)
    models = model_names(settings, spec, model or [])
    address = http or settings.ranker_http
    if not address:
        run(settings, models, named_only=named_only)
        return
    from ranker.http.serve import serve_http

    run(settings, models, named_only=named_only, beside=partial(serve_http, settings, address))
