"""Copies users' attributes from the compacted topic `users` to Redis, where rankers read them.

One key per user has the topic's record. A hash has, per partition, the offset up to which the topic was copied: a batch
is written only where the previous one ended, by a script. So several joiners may copy, none writes an old record over a
newer one, a joiner that starts continues where others ended, and a Redis that was wiped is filled from the start.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any, Final

from stream.events.codec import decode_entity
from stream.events.topics import USERS
from stream.events.types import User
from stream.history.profiles import user_key
from stream.log.dead_letters import dead_letter
from stream.log.protocol import START, Log, Reader, Record
from stream.runtime.errors import BadEvent, LogError, LogGap
from stream.snapshots.redis_client import REDIS_FAILURES

BATCH: Final = 500  # records of one script: less than 10 ms of Redis
POLL_S: Final = 0.5
CHECK_S: Final = 5.0  # between two checks of the copied offsets
RETRY_S: Final = 1.0

# KEYS: hash of offsets, users' keys. ARGV: partition, offset of the batch ("" if none is copied yet), of the next one,
# records ("" deletes). Returns the offset up to which the partition is copied then.
_COPY: Final = """
local copied = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if copied ~= ARGV[2] then return copied end
for k = 2, #KEYS do
  if ARGV[k + 2] == '' then redis.call('UNLINK', KEYS[k]) else redis.call('SET', KEYS[k], ARGV[k + 2]) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
"""

log = logging.getLogger(__name__)


def offsets_key(prefix: str = "") -> str:
    """The Redis key of the copied offsets by partition; missing when Redis was emptied."""
    return f"{prefix}{{thalweg}}:users:copied"


class UserWriter:
    """Follows the topic in a thread of its own. `source` opens the log.

    Invalid records are left out and become dead letters, which share a key in their compacted topic; `count_rejected`
    gets their number.
    """

    def __init__(
        self,
        client: Any,
        source: Callable[[], Log],
        prefix: str = "",
        count_rejected: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._client, self._source, self._prefix = client, source, prefix
        self._count_rejected = count_rejected
        self._copied: dict[int, int | None] = {}  # as Redis has it; None: nothing
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="users", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop copying; another joiner, or the next start, continues. Safe to call twice."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        failing = False
        while not self._stop.is_set():
            try:
                self._client.exists(
                    offsets_key(self._prefix)
                )  # first: while Redis is unavailable, the log isn't opened again and again
                with closing(self._source()) as source:
                    if failing:
                        log.info("users' attributes are copied to Redis again")
                    failing = False
                    self._follow(source)
            except (*REDIS_FAILURES, LogError) as error:
                if not failing:
                    log.warning("users' attributes aren't copied to Redis (%s); retrying", error)
                failing = True
                self._stop.wait(RETRY_S)

    def _follow(self, source: Log) -> None:
        with closing(source.reader(USERS.name, dict.fromkeys(source.ends(USERS.name), START))) as reader:
            self._copied = {}
            check_s = time.monotonic()
            while not self._stop.is_set():
                if time.monotonic() >= check_s:
                    self._align(source, reader)
                    check_s = time.monotonic() + CHECK_S
                try:
                    records = sorted(reader.poll(POLL_S, BATCH), key=lambda record: (record.partition, record.offset))
                except LogGap as gap:  # compaction keeps the newest of each: nothing is lost
                    reader.seek(gap.partition, START)
                    continue
                for partition, batch in groupby(records, lambda record: record.partition):
                    self._write(source, reader, partition, list(batch))

    def _align(self, source: Log, reader: Reader) -> None:
        """Continue each partition where its copy in Redis ends, if that changed."""
        copied = {int(p): int(offset) for p, offset in self._client.hgetall(offsets_key(self._prefix)).items()}
        for partition, end in source.ends(USERS.name).items():
            if partition not in self._copied or copied.get(partition) != self._copied[partition]:
                self._continue(reader, partition, copied.get(partition), end)

    def _continue(self, reader: Reader, partition: int, copied: int | None, end: int) -> None:
        self._copied[partition] = copied
        # A topic that was created anew ends before the offset.
        reader.seek(partition, START if copied is None or copied > end else copied)

    def _write(self, source: Log, reader: Reader, partition: int, records: Sequence[Record]) -> None:
        before, after = self._copied[partition], records[-1].offset + 1
        users = self._newest(source, records)
        keys = [offsets_key(self._prefix), *(user_key(user, self._prefix) for user in users)]
        copied = self._client.register_script(_COPY)(
            keys, [partition, "" if before is None else before, after, *users.values()]
        )
        if int(copied or -1) == after:
            self._copied[partition] = after
        else:  # another joiner was faster, or Redis was emptied
            self._continue(reader, partition, int(copied) if copied else None, source.ends(USERS.name)[partition])

    def _newest(self, source: Log, records: Sequence[Record]) -> dict[str, bytes]:
        """Each user's newest record, b"" where it's a tombstone; dead letters are written."""
        users: dict[str, bytes] = {}
        rejected = 0
        for record in records:
            try:
                if record.value is None:
                    users[(record.key or b"").decode()] = b""
                else:
                    users[decode_entity(record.value, User).user] = record.value
            except (BadEvent, UnicodeDecodeError) as bad:
                log.warning("%s/%d offset %d is left out: %s", USERS.name, record.partition, record.offset, bad)
                source.send(*dead_letter(record.value or b"", BadEvent.__name__, str(bad), record))
                rejected += 1
        if rejected:
            source.flush()
            self._count_rejected(rejected)
        return users
