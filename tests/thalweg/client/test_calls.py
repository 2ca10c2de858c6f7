"""Tries of a call, driven step by step: no network, no clock but the test's."""

import msgspec
import pytest

from ranker.http.problems import EXPIRED, FORBIDDEN, INVALID, KINDS, NOT_READY, SHED, HttpProblem, ProblemKind
from thalweg.client.calls import Call, CallPlanner, NoResponse, Outcome, Pause, Response, Try, headers_of
from thalweg.client.errors import (
    ClientError,
    Expired,
    Failed,
    InvalidRequest,
    Overloaded,
    Unavailable,
    Unreachable,
    error_of,
)
from thalweg.client.retries import RESERVE, REST_S, Addresses, RetryBudget

REFUSED = NoResponse("refused the connection", is_sent=False)
SILENT = NoResponse("been silent for too long", is_sent=True, is_timeout=True)
ANSWER = Response(200, b"answer", None)
CALL = Call("/v1/rank", lambda left_ms: str(left_ms).encode(), 1.0, 0.5)


class World:
    """A caller, and a clock that the test moves."""

    def __init__(self, *urls: str) -> None:
        self.now_s = 100.0
        self.budget = RetryBudget()
        self.caller = CallPlanner(
            Addresses(urls, lambda: self.now_s), self.budget, lambda: self.now_s, lambda low, high: high
        )

    def run(self, *outcomes: Outcome, each_s: float = 0.001, call: Call = CALL) -> tuple[list[Try | Pause], bytes]:
        """All steps of a call whose tries end like this, one after another; its answer. Raises the call's error."""
        steps, made, left = self.caller.steps(call), [], list(outcomes)
        step = next(steps)
        while True:
            made.append(step)
            self.now_s += step.seconds if isinstance(step, Pause) else each_s
            try:
                step = steps.send(None if isinstance(step, Pause) else left.pop(0))
            except StopIteration as end:
                assert not left, "it gave up early"
                return made, end.value

    def urls(self, *outcomes: Outcome, **options: float) -> list[str]:
        """Where the tries of a call went."""
        return [step.url.split("/")[0] for step in self.run(*outcomes, **options)[0] if isinstance(step, Try)]  # type: ignore[arg-type]


def problem(kind: ProblemKind, retry_after: str | None = None) -> Response:
    """A ranker's answer."""
    return Response(kind.status, HttpProblem(kind, "why", request_id="r").body, retry_after)


def test_addresses_take_turns() -> None:
    """Each call begins at the next address."""
    world = World("a", "b")
    assert [world.urls(ANSWER) for _ in range(3)] == [["a"], ["b"], ["a"]]


@pytest.mark.parametrize("outcome", [REFUSED, SILENT, problem(NOT_READY, "1"), Response(502, b"<html>", None)])
def test_failover(outcome: Outcome) -> None:
    """The next address is asked at once, and the one that failed rests; then one call tries whether it's back."""
    world = World("a", "b")
    assert world.urls(outcome, ANSWER) == ["a", "b"]
    assert [world.urls(ANSWER) for _ in range(3)] == [["b"], ["b"], ["b"]]
    world.now_s += REST_S
    assert sorted([world.urls(ANSWER)[0] for _ in range(2)]) == ["a", "b"]


def test_one_call_tries_an_address_that_rested() -> None:
    """While that call waits, others don't go there."""
    world = World("a", "b")
    world.urls(REFUSED, ANSWER)
    world.now_s += REST_S
    waiting = world.caller.steps(CALL)
    first = next(waiting)
    assert isinstance(first, Try)
    if first.url.startswith("b"):  # its turn
        waiting = world.caller.steps(CALL)
        first = next(waiting)
        assert isinstance(first, Try)
    assert first.url.startswith("a")
    assert [world.urls(ANSWER) for _ in range(3)] == [["b"], ["b"], ["b"]]


def test_an_address_that_sheds_does_not_rest() -> None:
    """The others would get its load as well."""
    world = World("a", "b")
    assert world.urls(problem(SHED, "1"), ANSWER) == ["a", "b"]
    assert [world.urls(ANSWER)[0] for _ in range(2)] == ["a", "b"]


def test_a_hung_address_leaves_time_for_another() -> None:
    """A try gets half of what is left while there's another address, else all of it; rankers are told the same."""
    world = World("a", "b", "c")
    made, _ = world.run(SILENT, SILENT, ANSWER, each_s=0.4)
    waits = [step.wait_s for step in made if isinstance(step, Try)]
    assert waits == pytest.approx([0.5, 0.3, 0.2])
    assert [abs(int(step.body) - 1000 * step.wait_s) <= 1 for step in made if isinstance(step, Try)] == [True] * 3


