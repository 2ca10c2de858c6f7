"""The learner's lag: in metrics, and in a consumer group's commits."""

from collections.abc import Mapping

import pytest
from prometheus_client import REGISTRY

from learner.lag import Lag
from learner.training import metrics
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.log.displayed_offsets import COMMIT_S
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START
from tests.support.learner_world import records, small_spec

SPEC = small_spec()


class CommitLog(MemoryLog):
    """Its clock runs with its records; commits are noted."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.commits: list[tuple[str, str, dict[int, int]]] = []
        super().__init__({EXAMPLES.name: 1}, lambda: self.now_ms)

    def commit(self, topic: str, group: str, positions: Mapping[int, int]) -> None:
        """See Log."""
        self.commits.append((topic, group, dict(positions)))
        super().commit(topic, group, positions)


def value(name: str) -> float | None:
    """Of a metric now."""
    return REGISTRY.get_sample_value(f"thalweg_learner_lag_{name}", {"partition": "0"})


@pytest.fixture
def log() -> CommitLog:
    """Ten records of nine examples, a second apart."""
    log = CommitLog()
    for record in records(SPEC, 30):
        log.now_ms += 1_000
        log.send(EXAMPLES.name, 0, encode_record(record), b"0")
    return log


def test_the_metrics_say_how_far_it_is_behind(log: CommitLog) -> None:
    """Records, their examples, and the age of the oldest that waits; nothing once all are learned.

    Until the log's end is known they have no values: those of a learner that starts far behind aren't 0.
    """
    for gauge in metrics.LAG_RECORDS, metrics.LAG_EXAMPLES, metrics.LAG_SECONDS:
        gauge.clear()
    log.truncate(EXAMPLES.name, 0, 1)
    lag = Lag(log, "small", START)
    reader = log.reader(EXAMPLES.name, {0: START})
    read = reader.poll(0)
    lag.set_metrics(log.now_ms)
    assert (value("records"), value("examples"), value("seconds")) == (None, None, None)
    lag.after_poll(reader, read)
    lag.set_metrics(log.now_ms)
    assert (value("records"), value("seconds")) == (9, 8)
    lag.learned(read[:3], 27)
    lag.set_metrics(log.now_ms)
    assert [value("records"), value("examples"), value("seconds")] == pytest.approx([6, 54, 6])
    lag.learned(read[3:], 54)
    lag.set_metrics(log.now_ms + 60_000)
    assert (value("records"), value("examples"), value("seconds")) == (0, 0, 0)


def test_a_record_after_an_idle_hour_has_waited_since_it_came(log: CommitLog) -> None:
    """Not since the one before it."""
    lag = Lag(log, "small", 0)
    reader = log.reader(EXAMPLES.name, {0: 0})
    for _ in range(2):
        read = reader.poll(0)
        lag.after_poll(reader, read)
        lag.learned(read, 90)
        log.now_ms += 3_600_000
        log.send(EXAMPLES.name, 0, b"", b"0")
    lag.after_poll(reader, reader.poll(0))
    lag.set_metrics(log.now_ms + 5)
    assert (value("records"), value("seconds")) == (1, 0.005)


def test_the_offset_is_committed_for_lag_exporters(log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds, what is learned, in a group of the model's name; nothing before the first record."""
    now_s = 100.0
    monkeypatch.setattr("learner.lag.monotonic_s", lambda: now_s)
    lag = Lag(log, "small", START)
    reader = log.reader(EXAMPLES.name, {0: START})
    read = reader.poll(0)
    lag.after_poll(reader, read)
    assert log.commits == []
    lag.learned(read[:4], 36)
    for _ in range(3):
        lag.after_poll(reader, [])
    assert log.commits == [(EXAMPLES.name, "learner-small", {0: 4})]
    now_s += COMMIT_S
    lag.after_poll(reader, [])
    assert len(log.commits) == 2, "again though nothing is new: else the broker forgets an idle group"
