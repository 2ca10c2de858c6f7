"""A page's life: its place in the log, its installs, the labels told of it and why, the versions that have them."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from stream.events.codec import decode_events, decode_examples
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import REASONS, WINDOW_CLOSED, Examples, Impression, Install
from stream.log.protocol import Log, Record, partition_of
from stream.runtime.errors import BadSnapshot, DataError
from stream.snapshots.manifest import Manifest
from stream.snapshots.store import SnapshotStore
from thalweg.audit.log_scan import SKEW_MS, span
from thalweg.audit.rules import AuditRules
from thalweg.views.attribution_explain import Around, Met
from thalweg.views.dead_letters import letters_of

REACH_MS: Final = (60_000, 600_000, 3_600_000, 6 * 3_600_000, 24 * 3_600_000)  # how far back to look, step by step
SLACK_MS: Final = 600_000  # a joiner tells by then, or was down: then all of `examples` is looked through
AFTER_MS: Final = 600_000  # so long after a page's life installs that came too late for it are looked for


@dataclass(frozen=True)
class Step:
    """One thing that happened. `time_ms`: its append to the log; of a version, when it was made."""

    what: str
    where: str
    time_ms: int
    says: str


@dataclass
class Life:
    """A page's life, in order of time. `page` None: only dead letters tell of it."""

    request_id: str
    page: Impression | None = None
    place: str = ""
    appended_ms: int = 0
    steps: list[Step] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the last one told, by item
    versions: list[int] = field(default_factory=list)

    def count(self, what: str) -> int:
        """How many steps of a kind."""
        return sum(step.what == what for step in self.steps)


@dataclass(frozen=True)
class _Found:
    page: Impression
    record: Record


def trace(
    log: Log,
    rules: AuditRules,
    request_id: str,
    *,
    now_ms: int,
    since_ms: int,
    user: str = "",
    store: SnapshotStore | None = None,
) -> Life:
    """Look for the page among what was appended since `since_ms`, the newest first, and tell its life.

    `user`: whose page it is, if known: only one partition is read then. `store`: the model's snapshots, if they can
    be had. Raises DataError when nothing tells of the page, LogError, StoreUnavailable.
    """
    life = Life(request_id)
    found = _find(log, request_id, now_ms, since_ms, user)
    if found is not None:
        around = _around(log, rules, found)
        if (first := around.before()) is not None:
            assert isinstance(first.event, Impression)
            found = _Found(first.event, first.record)
            around = _around(log, rules, found)
        page, record = found.page, found.record
        life.page, life.place, life.appended_ms = page, f"{record.partition}:{record.offset}", record.time_ms
        said = f"user {page.user}, {len(page.items)} items, event time {page.time_ms}"
        ranked = f", ranked by version {page.version}" if page.version else ", ranked by no version"
        life.steps.append(Step("page", f"{EVENTS.name} {life.place}", record.time_ms, said + ranked))
        told = _examples(log, around, life)
        if not life.labels and around.ended and page.time_ms + rules.life_ms <= _begin_ms(rules, record):
            # Was event time that far already? Only what is older can tell.
            around = _around(log, rules, found, log.starts(EVENTS.name)[record.partition])
        if around.late:
            late = f"; it came too late to count: event time had passed {page.time_ms + rules.life_ms}"
            life.steps[0] = replace(life.steps[0], says=life.steps[0].says + late)
        life.steps += [*_events(around, life), *told]
        _versions(store, life)
    for topic in (EVENTS.name, EXAMPLES.name):
        for letter in letters_of(log, topic, since_ms):
            if request_id.encode() in letter.held.original:
                why = f"{letter.held.error}: {letter.held.message}; thalweg dlq show {letter.number} --topic {topic}"
                life.steps.append(Step("dead letter", letter.place, letter.time_ms, why))
    if not life.steps:
        raise DataError(
            f"no page {request_id} was appended to `{EVENTS.name}` in that time, nor is there a dead letter of it: "
            "look further back with --since 7d, check the id, and whether whoever shows pages writes them"
        )
    life.steps.sort(key=lambda step: step.time_ms)  # stable: in order of the log where times are equal
    return life


