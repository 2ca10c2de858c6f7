"""Organic installs that must be in the log against those that are there, in each topic where the spec wants them."""

from collections.abc import Iterable, Mapping
from typing import Final

from stream.events.topics import EVENTS, EXAMPLES, ORGANIC
from stream.events.types import Organic
from thalweg.audit.audit_range import AuditRange, install_back_ms
from thalweg.audit.emitted import EmittedOrganic, place_of
from thalweg.audit.event_scan import Bucket
from thalweg.audit.findings import Audit, Difference, Progress, of_partition
from thalweg.audit.log_events import InstallEvent

# Of each topic what is missing, and what is there and mustn't be.
FAULTS_IN: Final = {
    ORGANIC.name: ("organic_missing", "organic_surplus"),
    EXAMPLES.name: ("organic_unlearned", "organic_learned"),
}


def compare_organic(
    audit: Audit,
    of: AuditRange,
    progress: Mapping[int, Progress] | None,
    watermarks: Mapping[int, int],
    bucket: Bucket,
    emitted: Mapping[str, Iterable[EmittedOrganic]],
) -> None:
    """Count and name what is missing and surplus, of some users. Nothing is missing where nothing is wanted.

    `emitted`: by topic, what stands there.
    """
    rules, back_ms = audit.rules, install_back_ms(audit.rules)
    expected = {_organic(one): one for joined in bucket.joined for one in joined.organic}
    wanted_in = {ORGANIC.name: rules.organic, EXAMPLES.name: rules.organic_examples}

    def is_due(one: InstallEvent) -> bool:
        certain = of.is_recent(one.ingest_ms) and of.is_certain(one.partition, one.time_ms - back_ms)
        if progress is None:
            return certain and one.time_ms + rules.life_ms <= watermarks[one.partition]
        committed = of_partition(progress, one.partition)
        began = one.time_ms - rules.window_ms >= committed.unsure_ms
        return certain and began and one.time_ms <= committed.finished_ms

    due = {organic: install for organic, install in expected.items() if rules.organic and is_due(install)}
    audit.figures["organic"] += len(due)
    for topic, (missing, surplus) in FAULTS_IN.items():
        found: dict[Organic, str] = {}
        for one in emitted[topic]:
            found.setdefault(one.organic, one.place)
        for organic, install in due.items() if wanted_in[topic] else ():
            if organic not in found:
                place = place_of(EVENTS.name, install.partition, install.offset)
                audit.found(_difference(missing, organic, f"an organic install ({place})", f"nothing in `{topic}`"))
        for organic, place in found.items():
            certain = of.is_recent(organic.ingest_ms) and of.is_certain_anywhere(organic.time_ms - back_ms)
            if certain and organic not in expected:
                audit.found(_difference(surplus, organic, "", f"in {place}"))


def _organic(one: InstallEvent) -> Organic:
    return Organic(one.user, one.item, one.time_ms, one.install_id, one.named, one.ingest_ms)


def organic_twice(one: EmittedOrganic) -> Difference:
    """One in `examples` that a learner learns again."""
    return _difference("learned_twice", one.organic, "", f"in {one.place}")


def _difference(fault: str, one: Organic, expected: str, found: str) -> Difference:
    return Difference(fault, one.request_id, -1, one.item, expected, found, f"{one.install_id} of {one.user}")
