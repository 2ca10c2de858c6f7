"""A call as a series of tries, without input and output: what to send where, how long to wait, when to give up.

Both clients drive it, each by its own means.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from thalweg.client.errors import RETRIED, ClientError, Expired, Unreachable, error_of
from thalweg.client.retries import Addresses, RetryBudget, back_off_s

LEFT_S_MIN: Final = 0.001  # less is no time for a try
SILENT: Final = ("not_ready", "foreign_answer")  # problems of an address that had better rest


class Try(NamedTuple):
    """Send this, and wait for `wait_s` at most."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    wait_s: float


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class Response(NamedTuple):
    """An answer: `retry_after` is the header."""

    status: int
    body: bytes
    retry_after: str | None


class NoResponse(NamedTuple):
    """Why none came. `is_sent`: the ranker may have the request. `is_timeout`: its time was over."""

    why: str
    is_sent: bool
    is_timeout: bool = False


Outcome = Response | NoResponse | None  # None: of a pause
Steps = Generator[Try | Pause, Outcome, bytes]


@dataclass(frozen=True)
class Call:
    """What to ask. `body`: by how many milliseconds are left. It must be safe to ask twice.

    `within_s`: all tries together; `try_s`: one of them at most, while there is another address.
    """

    path: str
    body: Callable[[int], bytes]
    within_s: float
    try_s: float
    headers: Mapping[str, str] = field(default_factory=dict)


class CallPlanner:
    """Makes tries of calls. `now_s` is monotonic; `uniform(a, b)`: evenly distributed between them."""

    def __init__(
        self,
        addresses: Addresses,
        budget: RetryBudget,
        now_s: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._addresses, self._budget = addresses, budget
        self._now_s, self._uniform = now_s, uniform

    def steps(self, call: Call) -> Steps:
        """The steps of a call; returns the answer's body. Raises a ClientError.

        What one address refuses goes to the next at once. Once all have been tried the call pauses. Each retry is
        within the budget, unless the request never left: then it's no load for anyone.
        """
        until_s = self._now_s() + call.within_s
        self._budget.earn()
        tried: set[str] = set()
        rounds = 0
        while True:
            url = self._addresses.choose(tried)
            tried.add(url)
            left_s = max(LEFT_S_MIN, until_s - self._now_s())
            is_last = len(tried) == len(self._addresses)
            wait_s = left_s if is_last else min(left_s / 2, call.try_s)  # one that hangs leaves time for another
            outcome = yield Try(url + call.path, call.body(max(1, int(wait_s * 1000))), call.headers, wait_s)
            assert outcome is not None, "a try has an outcome"
            if isinstance(outcome, Response) and outcome.status in (200, 207):
                self._addresses.works(url)
                return outcome.body
            error = self._error(url, outcome)
            is_free = isinstance(outcome, NoResponse) and not outcome.is_sent
            if self._now_s() + LEFT_S_MIN >= until_s:
                raise _expired(url, call) if isinstance(outcome, NoResponse) and outcome.is_timeout else error
            if not (is_free or self._budget.spend()):
                raise error
            if len(tried) < len(self._addresses):
                continue
            tried.clear()
            pause_s = (error.retry_after_s or 0.0) + back_off_s(rounds, self._uniform)
            if self._now_s() + pause_s + LEFT_S_MIN >= until_s:
                raise error
            yield Pause(pause_s)
            rounds += 1

    def _error(self, url: str, outcome: Response | NoResponse) -> ClientError:
        """The error to be raised if there's no other try; raises one for which there mustn't be any."""
        if isinstance(outcome, NoResponse):
            self._addresses.failed(url)
            return Unreachable(
                "No answer",
                f"{url} has {outcome.why}",
                "does a ranker run there with --http? Several addresses make up for one that fails",
                type="unreachable",
            )
        error = error_of(outcome.status, outcome.body, outcome.retry_after)
        if not isinstance(error, RETRIED):
            self._addresses.works(url)
            raise error
        if error.type in SILENT:
            self._addresses.failed(url)
        else:
            self._addresses.works(url)  # one that sheds doesn't rest: the others would have its load
        return error


def _expired(url: str, call: Call) -> Expired:
    return Expired(
        "The request is past its deadline",
        f"{url} hasn't answered in what was left of {call.within_s * 1000:g} ms",
        "allow more time, or start more rankers; does one run there with --http?",
        type="expired",
    )


def headers_of(token: str) -> Mapping[str, str]:
    """Headers of each request. Raises ValueError, which doesn't show the token, when it can't be in a header."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("the token must have visible ASCII characters only")
    form = "application/msgpack"
    headers = {"content-type": form, "accept": form}
    return headers | {"authorization": f"Bearer {token}"} if token else headers
