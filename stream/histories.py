"""What each user installed, and when: the copy in Redis. The compacted topic `histories` is the durable one.

One sorted set per user: members are items, scores install times in ms. ZADD and ZREM are idempotent, so a
joiner that reads records again does no harm.
"""

import logging
import threading
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import redis

MEMBERS_MAX: Final = 1_000  # of one user: the newest are kept
WAITING_MAX: Final = 1_000_000  # changes kept while Redis doesn't answer; above, the oldest are dropped
BATCH: Final = 500
RETRY_S: Final = 1.0

log = logging.getLogger(__name__)


def history_key(user: str, prefix: str = "") -> str:
    """The Redis key of a user's history; `prefix` is the setting `topic_prefix`."""
    return f"{prefix}{{thalweg}}:history:{user}"


def read_histories(client: Any, users: Sequence[str], last: int, prefix: str = "") -> dict[str, list[str]]:
    """The `last` newest items of each user, newest last, in one round trip; users without any have an empty list.

    `client` is a redis.Redis. Raises redis.RedisError: the ranker goes on without.
    """
    if not users or last <= 0:
        return {user: [] for user in users}
    with client.pipeline(transaction=False) as pipe:
        for user in users:
            pipe.zrange(history_key(user, prefix), -last, -1)
        found = pipe.execute()
    return {user: [_text(item) for item in items] for user, items in zip(users, found, strict=True)}


def _text(item: bytes | str) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item


class HistoryWriter:
    """Writes changes to Redis in a thread of its own, in pipelines. `put` never waits.

    While Redis doesn't answer, changes are kept (the last one per user and item) and written when it does.
    """

    def __init__(
        self,
        client: Any,
        prefix: str = "",
        *,
        members_max: int = MEMBERS_MAX,
        waiting_max: int = WAITING_MAX,
        retry_s: float = RETRY_S,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._members_max = members_max
        self._waiting_max = waiting_max
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], int | None] = {}
        self._writing = 0
        self._closing = False
        self._failing = False
        self.dropped = 0
        self.written = 0
        self._thread = threading.Thread(target=self._run, name="histories", daemon=True)
        self._thread.start()

    def put(self, user: str, item: str, time_ms: int | None) -> None:
        """User has installed item at `time_ms`; None: no longer."""
        with self._changed:
            self._waiting.pop((user, item), None)  # so that the last change is also the youngest in order
            self._waiting[user, item] = time_ms
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
                "`histories`: restore Redis from it once it answers",
                self._waiting_max,
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = dict(islice(self._waiting.items(), BATCH))
                for key in batch:
                    del self._waiting[key]
                self._writing = len(batch)
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
                self._waiting = {**batch, **self._waiting}
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
        installed: dict[str, dict[str, int]] = {}
        with self._client.pipeline(transaction=False) as pipe:
            for (user, item), time_ms in batch.items():
                if time_ms is None:
                    pipe.zrem(history_key(user, self._prefix), item)
                else:
                    installed.setdefault(user, {})[item] = time_ms
            for user, items in installed.items():
                key = history_key(user, self._prefix)
                pipe.zadd(key, items, gt=True)
                pipe.zremrangebyrank(key, 0, -self._members_max - 1)
            pipe.execute()