def _find(log: Log, request_id: str, now_ms: int, since_ms: int, user: str) -> _Found | None:
    """The page's first record within the newest stretch of time that has one."""
    needle = request_id.encode()
    ends: Mapping[int, int] = log.ends(EVENTS.name)
    wanted = {partition_of(user, len(ends))} if user else set(ends)
    for back_ms in (*REACH_MS, now_ms):
        from_ms = max(since_ms, now_ms - back_ms)
        begin = log.offsets_at(EVENTS.name, from_ms)
        stretch = span(log, EVENTS.name, {p: at for p, at in begin.items() if p in wanted}, ends)
        for record in stretch:
            if needle in (record.value or b""):  # reading is fast, decoding isn't
                for event in decode_events(record.value or b"")[0]:
                    if isinstance(event, Impression) and event.request_id == request_id:
                        stretch.close()
                        return _Found(event, record)
        if from_ms == since_ms:
            return None
        ends = {p: min(at, ends[p]) for p, at in begin.items()}
    return None


def _begin_ms(rules: AuditRules, record: Record) -> int:
    """From when on events matter to a page."""
    return record.time_ms - rules.life_ms - rules.lateness_ms


def _around(log: Log, rules: AuditRules, found: _Found, begin: int | None = None) -> Around:
    """What the page's partition has of its user, from `begin` until some time after the page can be corrected."""
    if begin is None:
        begin = log.offsets_at(EVENTS.name, _begin_ms(rules, found.record))[found.record.partition]
    around = Around(rules, found.page, found.record.offset)
    for record in around.take(_one(log, EVENTS.name, found.record.partition, begin)):
        if around.ended and record.time_ms > around.ended.time_ms + AFTER_MS:
            break
    return around


def _events(around: Around, life: Life) -> Iterator[Step]:
    """Repetitions, when the window was over, installs and retractions of the page's items."""
    page = around.page
    there = set(page.items)
    for met in around.pages:
        if isinstance(met.event, Impression) and met.event.request_id == page.request_id and met is not around.place:
            new = [item for item in met.event.items if item not in there and item in around.items]
            there.update(new)
            extends = f"extends the page by {', '.join(new)}"
            yield _step("page again", met.record, extends if new else "a repetition: counts once")
    if around.closed:
        close_ms = page.time_ms + around.rules.window_ms
        yield _step("window over", around.closed, f"event time has passed {close_ms} and the lateness")
    for met in around.installs:
        if isinstance(met.event, Install) and met.event.item in around.items:
            yield _install(met, met.event, around, life)


def _install(met: Met, install: Install, around: Around, life: Life) -> Step:
    """An install, and whose it is; or why there's no positive of it."""
    page, rules = around.page, around.rules
    said = f"item {install.item}, id {install.install_id}, {install.time_ms - page.time_ms:+} ms of event time"
    if install.retracted:
        return _step("retraction", met.record, said)
    said += "; it names this page" if install.request_id == page.request_id else ""
    why = around.why_not(met)
    if not why and life.labels.get(install.item) != 1:
        waits = rules.policy == "wait" and around.closed is None
        why = "no positive is told yet: " + (
            "the policy waits for the window's end" if waits else "the joiner isn't there yet, else ask `thalweg audit`"
        )
    return _step("install", met.record, f"{said}; {why}" if why else said)


