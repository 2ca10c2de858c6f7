"""Who is queued, and who is shed: by the requests before it, what one costs, and what is left of the deadline."""

import pytest

from ranker.serving.admission import COST_MS_START, OUTLIER, AdmissionQueue

HOUR_MS = 3_600_000.0


def queue_of(waiting: int, queue_ms_max: float = 250.0, cost_ms: float = 10.0) -> AdmissionQueue:
    """A queue that has learned what a request costs, with so many waiting."""
    queue = AdmissionQueue(queue_ms_max)
    for _ in range(1_000):
        assert queue.admit(HOUR_MS)
        queue.done(cost_ms)
    for _ in range(waiting):
        assert queue.admit(HOUR_MS)
    return queue


def test_the_queue_is_bounded_by_time() -> None:
    """As many are admitted as are answered within the bound; then the newest are shed until one is done."""
    queue = AdmissionQueue(queue_ms_max=250)
    for _ in range(1_000):
        queue.admit(HOUR_MS)
        queue.done(10.0)
    admitted = [queue.admit(HOUR_MS) for _ in range(100)]
    assert admitted == [True] * 26 + [False] * 74
    assert queue.waiting == 26
    queue.done(10.0)
    assert queue.admit(HOUR_MS)
    assert not queue.admit(HOUR_MS)


@pytest.mark.parametrize(("left_ms", "admitted"), [(109.0, False), (111.0, True)])
def test_a_request_that_would_be_late_is_shed(left_ms: float, admitted: bool) -> None:
    """Those before it and its own cost must fit what is left of its deadline."""
    assert queue_of(10).admit(left_ms) == admitted


def test_nothing_is_shed_where_nothing_waits() -> None:
    """However dear requests are and however little is left: an empty queue takes the next, which says what it costs."""
    assert queue_of(0, queue_ms_max=1, cost_ms=100).admit(left_ms=0.1)


def test_a_request_that_is_shed_takes_no_room() -> None:
    """Those that were admitted keep their place, whatever comes after them."""
    queue = queue_of(10)
    waiting_ms = queue.queue_ms
    assert not any(queue.admit(1.0) for _ in range(50))
    assert (queue.waiting, queue.queue_ms) == (10, waiting_ms)


def test_a_stall_is_not_what_a_request_costs() -> None:
    """One request that took an hour counts as ten usual ones: the next are still admitted."""
    queue = queue_of(0)
    queue.admit(HOUR_MS)
    queue.done(HOUR_MS)
    assert all(queue.admit(HOUR_MS) for _ in range(10))
    assert queue.queue_ms <= 10 * 10 * (1 + OUTLIER / 32)


def test_what_is_given_up_costs_nothing() -> None:
    """A request that is dropped leaves the queue, and the mean as it was."""
    queue = AdmissionQueue(250)
    queue.admit(HOUR_MS)
    queue.done()
    queue.admit(HOUR_MS)
    assert queue.queue_ms == COST_MS_START


def test_workers_share_the_queue() -> None:
    """With two workers a request waits half as long."""
    one, two = AdmissionQueue(250), AdmissionQueue(250, workers=2)
    for queue in (one, two):
        for _ in range(4):
            queue.admit(HOUR_MS)
    assert two.queue_ms == one.queue_ms / 2
