"""When to try again, and where: the retry budget, back-off, and which addresses rest. Thread-safe; clocks passed in."""

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final

SHARE: Final = 0.1  # retries per request, in the long run: an overload isn't multiplied
RESERVE: Final = 10.0  # retries that may come at once
BACK_OFF_S: Final = 0.025
BACK_OFF_S_MAX: Final = 1.0
REST_S: Final = 2.0  # of an address that failed


class RetryBudget:
    """Each request earns a share of a retry, up to a reserve; each retry spends one.

    >>> budget = RetryBudget(share=0.5, reserve=1.0)
    >>> budget.spend(), budget.spend()
    (True, False)
    >>> budget.earn(), budget.earn(), budget.spend()
    (None, None, True)
    """

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share, self._reserve, self._left = share, reserve, reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A request is sent for the first time."""
        with self._lock:
            self._left = min(self._reserve, self._left + self._share)

    def spend(self) -> bool:
        """Whether a retry is allowed; if so, it is counted."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


def back_off_s(retries: int, uniform: Callable[[float, float], float]) -> float:
    """Full jitter: evenly between 0 and a bound that doubles with each retry, so that clients don't come in step.

    >>> [back_off_s(retries, lambda low, high: high) for retries in (0, 1, 2, 99)]
    [0.025, 0.05, 0.1, 1.0]
    """
    return uniform(0.0, min(BACK_OFF_S_MAX, BACK_OFF_S * 2.0 ** min(retries, 32)))


class Addresses:
    """Takes turns among rankers. One that failed rests, unless all do; then a single call tries whether it's back."""

    def __init__(self, urls: Sequence[str], now_s: Callable[[], float]) -> None:
        self._urls, self._now_s = tuple(dict.fromkeys(urls)), now_s
        self._rests_until_s: dict[str, float] = {}
        self._turn = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._urls)

    def choose(self, tried: Collection[str]) -> str:
        """The next address that isn't in `tried`, rested ones first."""
        now_s = self._now_s()
        with self._lock:
            turn, self._turn = self._turn, (self._turn + 1) % len(self._urls)
            urls = [url for url in (*self._urls[turn:], *self._urls[:turn]) if url not in tried]
            url = min(urls, key=lambda one: max(0.0, self._rests_until_s.get(one, 0.0) - now_s))
            if url in self._rests_until_s:
                self._rests_until_s[url] = now_s + REST_S  # this call is the one that tries
            return url

    def failed(self, url: str) -> None:
        """It rests."""
        with self._lock:
            self._rests_until_s[url] = self._now_s() + REST_S

    def works(self, url: str) -> None:
        """It rests no more."""
        with self._lock:
            self._rests_until_s.pop(url, None)