def _examples(log: Log, around: Around, life: Life) -> list[Step]:
    """Every record of examples that tells of the page; its last labels go into `life`."""
    page, steps = around.page, list[Step]()
    ends = log.ends(EXAMPLES.name)
    partition = partition_of(page.user, len(ends)) if len(ends) > 1 else 0
    last_ms = around.ended.time_ms if around.ended else around.read_ms
    end = ends[partition]
    first, soon = (
        log.offsets_at(EXAMPLES.name, at)[partition] for at in (life.appended_ms - SKEW_MS, last_ms + SLACK_MS)
    )
    needle = page.request_id.encode()
    seen: set[int] = set()
    for begin, until in ((first, min(soon, end)), (soon, end)):
        for record in _one(log, EXAMPLES.name, partition, begin, until):
            if needle in (record.value or b""):
                for told in decode_examples(record.value or b"")[0]:
                    if told.page.request_id == page.request_id:
                        steps += _told(record, told, seen)
                        items = (told.page.items[position] for position in told.positions)
                        life.labels.update(zip(items, told.labels, strict=True))
        if life.labels == around.labels():
            break
    return steps


def _told(record: Record, told: Examples, seen: set[int]) -> Iterator[Step]:
    """A step for each reason and label."""
    kinds: dict[tuple[int, int, bool], list[int]] = {}
    for row, example in enumerate(told.ids):
        kinds.setdefault((told.reasons[row], told.labels[row], example in seen), []).append(row)
    seen.update(told.ids)
    for (reason, label, again), rows in kinds.items():
        items = ", ".join(told.page.items[told.positions[row]] for row in rows)
        delay_ms = record.time_ms - max(told.ingest_ms[row] for row in rows)
        cause = "the record that closed the window" if reason == WINDOW_CLOSED else "the event that caused it"
        said = f"label {label}, {REASONS[reason]}: {items}; {delay_ms} ms after {cause}"
        yield _step("example", record, said + ("; told before, with the same ids: learned once" if again else ""))


def _versions(store: SnapshotStore | None, life: Life) -> None:
    """The first version that holds each of the examples, among those that are still kept."""
    places = sorted({step.where.split()[1] for step in life.steps if step.what == "example"})
    kept = store.versions() if store is not None and places else []
    for place in places:
        partition, offset = (int(part) for part in place.split(":"))

        def holds(version: int, partition: int = partition, offset: int = offset) -> bool:
            manifest = _manifest(store, version)
            return manifest is not None and manifest.offset.get(partition, 0) > offset

        at = bisect_left(kept, True, key=holds)
        manifest = _manifest(store, kept[at]) if at < len(kept) else None
        if manifest is None:
            continue
        first = (
            "the first version with" if at or not manifest.parent else "older ones aren't kept: it or one before has"
        )
        says = f"{first} examples {place}"
        life.steps.append(Step("version", f"snapshot {manifest.version}", manifest.created_ms, says))
        life.versions.append(manifest.version)


def _manifest(store: SnapshotStore | None, version: int) -> Manifest | None:
    """A version, if it's still there."""
    try:
        return store.manifest(version) if store is not None else None
    except BadSnapshot:
        return None


def _one(log: Log, topic: str, partition: int, begin: int, end: int | None = None) -> Iterable[Record]:
    """Records of one partition."""
    return span(log, topic, {partition: begin}, {partition: log.ends(topic)[partition] if end is None else end})


def _step(what: str, record: Record, says: str) -> Step:
    return Step(what, f"{record.topic} {record.partition}:{record.offset}", record.time_ms, says)


def flat(life: Life) -> dict[str, object]:
    """The figures for `--json`; times are ms after the page's append, null where there's nothing."""
    after: dict[str, int] = {}
    for step in life.steps:
        after.setdefault(step.what, step.time_ms - life.appended_ms)
    return {
        "page": life.place, "appended_ms": life.appended_ms, "installs": life.count("install"),
        "retractions": life.count("retraction"), "examples": life.count("example"),
        "positives": sum(life.labels.values()), "dead_letters": life.count("dead letter"),
        "first_version": min(life.versions, default=None), "install_after_ms": after.get("install"),
        "example_after_ms": after.get("example"), "version_after_ms": after.get("version"),
    }  # fmt: skip
