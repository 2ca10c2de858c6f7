"""Users' installs and their times: the copy in Redis. The compacted topic `histories` is the durable one.

One sorted set per user: members are items, scores install times in ms. ZADD and ZREM are idempotent, so a joiner that
reads records again does no harm.

The join decides what a history contains: an install that is repeated, or that was retracted before it came, changes
nothing; where one of several installs of an item is retracted, the newest of the others stays. That is true as long as
installs are retained (the window and the time for corrections). After that, an install knows nothing of others: a late
one replaces a newer time in the topic (Redis keeps the newer one until it is rebuilt), or restores a retracted item;
and a retraction removes the item though an older install of another id exists.

The copy is rebuilt from the topic when a joiner starts, when Redis has lost it (its marker key is gone), and when
changes were dropped. At every start, because a process that is killed while Redis is unavailable loses its pending
changes, whose records may be committed; the topic is compacted, so a rebuild reads one short record per user and item.
"""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

from stream.events.codec import decode_entity
from stream.events.topics import HISTORIES
from stream.events.types import History
from stream.log.protocol import START, Log, Record
from stream.runtime.errors import BadEvent, LogGap

MEMBERS_MAX: Final = 1_000  # of one user: the newest items
BATCH: Final = 500
SETTLE_S: Final = 1.0  # longer than a record is in flight to the topic
POLL_S: Final = 0.2
COMPLETE: Final = b"complete"


class NewestTime(int):
    """An install time that replaces even a later one: that install was retracted."""


Changes = dict[tuple[str, str], int | None]  # install time by user and item; None: retracted

log = logging.getLogger(__name__)


def history_key(user: str, prefix: str = "") -> str:
    """The Redis key of a user's history; `prefix` is the setting `topic_prefix`."""
    return f"{prefix}{{thalweg}}:history:{user}"


def marker_key(prefix: str = "") -> str:
    """The Redis key that marks the copy as complete; missing when Redis was emptied."""
    return f"{prefix}{{thalweg}}:histories:rebuilt"


def decode_changes(records: Sequence[Record]) -> Changes:
    """The changes in records of the topic `histories`."""
    changes: Changes = {}
    for record in records:
        try:
            if record.value is None:
                parts = (record.key or b"").decode().split("\x00")
                for k in range(1, len(parts)):  # one way to split, unless an id itself contains the separator
                    changes["\x00".join(parts[:k]), "\x00".join(parts[k:])] = None
            else:
                history = decode_entity(record.value, History)
                changes[history.user, history.item] = NewestTime(history.time_ms)
        except (BadEvent, UnicodeDecodeError) as bad:
            log.warning("%s/%d offset %d is left out: %s", HISTORIES.name, record.partition, record.offset, bad)
    return changes


def write_changes(client: Any, changes: Changes, prefix: str) -> None:
    """Write changes in one round trip: a command or two per user or retraction, however long a history is.

    Raises redis.RedisError.
    """
    installed: dict[tuple[str, bool], dict[str, int]] = {}
    with client.pipeline(transaction=False) as pipe:
        for (user, item), time_ms in changes.items():
            if time_ms is None:
                pipe.zrem(history_key(user, prefix), item)
            else:
                installed.setdefault((user, isinstance(time_ms, NewestTime)), {})[item] = time_ms
        for (user, newest), items in installed.items():
            key = history_key(user, prefix)
            pipe.zadd(key, items, gt=not newest)
            pipe.zremrangebyrank(key, 0, -MEMBERS_MAX - 1)
        pipe.execute()


def rebuild_histories(
    client: Any, source: Log, prefix: str = "", *,
    wait: Callable[[], object] = lambda: time.sleep(SETTLE_S), between: Callable[[], None] = lambda: None,
    ended: Callable[[], bool] = lambda: False, on_progress: Callable[[int, int], None] = lambda copied, of: None,
    without: Callable[[Changes], Changes] = lambda changes: changes,
) -> int:  # fmt: skip
    """Copy the topic to Redis, beside running joiners or without one; returns the number of its records.

    `between` batches of the first pass, a writer may write new changes: they don't wait for a long topic. So an old
    install may be copied over a newer retraction; after a `wait` (longer than a record is in flight to the topic) the
    second pass, over the records appended during the first, corrects that. `ended` stops the copy. `on_progress` gets
    the number of copied records, and of all. `without` leaves changes out.

    Raises redis.RedisError, LogError.
    """
    marker, copied = marker_key(prefix), 0
    client.set(marker, "begun", nx=True)
    reader = source.reader(HISTORIES.name, dict.fromkeys(source.ends(HISTORIES.name), START))
    try:
        for first_pass in (True, False):
            ends = source.ends(HISTORIES.name)
            of = copied + sum(ends.values()) - sum(reader.positions().values())
            while not ended() and any(at < ends[p] for p, at in reader.positions().items()):
                try:
                    records = reader.poll(POLL_S, BATCH)
                except LogGap as gap:  # compaction keeps the newest of each: nothing is lost
                    reader.seek(gap.partition, START)
                    continue
                write_changes(client, without(decode_changes(records)), prefix)
                copied += len(records)
                on_progress(copied, max(of, copied))
                if first_pass:
                    between()
            if first_pass:
                wait()
    finally:
        reader.close()
    if not ended():
        client.set(marker, COMPLETE, xx=True)  # if it's missing, Redis was emptied meanwhile: a joiner rebuilds again
    return copied


def wipe_histories(client: Any, prefix: str = "") -> int:
    """Remove all histories from Redis; returns how many users had one. Raises redis.RedisError."""
    wiped = 0
    keys = client.scan_iter(match=history_key("*", prefix), count=BATCH)
    while batch := list(islice(keys, BATCH)):
        wiped += len(batch)
        client.unlink(*batch)
    return wiped
