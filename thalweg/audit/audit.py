"""The audit: what stands in `examples` against the labels that `events` should have led to.

A page is *settled* when the joiner's own commit says that it is finished with it: then every label must be there and
right. Other pages are *pending*: their window or the time for corrections isn't over, or the joiner isn't there yet
(*behind*); they are counted, not judged. So it is with organic installs, where the spec wants them.

Memory is bounded: both topics are read once, each user's part into one of many buckets on disk (`spill.py`), and the
join and the comparison are done bucket by bucket. A window may be as long as it likes.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from stream.events.topics import EVENTS, EXAMPLES, ORGANIC
from stream.log.protocol import START, Log
from stream.runtime.errors import DataError
from stream.runtime.settings import DEDUP_IDS
from thalweg.audit.audit_range import AuditRange, audit_ranges, emitted_topics
from thalweg.audit.committed_rules import stored_in
from thalweg.audit.comparison import Comparison, count_joined, difference_of
from thalweg.audit.emitted import EmittedScan
from thalweg.audit.event_scan import EventScan
from thalweg.audit.findings import DIFFERENCES_MAX, Audit, Difference, Progress
from thalweg.audit.log_events import NEVER
from thalweg.audit.log_scan import SKEW_MS, OnProgress, span_with_progress
from thalweg.audit.organic_comparison import compare_organic, organic_twice
from thalweg.audit.relearned import Place, Repetitions
from thalweg.audit.rules import AuditRules
from thalweg.audit.spill import BUCKETS


def audit(
    log: Log,
    rules: AuditRules,
    progress: Mapping[int, Progress] | None,
    since_ms: int | None = None,
    *,
    memory: int = DEDUP_IDS,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Audit:
    """Read both topics as they stand now, join, compare.

    `progress`: the joiner's, per partition of `events`, asked for before; None: the log alone decides, as if the
    joiner had read all of it. `since_ms`: judge pages appended then or later. `memory`: how many example ids of
    each partition of `events` the learner remembers. Raises DataError when there's nothing to judge, LogError.
    """
    # In this order: an example that is read came of an event that is read.
    ends = {topic: log.ends(topic) for topic in emitted_topics(rules)}
    with TemporaryDirectory(prefix="thalweg-audit-") as folder:
        events = _read_events(log, rules, since_ms, Path(folder), on_progress)
        if not events.pages:
            raise DataError(
                "there's no page in that range of `events`: nothing to judge; look further back with --since"
            )
        emitted = _read_emitted(log, ends, events.range, Path(folder), on_progress)
        return _judge(events, emitted, progress, memory, on_progress)


def _read_events(log: Log, rules: AuditRules, since_ms: int | None, folder: Path, on_progress: OnProgress) -> EventScan:
    """The events that decide on what is judged; more of them where the first range won't do."""
    ends = log.ends(EVENTS.name)
    ranges = audit_ranges(log, rules, since_ms)
    for number, of in enumerate(ranges, 1):
        place = folder / str(number)
        place.mkdir()
        events = EventScan(place, rules, of)
        for record in span_with_progress(log, EVENTS.name, of.begin, ends, on_progress):
            events.take(record)
            if events.unsure and number < len(ranges):
                break
        else:
            break
    return events


def _read_emitted(
    log: Log, ends: Mapping[str, Mapping[int, int]], of: AuditRange, folder: Path, on_progress: OnProgress
) -> EmittedScan:
    """All that was emitted since what is judged was appended."""
    emitted = EmittedScan(folder)
    for topic, until in ends.items():
        take = emitted.take if topic == EXAMPLES.name else emitted.take_organic
        begin = log.offsets_at(topic, of.judged_ms - SKEW_MS) if of.judged_ms else dict.fromkeys(until, START)
        for record in span_with_progress(log, topic, begin, until, on_progress):
            take(record)
    return emitted


def _judge(
    events: EventScan,
    emitted: EmittedScan,
    progress: Mapping[int, Progress] | None,
    memory: int,
    on_progress: OnProgress,
) -> Audit:
    """Join and compare, bucket by bucket."""
    result, watermarks = Audit(events.rules), events.watermarks
    result.figures.update(
        pages=events.pages, installs=events.installs, bad_events=events.bad, future_events=events.ahead,
        emitted=emitted.examples, organic_emitted=emitted.organic, organic_in_examples=emitted.organic_in_examples,
    )  # fmt: skip
    comparison = Comparison(result, events.range, progress, watermarks)
    repetitions = Repetitions()
    for number, bucket in enumerate(events.joined()):
        on_progress("comparing", number, BUCKETS)
        examples, organic = list(emitted.bucket(number)), list(emitted.organic_bucket_in_examples(number))
        count_joined(result.figures, bucket)
        comparison.take(bucket, examples)
        repetitions.take(number, [*examples, *organic])
        in_topics = {ORGANIC.name: emitted.organic_bucket(number), EXAMPLES.name: organic}
        compare_organic(result, events.range, progress, watermarks, bucket, in_topics)
    on_progress("comparing", BUCKETS, BUCKETS)
    _count_repetitions(result, repetitions, emitted, memory)
    for place, why in emitted.first_unreadable:
        result.found(Difference("bad_examples", "", -1, "", "", f"in {place}: {why}"))
    result.figures["bad_examples"] = emitted.unreadable
    return result


def _count_repetitions(result: Audit, repetitions: Repetitions, emitted: EmittedScan, memory: int) -> None:
    """What was emitted again, and what is learned twice; the first of these are looked up again."""
    twice, first = repetitions.learned_twice(memory, DIFFERENCES_MAX)
    named = set(first)
    for bucket in {place.bucket for place in first}:
        for one in emitted.bucket(bucket):
            for row in range(len(one.ids)):
                if Place(bucket, one.source, one.order + row) in named:
                    result.found(difference_of("learned_twice", one, row))
        for other in emitted.organic_bucket_in_examples(bucket):
            if Place(bucket, other.source, other.order) in named:
                result.found(organic_twice(other))
    result.figures.update(emitted_again=repetitions.emitted_again)
    result.figures["learned_twice"] = twice


def progress_of(commits: Mapping[int, tuple[int, str]]) -> dict[int, Progress]:
    """How far the joiner is, per partition, from its commits (offset, metadata).

    A commit whose metadata isn't the joiner's (a tool moved the group) says nothing.
    """
    found: dict[int, Progress] = {}
    for partition, (_, metadata) in commits.items():
        try:
            stored = stored_in(metadata)
            named = {"finished_ms": 0, "floor_ms": 0, "unsure_ms": NEVER}
            found[partition] = Progress(*(int(stored.get(name, default)) for name, default in named.items()))
        except (ValueError, TypeError):
            found[partition] = Progress()
    return found
