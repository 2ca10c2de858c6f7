"""The audit: compares the labels in `examples` with those that `events` should have led to.

A page is *settled* when the joiner's commit says that it is final: then every label must be there and right. Other
pages are *pending* (the window or the time for corrections is still open) or *behind* (the joiner hasn't committed that
far); they are counted, not judged. The same holds for organic installs, where the spec wants them.

Memory is bounded, whatever the window: each topic is read once, partitioned by user into buckets on disk (`spill.py`),
and joined and compared bucket by bucket.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from stream.events.topics import EVENTS, EXAMPLES, ORGANIC
from stream.log.log_scan import SKEW_MS, OnProgress, read_range
from stream.log.protocol import START, Log
from stream.runtime.errors import DataError
from stream.runtime.settings import DEDUP_IDS
from thalweg.audit.audit_range import AuditRange, audit_ranges, emitted_topics
from thalweg.audit.comparison import Comparison, difference_of, organic_difference
from thalweg.audit.duplicates import DuplicateIds, EmissionRef
from thalweg.audit.emitted import EmittedScan
from thalweg.audit.event_scan import EventScan
from thalweg.audit.findings import DIFFERENCES_MAX, AuditReport, Difference, JoinerProgress
from thalweg.audit.rules import AuditRules
from thalweg.audit.spill import BUCKETS


def audit(
    log: Log,
    rules: AuditRules,
    progress: Mapping[int, JoinerProgress] | None,
    since_ms: int | None = None,
    *,
    memory: int = DEDUP_IDS,
    on_progress: OnProgress = lambda what, done, total: None,
) -> AuditReport:
    """Read all topics up to their present ends, join, compare.

    `progress`: the joiner's, by partition of `events`, fetched before this call; None: judge as if the joiner had read
    the whole log. `since_ms`: judge pages appended then or later. `memory`: how many example ids of each partition of
    `events` the learner remembers. Raises DataError when there's nothing to judge, LogError.
    """
    # The ends of the output come first: the event of every example that is read is then read, too.
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
    """Read the events that decide on the judged pages; the whole log if the first range turns out too short."""
    ends = log.ends(EVENTS.name)
    ranges = audit_ranges(log, rules, since_ms)
    for number, audit_range in enumerate(ranges, 1):
        spill_folder = folder / str(number)
        spill_folder.mkdir()
        events = EventScan(spill_folder, rules, audit_range)
        for record in read_range(log, EVENTS.name, audit_range.begin, ends, on_progress):
            events.add(record)
            if events.unsure and number < len(ranges):
                break
        else:
            break
    return events


def _read_emitted(
    log: Log, ends: Mapping[str, Mapping[int, int]], audit_range: AuditRange, folder: Path, on_progress: OnProgress
) -> EmittedScan:
    """Read everything that was emitted since the first judged page was appended."""
    emitted = EmittedScan(folder)
    for topic, topic_ends in ends.items():
        add = emitted.add if topic == EXAMPLES.name else emitted.add_organic
        judged_ms = audit_range.judged_ms
        begin = log.offsets_at(topic, judged_ms - SKEW_MS) if judged_ms else dict.fromkeys(topic_ends, START)
        for record in read_range(log, topic, begin, topic_ends, on_progress):
            add(record)
    return emitted


def _judge(
    events: EventScan,
    emitted: EmittedScan,
    progress: Mapping[int, JoinerProgress] | None,
    memory: int,
    on_progress: OnProgress,
) -> AuditReport:
    """Join and compare, bucket by bucket."""
    report = AuditReport(events.rules)
    report.figures.update(
        pages=events.pages, installs=events.installs, bad_events=events.bad, future_events=events.future,
        emitted=emitted.examples, organic_emitted=emitted.organic, organic_in_examples=emitted.organic_in_examples,
    )  # fmt: skip
    comparison = Comparison(report, events.range, progress, events.watermarks)
    duplicates = DuplicateIds()
    for number, bucket in enumerate(events.joined()):
        on_progress("comparing", number, BUCKETS)
        examples = list(emitted.examples_spill.bucket(number))
        organic = list(emitted.organic_in_examples_spill.bucket(number))
        comparison.compare(bucket, [one for one in examples if one.user not in events.erased])
        found = {ORGANIC.name: emitted.organic_spill.bucket(number), EXAMPLES.name: organic}
        comparison.compare_organic(
            bucket,
            {topic: [one for one in some if one.organic.user not in events.erased] for topic, some in found.items()},
        )
        duplicates.add(number, [*examples, *organic])
    on_progress("comparing", BUCKETS, BUCKETS)
    _count_duplicates(report, duplicates, emitted, memory)
    for offset, reason in emitted.first_unreadable:
        report.add(Difference("bad_examples", "", -1, "", "", f"in {offset}: {reason}"))
    report.figures["bad_examples"] = emitted.unreadable
    return report


def _count_duplicates(report: AuditReport, duplicates: DuplicateIds, emitted: EmittedScan, memory: int) -> None:
    """Count what was emitted again and what is learned twice; read the first of the latter again to describe them."""
    learned_twice, first = duplicates.learned_twice(memory, DIFFERENCES_MAX)
    wanted = set(first)
    for bucket in {ref.bucket for ref in first}:
        for one in emitted.examples_spill.bucket(bucket):
            for row in range(len(one.ids)):
                if EmissionRef(bucket, one.source, one.order + row) in wanted:
                    report.add(difference_of("learned_twice", one, row))
        for other in emitted.organic_in_examples_spill.bucket(bucket):
            if EmissionRef(bucket, other.source, other.order) in wanted:
                report.add(organic_difference("learned_twice", other.organic, "", f"in {other.location}"))
    report.figures["emitted_again"] = duplicates.emitted_again
    report.figures["learned_twice"] = learned_twice


def joiner_progress(commits: Mapping[int, tuple[int, str]]) -> dict[int, JoinerProgress]:
    """How far the joiner has got, by partition, from its commits (offset, metadata).

    A commit without the joiner's metadata (a tool moved the group) counts as no progress.
    """
    found: dict[int, JoinerProgress] = {}
    for partition, (_, metadata) in commits.items():
        try:
            found[partition] = msgspec.json.decode(metadata, type=JoinerProgress)
        except msgspec.DecodeError:
            found[partition] = JoinerProgress()
    return found
