"""`thalweg apply-topics`: topics as settings and a spec want them, and whose formats are written."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import SpecError
from thalweg.cli.options import JsonFile, read_settings, read_spec, write_json

if TYPE_CHECKING:
    from stream.runtime.settings import Settings


def topics(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also lower values that an operator raised.")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only create missing topics; only show what else differs.")
    ] = False,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", help="First show how long this spec needs records, and check that events keeps them."),
    ] = None,
    finalize: Annotated[
        bool,
        typer.Option("--finalize", help="Write this release's formats; then no earlier release can run here."),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Create missing topics and correct their configuration.

    The difference is shown first. Retention is THALWEG_EVENTS_DAYS and THALWEG_EXAMPLES_DAYS. A value that an operator
    has raised above its declaration, such as a retention, stays without --force. Partitions are added to
    rank.requests and rank.replies alone, replicas never changed. With --missing a topic that exists stays as it is:
    for a start of services, where what an operator has set must last.

    After an upgrade rooms write what the release before reads. Once all of them run this release, --finalize ends that;
    restart learners then.
    """
    from stream.events.topics import DAY_MS
    from stream.joiner.label_rules import label_rules
    from stream.log.kafka_admin import apply_topics, plan_topics
    from thalweg.cli.format_level import format_level_line
    from thalweg.text.retention import REMEDY, retention_problem

    settings = read_settings()
    if spec and (short := retention_problem(label_rules(read_spec(spec)), settings.events_days * DAY_MS)):
        raise SpecError(f"{spec}: {short}: {REMEDY}")
    if spec:
        _print_needs(settings, spec)
    if finalize and not dry_run:  # first: topics may depend on it
        print(format_level_line(settings, finalize=True))
    plan = plan_topics(settings, force=force)
    for change in plan:
        print(change)
    due = [change for change in plan if change.action != "leave"]
    actions = {"create"} if missing else {"create", "alter"}
    made = [] if dry_run else [change for change in due if change.action in actions]
    if not due:
        print("all topics are as they should be")
    if made:
        apply_topics(settings, made)
        print(f"{len(made)} changes made")
    if not finalize and not (dry_run and due):  # else topics may be missing
        print(format_level_line(settings, finalize=False))
    write_json(json_file, {"changes": len(due), "made": len(made)})


def _print_needs(settings: "Settings", spec: Path) -> None:
    from stream.joiner.label_rules import label_rules
    from stream.log.kafka_log import KafkaLog
    from stream.runtime.errors import MissingTopic
    from thalweg.text.retention import retention_needs, window_span_ms

    read = read_spec(spec)
    window = read.deep.warm_start.window
    with closing(KafkaLog(settings)) as log:
        try:
            span_ms = window_span_ms(log, window)
        except MissingTopic:
            span_ms = None
    for line in retention_needs(label_rules(read), span_ms, window, settings):
        print(line)
