"""Users' profiles through Redis: memory with a million users, the cost of a read, and a Redis that is slow.

Users have the attributes of specs/movielens.toml. The peer for memory is a dict of all users' attributes in the
ranker. A slow Redis answers after 25 ms; 50 users ask again and again, a request every 10 ms.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import redis
from rich.table import Table

from benchmarks.join_memory import memory_bytes
from benchmarks.snapshot import own_redis
from ranker.serving.profile_reader import ProfileReader
from stream.events.codec import decode_entity, encode
from stream.events.topics import USERS, USERS_DLQ
from stream.events.types import User, Value
from stream.history.histories import COMPLETE, history_key, marker_key
from stream.history.profiles import UserProfile, read_profiles
from stream.history.user_writer import UserWriter, offsets_key
from stream.log.memory_log import MemoryLog
from stream.snapshots.redis_client import connect

USERS_ALL = 1_000_000
HISTORIES = (10, 165, 1_000)  # items; the second is MovieLens' mean
READS = 300
SLOW_S, EVERY_S, ASKING, REQUESTS = 0.025, 0.010, 50, 300
MIB = 1024 * 1024


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    users = USERS_ALL // 10 if quick else USERS_ALL
    log = MemoryLog({USERS.name: 1, USERS_DLQ.name: 1}, lambda: 0)
    for n in range(users):
        log.send(USERS.name, 0, encode(User(f"user-{n:07d}", _attributes(n))), b"")
    figures = {"users": float(users), **slow()}
    with (
        tempfile.TemporaryDirectory() as folder,
        own_redis(Path(folder)) as settings,
        closing(connect(settings)) as client,
    ):
        figures |= copied(client, log, users) | reads(client)
        figures["ranker_mib"] = grown_mib(lambda: _asked(client, users))[0]
    figures["dict_mib"], _ = grown_mib(lambda: _all_users(log))
    table = Table(title="users' profiles")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, says in SAYS.items():
        table.add_row(says, f"{figures[name]:,.2f}")
    return table, figures


def _attributes(n: int) -> dict[str, Value]:
    return {"age": float(18 + n % 60), "gender": "FM"[n % 2], "occupation": f"occupation {n % 21}", "zip": f"{n:05d}"}


def copied(client: redis.Redis, log: MemoryLog, users: int) -> dict[str, float]:
    """Seconds of a joiner's thread, and Redis' memory, for all users."""
    before, begun = client.info("memory")["used_memory"], time.perf_counter()
    writer = UserWriter(client, lambda: log)
    while client.hget(offsets_key(), "0") != str(users).encode():
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    writer.close()
    return {"copy_s": seconds, "redis_mib": (client.info("memory")["used_memory"] - before) / MIB}


def reads(client: redis.Redis) -> dict[str, float]:
    """Milliseconds of a read: of one user by the length of the history, and of a hundred users."""
    client.set(marker_key(), COMPLETE)
    found: dict[str, float] = {}
    for items in HISTORIES:
        for n in range(100):
            client.zadd(history_key(f"user-{n:07d}"), {f"item-{k:06d}": k for k in range(items)})
        for count in (1, 100):
            names = [f"user-{n:07d}" for n in range(count)]
            times = []
            for _ in range(READS // count + 10):
                begun = time.perf_counter()
                read_profiles(client, names)
                times.append(time.perf_counter() - begun)
            found[f"read_{items}_items_{count}_users_ms"] = float(np.median(times)) * 1e3
    return found


def grown_mib(made: Callable[[], object]) -> tuple[float, object]:
    """By how much this process grows while something is made, and that."""
    before = memory_bytes("VmRSS")
    result = made()
    return (memory_bytes("VmRSS") - before) / MIB, result


def _all_users(log: MemoryLog) -> dict[str, dict[str, Value]]:
    records = log.reader(USERS.name, {0: 0}).poll(0, USERS_ALL)
    users = (decode_entity(record.value or b"", User) for record in records)
    return {user.user: user.attributes for user in users}


def _asked(client: redis.Redis, users: int) -> ProfileReader:
    reader = ProfileReader(lambda names: read_profiles(client, names), patience_s=10.0)
    for first in range(0, users, 100):
        reader.begin([f"user-{n:07d}" for n in range(first, min(first + 100, users))]).result()
    return reader


def slow() -> dict[str, float]:
    """Requests while each read takes 25 ms: how long they wait, and how many have a profile from an earlier read."""

    def read(users: Sequence[str]) -> dict[str, UserProfile]:
        time.sleep(SLOW_S)
        return {user: UserProfile([], {}) for user in users}

    reader, waited, known = ProfileReader(read), [], 0
    for n in range(REQUESTS):
        begun = time.perf_counter()
        profile = reader.begin([f"u{n % ASKING}"]).result()[f"u{n % ASKING}"]
        waited.append(time.perf_counter() - begun)
        known += profile.history is not None
        time.sleep(max(0.0, EVERY_S - waited[-1]))
    reader.close()
    return {
        "slow_waited_mean_ms": float(np.mean(waited)) * 1e3,
        "slow_waited_max_ms": float(np.max(waited)) * 1e3,
        "slow_known": known / REQUESTS,
    }


SAYS = {
    "users": "users",
    "dict_mib": "all users' attributes in a dict, MiB",
    "ranker_mib": "a ranker's profile reader, asked once for each user, MiB",
    "redis_mib": "their copy in Redis, MiB",
    "copy_s": "copying them to Redis, s",
    **{
        f"read_{items}_items_{count}_users_ms": f"reading {count} user(s) with {items:,} items each, ms"
        for items in HISTORIES
        for count in (1, 100)
    },
    "slow_waited_mean_ms": "a request's wait while Redis takes 25 ms, mean, ms",
    "slow_waited_max_ms": "longest, ms",
    "slow_known": "share of these requests with a profile",
}
