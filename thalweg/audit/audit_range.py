"""Which range of the log an audit reads, and what can be judged by it: all deciding events must have been read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from stream.events.topics import EVENTS, EXAMPLES, ORGANIC
from stream.log.log_scan import SKEW_MS, read_range
from stream.log.protocol import Log
from thalweg.audit.rules import AuditRules


@dataclass(frozen=True)
class AuditRange:
    """The range of `events` that is read: from the offset `begin` on, by partition.

    `judged_ms`: pages appended then or later are judged; 0: all. `bounds`: by partition, the event time up to which
    unread events may decide; 0: all of them are read.
    """

    begin: Mapping[int, int]
    judged_ms: int = 0
    bounds: Mapping[int, int] = field(default_factory=dict)

    def is_recent(self, ingest_ms: int) -> bool:
        """Whether a record with this append time is judged."""
        return ingest_ms >= self.judged_ms

    def is_certain(self, partition: int, time_ms: int) -> bool:
        """Whether all events of this event time or later are read."""
        return time_ms > self.bounds.get(partition, 0)

    def is_certain_anywhere(self, time_ms: int) -> bool:
        """The same, for every partition."""
        return time_ms > max(self.bounds.values(), default=0)


def audit_ranges(log: Log, rules: AuditRules, since_ms: int | None) -> list[AuditRange]:
    """The range that decides on pages appended since `since_ms` (None: on all), and the whole log as the second try.

    Where event time follows append time, it's enough to begin some time before the first judged page. Earlier events
    are at most `ahead_ms` later than that begin, and raise no watermark beyond it, so they don't affect later pages. If
    a judged page isn't later (old events are replayed), the whole log must be read.
    """
    starts = log.starts(EVENTS.name)
    whole_ms = _judged_from(log, rules)
    judged_ms = max(whole_ms, since_ms or 0)
    margin_ms = _margin_ms(rules)
    begin = log.offsets_at(EVENTS.name, judged_ms - margin_ms) if judged_ms else starts
    ranges = [
        AuditRange(first, judged_ms, {p: begin_ms + rules.ahead_ms if offset else 0 for p, offset in first.items()})
        for first, begin_ms in ((begin, judged_ms - margin_ms), (starts, whole_ms - margin_ms))
    ]
    return ranges[:1] if begin == starts else ranges


def page_back_ms(rules: AuditRules) -> int:
    """How much older than a page the oldest event that decides on it can be: the first page that it extends.

    That first page is still remembered at a watermark of at least the further page's time - lateness. A page's install
    is older by no more than `skew`.
    """
    return rules.life_ms + rules.lateness_ms + rules.skew_ms


def install_back_ms(rules: AuditRules) -> int:
    """How much older than an install the oldest event that decides whether it is organic can be."""
    return rules.window_ms + page_back_ms(rules)


def emitted_topics(rules: AuditRules) -> list[str]:
    """The joiner's output topics that are judged."""
    return [EXAMPLES.name, ORGANIC.name] if rules.organic else [EXAMPLES.name]


def _judged_from(log: Log, rules: AuditRules) -> int:
    """The append time from which pages can be judged, since retention has kept what decides on them; 0: all."""
    judged_ms = 0
    for topic, margin_ms in ((EVENTS.name, _margin_ms(rules)), *((topic, SKEW_MS) for topic in emitted_topics(rules))):
        ends = log.ends(topic)
        trimmed = {p: start for p, start in log.starts(topic).items() if 0 < start < ends[p]}
        for first in chain.from_iterable(read_range(log, topic, {p: n}, {p: n + 1}) for p, n in trimmed.items()):
            judged_ms = max(judged_ms, first.time_ms + margin_ms)
    return judged_ms


def _margin_ms(rules: AuditRules) -> int:
    """How much is read before the first judged page: the page may be older than its append, what decides on it more."""
    back_ms = install_back_ms(rules) if rules.organic else page_back_ms(rules)
    return rules.life_ms + rules.lateness_ms + rules.ahead_ms + back_ms