def test_no_answer_within_the_deadline_is_expired() -> None:
    """A ranker that is silent for that long isn't blamed; one that is silent for less than it is."""
    with pytest.raises(Expired, match="a hasn't answered in what was left of 1000 ms"):
        World("a").run(SILENT, each_s=1.0)
    world = World("a")
    while world.budget.spend():
        pass
    with pytest.raises(Unreachable, match="a has been silent for too long"):
        world.run(SILENT, each_s=0.1)


def test_pauses_grow_with_jitter() -> None:
    """When all addresses refuse, the call pauses, up to a bound that doubles, and asks all again."""
    world = World("a", "b")
    made, answer = world.run(REFUSED, REFUSED, REFUSED, REFUSED, ANSWER)
    assert answer == b"answer"
    assert [step.seconds for step in made if isinstance(step, Pause)] == [0.025, 0.05]


def test_the_deadline_ends_it() -> None:
    """No try and no pause goes beyond; the last error is raised."""
    world = World("a")
    with pytest.raises(Unreachable, match="a has refused the connection"):
        world.run(*[REFUSED] * 100)
    assert 100.5 < world.now_s <= 101.0


def test_retry_after_is_kept() -> None:
    """A ranker that says when to come again isn't asked before; where that's too late, its error is raised at once."""
    world = World("a")
    with pytest.raises(Overloaded) as shed:
        world.run(problem(SHED, "1"))
    assert (shed.value.retry_after_s, shed.value.status, shed.value.request_id) == (1.0, 503, "r")
    made, _ = world.run(problem(SHED, "1"), ANSWER, call=Call("", CALL.body, 9.0, 0.5))
    assert [step.seconds for step in made if isinstance(step, Pause)] == [1.025]


def test_the_budget_bounds_retries() -> None:
    """Where everything is shed, a tenth of all calls is asked again: the overload isn't multiplied."""
    world = World("a", "b")
    tries = 0
    for _ in range(1_000):
        steps = world.caller.steps(CALL)
        step: Try | Pause | None = next(steps)
        while step is not None:
            tries += 1
            try:
                step = steps.send(problem(SHED, "1"))
            except Overloaded:
                step = None
    assert 1_100 <= tries <= 1_100 + RESERVE


def test_what_never_left_is_free() -> None:
    """A refused connection is no load: other addresses are asked however small the budget is."""
    world = World("a", "b")
    while world.budget.spend():
        pass
    assert world.urls(REFUSED, ANSWER) == ["a", "b"]
    world.now_s += REST_S
    with pytest.raises(Overloaded):
        world.run(problem(SHED))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in (SHED, NOT_READY, EXPIRED) and kind.status != 503]
)
def test_what_is_wrong_is_not_repeated(kind: ProblemKind) -> None:
    """No other ranker would say otherwise."""
    with pytest.raises(ClientError) as error:
        World("a", "b").run(problem(kind))
    assert error.value.type == kind.name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_problems_become_errors(kind: ProblemKind) -> None:
    """Each kind of problem has its class of error, which has type, what, why and remedy."""
    error = error_of(kind.status, HttpProblem(kind, "a reason").body, None)
    assert type(error) is not ClientError
    assert (error.type, error.what, error.why, error.remedy) == (kind.name, kind.title, "a reason", kind.remedy)
    assert all(part in str(error) for part in (kind.title, "a reason", kind.remedy))
    if kind.status in (500, 503, 504):
        assert not isinstance(error, InvalidRequest), "the request isn't wrong"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, b"<html>", Unavailable), (503, b"", Unavailable), (404, b"\xff", InvalidRequest), (301, b"", Failed),
        (500, b"[]", Failed), (418, msgspec.json.encode({"type": "about:blank"}), InvalidRequest),
    ],
)  # fmt: skip
def test_answers_of_others(status: int, body: bytes, kind: type[ClientError]) -> None:
    """What a proxy answers is an error by its status."""
    error = error_of(status, body, "Wed, 21 Oct 2015 07:28:00 GMT")
    assert type(error) is kind
    assert (error.status, error.type, error.retry_after_s) == (status, "foreign_answer", None)


def test_a_token_that_cannot_be_sent() -> None:
    """The error doesn't show it."""
    with pytest.raises(ValueError, match="visible ASCII") as error:
        headers_of("secret\r\nx: y")
    assert "secret" not in str(error.value)
    assert "authorization" not in headers_of("")


def test_kinds() -> None:
    """The ranker's names of problems that the client tells apart exist."""
    assert error_of(403, HttpProblem(FORBIDDEN, "x").body, None).type == FORBIDDEN.name
    assert isinstance(error_of(400, HttpProblem(INVALID, "x").body, None), InvalidRequest)
