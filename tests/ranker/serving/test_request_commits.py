"""What is committed is answered: acknowledgements, failures, revoked partitions, gaps."""

from collections.abc import Iterator

import pytest

from ranker.serving.request_loop import COMMIT_EVERY_S
from stream.events.topics import REQUESTS
from stream.events.types import RankRequest, ReplyTo
from stream.runtime.errors import LogError, LogUnavailable
from tests.support.request_bench import Bench, metric


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A fresh loop."""
    made = Bench()
    yield made
    made.scorer.close()


def test_a_gap_is_skipped(bench: Bench) -> None:
    """Requests that retention took before they were read are counted; what is left is answered."""
    for n in range(5):
        bench.ask(RankRequest(f"{n}", "u"))
    bench.loop.poll_once(0)
    bench.loop.finish()
    for n in range(5, 9):
        bench.ask(RankRequest(f"{n}", "u"))
    bench.log.truncate(REQUESTS.name, 0, 7)
    before = metric("gap_records_total")
    bench.loop.poll_once(0)
    bench.answer_all()
    assert (sorted(bench.replies()), metric("gap_records_total") - before) == ([*"01234", "7", "8"], 2)


def test_a_recreated_topic_is_read_from_its_beginning(bench: Bench) -> None:
    """Requests in it are answered, also those of an offset that was answered before; nobody has to restart a ranker."""
    for n in range(5):
        bench.ask(RankRequest(f"{n}", "u"))
    bench.answer_all()
    bench.loop.finish()
    bench.log.recreate(REQUESTS.name)
    for n in range(5, 8):
        bench.ask(RankRequest(f"{n}", "u"))
    bench.loop.poll_once(0)
    bench.answer_all()
    assert sorted(bench.replies()) == [*"01234567"]
    bench.loop.finish()
    assert bench.committed()[0] == 3


def test_what_is_committed_is_answered(bench: Bench) -> None:
    """Who takes over begins at the first record whose replies, or those to earlier ones, aren't acknowledged."""
    bench.sender.is_held = True
    requests = [f"{n}" for n in range(6)]
    for request_id in requests:
        bench.ask(RankRequest(request_id, "u"))
        bench.answer_all()
    for acknowledged in (2, 3):
        bench.sender.acknowledge(acknowledged)
        bench.clock.now_ms += COMMIT_EVERY_S * 1e3
        bench.loop.poll_once(0)
    assert bench.committed()[0] == 5


def test_commits_are_contiguous(bench: Bench) -> None:
    """A reply that is acknowledged before earlier ones moves nothing."""
    bench.sender.is_held = True
    for request_id in "012":
        bench.ask(RankRequest(request_id, "u"))
        bench.answer_all()
    bench.sender.held.rotate(-1)  # the first one's is the last to come
    bench.sender.acknowledge(2)
    bench.loop.poll_once(0)
    bench.loop.finish()
    assert bench.committed()[0] == 0
    bench.loop = bench.new_loop("0")
    bench.sender.held.clear()
    bench.sender.is_held = False
    assert bench.answer_all() == 3
    bench.loop.finish()
    assert bench.committed()[0] == 3


def test_a_record_is_committed_with_its_last_request(bench: Bench) -> None:
    """Not while some of its requests wait, though all replies so far are acknowledged."""
    bench.ask(*(RankRequest(f"{n}", "u", deadline_ms=60_000) for n in range(40)))
    bench.loop.poll_once(0)
    assert 0 < len(bench.ranker.asked) < 40
    bench.loop.finish()
    assert bench.committed()[0] == 0


def test_replies_that_may_be_lost_are_sent_again(bench: Bench) -> None:
    """When a reply fails, nothing behind it is committed, and after a rewind all that is in doubt is answered again."""
    bench.ask(RankRequest("1", "u"))
    bench.answer_all()
    bench.clock.now_ms += COMMIT_EVERY_S * 1e3
    bench.loop.poll_once(0)
    bench.ask(RankRequest("2", "u"), partition=1)
    bench.ask(RankRequest("3", "u"))
    bench.sender.failing = LogUnavailable("as the test wants")
    bench.loop.poll_once(0)
    with pytest.raises(LogUnavailable):
        bench.loop.poll_once(0)
    bench.loop.rewind()
    bench.sender.failing = None
    assert bench.answer_all() == 2
    assert {r: len(replies) for r, replies in bench.replies().items()} == {"1": 1, "2": 1, "3": 1}
    bench.loop.finish()
    assert bench.committed() == {0: 2, 1: 1}


def test_outcomes_from_before_a_rewind_dont_count(bench: Bench) -> None:
    """An acknowledgement or a failure that comes after the rewind belongs to a reply that was given up."""
    bench.sender.is_held = True
    bench.ask(RankRequest("1", "u"))
    bench.answer_all()
    bench.loop.rewind()
    assert bench.answer_all() == 1
    bench.sender.held.popleft()(LogUnavailable("as the test wants"))
    bench.loop.poll_once(0)
    bench.sender.acknowledge()
    bench.loop.finish()
    assert bench.committed()[0] == 1


def test_what_waits_is_given_up_with_its_partition(bench: Bench) -> None:
    """Requests that wait when another member gets their partition are answered there, and make room here."""
    for partition in (0, 1):
        for n in range(30):
            bench.ask(RankRequest(f"{partition}-{n}", "u", deadline_ms=60_000), partition=partition)
    bench.loop.poll_once(0)
    waiting = bench.admission.waiting
    other = bench.log.group_reader(REQUESTS.name, "ranker-m", "1")
    bench.loop.poll_once(0)
    assert 0 < bench.admission.waiting < waiting
    bench.answer_all()
    assert bench.admission.waiting == 0
    assert {r.partition for r in other.poll(0)} == {1}
    assert {f"0-{n}" for n in range(30)} <= bench.replies().keys()


def test_a_topic_of_a_caller_that_fails_stops_nobody(bench: Bench) -> None:
    """A reply that its topic doesn't take is counted and lost; the request is committed."""
    before = metric("undelivered_replies_total")
    bench.ask(RankRequest("1", "u", reply_to=ReplyTo("mine")))
    bench.sender.failing = LogError("as the test wants")
    bench.loop.poll_once(0)
    bench.sender.failing = None
    bench.ask(RankRequest("2", "u"))
    bench.answer_all()
    bench.loop.finish()
    assert (sorted(bench.replies()), metric("undelivered_replies_total") - before) == (["2"], 1)
    assert bench.committed()[0] == 2
