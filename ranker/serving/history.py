"""Histories from Redis within a few ms: when they are late or unavailable, ranking continues without them."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

import redis

TIMEOUT_S: Final = 0.020  # spent once when Redis hangs: nobody waits while a read is pending
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)

log = logging.getLogger(__name__)

ReadHistories = Callable[[Sequence[str], int], dict[str, list[str]]]


class HistoryReader:
    """Reads histories in a thread of its own. While a read hangs or Redis fails, nobody waits for it.

    `read` takes users and how many items to read of each; it may raise redis.RedisError.
    """

    def __init__(self, read: ReadHistories, timeout_s: float = TIMEOUT_S) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="histories")
        self._pending: Future[dict[str, list[str]]] | None = None
        self._failures = 0
        self._not_before_s = 0.0

    def get(self, users: Sequence[str], last: int) -> dict[str, list[str]] | None:
        """The `last` newest items of each user, newest last; None when they don't arrive in time."""
        if not users:
            return {}
        if self._pending is not None:
            if not self._pending.done():
                return None
            self._result(self._pending)
        if time.monotonic() < self._not_before_s:
            return None
        self._pending = self._pool.submit(self._read, list(users), last)
        if not wait([self._pending], self._timeout_s).done:
            return None
        return self._result(self._pending)

    def _result(self, read: "Future[dict[str, list[str]]]") -> dict[str, list[str]] | None:
        """Result of a finished read; a failure is logged once and delays the next read."""
        self._pending = None
        error = read.exception()
        if error is None:
            if self._failures:
                log.info("histories can be read again")
            self._failures = 0
            return read.result()
        if not isinstance(error, redis.RedisError | OSError):
            raise error
        if not self._failures:
            log.warning("histories can't be read (%s): ranking on context until Redis answers", error)
        self._not_before_s = time.monotonic() + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        return None

    def close(self) -> None:
        """End the thread; a pending read may hang for as long as Redis' own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)
