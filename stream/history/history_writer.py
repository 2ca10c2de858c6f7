"""Histories on their way into Redis: the last change of each user and item, written in batches."""

import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import redis

from stream.history.histories import (
    BATCH,
    COMPLETE,
    MEMBERS_MAX,
    SETTLE_S,
    Newest,
    copy_topic,
    log,
    marker_key,
    write_changes,
)
from stream.log.protocol import Log
from stream.runtime.errors import LogError

WAITING_MAX: Final = 1_000_000  # changes kept while Redis doesn't answer; above, the oldest are dropped
RETRY_S: Final = 1.0
LOOK_S: Final = 5.0  # between two looks at the marker


def _after(before: int | None, now: int | None) -> int | None:
    """Two changes of a user's item as one."""
    if now is None or isinstance(now, Newest):
        return now
    return Newest(max(now, before or 0)) if before is None or isinstance(before, Newest) else max(now, before)


class HistoryWriter:
    """Writes changes to Redis in a thread of its own, in pipelines. `put` never waits.

    While Redis doesn't answer, changes are kept (the last one per user and item) and written when it does.
    `source` opens the log to make the copy anew from, also in that thread; without it that is never done.
    """

    def __init__(
        self,
        client: Any,
        prefix: str = "",
        *,
        members_max: int = MEMBERS_MAX,
        waiting_max: int = WAITING_MAX,
        retry_s: float = RETRY_S,
        source: Callable[[], Log] | None = None,
        look_s: float = LOOK_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._members_max = members_max
        self._waiting_max = waiting_max
        self._retry_s = retry_s
        self._source = source
        self._look_s = look_s
        self._settle_s = settle_s
        self._look_at = time.monotonic()
        self._unable = False
        self._rebuilt_after = -1  # how many changes had been dropped when the copy was made anew
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], int | None] = {}
        self._writing = 0
        self._closing = False
        self._failing = False
        self.dropped = 0
        self.written = 0
        self._thread = threading.Thread(target=self._run, name="histories", daemon=True)
        self._thread.start()

    def put(self, user: str, item: str, time_ms: int | None, newest: bool = False) -> None:
        """User has installed item at `time_ms`; None: no longer. `newest`: also where a later time is there."""
        with self._changed:
            # So that the last change is also the youngest in order.
            before = self._waiting.pop((user, item), 0)
            self._waiting[user, item] = _after(before, Newest(time_ms) if newest and time_ms is not None else time_ms)
            if len(self._waiting) > self._waiting_max:
                self._waiting.pop(next(iter(self._waiting)))
                self._drop_one()
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many changes aren't in Redis yet."""
        return len(self._waiting) + self._writing

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, if Redis takes it in time; safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _drop_one(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            log.error(
                "histories: more than %d changes wait for Redis; the oldest are dropped. They are safe in the topic "
                "`histories`, from which the copy is made anew once Redis answers",
                self._waiting_max,
            )

    def _run(self) -> None:
        while True:
            if self._source is not None and not self._closing and time.monotonic() >= self._look_at:
                self._look(self._source)
                self._look_at = time.monotonic() + self._look_s
            with self._changed:
                wait_s = None if self._source is None else max(0.0, self._look_at - time.monotonic())
                self._changed.wait_for(lambda: self._waiting or self._closing, wait_s)
                if self._closing and not self._waiting:
                    return
            self._deliver_some()

    def _look(self, source: Callable[[], Log]) -> None:
        """Make the copy anew if it isn't known to be complete. What fails is tried again at the next look."""
        try:
            marker = self._client.get(marker_key(self._prefix))
            if self._rebuilt_after != self.dropped or marker not in (COMPLETE, COMPLETE.decode()):
                self._rebuild(source)
            self._unable = False
        except (redis.RedisError, OSError, LogError) as bad:
            if not self._unable:
                log.warning("histories: can't be restored from their topic (%s); it is tried again", bad)
            self._unable = True

    def _rebuild(self, source: Callable[[], Log]) -> None:
        """Copy the topic; what is new meanwhile is written in between, but for the second pass."""
        marker, dropped = marker_key(self._prefix), self.dropped
        self._client.set(marker, "begun", nx=True)
        durable = source()
        try:
            copied = copy_topic(
                durable, self._write, wait=self._settle, between=self._deliver_some, ended=lambda: self._closing
            )
        finally:
            durable.close()
        # A marker that is gone again means that Redis was emptied meanwhile: the next look begins anew.
        if not self._closing and self._client.set(marker, COMPLETE, xx=True):
            self._rebuilt_after = dropped
            log.info("histories: %d records of the topic were copied to Redis", copied)

    def _settle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, self._settle_s)

    def _deliver_some(self) -> None:
        """Write the oldest changes that wait, if any."""
        with self._changed:
            batch = dict(islice(self._waiting.items(), BATCH))
            for key in batch:
                del self._waiting[key]
            self._writing = len(batch)
        if batch:
            self._deliver(batch)

    def _deliver(self, batch: dict[tuple[str, str], int | None]) -> None:
        """Write, or put back what nobody has overwritten meanwhile and wait a little."""
        try:
            self._write(batch)
        except (redis.RedisError, OSError) as bad:
            if not self._failing:
                log.warning("histories: Redis doesn't take them (%s); they are kept and written when it does", bad)
            self._failing = True
            with self._changed:
                self._waiting = batch | {key: _after(batch.get(key, 0), now) for key, now in self._waiting.items()}
                self._writing = 0
                if not self._closing:
                    self._changed.wait_for(lambda: self._closing, self._retry_s)
                else:
                    self._waiting = {}
            return
        if self._failing:
            log.info("histories: Redis answers again; what waited is being written")
        self._failing = False
        self.written += len(batch)
        self._writing = 0

    def _write(self, batch: dict[tuple[str, str], int | None]) -> None:
        write_changes(self._client, batch, self._prefix, self._members_max)
