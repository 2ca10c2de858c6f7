"""Commands for operators: was the join right, what became of a page, what was not taken in, what Redis has lost."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import DataError, SettingsError
from thalweg.cli.options import JsonFile, kept_settings, read_spec, say, write_json
from thalweg.cli.snapshots import snapshots

if TYPE_CHECKING:
    from stream.log.kafka_log import KafkaLog
    from stream.runtime.settings import Settings

operate = typer.Typer()
operate.add_typer(snapshots, name="snapshots")
dlq_app = typer.Typer(no_args_is_help=True, help="Inspect dead letters, and replay them.")
rebuild_app = typer.Typer(no_args_is_help=True, help="Rebuild copies from the log.")
operate.add_typer(dlq_app, name="dlq")
operate.add_typer(rebuild_app, name="rebuild")


RECORDS_A_LINE = 100_000  # between two lines of progress

JoinerSpec = Annotated[
    Path | None,
    typer.Option("--spec", help="The spec that the joiner runs by.", show_default="the rules in the joiner's commits"),
]
SourceTopic = Annotated[str, typer.Option("--topic", help="Whose letters: the topic that the originals came from.")]


@contextmanager
def open_log(settings: "Settings") -> "Iterator[KafkaLog]":
    """The log for a while."""
    from stream.log.kafka_log import KafkaLog

    log = KafkaLog(settings)
    try:
        yield log
    finally:
        log.close()


def ago_ms(duration: str) -> int:
    """The moment so long before now. Raises SettingsError when it isn't a duration such as 90s, 30m, 6h, 7d."""
    from stream.runtime.clock import now_ms
    from stream.spec.spec import duration_ms

    try:
        return now_ms() - duration_ms(duration)
    except AttributeError:
        raise SettingsError(f"{duration!r} isn't a duration: write it as 90s, 30m, 6h or 7d") from None


