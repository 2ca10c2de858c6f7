"""What a restart of the joiner costs now: it reads everything from its commit on again, at least a window."""

from collections.abc import Iterator
from contextlib import closing
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
SAMPLES: Final = 20  # records, spread over the offsets that are read again


@dataclass(frozen=True)
class ReplayCost:
    """Records and pages (an estimate) between the joiner's commits and the end of `events`."""

    records: int
    pages: int

    def __str__(self) -> str:
        seconds = self.records * RECORD_S + self.pages * PAGE_S
        return (
            f"a restart of the joiner reads {self.records:,} records again, about {self.pages:,} pages: "
            f"some {seconds:.1f} s of one core"
        )


def replay_cost(settings: Settings) -> ReplayCost | None:
    """The cost now, of all partitions; None without topics, broker, or a commit of the joiner."""
    try:
        commits = group_commits(settings, "joiner", EVENTS.name)
        if not commits:
            return None
        with closing(KafkaLog(settings)) as log:
            ends = log.ends(EVENTS.name)
            uncommitted = {p: range(offset, ends[p]) for p, (offset, _) in commits.items() if offset < ends[p]}
            records = sum(map(len, uncommitted.values()))
            pages = 0.0
            for partition, offsets in uncommitted.items():
                sample = _spread(offsets, max(1, round(SAMPLES * len(offsets) / records)))
                pages += len(offsets) * sum(_page_counts(log, partition, sample)) / len(sample)
            return ReplayCost(records, round(pages))
    except (LogError, SettingsError):
        return None


def _spread(offsets: range, count: int) -> list[int]:
    """At most `count` of the offsets, evenly spaced, none at an end.

    >>> _spread(range(100, 200), 4), _spread(range(7, 9), 5)
    ([112, 137, 162, 187], [7, 8])
    """
    count = min(count, len(offsets))
    return [offsets[(2 * k + 1) * len(offsets) // (2 * count)] for k in range(count)]


def _page_counts(log: KafkaLog, partition: int, offsets: list[int]) -> Iterator[int]:
    """The number of pages in each of these records; a record that takes longer than a second is left out."""
    with closing(log.reader(EVENTS.name, {partition: offsets[0]})) as reader:
        for offset in offsets:
            reader.seek(partition, offset)
            for record in reader.poll(1.0, 1):
                yield sum(isinstance(event, Impression) for event in decode_events(record.value or b"")[0])
