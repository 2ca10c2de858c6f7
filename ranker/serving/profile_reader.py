"""Users' profiles from Redis within a few ms: when they are late or unavailable, ranking continues without them."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from ranker import metrics
from ranker.serving.recent_profiles import RecentProfiles
from stream.history.profiles import UNKNOWN, UserProfile
from stream.snapshots.redis_client import REDIS_FAILURES

PATIENCE_S: Final = 0.005  # how long a request waits for its user's profile, all in all
LATE_MAX: Final = 5  # late reads in a row, after which nobody waits until one is in time again
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)  # between reads that fail
USERS_MAX: Final = 1_000  # of one read: beyond, profiles aren't read
QUICK_S: Final = 0.0003  # a read that takes less is done by the caller's thread: handing it over costs as much
RARE_S, RARE_QUICK_S = 0.005, 0.001  # so long after the last one it may take this: nobody else waits for the caller
WEIGHT: Final = 1 / 16  # of the newest read in the mean
OUTLIER: Final = 10.0  # times the mean: what a read took beyond that says nothing of the next one

log = logging.getLogger(__name__)

Profiles = Mapping[str, UserProfile]
ReadProfiles = Callable[[Sequence[str]], Profiles]


class _UserBatch:
    """Users of one read. `profiles` is empty when the read failed."""

    def __init__(self, begun_s: float) -> None:
        self.begun_s = begun_s
        self.users: dict[str, None] = {}
        self.profiles: Future[Profiles] = Future()


class ProfileRead:
    """A read that was begun. Callers do other work, then ask for the result by either method, once or repeatedly."""

    def __init__(
        self,
        users: Sequence[str],
        batch: _UserBatch | None,
        until_s: float,
        recent: RecentProfiles,
        found: dict[str, UserProfile] | None = None,
    ) -> None:
        self._users, self._batch, self._until_s, self._recent, self._found = users, batch, until_s, recent, found

    def result(self) -> dict[str, UserProfile]:
        """Each user's profile, after waiting for what is left of the patience; for threads.

        A profile that isn't there by then is the one read lately, else UNKNOWN: nothing here raises because of Redis.
        """
        if self._found is None and self._batch is not None:
            wait([self._batch.profiles], self._left_s)
        return self._settled()

    async def arrived(self) -> dict[str, UserProfile]:
        """As `result`, for an event loop, which isn't blocked meanwhile."""
        if self._found is None and self._batch is not None and self._left_s:
            await asyncio.wait([asyncio.wrap_future(self._batch.profiles)], timeout=self._left_s)
        return self._settled()

    @property
    def _left_s(self) -> float:
        return max(0.0, self._until_s - time.monotonic())

    def _settled(self) -> dict[str, UserProfile]:
        if self._found is None:
            arrived = self._batch.profiles.result() if self._batch is not None and self._batch.profiles.done() else {}
            self._found = {user: arrived.get(user) or self._recent.get(user) or UNKNOWN for user in self._users}
        return self._found


