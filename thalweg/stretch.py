"""How much of the log an audit reads, and what of it can be judged then: what decides must all have been read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import polars as pl

from stream.log import Log
from stream.topics import EVENTS, EXAMPLES, ORGANIC
from thalweg.offline import Events, Expected, expected
from thalweg.rules import AuditRules
from thalweg.span import SKEW_MS, span


@dataclass(frozen=True)
class Stretch:
    """What of `events` was read. `judged_ms`: pages appended then or later are judged; 0: all.

    `bounds`: by partition, up to which event time events that weren't read may decide; 0: all of them were read.
    """

    judged_ms: int = 0
    bounds: Mapping[int, int] = field(default_factory=dict)

    def recent(self) -> pl.Expr:
        """Whether a row was appended late enough to be judged."""
        return pl.col("ingest_ms") >= self.judged_ms

    def sure(self, back_ms: int = 0) -> pl.Expr:
        """Whether what decides on a row was all read: events from so long before its time on."""
        bounds = pl.col("partition").replace_strict(dict(self.bounds), default=0, return_dtype=pl.Int64)
        return pl.col("time_ms") - back_ms > bounds

    def sure_anywhere(self, back_ms: int = 0) -> pl.Expr:
        """The same of a row that doesn't tell its partition."""
        return pl.col("time_ms") - back_ms > max(self.bounds.values(), default=0)


def read_events(log: Log, rules: AuditRules, since_ms: int | None) -> tuple[Events, Expected, Stretch]:
    """The events that decide on pages appended since then (None: on all), and what they should have led to.

    Where event time keeps to the time of append, a stretch before the first page will do. Events before it have no
    time beyond the stretch's begin by more than `ahead_ms`, and raise no watermark beyond it: what is later than that
    they don't touch. If a page isn't (old events are played again), all of the log is read.
    """
    ends = log.ends(EVENTS.name)
    starts = log.starts(EVENTS.name)
    held_ms = _judged_from(log, rules)
    judged_ms = max(held_ms, since_ms or 0)
    margin_ms = _margin_ms(rules)
    begin = log.offsets_at(EVENTS.name, judged_ms - margin_ms) if judged_ms else starts
    for first, begin_ms in ((begin, judged_ms - margin_ms), (starts, held_ms - margin_ms)):
        stretch = Stretch(judged_ms, {p: begin_ms + rules.ahead_ms if at else 0 for p, at in first.items()})
        events = Events(rules)
        events.take(span(log, EVENTS.name, first, ends))
        should = expected(events)
        if begin == starts or should.labels.filter(stretch.recent() & ~stretch.sure()).is_empty():
            break
    return events, should, stretch


def told_topics(rules: AuditRules) -> list[str]:
    """What the joiner writes, as far as it is judged."""
    return [EXAMPLES.name, ORGANIC.name] if rules.organic else [EXAMPLES.name]


def _judged_from(log: Log, rules: AuditRules) -> int:
    """From which append time on pages can be judged: what they need must still be there; 0: all of them."""
    judged_ms = 0
    for topic, margin_ms in ((EVENTS.name, _margin_ms(rules)), *((topic, SKEW_MS) for topic in told_topics(rules))):
        ends = log.ends(topic)
        trimmed = {p: at for p, at in log.starts(topic).items() if 0 < at < ends[p]}
        for first in chain.from_iterable(span(log, topic, {p: at}, {p: at + 1}) for p, at in trimmed.items()):
            judged_ms = max(judged_ms, first.time_ms + margin_ms)
    return judged_ms


def _margin_ms(rules: AuditRules) -> int:
    """How much is read before what is judged: watermark, installs that came before their page, pages of an install."""
    return rules.life_ms + rules.lateness_ms + rules.ahead_ms + (rules.window_ms if rules.organic else 0)
