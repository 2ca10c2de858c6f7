"""What a restart of the joiner costs now: it reads again whatever its commit had to stay behind, a window at least."""

from dataclasses import dataclass
from typing import Final

from stream.errors import LogError, SettingsError
from stream.events import Impression, decode_events
from stream.kafka_admin import group_commits
from stream.kafka_log import KafkaLog
from stream.log import Record
from stream.settings import Settings
from stream.topics import EVENTS

RECORD_S: Final = 150e-6  # of one core: Faust's share of a record, and
PAGE_S: Final = 25e-6  # the join's of a page (docs/benchmarks.md)


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
        behind = {partition: ends[partition] - offset for partition, (offset, _) in commits.items()}
        pages = 0
        for partition, records in behind.items():
            if records > 0:
                pages += records * _pages(_one(log, partition, ends[partition] - 1 - records // 2))
        return Reread(sum(behind.values()), pages)
    finally:
        log.close()


def told(settings: Settings) -> str:
    """A line for people, empty while there is nothing to say: no topics, no joiner, no broker."""
    try:
        found = reread(settings)
    except (LogError, SettingsError):
        return ""
    return "" if found is None else str(found)


def _one(log: KafkaLog, partition: int, offset: int) -> Record | None:
    """The record there, if it comes within a second."""
    reader = log.reader(EVENTS.name, {partition: offset})
    try:
        found = reader.poll(1.0, 1)
        return found[0] if found else None
    finally:
        reader.close()


def _pages(record: Record | None) -> int:
    if record is None:
        return 0
    return sum(isinstance(event, Impression) for event in decode_events(record.value or b"")[0])
