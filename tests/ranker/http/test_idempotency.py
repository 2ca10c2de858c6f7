"""`Idempotency-Key`: a call that comes again has the same answer, and its events the same ids."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from ranker.http.idempotency import ENTRY_BYTES, RecentAnswers
from ranker.http.problems import HttpProblem
from stream.events.codec import decode_events
from tests.support.http_ranker import HttpRanker, http_ranker, problem_of
from tests.support.waiting import wait_until

UNTIMED: list[dict[str, Any]] = [
    {"type": "impression", "user": "ann", "items": ["tea"]},
    {"type": "install", "user": "ann", "item": "tea"},
]


def ids(ranker: HttpRanker) -> list[str]:
    """Ids of all events in the log."""
    found: list[str] = []
    for record in ranker.log.records("events"):
        found += [getattr(event, "install_id", event.request_id) for event in decode_events(record.value or b"")[0]]  # type: ignore[union-attr]
    return found


def test_a_repeated_call_is_answered_alike_and_written_once() -> None:
    """The same key and body; another body is refused; another key, or none, is another call."""
    with http_ranker() as ranker:
        first = ranker.send(*UNTIMED, idempotency_key="k")
        again = ranker.send(*UNTIMED, idempotency_key="k")
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.content == again.content
        assert len(ids(ranker)) == 2
        reused = ranker.send(UNTIMED[0], idempotency_key="k")
        assert (reused.status_code, problem_of(reused)["type"]) == (422, "urn:thalweg:problem:key_reused")
        assert len(ids(ranker)) == 2
        ranker.send(*UNTIMED, idempotency_key="other")
        assert len(set(ids(ranker))) == 4


def test_a_retry_to_another_ranker_has_the_same_ids() -> None:
    """Whoever reads both copies drops one: the joiner. Events of one call have different ids, also equal ones."""
    with http_ranker() as one, http_ranker() as other:
        for ranker in (one, other):
            ranker.send(*UNTIMED, *UNTIMED, idempotency_key="k")
        assert ids(one) == ids(other)
        assert len(set(ids(one))) == 4


def test_a_call_that_comes_again_while_it_runs_waits_for_it() -> None:
    """Both have the one answer."""
    with http_ranker() as ranker:
        ranker.log.sends.is_held = True
        answers: list[httpx.Response] = []

        def call() -> None:
            answers.append(ranker.send(*UNTIMED, idempotency_key="k"))

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ranker.log.sends.held) > 0)
        ranker.log.sends.is_held = False
        while threads[0].is_alive() or threads[1].is_alive():
            ranker.log.sends.acknowledge()
            threads[0].join(0.02)
        threads[1].join(30)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].content == answers[1].content
        assert len(ids(ranker)) == 2


class Work:
    """Work that is counted."""

    def __init__(self) -> None:
        self.done = 0
        self.failure: Exception | None = None

    async def __call__(self) -> bytes:
        """Answer with how often."""
        self.done += 1
        if self.failure is not None:
            raise self.failure
        return b"%d" % self.done


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A story in an event loop."""
    asyncio.run(story())


def test_answers_are_forgotten_after_a_while() -> None:
    """Then the key is free again."""

    async def story() -> None:
        now_s, work = [0.0], Work()
        answers = RecentAnswers(lambda: now_s[0], ttl_s=10.0)
        assert await answers.once(("c", "k"), b"x", work) == b"1"
        now_s[0] = 9.0
        assert await answers.once(("c", "k"), b"x", work) == b"1"
        assert await answers.once(("d", "k"), b"y", work) == b"2"
        with pytest.raises(HttpProblem):
            await answers.once(("c", "k"), b"y", work)
        now_s[0] = 10.0
        assert await answers.once(("c", "k"), b"y", work) == b"3"

    run(story)


def test_the_memory_of_answers_is_bounded() -> None:
    """The oldest are forgotten first."""

    async def story() -> None:
        work = Work()
        answers = RecentAnswers(lambda: 0.0, bytes_max=10 * (ENTRY_BYTES + 1))
        for n in range(100):
            await answers.once(("c", str(n)), b"", work)
            assert len(answers) <= 11
        assert await answers.once(("c", "99"), b"", work) == b"100"
        assert await answers.once(("c", "0"), b"", work) == b"101"

    run(story)


def test_a_failure_is_not_remembered() -> None:
    """Those who wait have it, too; the next one works again."""

    async def story() -> None:
        work, answers = Work(), RecentAnswers(lambda: 0.0)
        work.failure = ZeroDivisionError("a bug")
        first, second = (asyncio.create_task(answers.once(("c", "k"), b"", work)) for _ in range(2))
        await asyncio.wait([first, second])
        assert isinstance(first.exception(), ZeroDivisionError)
        assert isinstance(second.exception(), ZeroDivisionError)
        work.failure = None
        assert await answers.once(("c", "k"), b"other", work) == b"%d" % work.done
        assert len(answers) == 1

    run(story)