class ProfileReader:
    """Reads profiles in a thread of its own, one read at a time; users asked for meanwhile share the next one.

    While reads take less than QUICK_S in the mean (RARE_QUICK_S for one that comes long after the last), `begin` itself
    reads, by `quick`, which saves the handover to that thread and back. `quick` may take no longer than the patience:
    beyond it, it raises.

    A caller waits at most `patience_s` from `begin` on, and not at all

    * while a read takes longer than that,
    * after LATE_MAX late reads in a row, until one is in time again: reads go on, and their results serve the same
      users' next requests (`RecentProfiles`),
    * while Redis fails: then reads are tried after pauses (BACKOFF_S).

    `read` takes users; it may raise redis.RedisError. Other errors are raised to callers. Threads may share it.
    """

    def __init__(
        self,
        read: ReadProfiles,
        patience_s: float = PATIENCE_S,
        recent: RecentProfiles | None = None,
        quick: ReadProfiles | None = None,
    ) -> None:
        self._read, self._patience_s, self._recent = read, patience_s, recent or RecentProfiles()
        self._quick, self._mean_s = quick, patience_s
        self._begun_s = 0.0  # when the last read was begun
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="profiles")
        self._lock = threading.Lock()
        self._waiting: _UserBatch | None = None  # not being read yet
        self._reading_s: float | None = None  # when the read that runs was begun
        self._late = self._failures = 0  # in a row
        self._not_before_s = 0.0

    def begin(self, users: Sequence[str]) -> ProfileRead:
        """Start reading the profiles of these users. Blocks at most for a quick read."""
        now_s = time.monotonic()
        quick_s = RARE_QUICK_S if now_s - self._begun_s > RARE_S else QUICK_S
        self._begun_s = now_s
        quick = self._quick if self._mean_s < quick_s and not self._failures else None
        if quick is not None and 0 < len(users) <= USERS_MAX:
            found = self._read_quickly(quick, users)
            if found is not None:
                return ProfileRead(users, None, now_s, self._recent, found)
        with self._lock:
            batch = self._batch_for(users, now_s)
            overdue = self._reading_s is not None and now_s - self._reading_s > self._patience_s
            waits = not (overdue or self._failures or self._late >= LATE_MAX)
        return ProfileRead(users, batch, now_s + self._patience_s if waits else now_s, self._recent)

    def erase(self, user: str) -> None:
        """Drop what was read lately of this user."""
        self._recent.erase(user)

    def drop_all(self) -> None:
        """Drop what was read lately of all users."""
        self._recent.clear()

    def close(self) -> None:
        """End the thread; a read that hangs does so for as long as Redis' own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read_quickly(self, quick: ReadProfiles, users: Sequence[str]) -> dict[str, UserProfile] | None:
        """Profiles read by this thread; None: the other thread reads them again, and meets what has failed."""
        begun_s = time.monotonic()
        try:
            profiles = quick(list(dict.fromkeys(users)))
        except Exception:  # noqa: BLE001  # see above
            self._mean_s = self._patience_s
            return None
        self._took(time.monotonic() - begun_s)
        self._recent.put(profiles)
        return {user: profiles.get(user) or UNKNOWN for user in users}

    def _took(self, read_s: float) -> None:
        metrics.PROFILE_READ.observe(read_s)
        self._mean_s += WEIGHT * (min(read_s, OUTLIER * self._mean_s) - self._mean_s)

    def _batch_for(self, users: Sequence[str], now_s: float) -> _UserBatch | None:
        """The batch that will read these users; None when they aren't read."""
        if not users or now_s < self._not_before_s:
            return None
        batch = self._waiting
        if batch is None:
            batch = self._waiting = _UserBatch(now_s)
            self._pool.submit(self._run, batch)
        elif len(batch.users) + len(users) > USERS_MAX:
            return None
        batch.users.update(dict.fromkeys(users))
        return batch

    def _run(self, batch: _UserBatch) -> None:
        with self._lock:
            self._waiting = None
            self._reading_s = started_s = time.monotonic()
        profiles: Profiles = {}
        try:
            profiles = self._read(list(batch.users))
        except REDIS_FAILURES as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  # whoever asked raises it
            batch.profiles.set_exception(error)
        else:
            self._succeeded(late=time.monotonic() - batch.begun_s > self._patience_s)
        self._took(time.monotonic() - started_s)
        self._recent.put(profiles)
        with self._lock:
            self._reading_s = None
        if not batch.profiles.done():
            batch.profiles.set_result(profiles)

    def _succeeded(self, *, late: bool) -> None:
        with self._lock:
            failed, was_slow = self._failures > 0, self._late >= LATE_MAX
            self._failures, self._late = 0, self._late + 1 if late else 0
            is_slow = self._late >= LATE_MAX
        if failed:
            log.info("users' profiles can be read again")
        if is_slow != was_slow:
            log.warning(
                "Redis is slow: requests don't wait for their users' profiles"
                if is_slow
                else "Redis isn't slow any more: requests have their users' profiles again"
            )

    def _failed(self, error: Exception) -> None:
        with self._lock:
            first = not self._failures
            self._not_before_s = time.monotonic() + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self._failures += 1
        if first:
            log.warning("users' profiles can't be read (%s): ranking on context until Redis answers", error)