@operate.command()
def audit(
    spec: JoinerSpec = None,
    since: Annotated[
        str, typer.Option(help="Judge only pages appended in the last so long: 90s, 30m, 6h, 7d.", show_default="all")
    ] = "",
    memory: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many example ids of a partition the learner remembers.", show_default="THALWEG_DEDUP_IDS"
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Join the log a second time, and compare the labels.

    Joins all of `events` in its own simple way, and compares with `examples`. It shares no code with the joiner. Judged
    are the pages that the joiner has committed to be finished with; others are `pending` (their window, or the time for
    corrections, is still open) or `behind` (the joiner hasn't got there: look again later, or see whether it runs).
    What a restart emits again has the same id, and is learned once while the learner remembers it; what it has
    forgotten by then is `learned_twice`. With `organic = true` in the spec, organic installs are judged too. Exit code
    1 if a label is missing, wrong, or surplus, if anything else is wrong with what was emitted, if examples are learned
    twice, or if nothing could be judged.

    Memory is bounded, whatever the window: what is read lies in a temporary folder (TMPDIR), some 60 bytes a label.
    """
    from stream.events.topics import EVENTS
    from stream.log.kafka_admin import group_commits
    from thalweg.audit import audit as auditing
    from thalweg.audit.committed_rules import GROUP, rules_in, rules_of
    from thalweg.audit.findings import flat
    from thalweg.audit.rules import audit_rules
    from thalweg.views.report import audit_table, progress_bars
    from thalweg.views.show import printed

    settings = kept_settings()
    memory = memory or settings.dedup_ids
    named = audit_rules(read_spec(spec)) if spec else None
    since_ms = ago_ms(since) if since else None
    with open_log(settings) as log:
        # Before anything is read: what the joiner was finished with by then can be read.
        commits = group_commits(settings, GROUP, EVENTS.name)
        rules = rules_of(rules_in(commits), named)
        progress = auditing.progress_of(commits)
        with progress_bars() as on_progress:
            found = auditing.audit(log, rules, progress, since_ms, memory=memory, on_progress=on_progress)
    printed(audit_table(found))
    for one in found.by_fault():
        print(f"{one.fault}: {one.about}: {one.text}")
    print(found.verdict)
    write_json(json_file, flat(found))
    if not (found.fine and found.judged):
        raise typer.Exit(1)


@operate.command()
def trace(
    request: Annotated[str, typer.Argument(help="The page's request id.")],
    spec: JoinerSpec = None,
    since: Annotated[str, typer.Option(help="How far back to look: 90s, 30m, 6h, 7d.")] = "1d",
    user: Annotated[str, typer.Option(help="Whose page it is: then only one partition is read.")] = "",
    json_file: JsonFile = None,
) -> None:
    """Trace one page: its record, installs, labels and versions.

    Each line has its place (topic partition:offset), its time of append, and how long after the page that was. An
    install without a line of a positive example tells why it isn't this page's. What is newest is searched first, so
    a page of the last minute is found at once. Without Redis the versions are left out.
    """
    from stream.events.topics import EVENTS
    from stream.log.kafka_admin import group_commits
    from stream.runtime.clock import now_ms
    from stream.runtime.errors import SnapshotError
    from stream.snapshots.redis_store import RedisStore
    from thalweg.audit.committed_rules import GROUP, model_in, rules_in, rules_of
    from thalweg.audit.rules import audit_rules
    from thalweg.views import trace as tracing
    from thalweg.views.report import life_table
    from thalweg.views.show import printed

    settings, since_ms = kept_settings(), ago_ms(since)
    named = read_spec(spec) if spec else None
    with ExitStack() as opened:
        log = opened.enter_context(open_log(settings))
        commits = group_commits(settings, GROUP, EVENTS.name)
        rules = rules_of(rules_in(commits), audit_rules(named) if named else None)
        model = settings.model or (named.name if named else model_in(commits))
        store = opened.enter_context(closing(RedisStore(settings, model))) if settings.redis and model else None
        try:
            life = tracing.trace(log, rules, request, now_ms=now_ms(), since_ms=since_ms, user=user, store=store)
        except SnapshotError as bad:
            say(f"versions are left out: {bad}")
            life = tracing.trace(log, rules, request, now_ms=now_ms(), since_ms=since_ms, user=user)
    printed(life_table(life))
    write_json(json_file, tracing.flat(life))
    if life.page is None:
        raise DataError(f"page {request} isn't in `events`: only dead letters tell of it")


@dlq_app.command("ls")
def dlq_ls(
    topic: Annotated[str, typer.Option(help="Only what came from this topic.", show_default="all")] = "",
    last: Annotated[int, typer.Option(min=0, help="List so many single letters too, newest last.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """Count dead letters by source and reason; list the newest.

    A letter that was written twice (a joiner reads again after a kill, every ranker meets a bad item) counts once.
    """
    from stream.events.topics import DEAD_LETTERS
    from thalweg.views.dead_letters import letters_of
    from thalweg.views.report import letters_table, reasons_table
    from thalweg.views.show import printed

    with open_log(kept_settings()) as log:
        found = {name: letters_of(log, name) for name in ([topic] if topic else DEAD_LETTERS)}
    every = [letter for letters in found.values() for letter in letters]
    if every:
        printed(reasons_table(every))
        if last:
            printed(letters_table(sorted(every, key=lambda letter: letter.time_ms)[-last:]))
    else:
        print("no dead letters")
    write_json(json_file, {name: len(letters) for name, letters in found.items()} | {
        "waiting": sum(not letter.replayed_ms for letter in every)})  # fmt: skip


@dlq_app.command("show")
def dlq_show(
    number: Annotated[int, typer.Argument(help="The letter's number in `thalweg dlq ls`.")],
    topic: SourceTopic = "events",
    raw: Annotated[Path | None, typer.Option(help="Write the original bytes to this file.")] = None,
) -> None:
    """Show one dead letter: its reason, its offset, its bytes.

    Bytes are decoded as far as they go, the rest is in hex.
    """
    from thalweg.views.dead_letters import letters_of
    from thalweg.views.report import letter_lines

    with open_log(kept_settings()) as log:
        letters = letters_of(log, topic)
    found = next((letter for letter in letters if letter.number == number), None)
    if found is None:
        raise DataError(f"{topic} has no dead letter {number}; `thalweg dlq ls --topic {topic}` lists them")
    for line in letter_lines(found):
        print(line)
    if raw is not None:
        try:
            raw.write_bytes(found.held.original)
        except OSError as bad:
            raise DataError(f"{raw} can't be written: {bad.strerror}; name another file with --raw") from None


@dlq_app.command("replay")
def dlq_replay(
    topic: Annotated[str, typer.Option(help="Only what came from this topic.", show_default="all")] = "",
    reason: Annotated[str, typer.Option(help="Only letters whose reason has this text in it.")] = "",
    first: Annotated[int, typer.Option("--from", min=0, help="Only letters from this number on (with --topic).")] = 0,
    last: Annotated[
        int | None, typer.Option("--to", min=0, help="Only letters up to this number (with --topic).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Send dead letters back to the topic that they came from.

    For when what was wrong has been put right: each goes to the partition it came from. Nothing is doubled: a letter
    that was sent back is noted as such and never sent again; the joiner drops pages and installs that it has, the
    learner examples that it has; an old item or user doesn't replace a newer one. What is still bad comes back as a new
    letter. Events that are older than what the joiner remembers (window and time for corrections) are counted as late
    there, and give no examples.
    """
    from stream.events.topics import DEAD_LETTERS
    from thalweg.views import dead_letters as dead

    if (first or last is not None) and not topic:
        raise SettingsError("--from and --to are numbers within one topic: name it with --topic")
    wanted = dead.Wanted(reason, first, last)
    with open_log(kept_settings()) as log:
        chosen = [one for name in ([topic] if topic else DEAD_LETTERS) for one in dead.letters_of(log, name)]
        done = dead.replay(log, [one for one in chosen if one in wanted], dry_run=dry_run)
    print(f"{done.sent} {'would be sent' if dry_run else 'sent'}; left out: {done.before} sent by an earlier replay, "
          f"{done.cut} not held whole, {done.superseded} with a newer record of the same key")  # fmt: skip
    write_json(json_file, dead.figures(done))


@rebuild_app.command("histories")
def rebuild_histories(
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Remove what Redis has first: also what the topic no longer knows of.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Copy users' histories from their topic to Redis.

    The compacted topic `histories` is the durable copy. A joiner copies it by itself when it starts and when Redis was
    emptied; this is for when none runs, or when you don't trust what Redis has. It may run beside joiners and rankers.
    With --wipe rankers rank without histories until it is done.
    """
    from stream.history import histories
    from stream.snapshots.redis_client import connect, translated

    settings = kept_settings()
    settings.need_redis()
    told_at = 0

    def told(copied: int, of: int) -> None:
        nonlocal told_at
        if copied - told_at >= RECORDS_A_LINE:
            told_at = copied
            say(f"{copied:,} of {of:,} records")

    with closing(connect(settings)) as client, translated(client), open_log(settings) as log:
        wiped = histories.wipe_histories(client, settings.topic_prefix) if wipe else 0
        copied = histories.rebuild_histories(client, log, settings.topic_prefix, told=told)
        users = sum(1 for _ in client.scan_iter(match=histories.history_key("*", settings.topic_prefix), count=500))
    print(f"{copied:,} records copied; {users:,} users have a history")
    write_json(json_file, {"records": copied, "users": users, "wiped": wiped})
