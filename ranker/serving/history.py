"""Histories from Redis, with a few ms of patience: ranking goes on without."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

import redis

PATIENCE_S: Final = 0.020  # paid once when Redis hangs: nobody waits while a read is under way
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)

log = logging.getLogger(__name__)

Read = Callable[[Sequence[str], int], dict[str, list[str]]]


class HistoryReader:
    """Reads histories in a thread of its own. While a read hangs or Redis fails, nobody waits for it.

    `read` takes users and how many items to read of each; it may raise redis.RedisError.
    """

    def __init__(self, read: Read, patience_s: float = PATIENCE_S) -> None:
        self._read = read
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="histories")
        self._reading: Future[dict[str, list[str]]] | None = None
        self._failures = 0
        self._not_before_s = 0.0

    def get(self, users: Sequence[str], last: int) -> dict[str, list[str]] | None:
        """The `last` newest items of each user, newest last; None when they can't be had in time."""
        if not users:
            return {}
        if self._reading is not None:
            if not self._reading.done():
                return None
            self._settle(self._reading)
        if time.monotonic() < self._not_before_s:
            return None
        self._reading = self._pool.submit(self._read, list(users), last)
        if not wait([self._reading], self._patience_s).done:
            return None
        return self._settle(self._reading)

    def _settle(self, reading: "Future[dict[str, list[str]]]") -> dict[str, list[str]] | None:
        """What a finished read has brought; a failure is told once and puts off the next try."""
        self._reading = None
        bad = reading.exception()
        if bad is None:
            if self._failures:
                log.info("histories can be read again")
            self._failures = 0
            return reading.result()
        if not isinstance(bad, redis.RedisError | OSError):
            raise bad
        if not self._failures:
            log.warning("histories can't be read (%s): ranking on context until Redis answers", bad)
        self._not_before_s = time.monotonic() + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        return None

    def close(self) -> None:
        """Let the thread end; it may still hang in a read for as long as Redis' own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)
