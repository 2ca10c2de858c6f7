"""A range of a topic, read once from beginning to end: what commands that look back share."""

from collections.abc import Callable, Generator, Mapping
from typing import Final

from stream.log.protocol import START, Log, Record
from stream.runtime.errors import LogGap

POLL_S: Final = 0.2
RECORDS_MAX: Final = 2_000
SKEW_MS: Final = 60_000  # append times of several brokers may differ by less

OnProgress = Callable[[str, int, int], None]  # of what, how many of how many


def span(log: Log, topic: str, begin: Mapping[int, int], ends: Mapping[int, int]) -> Generator[Record, None, None]:
    """Records in offset order per partition, from `begin` (START: the oldest) to `ends`, exclusive.

    What retention takes away while it is read is left out.
    """
    wanted = {p: begin[p] for p, end in ends.items() if p in begin and begin[p] < end}
    if not wanted:
        return
    reader = log.reader(topic, wanted)
    try:
        while any(at < ends[p] for p, at in reader.positions().items()):
            try:
                records = reader.poll(POLL_S, RECORDS_MAX)
            except LogGap as gap:
                reader.seek(gap.partition, START)
                continue
            for record in records:
                if record.offset < ends[record.partition]:
                    yield record
    finally:
        reader.close()


def span_with_progress(
    log: Log, topic: str, begin: Mapping[int, int], ends: Mapping[int, int], on_progress: OnProgress
) -> Generator[Record, None, None]:
    """The same, and how far it is after every RECORDS_MAX records."""
    starts = {p: max(at, 0) for p, at in begin.items()}  # START: 0, which is near enough for a bar
    total = sum(max(0, end - starts.get(p, end)) for p, end in ends.items())
    records = span(log, topic, begin, ends)
    try:
        for done, record in enumerate(records):
            if done % RECORDS_MAX == 0:
                on_progress(topic, done, total)
            yield record
    finally:
        records.close()
    on_progress(topic, total, total)
