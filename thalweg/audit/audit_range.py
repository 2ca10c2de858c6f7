"""How much of the log an audit reads, and what of it can be judged then: what decides must all have been read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from stream.events.topics import EVENTS, EXAMPLES, ORGANIC
from stream.log.protocol import Log
from thalweg.audit.log_scan import SKEW_MS, span
from thalweg.audit.rules import AuditRules


@dataclass(frozen=True)
class AuditRange:
    """What of `events` is read: from `begin` on, by partition.

    `judged_ms`: pages appended then or later are judged; 0: all. `bounds`: by partition, up to which event time events
    that aren't read may decide; 0: all of them are read.
    """

    begin: Mapping[int, int]
    judged_ms: int = 0
    bounds: Mapping[int, int] = field(default_factory=dict)

    def is_recent(self, ingest_ms: int) -> bool:
        """Whether something was appended late enough to be judged."""
        return ingest_ms >= self.judged_ms

    def is_certain(self, partition: int, time_ms: int) -> bool:
        """Whether all events of this event time or later are read."""
        return time_ms > self.bounds.get(partition, 0)

    def is_certain_anywhere(self, time_ms: int) -> bool:
        """The same, whatever the partition."""
        return time_ms > max(self.bounds.values(), default=0)


def audit_ranges(log: Log, rules: AuditRules, since_ms: int | None) -> list[AuditRange]:
    """The range that decides on pages appended since then (None: on all), and a larger one where that won't do.

    Where event time keeps to the time of append, a range that begins some time before the first page will do. Events
    before it have no time beyond its begin by more than `ahead_ms`, and raise no watermark beyond it: what is later
    than that they don't touch. If a page isn't (old events are played again), all of the log must be read.
    """
    starts = log.starts(EVENTS.name)
    whole_ms = _judged_from(log, rules)
    judged_ms = max(whole_ms, since_ms or 0)
    margin_ms = _margin_ms(rules)
    begin = log.offsets_at(EVENTS.name, judged_ms - margin_ms) if judged_ms else starts
    ranges = [
        AuditRange(first, judged_ms, {p: begin_ms + rules.ahead_ms if at else 0 for p, at in first.items()})
        for first, begin_ms in ((begin, judged_ms - margin_ms), (starts, whole_ms - margin_ms))
    ]
    return ranges[:1] if begin == starts else ranges


def page_back_ms(rules: AuditRules) -> int:
    """How much older than a page is the oldest event that may decide on it: the first page that it may extend.

    That one must not be forgotten, by a watermark of at least the further page's time - lateness. The install of a page
    is older by no more than `skew`.
    """
    return rules.life_ms + rules.lateness_ms + rules.skew_ms


def install_back_ms(rules: AuditRules) -> int:
    """How much older than an install is the oldest event that decides whether it is organic: what its page extends."""
    return rules.window_ms + page_back_ms(rules)


def emitted_topics(rules: AuditRules) -> list[str]:
    """What the joiner writes, as far as it is judged."""
    return [EXAMPLES.name, ORGANIC.name] if rules.organic else [EXAMPLES.name]


def _judged_from(log: Log, rules: AuditRules) -> int:
    """From which append time on pages can be judged: what they need must still be there; 0: all of them."""
    judged_ms = 0
    for topic, margin_ms in ((EVENTS.name, _margin_ms(rules)), *((topic, SKEW_MS) for topic in emitted_topics(rules))):
        ends = log.ends(topic)
        trimmed = {p: at for p, at in log.starts(topic).items() if 0 < at < ends[p]}
        for first in chain.from_iterable(span(log, topic, {p: at}, {p: at + 1}) for p, at in trimmed.items()):
            judged_ms = max(judged_ms, first.time_ms + margin_ms)
    return judged_ms


def _margin_ms(rules: AuditRules) -> int:
    """How much is read before what is judged: a page in time is older than its append by this much, and what decides
    on it by so much more."""
    back_ms = install_back_ms(rules) if rules.organic else page_back_ms(rules)
    return rules.life_ms + rules.lateness_ms + rules.ahead_ms + back_ms
