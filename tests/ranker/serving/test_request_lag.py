"""How far a ranker is behind its requests."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from stream.events.types import RankRequest
from tests.support.request_bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A fresh loop."""
    made = Bench()
    yield made
    made.scorer.close()


def lag(partition: int) -> tuple[float | None, float | None]:
    """Records and seconds of a partition, of the model m."""
    records, seconds = (
        REGISTRY.get_sample_value(f"thalweg_ranker_request_lag_{unit}", {"model": "m", "partition": str(partition)})
        for unit in ("records", "seconds")
    )
    return records, seconds


def poll_later(bench: Bench) -> None:
    """A second later, so that the metrics are set."""
    bench.clock.now_ms += 1_000
    bench.loop.poll_once(0)


def test_a_record_counts_until_its_replies_are_acknowledged(bench: Bench) -> None:
    """By partition; its age counts from its append. Of a partition to which nothing came it is 0."""
    bench.sender.is_held = True
    for name in "abc":
        bench.ask(RankRequest(name, "u", deadline_ms=60_000))
        bench.clock.now_ms += 1_000
    poll_later(bench)
    assert lag(0) == pytest.approx((3, 4.0), abs=0.01)
    assert lag(1) == (0, 0)
    bench.sender.acknowledge()
    poll_later(bench)
    assert lag(0) == (0, 0)


def test_records_that_nobody_has_read_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log behind those that were read."""
    bench.ask(RankRequest("a", "u"))
    bench.answer_all()
    monkeypatch.setattr(bench.reader, "poll", lambda timeout_s, records_max: [])
    for name in "bc":
        bench.ask(RankRequest(name, "u"))
    poll_later(bench)
    records, _ = lag(0)
    assert records == 2


def test_a_partition_that_is_revoked_has_no_lag(bench: Bench) -> None:
    """Its next ranker exports it: two values of one partition would be summed."""
    poll_later(bench)
    assert lag(0) == lag(1) == (0, 0)
    other = bench.log.group_reader("rank.requests", "ranker-m", "1")
    poll_later(bench)
    assert (lag(0), lag(1)) == ((0, 0), (None, None))
    other.close()
