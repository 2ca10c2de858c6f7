"""Records are read, decoded and encoded ahead: in order, whatever is in them, and failures come after what was read."""

import threading
from collections.abc import Sequence

import pytest

from learner.record_prefetcher import CHUNK_RECORDS, RecordPrefetcher
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Reader, Record
from stream.runtime.errors import LogGap, LogUnavailable
from tests.support.learned_models import assert_same
from tests.support.learner_world import records, small_spec
from tests.support.waiting import wait_until

SPEC = small_spec()


class Scripted:
    """A reader that returns these polls, then raises."""

    def __init__(self, polls: Sequence[list[Record]], failure: Exception) -> None:
        self.polls, self.failure, self.closed = list(polls), failure, False

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """The next ones."""
        if not self.polls:
            raise self.failure
        return self.polls.pop(0)

    def positions(self) -> dict[int, int]:
        """Unknown."""
        return {}

    def ends(self) -> dict[int, int]:
        """Unknown."""
        return {}

    def seek(self, partition: int, offset: int) -> None:
        """It doesn't move."""

    def close(self) -> None:
        """Noted."""
        self.closed = True


def ignored(reader: Reader, records: Sequence[Record]) -> None:
    """After a poll nothing is done."""


def take_all(prefetcher: RecordPrefetcher, taken: list[TrainingRecords]) -> None:
    """Until it raises."""
    while True:
        taken += prefetcher.take(0.2)


def log_of(values: Sequence[bytes | None]) -> list[Record]:
    """As they are read."""
    return [Record(EXAMPLES.name, 0, offset, 7, b"3", value) for offset, value in enumerate(values)]


def test_what_is_prefetched_is_learned_as_if_it_had_been_read_one_by_one() -> None:
    """Plain records, broken ones and an empty one between them; the model is the same."""
    log = records(SPEC, 400, per_record=2)
    values: list[bytes | None] = [*map(encode_record, log)]
    values[5:5] = [None, b"no msgpack", encode_record([])]
    memory = MemoryLog({EXAMPLES.name: 1}, lambda: 1_000)
    for value in values:
        memory.send(EXAMPLES.name, 0, value, b"3")
    ahead, alone, offsets, rejected = Model(SPEC), Model(SPEC), list[int](), list[int]()
    prefetcher = RecordPrefetcher(lambda: memory.reader(EXAMPLES.name, {0: 0}), ahead.record_encoder, ignored)
    while len(offsets) < len(values):
        for chunk in prefetcher.take(1.0):
            offsets += [origin.offset for origin in chunk.origins]
            assert {*chunk.sources} == {3}
            assert not any(origin.value for origin in chunk.origins)
            rejected += [len(parts) for parts in chunk.rejected]
            for first, last in ahead.steps(chunk):
                ahead.learn_records(chunk, first, last)
    prefetcher.close()
    assert len(values) > CHUNK_RECORDS
    assert offsets == list(range(len(values)))
    for read in log_of(values):
        for chunk in alone.record_encoder.records([read]):
            alone.learn_records(chunk, 0, 1)
    assert_same(ahead, alone)
    assert rejected == [int(offset in (5, 6)) for offset in offsets]


@pytest.mark.parametrize("failure", [LogUnavailable("no broker"), LogGap("examples", 0, 1, 5), AssertionError("a bug")])
def test_a_failure_comes_after_what_was_read(failure: Exception) -> None:
    """Whatever it is; the reader is closed by the thread that opened it."""
    reader = Scripted([log_of([encode_record(one)]) for one in records(SPEC, 9)], failure)
    prefetcher = RecordPrefetcher(lambda: reader, Model(SPEC).record_encoder, ignored)
    taken: list[TrainingRecords] = []
    with pytest.raises(type(failure)):
        take_all(prefetcher, taken)
    prefetcher.close()
    assert len(taken) == 3
    assert reader.closed


def test_a_reader_that_cannot_be_opened() -> None:
    """Its error is the first thing taken."""

    def refuse() -> Reader:
        raise LogUnavailable("no broker")

    prefetcher = RecordPrefetcher(refuse, Model(SPEC).record_encoder, ignored)
    with pytest.raises(LogUnavailable):
        take_all(prefetcher, [])
    assert not prefetcher.is_reading
    prefetcher.close()


def test_it_reads_no_further_than_a_few_chunks_ahead() -> None:
    """While nobody takes anything; and it can be closed then."""
    polls = [log_of([encode_record(one)]) for one in records(SPEC, 90)]
    count, reader = len(polls), Scripted(polls, AssertionError("it read on"))
    prefetcher = RecordPrefetcher(lambda: reader, Model(SPEC).record_encoder, ignored)
    wait_until(lambda: len(reader.polls) <= count - 3, "chunks to be ready")
    assert len(prefetcher.take(1.0)) == 1
    wait_until(lambda: len(reader.polls) <= count - 4, "one more to be read")
    assert len(reader.polls) > count - 8
    prefetcher.close()
    assert reader.closed
    assert all(thread.name != "prefetch_0" for thread in threading.enumerate())
