"""Commands for operators: audit of the join, trace of a page, dead letters, rebuilding what Redis has lost."""

from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import DataError, SettingsError
from thalweg.cli.acls import acls
from thalweg.cli.backup import backup, restore
from thalweg.cli.erase import erase
from thalweg.cli.explain import explain
from thalweg.cli.export import export_app
from thalweg.cli.options import JsonFile, ago_ms, inspect_settings, print_stderr, read_spec, write_json, write_output
from thalweg.cli.retrain import evolve, retrain
from thalweg.cli.size import size
from thalweg.cli.snapshots import snapshots

if TYPE_CHECKING:
    from stream.log.kafka_log import KafkaLog
    from stream.log.protocol import Log
    from stream.runtime.settings import Settings
    from thalweg.views.dead_letters import DeadLetterRecord

operations = typer.Typer()
operations.add_typer(snapshots, name="snapshots")
operations.command()(explain)
operations.command()(retrain)
operations.command()(evolve)
operations.command()(erase)
operations.command()(acls)
operations.command()(backup)
operations.command()(restore)
operations.command()(size)
dlq_app = typer.Typer(no_args_is_help=True, help="Inspect dead letters, and replay them.")
rebuild_app = typer.Typer(no_args_is_help=True, help="Rebuild data in Redis from the log.")
operations.add_typer(dlq_app, name="dlq")
operations.add_typer(rebuild_app, name="rebuild")
operations.add_typer(export_app, name="export")


JoinerSpec = Annotated[
    Path | None,
    typer.Option("--spec", help="The spec that the joiner runs by.", show_default="the rules in the joiner's commits"),
]
SourceTopic = Annotated[str, typer.Option("--topic", help="The topic that the originals came from.")]


def open_log(settings: "Settings") -> "closing[KafkaLog]":
    """The log, closed at the end."""
    from stream.log.kafka_log import KafkaLog

    return closing(KafkaLog(settings))


