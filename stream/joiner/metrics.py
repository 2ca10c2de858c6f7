"""The joiner's metrics."""

import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from stream.events.types import REASONS
from stream.joiner.join import JoinCounts, Joiner
from stream.joiner.labels import INGEST_MS, LabelBatch, add_reason_counts
from stream.runtime.metrics import Total

EVENTS_READ = Counter("thalweg_joiner_events", "events joined, by kind", ["kind"])
EXAMPLES_EMITTED = Counter("thalweg_joiner_examples", "examples emitted, by reason", ["reason"])
DEAD_LETTERS = Counter("thalweg_joiner_dead_letters", "events rejected, by reason", ["reason"])
JOIN_DELAY = Histogram("thalweg_joiner_join_delay_seconds",
                       "time from a record's append until its examples are handed to the Kafka producer",
                       buckets=(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 30, 120, 600, 3600))  # fmt: skip
OUTCOMES = Total("thalweg_joiner_outcomes",
                 "by partition: duplicate, early, organic, retracted, stray (a retraction without install), shed "
                 "(closed early), extended (a page that brought more items under its request id); counted since "
                 "assignment, except `late` (stored in commits); organic without [label] organic: not of the first "
                 "window after a restart", ("partition", "outcome"))  # fmt: skip
OPEN_PAGES = Gauge("thalweg_joiner_open_pages", "pages whose window is open, by partition", ["partition"])
STATE_BYTES = Gauge("thalweg_joiner_state_bytes", "size of retained pages and installs, by partition", ["partition"])
WATERMARK_LAG = Gauge("thalweg_joiner_watermark_lag_seconds", "wall clock minus watermark, by partition", ["partition"])
CONSUMER_LAG = Gauge("thalweg_joiner_consumer_lag_records", "records not yet read, by partition", ["partition"])
LAG_SECONDS = Gauge(
    "thalweg_joiner_consumer_lag_seconds", "age of the oldest record that isn't joined yet, by partition", ["partition"]
)
UNCOMMITTED = Gauge("thalweg_joiner_uncommitted_records", "records read but not committed, by partition", ["partition"])
REBALANCE = Gauge("thalweg_joiner_rebalance_seconds", "from the last revocation of partitions to the next assignment")
REBUILT = Counter("thalweg_joiner_rebuilt_records", "records read again silently, to rebuild the state of a commit")
REREAD = Counter("thalweg_joiner_reread_records", "records read again for pages that weren't cached")
SAVED_PAGES = Gauge("thalweg_joiner_saved_pages", "pages in the state that was saved last, by partition", ["partition"])
OUTAGES = Counter("thalweg_joiner_outages", "outages: no broker answered for a while")
REBALANCES = Counter("thalweg_joiner_rebalances", "rebalances of partitions")
HISTORIES_PENDING = Gauge("thalweg_joiner_histories_pending", "changes of histories not written to Redis yet")
PER_PARTITION: Final = (OPEN_PAGES, STATE_BYTES, WATERMARK_LAG, CONSUMER_LAG, LAG_SECONDS, UNCOMMITTED)
DEAD_LETTER_REASONS: Final = {  # by the error in the dead letter
    "BadEvent": "undecodable",
    "FromTheFuture": "future",
    "Late": "late",
    "WrongPartition": "misplaced",
}
for reason in DEAD_LETTER_REASONS.values():
    DEAD_LETTERS.labels(reason)  # present from the first scrape on: a rate counts from the second one
EVENTS_OF_KIND: Final = tuple(EVENTS_READ.labels(kind) for kind in ("page", "install", "tick", "erase"))
EXAMPLES_OF_REASON: Final = tuple(map(EXAMPLES_EMITTED.labels, REASONS))
DELAYS: Final = 8  # of a burst: its records came together


class Tally:
    """Counts in plain numbers, which `publish` moves to the metrics: a prometheus counter costs as much as a page."""

    def __init__(self) -> None:
        self.emitted = 0  # examples, ever
        self.events = [0] * len(EVENTS_OF_KIND)
        self.examples = [0] * len(REASONS)
        self._ingest_ms: list[int] = []  # of records whose labels aren't handed over yet

    def add_dead_letters(self, errors: Iterable[str]) -> None:
        """Dead letters of a record, by the error of each."""
        for error in errors:
            DEAD_LETTERS.labels(DEAD_LETTER_REASONS[error]).inc()

    def add_erased(self, users: int) -> None:
        """Users that were erased."""
        self.events[3] += users
        self.events[2] -= users

    def add_events(self, pages: int, installs: int, ticks: int) -> None:
        """Events that were joined."""
        events = self.events
        events[0] += pages
        events[1] += installs
        events[2] += ticks

    def add_labels(self, labels: LabelBatch) -> None:
        """Labels that are emitted."""
        if labels:
            self.emitted += add_reason_counts(labels, self.examples)
            self._ingest_ms += [page[INGEST_MS] for page in labels.pages[-DELAYS:]]

    def observe_delays(self) -> None:
        """All labels so far were handed over to Kafka: observe their delay."""
        now_s = time.time()
        for ingest_ms in self._ingest_ms[-DELAYS:]:
            JOIN_DELAY.observe(max(0.0, now_s - ingest_ms / 1000))
        self._ingest_ms.clear()

    def publish(self) -> None:
        """Move the counts to the metrics."""
        for counters, counts in ((EVENTS_OF_KIND, self.events), (EXAMPLES_OF_REASON, self.examples)):
            for k, counter in enumerate(counters):
                counter.inc(counts[k])
                counts[k] = 0


class Lag(NamedTuple):
    """How far joining is behind the log's end. `seconds`: age of the oldest record that waits."""

    records: int
    seconds: float


def set_partition_gauges(partition: int, joiner: Joiner, uncommitted: int, lag: Lag, late: int, now_s: float) -> None:
    """Set a partition's gauges; `uncommitted` in records, `late`: its late events, over all workers."""
    label = str(partition)
    OPEN_PAGES.labels(label).set(joiner.open_pages)
    STATE_BYTES.labels(label).set(joiner.state_bytes)
    WATERMARK_LAG.labels(label).set(now_s - joiner.watermark_ms / 1000)
    CONSUMER_LAG.labels(label).set(lag.records)
    LAG_SECONDS.labels(label).set(lag.seconds)
    UNCOMMITTED.labels(label).set(uncommitted)
    for outcome, count in joiner.counts._replace(late=late)._asdict().items():
        OUTCOMES.set(count, label, outcome)


def remove_partition_gauges(partition: int) -> None:
    """Remove the gauges of a partition that was revoked."""
    label = str(partition)
    for gauge in PER_PARTITION:
        gauge.remove(label)
    for outcome in JoinCounts._fields:
        OUTCOMES.remove(label, outcome)
