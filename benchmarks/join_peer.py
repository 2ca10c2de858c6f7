"""The join's peer: `faust_tables.py` as a process on the joiner's core."""

import os
import subprocess
import sys
import time

import msgspec
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from benchmarks.joiner_world import ITEMS, PARTITIONS, cores, new_topics, pages
from stream.log.kafka_log import KafkaLog
from stream.runtime.settings import Settings


def faust_rate(house: Settings, count: int, users: int) -> float:
    """The peer's examples per second: all of its events, one a record, by its output's append times."""
    settings = new_topics(house)
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka)
    names = [f"{settings.topic_prefix}peer.events", f"{settings.topic_prefix}peer.examples"]
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    admin.wait_for_topics(names)
    log = KafkaLog(settings, linger_ms=5)
    now_ms = int(time.time() * 1000)
    for partition, event in pages(count, True, users, now_ms):
        fields = msgspec.structs.asdict(event)
        fields["features"] = fields.get("features", b"").hex()
        log.send("peer.events", partition, msgspec.json.encode(fields), b"k")
    log.flush(60)
    mine, others = cores()
    os.sched_setaffinity(0, mine)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.faust_tables", settings.kafka, settings.topic_prefix, "worker"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.sched_setaffinity(0, others)
    try:
        return ITEMS * _pages_done_s(admin, settings, count)
    finally:
        process.kill()
        process.wait()
        log.close()
        admin.close()


def _pages_done_s(admin: KafkaAdminClient, settings: Settings, count: int) -> float:
    """Pages a second that the peer processes, by the growth of its changelog of pages."""
    name = f"{settings.topic_prefix}peer-pages-changelog"
    log = KafkaLog(settings)
    short = name.removeprefix(settings.topic_prefix)
    seen: list[tuple[float, int]] = []
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.25)
        if admin.describe_topics([name])[0]["error_code"]:
            continue
        done = sum(log.ends(short).values())
        if done:
            seen.append((time.monotonic(), done))
        if done >= 0.9 * count:
            break
    log.close()
    (first_s, first), (last_s, last) = seen[0], seen[-1]
    return (last - first) / (last_s - first_s)
