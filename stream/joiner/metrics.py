"""The joiner's metrics."""

import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from stream.events.types import REASONS
from stream.joiner.join import Joiner
from stream.joiner.labels import INGEST_MS, Labels, count_reasons
from stream.runtime.metrics import Total

EVENTS_READ = Counter("thalweg_joiner_events", "events taken in, by kind", ["kind"])
EXAMPLES_EMITTED = Counter("thalweg_joiner_examples", "examples emitted, by reason", ["reason"])
DEAD_LETTERS = Counter("thalweg_joiner_dead_letters", "what could not be taken in, by reason", ["reason"])
JOIN_DELAY = Histogram("thalweg_joiner_join_delay_seconds", "from the append of a record to its examples' hand-over",
                       buckets=(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 30, 120, 600, 3600))  # fmt: skip
OUTCOMES = Total("thalweg_joiner_outcomes",
                 "by partition: duplicate, early, organic, retracted, stray (a retraction without install), shed "
                 "(closed early), extended (a page that brought more items under its request id), since this process "
                 "owns the partition; late, over all its owners; organic without [label] organic: not of the first "
                 "window after a restart", ("partition", "outcome"))  # fmt: skip
OPEN_PAGES = Gauge("thalweg_joiner_open_pages", "pages whose window is open, by partition", ["partition"])
STATE_BYTES = Gauge(
    "thalweg_joiner_state_bytes", "what pages and installs that are remembered take, by partition", ["partition"]
)
WATERMARK_LAG = Gauge("thalweg_joiner_watermark_lag_seconds", "wall clock minus watermark, by partition", ["partition"])
CONSUMER_LAG = Gauge("thalweg_joiner_consumer_lag_records", "records not yet read, by partition", ["partition"])
UNCOMMITTED = Gauge("thalweg_joiner_uncommitted_records", "records read but not committed, by partition", ["partition"])
REBALANCE = Gauge("thalweg_joiner_rebalance_seconds", "from losing partitions to having some again, the last time")
REBUILT = Counter("thalweg_joiner_rebuilt_records", "records read again in silence, to have the state of a commit")
REREAD = Counter("thalweg_joiner_reread_records", "records read again for pages that weren't at hand")
SAVED_PAGES = Gauge("thalweg_joiner_saved_pages", "pages in the state that was saved last, by partition", ["partition"])
OUTAGES = Counter("thalweg_joiner_outages", "how often no broker answered for a while")
REBALANCES = Counter("thalweg_joiner_rebalances", "how often partitions were shared out anew")
HISTORIES_PENDING = Gauge("thalweg_joiner_histories_pending", "changes of histories that Redis hasn't got yet")
PER_PARTITION: Final = (OPEN_PAGES, STATE_BYTES, WATERMARK_LAG, CONSUMER_LAG, UNCOMMITTED)
LETTER_REASONS: Final = {  # by the error in the dead letter
    "BadEvent": "undecodable",
    "FromTheFuture": "future",
    "Late": "late",
    "WrongPartition": "misplaced",
}
DELAYS: Final = 8  # that are noted at once
OUTCOME_NAMES: Final = ("duplicate", "late", "early", "organic", "retracted", "stray", "shed", "extended")


class Tally:
    """Counts records in plain numbers; `publish` now and then: a prometheus counter costs as much as a page."""

    def __init__(self) -> None:
        self.kinds = {"page": 0, "install": 0, "tick": 0}
        self.told = [0] * len(REASONS)
        self.emitted = 0  # examples, ever
        self.letters = dict.fromkeys(LETTER_REASONS.values(), 0)
        self._delays: list[int] = []  # ingest times of records that told something

    def add_letters(self, errors: Iterable[str]) -> None:
        """What of a record went to the dead letters, by the error of each."""
        for error in errors:
            self.letters[LETTER_REASONS[error]] += 1

    def add(self, pages: int, installs: int, ticks: int) -> None:
        """One record: events taken in."""
        kinds = self.kinds
        kinds["page"] += pages
        kinds["install"] += installs
        kinds["tick"] += ticks

    def add_labels(self, labels: Labels) -> None:
        """Labels that are emitted."""
        if labels:
            self.emitted += count_reasons(labels, self.told)
            self._delays += [page[INGEST_MS] for page in labels.pages[-DELAYS:]]

    def handed_over(self) -> None:
        """What was told until now has gone to Kafka: its delay is known."""
        now_s = time.time()
        for ingest_ms in self._delays[-DELAYS:]:  # a sample of a burst: they came together
            JOIN_DELAY.observe(max(0.0, now_s - ingest_ms / 1000))
        self._delays.clear()

    def publish(self) -> None:
        """Move the counts to the metrics."""
        for kind, count in self.kinds.items():
            EVENTS_READ.labels(kind).inc(count)
            self.kinds[kind] = 0
        for reason, count in enumerate(self.told):
            EXAMPLES_EMITTED.labels(REASONS[reason]).inc(count)
            self.told[reason] = 0
        for why, count in self.letters.items():
            if count:
                DEAD_LETTERS.labels(why).inc(count)
            self.letters[why] = 0


def measure(partition: int, joiner: Joiner, held_records: int, lag: int, late: int, now_s: float) -> None:
    """The state of one partition; `late`: its events that came too late, over all its owners."""
    label = str(partition)
    OPEN_PAGES.labels(label).set(joiner.open_pages)
    STATE_BYTES.labels(label).set(joiner.held_bytes)
    WATERMARK_LAG.labels(label).set(now_s - joiner.watermark_ms / 1000)
    CONSUMER_LAG.labels(label).set(lag)
    UNCOMMITTED.labels(label).set(held_records)
    counts = joiner.counts
    for outcome in OUTCOME_NAMES:
        OUTCOMES.set(late if outcome == "late" else getattr(counts, outcome), label, outcome)


def forget(partition: int) -> None:
    """The partition is another worker's now: its gauges go."""
    label = str(partition)
    for gauge in PER_PARTITION:
        gauge.remove(label)
    for outcome in OUTCOME_NAMES:
        OUTCOMES.remove(label, outcome)