@operations.command()
def audit(
    spec: JoinerSpec = None,
    since: Annotated[
        str, typer.Option(help="Judge only pages appended within this duration: 90s, 30m, 6h, 7d.", show_default="all")
    ] = "",
    memory: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many example ids of a partition the learner remembers.", show_default="THALWEG_DEDUP_IDS"
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Verify the joiner's labels with an independent join.

    Joins the topic events in its own way, which shares no code with the joiner, and compares the result with the topic
    examples. With organic = true in the spec, organic installs are compared too. Outcomes:

    * judged: the page is final by the joiner's commit, so its labels are compared.
    * pending: the page's window, or the time for corrections, is still open.
    * behind: the joiner hasn't reached the page. Look again later, or see whether it runs.
    * learned_twice: a restart emitted the example again after the learner had dropped its id from memory.

    Exit code 1 if a label is missing, wrong or surplus, if anything else emitted is wrong, if examples are learned
    twice, or if nothing could be judged.

    Memory is bounded, whatever the window: a temporary folder (TMPDIR) takes some 60 bytes a label.
    """
    from stream.events.topics import EVENTS
    from stream.log.kafka_groups import group_commits
    from thalweg.audit import audit as auditing
    from thalweg.audit.committed_rules import GROUP, committed_rules, resolve_rules
    from thalweg.audit.findings import flat
    from thalweg.audit.rules import audit_rules
    from thalweg.views.operations_tables import audit_table, progress_bars
    from thalweg.views.tables import print_table

    settings = inspect_settings()
    memory = memory or settings.dedup_ids
    named = audit_rules(read_spec(spec)) if spec else None
    since_ms = ago_ms(since) if since else None
    with open_log(settings) as log:
        # Before anything is read: all that these commits call final is in the log by then.
        commits = group_commits(settings, GROUP, EVENTS.name)
        rules = resolve_rules(committed_rules(commits), named)
        progress = auditing.joiner_progress(commits)
        with progress_bars() as on_progress:
            found = auditing.audit(log, rules, progress, since_ms, memory=memory, on_progress=on_progress)
    print_table(audit_table(found))
    for one in found.by_fault():
        print(f"{one.fault}: {one.about}: {one.text}")
    print(found.verdict)
    write_json(json_file, flat(found))
    if not (found.is_clean and found.has_judged):
        raise typer.Exit(1)


@operations.command()
def trace(
    request: Annotated[str, typer.Argument(help="The page's request id.")],
    spec: JoinerSpec = None,
    since: Annotated[str, typer.Option(help="How far back to look: 90s, 30m, 6h, 7d.")] = "1d",
    user: Annotated[str, typer.Option(help="The page's user: then only one partition is read.")] = "",
    json_file: JsonFile = None,
) -> None:
    """Trace one page: its record, installs, labels and versions.

    Each line has its location (topic partition:offset), its append time, and how long after the page that was. For each
    install without a positive, the reason is shown. The newest records are searched first, so a page of the last minute
    is found at once. Without Redis the versions are left out.
    """
    from stream.events.topics import EVENTS
    from stream.log.kafka_groups import group_commits
    from stream.runtime.clock import now_ms
    from stream.runtime.errors import SnapshotError
    from stream.snapshots.redis_store import RedisStore
    from thalweg.audit.committed_rules import GROUP, committed_model, committed_rules, resolve_rules
    from thalweg.audit.rules import audit_rules
    from thalweg.views import trace as tracing
    from thalweg.views.operations_tables import trace_table
    from thalweg.views.tables import print_table

    settings, since_ms = inspect_settings(), ago_ms(since)
    named = read_spec(spec) if spec else None
    with ExitStack() as opened:
        log = opened.enter_context(open_log(settings))
        commits = group_commits(settings, GROUP, EVENTS.name)
        rules = resolve_rules(committed_rules(commits), audit_rules(named) if named else None)
        model = named.name if named else settings.model or committed_model(commits)
        store = opened.enter_context(closing(RedisStore(settings, model))) if settings.redis and model else None
        try:
            traced = tracing.trace(log, rules, request, now_ms=now_ms(), since_ms=since_ms, user=user, store=store)
        except SnapshotError as bad:
            print_stderr(f"versions are left out: {bad}")
            traced = tracing.trace(log, rules, request, now_ms=now_ms(), since_ms=since_ms, user=user)
    print_table(trace_table(traced))
    write_json(json_file, tracing.figures(traced))
    if traced.page is None:
        raise DataError(f"page {request} isn't in `events`: only dead letters mention it")


def _dead_letters(log: "Log", topic: str) -> "list[DeadLetterRecord]":
    """Those of a topic; how many are left out, since their users were erased, is printed."""
    from thalweg.views.dead_letters import read_dead_letters, without_erased

    every = read_dead_letters(log, topic)
    found = without_erased(log, every)
    if len(found) < len(every):
        print(f"{topic}: {len(every) - len(found)} dead letters of erased users are left out")
    return found


@dlq_app.command("ls")
def dlq_ls(
    topic: Annotated[str, typer.Option(help="Only dead letters of this source topic.", show_default="all")] = "",
    last: Annotated[int, typer.Option(min=0, help="Also list the newest N dead letters, newest last.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """Count dead letters by source topic and reason; list the newest.

    A dead letter that was written twice (a joiner restarts after a kill, every ranker reads a bad item) counts once.
    """
    from stream.events.topics import DEAD_LETTERS
    from thalweg.views.operations_tables import dead_letters_table, reasons_table
    from thalweg.views.tables import print_table

    with open_log(inspect_settings()) as log:
        found = {name: _dead_letters(log, name) for name in ([topic] if topic else DEAD_LETTERS)}
    every = [record for records in found.values() for record in records]
    if every:
        print_table(reasons_table(every))
        if last:
            print_table(dead_letters_table(sorted(every, key=lambda record: record.time_ms)[-last:]))
    else:
        print("no dead letters")
    waiting = sum(not record.replayed_ms for record in every)
    write_json(json_file, {name: len(records) for name, records in found.items()} | {"waiting": waiting})


@dlq_app.command("show")
def dlq_show(
    number: Annotated[int, typer.Argument(help="The dead letter's number in `thalweg dlq ls`.")],
    topic: SourceTopic = "events",
    raw: Annotated[Path | None, typer.Option(help="Write the original bytes to this file.")] = None,
) -> None:
    """Show one dead letter: its reason, its offset, its bytes.

    Bytes are decoded up to the first that is broken, the rest is in hex.
    """
    from thalweg.views.operations_tables import dead_letter_lines

    with open_log(inspect_settings()) as log:
        records = _dead_letters(log, topic)
    found = next((record for record in records if record.number == number), None)
    if found is None:
        raise DataError(f"{topic} has no dead letter {number}; `thalweg dlq ls --topic {topic}` lists them")
    for line in dead_letter_lines(found):
        print(line)
    write_output(raw, found.dead_letter.original, "--raw")


@dlq_app.command("replay")
def dlq_replay(
    topic: Annotated[str, typer.Option(help="Only dead letters of this source topic.", show_default="all")] = "",
    reason: Annotated[str, typer.Option(help="Only reasons that contain this text.")] = "",
    first: Annotated[int, typer.Option("--from", min=0, help="Only those from this number on (with --topic).")] = 0,
    last: Annotated[
        int | None, typer.Option("--to", min=0, help="Only those up to this number (with --topic).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Send dead letters back to the topic that they came from.

    Run it after the cause is fixed: each goes to the partition it came from. Nothing is duplicated: a replay is noted,
    and a dead letter is replayed once; the joiner drops pages and installs that it has, the learner examples that it
    has; an old item or user doesn't replace a newer one. What is still invalid becomes a new dead letter. An event
    that was "Late" gives no examples: the labels of its time are final.
    """
    from dataclasses import asdict

    from stream.events.topics import DEAD_LETTERS
    from thalweg.views import dead_letters

    if (first or last is not None) and not topic:
        raise SettingsError("--from and --to are numbers within one topic: name it with --topic")
    with open_log(inspect_settings()) as log:
        topics = [topic] if topic else list(DEAD_LETTERS)
        records = [record for name in topics for record in _dead_letters(log, name)]
        selected = dead_letters.select(records, reason, first, last)
        counts = dead_letters.replay(log, selected, dry_run=dry_run)
    sent = "would be sent" if dry_run else "sent"
    print(f"{counts.sent} {sent}; left out: {counts.before} sent by an earlier replay, {counts.cut} truncated, "
          f"{counts.superseded} with a newer record of the same key")  # fmt: skip
    write_json(json_file, asdict(counts))


@rebuild_app.command("histories")
def rebuild_histories(
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Empty Redis first: also of histories that the topic no longer has.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Rebuild users' histories in Redis from the log.

    The compacted topic histories is the durable copy. A joiner copies it by itself when it starts and when Redis was
    emptied; this is for when none runs, or when Redis may be wrong. It may run beside joiners and rankers. With --wipe
    rankers rank without histories until it is done.
    """
    from stream.history import histories
    from stream.history.erasing import rebuild_without_erased
    from stream.snapshots.redis_client import connect, translated
    from thalweg.views.operations_tables import progress_bars

    settings = inspect_settings()
    settings.need_redis()
    with closing(connect(settings)) as client, translated(client), open_log(settings) as log, progress_bars() as bars:
        wiped = histories.wipe_histories(client, settings.topic_prefix) if wipe else 0
        on_progress = partial(bars, "records")
        copied = rebuild_without_erased(client, log, settings.topic_prefix, on_progress=on_progress)
        users = sum(1 for _ in client.scan_iter(match=histories.history_key("*", settings.topic_prefix), count=500))
    print(f"{copied:,} records copied; {users:,} users have a history")
    write_json(json_file, {"records": copied, "users": users, "wiped": wiped})
