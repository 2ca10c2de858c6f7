"""The trace of a page: its record, its installs, the labels emitted for it and why, the versions that learned them."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from stream.events.codec import decode_events, decode_examples
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import REASONS, WINDOW_CLOSED, Examples, Impression, Install
from stream.log.log_scan import SKEW_MS, read_range
from stream.log.protocol import Log, Record, partition_of
from stream.runtime.errors import BadSnapshot, DataError
from stream.snapshots.manifest import Manifest
from stream.snapshots.store import SnapshotStore
from thalweg.audit.rules import AuditRules
from thalweg.views.attribution_explain import PageContext, PositionedEvent
from thalweg.views.dead_letters import read_dead_letters

LOOK_BACK_MS: Final = (60_000, 600_000, 3_600_000, 6 * 3_600_000, 24 * 3_600_000)  # searched one after the other
EMIT_SLACK_MS: Final = 600_000  # a joiner emits by then, or was down: then all of `examples` is searched
LATE_INSTALLS_MS: Final = 600_000  # installs are read for this long after the page is final, to explain late ones


@dataclass(frozen=True)
class Step:
    """One thing that happened. `time_ms`: its append to the log; of a version, its creation."""

    kind: str
    location: str
    time_ms: int
    text: str


@dataclass
class PageTrace:
    """What happened to a page, in order of time. `page` None: only dead letters mention it."""

    request_id: str
    page: Impression | None = None
    location: str = ""  # partition:offset
    appended_ms: int = 0
    steps: list[Step] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the last one emitted, by item
    versions: list[int] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Number of steps of a kind."""
        return sum(step.kind == kind for step in self.steps)


def trace(
    log: Log,
    rules: AuditRules,
    request_id: str,
    *,
    now_ms: int,
    since_ms: int,
    user: str = "",
    store: SnapshotStore | None = None,
) -> PageTrace:
    """Search what was appended since `since_ms` for the page, the newest first, and trace it.

    `user`: the page's user, if known: only one partition is read then. `store`: the model's snapshots, if available.
    Raises DataError when nothing mentions the page, LogError, StoreUnavailable.
    """
    traced = PageTrace(request_id)
    found = _find(log, request_id, now_ms, since_ms, user)
    if found is not None:
        context = _page_context(log, rules, *found)
        if (original := context.original()) is not None:
            assert isinstance(original.event, Impression)
            found = original.event, original.record
            context = _page_context(log, rules, *found)
        page, record = found
        traced.page, traced.location, traced.appended_ms = page, f"{record.partition}:{record.offset}", record.time_ms
        text = f"user {page.user}, {len(page.items)} items, event time {page.time_ms}"
        ranked = f", ranked by version {page.version}" if page.version else ", ranked by no version"
        traced.steps.append(Step("page", f"{EVENTS.name} {traced.location}", record.time_ms, text + ranked))
        examples = _example_steps(log, context, traced)
        if not traced.labels and context.final_record and page.time_ms + rules.life_ms <= _relevant_ms(rules, record):
            # Event time may have been that far already: only older records show it.
            context = _page_context(log, rules, *found, log.starts(EVENTS.name)[record.partition])
        if context.is_late:
            late = f"; it arrived too late to be joined: event time had passed {page.time_ms + rules.life_ms}"
            traced.steps[0] = replace(traced.steps[0], text=traced.steps[0].text + late)
        traced.steps += [*_event_steps(context, traced), *examples]
        _add_versions(store, traced)
    for topic in (EVENTS.name, EXAMPLES.name):
        for entry in read_dead_letters(log, topic, since_ms):
            if request_id.encode() in entry.dead_letter.original:
                text = f"{entry.reason}; thalweg dlq show {entry.number} --topic {topic}"
                traced.steps.append(Step("dead letter", entry.source, entry.time_ms, text))
    if not traced.steps:
        raise DataError(
            f"no page {request_id} was appended to `{EVENTS.name}` in that time, nor is there a dead letter of it: "
            "look further back with --since 7d, check the id, and check that impressions are written to the log"
        )
    traced.steps.sort(key=lambda step: step.time_ms)  # stable: in order of the log where times are equal
    return traced


