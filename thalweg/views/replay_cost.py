"""What a restart of the joiner costs now: it reads again whatever its commit had to stay behind, a window at least."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stream.events.codec import decode_events
from stream.events.topics import EVENTS
from stream.events.types import Impression
from stream.log.kafka_admin import group_commits
from stream.log.kafka_log import KafkaLog
from stream.runtime.errors import LogError, SettingsError
from stream.runtime.settings import Settings

RECORD_S: Final = 150e-6  # of one core: Faust's share of a record, and
PAGE_S: Final = 25e-6  # the join's of a page (docs/benchmarks.md)
SAMPLES: Final = 20  # records looked at, spread over what is read again


@dataclass(frozen=True)
class Reread:
    """Records and pages (an estimate) between the joiner's commits and the end of `events`."""

    records: int
    pages: int

    def __str__(self) -> str:
        seconds = self.records * RECORD_S + self.pages * PAGE_S
        return (
            f"a restart of the joiner reads {self.records:,} records again, about {self.pages:,} pages: "
            f"some {seconds:.1f} s of one core"
        )


def reread(settings: Settings) -> Reread | None:
    """As of now, for all partitions together; None while nothing was ever committed. Raises LogError."""
    commits = group_commits(settings, "joiner", EVENTS.name)
    if not commits:
        return None
    log = KafkaLog(settings)
    try:
        ends = log.ends(EVENTS.name)
        behind = {p: range(offset, ends[p]) for p, (offset, _) in commits.items() if offset < ends[p]}
        records = sum(map(len, behind.values()))
        pages = 0.0
        for partition, offsets in behind.items():
            looked_at = _spread(offsets, max(1, round(SAMPLES * len(offsets) / records)))
            pages += len(offsets) * sum(_pages_at(log, partition, looked_at)) / len(looked_at)
        return Reread(records, round(pages))
    finally:
        log.close()


def told(settings: Settings) -> str:
    """A line for people, empty while there is nothing to say: no topics, no joiner, no broker."""
    try:
        found = reread(settings)
    except (LogError, SettingsError):
        return ""
    return "" if found is None else str(found)


def _spread(offsets: range, count: int) -> list[int]:
    """At most so many of them, at even distances, none at an end.

    >>> _spread(range(100, 200), 4), _spread(range(7, 9), 5)
    ([112, 137, 162, 187], [7, 8])
    """
    count = min(count, len(offsets))
    return [offsets[(2 * k + 1) * len(offsets) // (2 * count)] for k in range(count)]


def _pages_at(log: KafkaLog, partition: int, offsets: list[int]) -> Iterator[int]:
    """How many pages the records there hold, those that come within a second."""
    reader = log.reader(EVENTS.name, {partition: offsets[0]})
    try:
        for offset in offsets:
            reader.seek(partition, offset)
            for record in reader.poll(1.0, 1):
                yield sum(isinstance(event, Impression) for event in decode_events(record.value or b"")[0])
    finally:
        reader.close()
