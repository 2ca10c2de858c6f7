"""Commands for operators: was the join right, what became of a page, what was not taken in, what Redis has lost."""

from typing import Annotated

import typer

from stream.errors import SettingsError
from thalweg.options import SPEC, JsonFile, SpecFile, kept_settings, read_spec, write_json

operate = typer.Typer()
dlq_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Dead letters: what was not taken in, and why.")
rebuild_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make copies anew from the log.")
operate.add_typer(dlq_app, name="dlq")
operate.add_typer(rebuild_app, name="rebuild")


def ago_ms(duration: str) -> int:
    """The moment so long before now. Raises SettingsError when it isn't a duration such as 90s, 30m, 6h, 7d."""
    from stream.clock import now_ms
    from stream.spec import duration_ms

    try:
        return now_ms() - duration_ms(duration)
    except AttributeError:
        raise SettingsError(f"{duration!r} isn't a duration: write it as 90s, 30m, 6h or 7d") from None


@operate.command()
def audit(
    spec: SpecFile = SPEC,
    since: Annotated[
        str, typer.Option(help="Judge only pages appended in the last so long: 90s, 30m, 6h, 7d.", show_default="all")
    ] = "",
    json_file: JsonFile = None,
) -> None:
    """Was the join right? Joins all of `events` a second time, in its own simple way, and compares with `examples`.

    It shares no code with the joiner. Judged are the pages that the joiner has committed to be finished with;
    others are `pending` (their window, or the time for corrections, is still open) or `behind` (the joiner hasn't
    got there: look again later, or see whether it runs). Duplicates are what a restart tells again: they have the
    same id and are learned once. Exit code 1 if a label is missing, wrong, or surplus.

    A million labels take about ten seconds and 1 GB of memory; with more in the log use --since.
    """
    from stream.kafka_admin import group_commits
    from stream.kafka_log import KafkaLog
    from stream.topics import EVENTS
    from thalweg import audit as auditing
    from thalweg.offline import audit_rules
    from thalweg.report import audit_table
    from thalweg.show import printed

    settings = kept_settings()
    rules = audit_rules(read_spec(spec))
    since_ms = ago_ms(since) if since else None
    log = KafkaLog(settings)
    try:
        # Before anything is read: what the joiner was finished with by then can be read.
        finished_ms = auditing.finished_of(group_commits(settings, auditing.GROUP, EVENTS.name))
        found = auditing.audit(log, rules, finished_ms, since_ms)
    finally:
        log.close()
    printed(audit_table(found))
    for one in found.differences:
        print(f"{one.fault}: page {one.request_id}, item {one.item} at {one.position}: {one.text}")
    print(found.verdict)
    write_json(json_file, auditing.flat(found))
    if not found.fine:
        raise typer.Exit(1)