def _find(log: Log, request_id: str, now_ms: int, since_ms: int, user: str) -> tuple[Impression, Record] | None:
    """The page and its first record, in the newest time range that has one."""
    needle = request_id.encode()
    ends: Mapping[int, int] = log.ends(EVENTS.name)
    partitions = {partition_of(user, len(ends))} if user else set(ends)
    for back_ms in (*LOOK_BACK_MS, now_ms):
        from_ms = max(since_ms, now_ms - back_ms)
        begin = log.offsets_at(EVENTS.name, from_ms)
        records = read_range(log, EVENTS.name, {p: offset for p, offset in begin.items() if p in partitions}, ends)
        for record in records:
            if needle in (record.value or b""):  # reading is fast, decoding isn't
                for event in decode_events(record.value or b"")[0]:
                    if isinstance(event, Impression) and event.request_id == request_id:
                        records.close()
                        return event, record
        if from_ms == since_ms:
            return None
        ends = {p: min(offset, ends[p]) for p, offset in begin.items()}
    return None


def _relevant_ms(rules: AuditRules, record: Record) -> int:
    """Append time from which events matter to a page."""
    return record.time_ms - rules.life_ms - rules.lateness_ms


def _page_context(
    log: Log, rules: AuditRules, page: Impression, record: Record, begin: int | None = None
) -> PageContext:
    """The user's events in the page's partition, from offset `begin` until some time after the page is final."""
    if begin is None:
        begin = log.offsets_at(EVENTS.name, _relevant_ms(rules, record))[record.partition]
    context = PageContext(rules, page, record.offset)
    for one in context.read(_partition_records(log, EVENTS.name, record.partition, begin)):
        if context.final_record and one.time_ms > context.final_record.time_ms + LATE_INSTALLS_MS:
            break
    return context


def _event_steps(context: PageContext, traced: PageTrace) -> Iterator[Step]:
    """Repetitions, the end of the window, installs and retractions of the page's items."""
    page = context.page
    known = set(page.items)
    for positioned in context.pages:
        event = positioned.event
        if isinstance(event, Impression) and event.request_id == page.request_id and positioned is not context.shown:
            new = [item for item in event.items if item not in known and item in context.items]
            known.update(new)
            extends = f"extends the page by {', '.join(new)}"
            yield _step("further page", positioned.record, extends if new else "a duplicate: counts once")
    if context.closing_record:
        close_ms = page.time_ms + context.rules.window_ms
        yield _step("window closed", context.closing_record, f"event time has passed {close_ms} and the lateness")
    for positioned in context.installs:
        if isinstance(positioned.event, Install) and positioned.event.item in context.items:
            yield _install_step(positioned, positioned.event, context, traced)


def _install_step(positioned: PositionedEvent, install: Install, context: PageContext, traced: PageTrace) -> Step:
    """An install, and why there's no positive for it."""
    page, rules = context.page, context.rules
    text = f"item {install.item}, id {install.install_id}, {install.time_ms - page.time_ms:+} ms of event time"
    if install.retracted:
        return _step("retraction", positioned.record, text)
    text += "; it names this page" if install.request_id == page.request_id else ""
    reason = context.rejection_reason(positioned)
    if not reason and traced.labels.get(install.item) != 1:
        is_waiting = rules.policy == "wait" and context.closing_record is None
        reason = "no positive is emitted yet: " + (
            "the policy waits for the window's end"
            if is_waiting
            else "the joiner isn't there yet, else ask `thalweg audit`"
        )
    return _step("install", positioned.record, f"{text}; {reason}" if reason else text)


