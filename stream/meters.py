"""The joiner's meters, as `/metrics` shows them."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from stream.events import REASONS, Examples, Impression, Install, SourceEvent
from stream.join import Joiner

EVENTS_READ = Counter("thalweg_joiner_events", "events taken in", ["kind"])
EXAMPLES_TOLD = Counter("thalweg_joiner_examples", "examples emitted", ["reason"])
DEAD_LETTERS = Counter("thalweg_joiner_dead_letters", "what could not be taken in", ["reason"])
MET = Gauge("thalweg_joiner_met", "duplicate, late, early, organic, retracted: since this process owns the partition",
            ["partition", "what"])  # fmt: skip
OPEN_PAGES = Gauge("thalweg_joiner_open_pages", "pages whose window is open", ["partition"])
WATERMARK_LAG = Gauge("thalweg_joiner_watermark_lag_seconds", "wall clock minus watermark", ["partition"])
HELD_RECORDS = Gauge("thalweg_joiner_held_records", "records read but not committed", ["partition"])
HISTORIES_WAITING = Gauge("thalweg_joiner_histories_waiting", "changes of histories that Redis hasn't got yet")

# Looking a child up by its label costs more than counting.
_PAGES, _INSTALLS, _TICKS = (EVENTS_READ.labels(kind) for kind in ("page", "install", "tick"))
_TOLD = [EXAMPLES_TOLD.labels(reason) for reason in REASONS]


def count(taken: Sequence[SourceEvent], said: Sequence[Examples], bad: int, ahead: int) -> None:
    """One record: events taken in, examples told, and what went to the dead letters."""
    pages = sum(isinstance(event, Impression) for event in taken)
    installs = sum(isinstance(event, Install) for event in taken)
    _PAGES.inc(pages)
    _INSTALLS.inc(installs)
    _TICKS.inc(len(taken) - pages - installs)
    for examples in said:
        for reason in set(examples.reasons):
            _TOLD[reason].inc(examples.reasons.count(reason))
    if bad:
        DEAD_LETTERS.labels("undecodable").inc(bad)
    if ahead:
        DEAD_LETTERS.labels("future").inc(ahead)


def measure(partition: int, joiner: Joiner, held_records: int, now_s: float) -> None:
    """The state of one partition."""
    label = str(partition)
    OPEN_PAGES.labels(label).set(joiner.open_pages)
    WATERMARK_LAG.labels(label).set(now_s - joiner.watermark_ms / 1000)
    HELD_RECORDS.labels(label).set(held_records)
    for what in ("duplicate", "late", "early", "organic", "retracted"):
        MET.labels(label, what).set(getattr(joiner.counts, what))
