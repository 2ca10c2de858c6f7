"""The joiner's meters, as `/metrics` shows them."""

import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from stream.events.codec import REASONS
from stream.joiner.join import Joiner
from stream.joiner.labels import INGEST_MS, Labels, count_reasons

EVENTS_READ = Counter("thalweg_joiner_events", "events taken in", ["kind"])
EXAMPLES_TOLD = Counter("thalweg_joiner_examples", "examples emitted", ["reason"])
DEAD_LETTERS = Counter("thalweg_joiner_dead_letters", "what could not be taken in", ["reason"])
JOIN_DELAY = Histogram("thalweg_joiner_join_delay_seconds", "from the append of a record to its examples' hand-over",
                       buckets=(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 30, 120, 600, 3600))  # fmt: skip
MET = Gauge("thalweg_joiner_met",
            "duplicate, early, organic, retracted, stray (a retraction without install), shed (closed early), "
            "extended (a page that brought more items under its request id): since "
            "this process owns the partition; late: over all its owners; "
            "organic without [label] organic: not of the first window after a restart",
            ["partition", "what"])  # fmt: skip
OPEN_PAGES = Gauge("thalweg_joiner_open_pages", "pages whose window is open", ["partition"])
OPEN_BYTES = Gauge("thalweg_joiner_held_bytes", "what open pages, known pages and installs take", ["partition"])
WATERMARK_LAG = Gauge("thalweg_joiner_watermark_lag_seconds", "wall clock minus watermark", ["partition"])
CONSUMER_LAG = Gauge("thalweg_joiner_consumer_lag", "records not yet read", ["partition"])
HELD_RECORDS = Gauge("thalweg_joiner_held_records", "records read but not committed", ["partition"])
REBALANCE = Gauge("thalweg_joiner_rebalance_seconds", "from losing partitions to having some again, the last time")
REBUILT = Counter("thalweg_joiner_rebuilt_records", "records read again in silence, to have the state of a commit")
READ_AGAIN = Counter("thalweg_joiner_read_again_records", "records read again for pages that weren't at hand")
SAVED_PAGES = Gauge("thalweg_joiner_saved_pages", "pages in the state that was saved last", ["partition"])
OUTAGES = Counter("thalweg_joiner_outages", "how often no broker answered for a while")
REBALANCES = Counter("thalweg_joiner_rebalances", "how often partitions were shared out anew")
HISTORIES_WAITING = Gauge("thalweg_joiner_histories_waiting", "changes of histories that Redis hasn't got yet")
PER_PARTITION: Final = (OPEN_PAGES, OPEN_BYTES, WATERMARK_LAG, CONSUMER_LAG, HELD_RECORDS)
LETTER_REASONS: Final = {  # by the error in the dead letter
    "BadEvent": "undecodable",
    "FromTheFuture": "future",
    "Late": "late",
    "WrongPartition": "misplaced",
}
DELAYS: Final = 8  # that are noted at once
WHATS: Final = ("duplicate", "late", "early", "organic", "retracted", "stray", "shed", "extended")


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
            self._delays += labels.pages[-DELAYS:, INGEST_MS].tolist()

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
            EXAMPLES_TOLD.labels(REASONS[reason]).inc(count)
            self.told[reason] = 0
        for why, count in self.letters.items():
            if count:
                DEAD_LETTERS.labels(why).inc(count)
            self.letters[why] = 0


def measure(partition: int, joiner: Joiner, held_records: int, lag: int, late: int, now_s: float) -> None:
    """The state of one partition; `late`: its events that came too late, over all its owners."""
    label = str(partition)
    OPEN_PAGES.labels(label).set(joiner.open_pages)
    OPEN_BYTES.labels(label).set(joiner.held_bytes)
    WATERMARK_LAG.labels(label).set(now_s - joiner.watermark_ms / 1000)
    CONSUMER_LAG.labels(label).set(lag)
    HELD_RECORDS.labels(label).set(held_records)
    for what in WHATS:
        MET.labels(label, what).set(late if what == "late" else getattr(joiner.counts, what))


def forget(partition: int) -> None:
    """The partition is another worker's now: its gauges go."""
    label = str(partition)
    for gauge in PER_PARTITION:
        gauge.remove(label)
    for what in WHATS:
        MET.remove(label, what)
