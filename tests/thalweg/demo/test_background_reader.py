"""Reading in a thread: nothing is lost or reordered, errors arrive, and closing ends it."""

import pytest

from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record
from stream.runtime.errors import LogUnavailable
from thalweg.demo.background_reader import BackgroundReader

TOPIC = "rank.replies"


def test_all_records_come_in_order() -> None:
    """Those from before the first poll and those that come while it waits."""
    log = MemoryLog({TOPIC: 1}, lambda: 0)
    reader = BackgroundReader(log.reader(TOPIC, {0: 0}))
    found: list[Record] = []
    for number in range(300):
        log.send(TOPIC, 0, b"%d" % number)
        if number % 7 == 0:
            found += reader.poll(0.0)
    while len(found) < 300:
        found += (some := reader.poll(5.0))
        assert some, "a record is missing"
    assert [record.value for record in found] == [b"%d" % number for number in range(300)]
    assert reader.poll(0.0) == []
    reader.close()
    reader.close()


def test_an_error_comes_after_what_was_read() -> None:
    """And with each poll from then on: the thread has ended."""

    class Failing:
        """Gives two records, then fails."""

        def __init__(self) -> None:
            self.left = [Record(TOPIC, 0, offset, 0, None, b"%d" % offset) for offset in (0, 1)]

        def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
            if not self.left:
                raise LogUnavailable("no broker answers")
            return [self.left.pop(0)]

        def close(self) -> None:
            pass

    reader = BackgroundReader(Failing())  # type: ignore[arg-type]
    found: list[Record] = []
    while len(found) < 2:
        found += (some := reader.poll(5.0))
        assert some, "a record is missing"
    assert [record.value for record in found] == [b"0", b"1"]
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="no broker answers"):
            reader.poll(5.0)
    reader.close()
