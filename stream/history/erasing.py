"""Erases users' installs up to a time: from the topic `histories`, and from its copy in Redis. And dead letters.

Both are erased by the installs' own times, so it can be done again at any moment: after a restart, by several joiners,
or after a backup was restored. What the user installed later stays.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from stream.events.codec import decode_entity, decode_ledger
from stream.events.topics import ERASED, HISTORIES, NAMES, USERS_DLQ
from stream.events.types import DeadLetter, Erase
from stream.features.new_values import USER_ID, name_key
from stream.history.histories import BATCH, Changes, decode_changes, history_key, rebuild_histories
from stream.log.dead_letters import users_of
from stream.log.log_scan import read_range
from stream.log.protocol import START, Log, Record, partition_of
from stream.runtime.errors import BadEvent, MissingTopic

NAMED_LATE_MS: Final = 10_000  # a ranker may write a name that it noted before; within this it forgets who was erased
Erased = Mapping[str, int]  # time up to which a user is erased, ms, by user

log = logging.getLogger(__name__)


class ErasedChanges:
    """Takes installs of erased users out of changes; feed it the changes of a topic in order.

    `left`: by user and item, installs whose newest record in the topic is still one that is to be erased.
    """

    def __init__(self, erased: Erased) -> None:
        self.left: set[tuple[str, str]] = set()
        self._erased: Final = erased

    def without(self, changes: Changes) -> Changes:
        """The other changes."""
        kept: Changes = {}
        for (user, item), time_ms in changes.items():
            if time_ms is not None and time_ms <= self._erased.get(user, -1):
                self.left.add((user, item))
            else:
                self.left.discard((user, item))
                kept[user, item] = time_ms
        return kept

    def send_tombstones(self, log_: Log) -> int:
        """Write a tombstone for each that is left, and wait until the log has them; returns how many.

        Raises LogError.
        """
        partitions = log_.partitions(HISTORIES.name) if self.left else 0
        for user, item in sorted(self.left):
            log_.send(HISTORIES.name, partition_of(user, partitions), None, f"{user}\x00{item}".encode())
        log_.flush()
        return len(self.left)


def read_erased(source: Log) -> dict[str, int]:
    """The ledger: which users were erased, and until when; none without the topic. Raises LogUnavailable, LogError."""
    try:
        ends = source.ends(ERASED.name)
    except MissingTopic:  # in a deployment of release 0.2
        return {}
    erased: dict[str, int] = {}
    for record in read_range(source, ERASED.name, dict.fromkeys(ends, START), ends):
        try:
            event = decode_ledger(record.value or b"")
        except BadEvent as bad:
            log.warning("%s/%d offset %d is left out: %s", record.topic, record.partition, record.offset, bad)
            continue
        if isinstance(event, Erase):
            erased[event.user] = max(event.time_ms, erased.get(event.user, 0))
    return erased


def erase_in_topic(source: Log, erased: Erased, between: Callable[[], None] = lambda: None) -> int:
    """Write tombstones for these users' installs in the topic; returns how many. Reads their partitions to the end.

    `between` polls other work may be done. An install of the same item that arrives in the last moment before its
    tombstone is in Redis, not in the topic. Raises LogUnavailable, LogError.
    """
    partitions = source.partitions(HISTORIES.name)
    ends = source.ends(HISTORIES.name)
    found = ErasedChanges(erased)
    begin = dict.fromkeys({partition_of(user, partitions) for user in erased}, START)
    for record in read_range(source, HISTORIES.name, begin, ends, lambda *_: between()):
        found.without(decode_changes([record]))
    return found.send_tombstones(source)


def erase_names_and_dead_letters(source: Log, erased: Erased) -> int:
    """Write tombstones for these users' ids in `feature.names`, and their dead letters of `users`; returns how many.

    Dead letters of other topics expire; these don't. Those whose bytes don't begin as a user's do stay: nobody can say
    whose they are. Raises LogUnavailable, LogError.
    """
    names = {name_key(USER_ID, user): until_ms + NAMED_LATE_MS for user, until_ms in erased.items()}

    def is_dead_letter(record: Record) -> bool:
        return is_erased(decode_entity(record.value or b"", DeadLetter), record.time_ms, erased)

    return _erase(source, NAMES.name, lambda record: record.time_ms <= names.get(record.key or b"", -1)) + _erase(
        source, USERS_DLQ.name, is_dead_letter
    )


def _erase(source: Log, topic: str, is_theirs: Callable[[Record], bool]) -> int:
    """Write tombstones for the newest records of their keys that are theirs, in a topic of one partition."""
    try:
        ends = source.ends(topic)
    except MissingTopic:  # of an earlier release
        return 0
    found = set[bytes]()
    for record in read_range(source, topic, dict.fromkeys(ends, START), ends):
        found.discard(record.key or b"")
        with suppress(BadEvent):  # not written by us
            if record.key and record.value is not None and is_theirs(record):
                found.add(record.key)
    for key in sorted(found):
        source.send(topic, 0, None, key)
    source.flush()
    return len(found)


def is_erased(one: DeadLetter, written_ms: int, erased: Erased) -> bool:
    """Whether a dead letter names a user who was erased after it was written."""
    return any(written_ms <= erased.get(user, -1) for user in users_of(one))


def erase_in_redis(client: Any, erased: Erased, prefix: str = "") -> int:
    """Remove these users' installs from Redis; returns how many. Raises redis.RedisError."""
    removed, users = 0, iter(erased.items())
    while some := list(islice(users, BATCH)):
        with client.pipeline(transaction=False) as pipe:
            for user, until_ms in some:
                pipe.zremrangebyscore(history_key(user, prefix), "-inf", until_ms)
            removed += sum(pipe.execute())
    return removed


def rebuild_without_erased(
    client: Any,
    source: Log,
    prefix: str = "",
    *,
    ended: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda copied, of: None,
    **options: Callable[[], Any],
) -> int:
    """As `rebuild_histories`, without what the ledger says is erased; that is erased from both again.

    So what a process that was killed had not erased yet, and what a restored backup brings back, goes at the next start
    of a joiner. Raises redis.RedisError, LogError.
    """
    erased = read_erased(source)
    found = ErasedChanges(erased)
    copied = rebuild_histories(
        client, source, prefix, ended=ended, on_progress=on_progress, without=found.without, **options
    )
    if not ended():  # else a newer record may not have been read
        found.send_tombstones(source)
        erase_in_redis(client, erased, prefix)
        erase_names_and_dead_letters(source, erased)
    return copied