def _example_steps(log: Log, context: PageContext, traced: PageTrace) -> list[Step]:
    """A step for each record of the page's examples; sets the last labels in `traced`."""
    page, steps = context.page, list[Step]()
    ends = log.ends(EXAMPLES.name)
    partition = partition_of(page.user, len(ends)) if len(ends) > 1 else 0
    last_ms = context.final_record.time_ms if context.final_record else context.last_append_ms
    end = ends[partition]
    first, soon = (
        log.offsets_at(EXAMPLES.name, time_ms)[partition]
        for time_ms in (traced.appended_ms - SKEW_MS, last_ms + EMIT_SLACK_MS)
    )
    needle = page.request_id.encode()
    seen: set[int] = set()
    for begin, until in ((first, min(soon, end)), (soon, end)):
        for record in _partition_records(log, EXAMPLES.name, partition, begin, until):
            if needle in (record.value or b""):
                for examples in decode_examples(record.value or b"")[0]:
                    if examples.page.request_id == page.request_id:
                        steps += _steps_of(record, examples, seen)
                        items = (examples.page.items[position] for position in examples.positions)
                        traced.labels.update(zip(items, examples.labels, strict=True))
        if traced.labels == context.labels():
            break
    return steps


def _steps_of(record: Record, examples: Examples, seen: set[int]) -> Iterator[Step]:
    """A step for each reason and label."""
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for row, example_id in enumerate(examples.ids):
        groups.setdefault((examples.reasons[row], examples.labels[row], example_id in seen), []).append(row)
    seen.update(examples.ids)
    for (reason, label, is_duplicate), rows in groups.items():
        items = ", ".join(examples.page.items[examples.positions[row]] for row in rows)
        delay_ms = record.time_ms - max(examples.ingest_ms[row] for row in rows)
        cause = "the record that closed the window" if reason == WINDOW_CLOSED else "the event that caused it"
        text = f"label {label}, {REASONS[reason]}: {items}; {delay_ms} ms after {cause}"
        text += "; emitted before, with the same ids: learned once" if is_duplicate else ""
        yield _step("example", record, text)


def _add_versions(store: SnapshotStore | None, traced: PageTrace) -> None:
    """The first retained version that has learned each record of examples."""
    locations = sorted({step.location.split()[1] for step in traced.steps if step.kind == "example"})
    retained = store.versions() if store is not None and locations else []
    for location in locations:
        partition, offset = (int(part) for part in location.split(":"))

        def has_learned(version: int, partition: int = partition, offset: int = offset) -> bool:
            manifest = _manifest(store, version)
            return manifest is not None and manifest.offset.get(partition, 0) > offset

        index = bisect_left(retained, True, key=has_learned)
        manifest = _manifest(store, retained[index]) if index < len(retained) else None
        if manifest is None:
            continue
        is_first = index or not manifest.parent
        first = "the first version with" if is_first else "older ones aren't kept: it or one before has"
        text = f"{first} examples {location}"
        traced.steps.append(Step("version", f"snapshot {manifest.version}", manifest.created_ms, text))
        traced.versions.append(manifest.version)


def _manifest(store: SnapshotStore | None, version: int) -> Manifest | None:
    """A version's manifest; None once it was collected."""
    try:
        return store.manifest(version) if store is not None else None
    except BadSnapshot:
        return None


def _partition_records(log: Log, topic: str, partition: int, begin: int, end: int | None = None) -> Iterable[Record]:
    return read_range(log, topic, {partition: begin}, {partition: log.ends(topic)[partition] if end is None else end})


def _step(kind: str, record: Record, text: str) -> Step:
    return Step(kind, f"{record.topic} {record.partition}:{record.offset}", record.time_ms, text)


def figures(traced: PageTrace) -> dict[str, object]:
    """The figures for `--json`; times are ms after the page's append, null where there's nothing."""
    after: dict[str, int] = {}
    for step in traced.steps:
        after.setdefault(step.kind, step.time_ms - traced.appended_ms)
    return {
        "page": traced.location, "appended_ms": traced.appended_ms, "installs": traced.count("install"),
        "retractions": traced.count("retraction"), "examples": traced.count("example"),
        "positives": sum(traced.labels.values()), "dead_letters": traced.count("dead letter"),
        "first_version": min(traced.versions, default=None), "install_after_ms": after.get("install"),
        "example_after_ms": after.get("example"), "version_after_ms": after.get("version"),
    }  # fmt: skip
