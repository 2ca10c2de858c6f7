"""What `thalweg size` counts with: bytes of real objects beside the memory rule's; CPU time of learning by the spec.

Memory is how much a process of its own grows at its most, tables while they grow among it. In Redis: attributes like
MovieLens', histories of 20 items. Learning is fitted over a dozen specs (`size_learn.py`).
"""

import tempfile
from contextlib import closing
from pathlib import Path

import redis
from rich.table import Table

from benchmarks.size_learn import PAGES, fitted, measured
from benchmarks.size_objects import bytes_of, counted
from benchmarks.snapshot import own_redis
from stream.events.codec import encode
from stream.events.types import User, Value
from stream.history.histories import COMPLETE, history_key, marker_key
from stream.history.profiles import read_profiles, user_key
from stream.snapshots.redis_client import connect
from thalweg.sizing.plan import user_bytes

COUNTS = {"wide_key": 1_000_000, "statistics_row": 1_000_000, "embedding_row": 1_000_000, "item": 100_000,
          "open_page": 1_000_000}  # fmt: skip
USERS, HISTORY, READS = 100_000, 20, 2_000
LONG_USERS, LONG = 2_000, 200  # histories that Redis doesn't pack


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    part = 10 if quick else 1
    table = Table("what", "measured", "by the rule", title="what one of each takes, bytes; an example, µs")
    figures: dict[str, float] = {}
    counts = {kind: count // part for kind, count in COUNTS.items()}
    for kind, size in bytes_of(counts).items():
        figures[f"bytes_per_{kind}"] = size
        table.add_row(f"{kind}, of {counts[kind]:,}", f"{size:.0f}", f"{counted(kind, counts[kind]):.0f}")
    with (
        tempfile.TemporaryDirectory() as folder,
        own_redis(Path(folder)) as settings,
        closing(connect(settings)) as client,
    ):
        figures |= in_redis(client, USERS // part, HISTORY)
        client.flushall()
        long = in_redis(client, LONG_USERS, LONG)
    figures |= {f"long_{name}": value for name, value in long.items()}
    for items, found in ((HISTORY, figures), (LONG, long)):
        row = (f"user in Redis, {items} items", f"{found['bytes_per_user']:.0f}", f"{user_bytes(items):.0f}")
        table.add_row(*row)
    table.add_row("reading one there, µs of Redis", f"{figures['redis_read_us']:.1f}", "")
    cases = measured(PAGES // part)
    for what in ("learned_us", "encoded_us"):
        taken = [getattr(case, what) for case in cases]
        found = fitted(cases, taken)
        figures |= {f"{what}_{term}": value for term, value in found.items()}
        for case, real in zip(cases, taken, strict=True):
            rule = sum(amount * found[term] for term, amount in case.work._asdict().items())
            table.add_row(f"{case.name}: {what}", f"{real:.2f}", f"{rule:.2f}")
        for term, value in found.items():
            table.add_row(f"… for one of {term}", f"{value:.3g}", "")
    return table, figures


def in_redis(client: redis.Redis, users: int, history: int) -> dict[str, float]:
    """Bytes of a user's attributes and history, and CPU time of a read."""
    attributes: dict[str, Value] = {"age": 33.0, "gender": "F", "occupation": "occupation 12", "zip": "12345"}
    sizes = [client.info("memory")["used_memory"]]
    with client.pipeline(transaction=False) as pipe:
        for n in range(users):
            pipe.set(user_key(f"user-{n:07d}"), encode(User(f"user-{n:07d}", attributes)))
        pipe.execute()
        sizes.append(client.info("memory")["used_memory"])
        for n in range(users):
            times = {f"item-{(n * 31 + k * 977) % 100_000:06d}": 1_700_000_000_000 + k for k in range(history)}
            pipe.zadd(history_key(f"user-{n:07d}"), times)
        pipe.execute()
    sizes.append(client.info("memory")["used_memory"])
    client.set(marker_key(), COMPLETE)
    client.config_resetstat()
    for n in range(READS):
        read_profiles(client, [f"user-{n * 7 % users:07d}"])
    stats = client.info("commandstats")["cmdstat_evalsha"]
    return {
        "bytes_per_user": (sizes[2] - sizes[0]) / users,
        "bytes_per_user_attributes": (sizes[1] - sizes[0]) / users,
        "redis_read_us": stats["usec"] / stats["calls"],
    }
