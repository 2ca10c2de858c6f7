"""Reads a range of a topic from beginning to end."""

from collections.abc import Callable, Generator, Mapping
from typing import Final

from stream.log.protocol import START, Log, Record
from stream.runtime.errors import LogGap

POLL_S: Final = 0.2
RECORDS_MAX: Final = 2_000
SKEW_MS: Final = 60_000  # append times of several brokers may differ by less

OnProgress = Callable[[str, int, int], None]  # what is read, how much is done, how much there is


def read_range(
    log: Log,
    topic: str,
    begin: Mapping[int, int],
    ends: Mapping[int, int],
    on_progress: OnProgress = lambda what, done, total: None,
) -> Generator[Record, None, None]:
    """Records in offset order per partition, from `begin` (START: the oldest) to `ends`, exclusive.

    Records that retention deletes during the read are left out. Progress is reported in records, after each poll.
    """
    wanted = {p: begin[p] for p, end in ends.items() if p in begin and begin[p] < end}
    if not wanted:
        return
    done, total = 0, sum(ends[p] - max(offset, 0) for p, offset in wanted.items())  # START counts as 0
    reader = log.reader(topic, wanted)
    try:
        while any(offset < ends[p] for p, offset in reader.positions().items()):
            on_progress(topic, done, total)
            try:
                records = reader.poll(POLL_S, RECORDS_MAX)
            except LogGap as gap:
                reader.seek(gap.partition, START)
                continue
            for record in records:
                if record.offset < ends[record.partition]:
                    done += 1
                    yield record
    finally:
        reader.close()
    on_progress(topic, total, total)
