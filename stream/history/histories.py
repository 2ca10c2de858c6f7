"""What each user installed, and when: the copy in Redis. The compacted topic `histories` is the durable one.

One sorted set per user: members are items, scores install times in ms. ZADD and ZREM are idempotent, so a
joiner that reads records again does no harm.

What a user has is the join's verdict: an install that is repeated, or that was taken back before it came, changes
nothing; where one of several installs of an item is taken back, the newest of the others stays. That holds for as long
as installs are remembered (the window and the time for corrections). Beyond, an install knows nothing of others: one
that comes late replaces a newer time in the topic (Redis keeps the newer one until it's made anew), or brings back an
item that was taken back; and a retraction takes the item out though an older install of another id had it, too.

The copy is made anew from the topic when a joiner starts, when Redis has lost it (its marker key is gone), and when
changes were dropped. At every start, because a process that was killed while Redis didn't answer took its waiting
changes with it, though what they came of is committed; the topic is compacted, so that this is one short record per
user and item.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from stream.events.codec import decode_entity
from stream.events.topics import HISTORIES
from stream.events.types import History
from stream.log.protocol import START, Log, Record
from stream.runtime.errors import BadEvent, LogGap

MEMBERS_MAX: Final = 1_000  # of one user: the newest are kept
BATCH: Final = 500
SETTLE_S: Final = 1.0  # longer than a record is on its way into the topic
POLL_S: Final = 0.2
COMPLETE: Final = b"complete"


class Newest(int):
    """An install time that counts though a later one may be there: that one was taken back."""


Changes = Mapping[tuple[str, str], int | None]  # by user and item; None: taken back

log = logging.getLogger(__name__)


def history_key(user: str, prefix: str = "") -> str:
    """The Redis key of a user's history; `prefix` is the setting `topic_prefix`."""
    return f"{prefix}{{thalweg}}:history:{user}"


def marker_key(prefix: str = "") -> str:
    """The Redis key that says that the copy is complete; gone when Redis was emptied."""
    return f"{prefix}{{thalweg}}:histories:rebuilt"


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


def changes_of(records: Sequence[Record]) -> dict[tuple[str, str], int | None]:
    """What records of the topic `histories` say: install time by user and item, None where it was taken back."""
    changes: dict[tuple[str, str], int | None] = {}
    for record in records:
        try:
            if record.value is None:
                parts = (record.key or b"").decode().split("\x00")
                for k in range(1, len(parts)):  # one way to cut, unless an id itself holds the separator
                    changes["\x00".join(parts[:k]), "\x00".join(parts[k:])] = None
            else:
                history = decode_entity(record.value, History)
                changes[history.user, history.item] = Newest(history.time_ms)
        except (BadEvent, UnicodeDecodeError) as bad:
            log.warning("%s/%d offset %d is left out: %s", HISTORIES.name, record.partition, record.offset, bad)
    return changes


def write_changes(client: Any, changes: Changes, prefix: str, members_max: int) -> None:
    """Write changes in one round trip: a command or two a user or retraction, however long a history is.

    Raises redis.RedisError.
    """
    installed: dict[tuple[str, bool], dict[str, int]] = {}
    with client.pipeline(transaction=False) as pipe:
        for (user, item), time_ms in changes.items():
            if time_ms is None:
                pipe.zrem(history_key(user, prefix), item)
            else:
                installed.setdefault((user, isinstance(time_ms, Newest)), {})[item] = time_ms
        for (user, newest), items in installed.items():
            key = history_key(user, prefix)
            pipe.zadd(key, items, gt=not newest)
            pipe.zremrangebyrank(key, 0, -members_max - 1)
        pipe.execute()


def copy_topic(source: Log, write: Callable[[dict[tuple[str, str], int | None]], None], *,
               wait: Callable[[], object], between: Callable[[], None] = lambda: None,
               ended: Callable[[], bool] = lambda: False,
               told: Callable[[int, int], None] = lambda copied, of: None) -> int:  # fmt: skip
    """Write all that the topic says; returns how many records that were. `told`: records copied, and of how many.

    What is new meanwhile is written by others `between`: it doesn't wait for a long topic. So an old install may be
    copied over a newer retraction; after a `wait` (longer than a record is on its way into the topic) the second
    pass, of what the topic has got during the first, sets that right.
    """
    copied = 0
    reader = source.reader(HISTORIES.name, dict.fromkeys(source.ends(HISTORIES.name), START))
    try:
        for first in (True, False):
            ends = source.ends(HISTORIES.name)
            of = copied + sum(ends.values()) - sum(reader.positions().values())
            while not ended() and any(at < ends[p] for p, at in reader.positions().items()):
                try:
                    records = reader.poll(POLL_S, BATCH)
                except LogGap as gap:  # compaction keeps the newest of each: nothing is lost
                    reader.seek(gap.partition, START)
                    continue
                write(changes_of(records))
                copied += len(records)
                told(copied, max(of, copied))
                if first:
                    between()
            if first:
                wait()
    finally:
        reader.close()
    return copied


def rebuild_histories(
    client: Any, source: Log, prefix: str = "", *, members_max: int = MEMBERS_MAX, settle_s: float = SETTLE_S,
    told: Callable[[int, int], None] = lambda copied, of: None,
) -> int:  # fmt: skip
    """Copy the topic to Redis, beside a joiner at work or without one; returns how many records it has.

    Raises redis.RedisError, LogError.
    """
    marker = marker_key(prefix)
    client.set(marker, "begun", nx=True)
    copied = copy_topic(
        source, lambda changes: write_changes(client, changes, prefix, members_max),
        wait=lambda: time.sleep(settle_s), told=told,
    )  # fmt: skip
    client.set(marker, COMPLETE, xx=True)  # gone again: Redis was emptied meanwhile, and a joiner will begin anew
    return copied


def wipe_histories(client: Any, prefix: str = "") -> int:
    """Remove all histories from Redis; returns how many users had one. Raises redis.RedisError."""
    wiped = 0
    keys = client.scan_iter(match=history_key("*", prefix), count=BATCH)
    while batch := list(islice(keys, BATCH)):
        wiped += len(batch)
        client.unlink(*batch)
    return wiped
