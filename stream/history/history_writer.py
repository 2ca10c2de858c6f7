"""Writes changes of histories to Redis in batches: the last change of each user and item."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any, Final

from stream.history.erasing import (
    erase_in_redis,
    erase_in_topic,
    erase_names_and_dead_letters,
    rebuild_without_erased,
)
from stream.history.histories import BATCH, COMPLETE, SETTLE_S, Changes, NewestTime, log, marker_key, write_changes
from stream.log.protocol import Log
from stream.runtime.errors import LogError
from stream.snapshots.redis_client import REDIS_FAILURES

PENDING_MAX: Final = 1_000_000  # changes that wait while Redis is unavailable; above, the oldest are dropped
RETRY_S: Final = 1.0
CHECK_S: Final = 5.0  # between two checks of the marker


def _merge(before: int | None, now: int | None) -> int | None:
    """Two consecutive changes of a user's item as one."""
    if now is None or isinstance(now, NewestTime):
        return now
    return NewestTime(max(now, before or 0)) if before is None or isinstance(before, NewestTime) else max(now, before)


class HistoryWriter:
    """Writes changes to Redis in a thread of its own, in pipelines. `put` never blocks.

    While Redis is unavailable, changes stay pending (the last one per user and item). `source` opens the log from which
    that thread rebuilds the copy; without it the copy is never rebuilt.
    """

    def __init__(
        self,
        client: Any,
        prefix: str = "",
        source: Callable[[], Log] | None = None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._source = source
        self._check_at = time.monotonic()
        self._check_failing = False
        self._rebuilt_after = -1  # number of dropped changes at the last rebuild
        self._changed = threading.Condition()
        self._pending: Changes = {}
        self._erased: dict[str, int] = {}  # until when, by user; not erased yet
        self._writing = 0
        self._closing = False
        self._failing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="histories", daemon=True)
        self._thread.start()

    def put(self, user: str, item: str, time_ms: int | None, newest: bool = False) -> None:
        """The user installed the item at `time_ms`; None: retracted. `newest`: replace even a later time."""
        with self._changed:
            before = self._pending.pop((user, item), 0)  # so that the new change becomes the last one in order
            change = NewestTime(time_ms) if newest and time_ms is not None else time_ms
            self._pending[user, item] = _merge(before, change)
            if len(self._pending) > PENDING_MAX:
                self._pending.pop(next(iter(self._pending)))
                self._drop_one()
            self._changed.notify()

    def erase(self, user: str, until_ms: int) -> None:
        """Erase the user's installs up to this time, from Redis at once, from the topic after reading its partition."""
        with self._changed:
            for key, time_ms in [*self._pending.items()]:
                if key[0] == user and (time_ms or 0) <= until_ms:
                    del self._pending[key]
            self._erased[user] = max(until_ms, self._erased.get(user, 0))
            self._changed.notify()

    @property
    def pending(self) -> int:
        """Number of changes that aren't in Redis yet."""
        return len(self._pending) + self._writing

    def close(self, timeout_s: float = 2.0) -> None:
        """Write the pending changes, if Redis accepts them in time; safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _drop_one(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            log.error(
                "histories: more than %d changes wait for Redis; the oldest are dropped. They are safe in the topic "
                "`histories`, from which the copy is rebuilt once Redis answers",
                PENDING_MAX,
            )

    def _run(self) -> None:
        while True:
            if self._source is not None and not self._closing and time.monotonic() >= self._check_at:
                self._check(self._source)
                self._check_at = time.monotonic() + CHECK_S
            with self._changed:
                wait_s = None if self._source is None else max(0.0, self._check_at - time.monotonic())
                self._changed.wait_for(lambda: self._pending or self._erased or self._closing, wait_s)
                if self._closing and not self._pending and not self._erased:
                    return
            self._deliver_some()
            self._erase_some()

    def _check(self, source: Callable[[], Log]) -> None:
        """Rebuild the copy if it isn't known to be complete. A failure is retried at the next check."""
        try:
            marker = self._client.get(marker_key(self._prefix))
            if self._rebuilt_after != self.dropped or marker != COMPLETE:
                self._rebuild(source)
            self._check_failing = False
        except (*REDIS_FAILURES, LogError) as bad:
            if not self._check_failing:
                log.warning("histories: can't be restored from their topic (%s); retrying", bad)
            self._check_failing = True

    def _rebuild(self, source: Callable[[], Log]) -> None:
        """Copy the topic; pending changes are written in between, except in the second pass."""
        dropped = self.dropped
        with closing(source()) as log_of_topic:
            copied = rebuild_without_erased(
                self._client, log_of_topic, self._prefix,
                wait=self._settle, between=self._deliver_some, ended=lambda: self._closing,
            )  # fmt: skip
        if self._client.get(marker_key(self._prefix)) == COMPLETE:  # else it was stopped, or Redis emptied
            self._rebuilt_after = dropped
            log.info("histories: %d records of the topic were copied to Redis", copied)

    def _settle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, SETTLE_S)

    def _deliver_some(self) -> None:
        """Write the oldest pending changes, if any."""
        with self._changed:
            batch = dict(islice(self._pending.items(), BATCH))
            for key in batch:
                del self._pending[key]
            self._writing = len(batch)
        if batch:
            self._deliver(batch)

    def _erase_some(self) -> None:
        """Erase the users that wait, if any. What fails is tried again, and once more at the next start."""
        with self._changed:
            erased = self._erased
            self._erased = {}
        if not erased:
            return
        try:
            erase_in_redis(self._client, erased, self._prefix)
            if self._source is not None:
                with closing(self._source()) as source:
                    erase_in_topic(source, erased, between=self._deliver_some)
                    erase_names_and_dead_letters(source, erased)
                erase_in_redis(self._client, erased, self._prefix)  # a rebuild may have copied it from the topic
        except (*REDIS_FAILURES, LogError) as bad:
            log.warning("histories of %d users aren't erased yet (%s); retrying", len(erased), bad)
            with self._changed:
                if not self._closing:
                    self._erased = erased | self._erased
                    self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _deliver(self, batch: Changes) -> None:
        """Write a batch, or make it pending again (unless it was overwritten meanwhile) and wait before the retry."""
        try:
            write_changes(self._client, batch, self._prefix)
        except REDIS_FAILURES as bad:
            if not self._failing:
                log.warning("histories: Redis is unavailable (%s); changes stay pending until it answers", bad)
            self._failing = True
            with self._changed:
                self._pending = batch | {key: _merge(batch.get(key, 0), now) for key, now in self._pending.items()}
                self._writing = 0
                if not self._closing:
                    self._changed.wait_for(lambda: self._closing, RETRY_S)
                else:
                    self._pending = {}
            return
        if self._failing:
            log.info("histories: Redis answers again; pending changes are being written")
        self._failing = False
        self._writing = 0
