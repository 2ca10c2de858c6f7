"""Idempotency-Key: a call that comes again gets the answer that it had, and isn't worked at again."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import xxhash

from ranker.http.bodies import Headers
from ranker.http.problems import INVALID, KEY_REUSED, HttpProblem

HEADER: Final = "Idempotency-Key"
KEY_PATTERN: Final = "^[!-~]{1,128}$"
TTL_S: Final = 600.0
BYTES_MAX: Final = 16 * 1024 * 1024
ENTRY_BYTES: Final = 1024  # of an answer beside its bytes, at most

Name = tuple[str, str]  # the caller's name, its key


def key_of(headers: Headers) -> str:
    """The call's key; empty: none. Raises HttpProblem (400)."""
    raw = headers.get(HEADER.lower().encode())
    if raw is None:
        return ""
    key = raw.decode("latin-1")
    if not re.match(KEY_PATTERN, key):
        raise HttpProblem(INVALID, f"{HEADER} must have 1 to 128 visible ASCII characters")
    return key


@dataclass(frozen=True)
class _Answer:
    """An answer, and the digest of the body that it belongs to. `body` is being worked at until the future is done."""

    digest: bytes
    body: "asyncio.Future[bytes]"
    since_s: float


class RecentAnswers:
    """Answers of the last `ttl_s`, the newest within `bytes_max`. For the event loop's thread; `now_s` is monotonic."""

    def __init__(self, now_s: Callable[[], float], *, ttl_s: float = TTL_S, bytes_max: int = BYTES_MAX) -> None:
        self._now_s, self._ttl_s, self._bytes_max = now_s, ttl_s, bytes_max
        self._running: dict[Name, _Answer] = {}
        self._finished: dict[Name, _Answer] = {}  # the oldest first
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    async def once(self, name: Name, body: bytes, work: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer to an earlier call of this name and body, which may still run; else what `work` answers.

        What `work` raises is raised by all calls that wait for it, and isn't remembered: the next one works again.
        Raises HttpProblem (422) when the name belongs to another body.
        """
        self._evict()
        digest = xxhash.xxh3_128_digest(body)
        known = self._running.get(name) or self._finished.get(name)
        if known is not None:
            if known.digest != digest:
                raise HttpProblem(KEY_REUSED, f"{HEADER} {name[1]} came with another body before")
            return await asyncio.shield(known.body)
        answer = self._running[name] = _Answer(digest, asyncio.get_running_loop().create_future(), self._now_s())
        try:
            found = await work()
        except Exception as failure:
            answer.body.set_exception(failure)
            answer.body.exception()  # perhaps nobody else waits
            raise
        else:
            answer.body.set_result(found)
            self._finished[name] = answer
            self._bytes += ENTRY_BYTES + len(found)
            return found
        finally:
            del self._running[name]
            if not answer.body.done():
                answer.body.cancel()  # this call was

    def _evict(self) -> None:
        """Drop what is too old, or too much."""
        until_s = self._now_s() - self._ttl_s
        while self._finished:
            name, oldest = next(iter(self._finished.items()))
            if oldest.since_s > until_s and self._bytes <= self._bytes_max:
                return
            del self._finished[name]
            self._bytes -= ENTRY_BYTES + len(oldest.body.result())
