"""Cost of retained pages: in memory and on disk at ten million, over a limit with large records, and a restart.

`python -m benchmarks.join_memory JSON` feeds a join in a process of its own, so that nothing else is measured.
"""

import gc
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.joiner_state import commit_of, prepare_state
from benchmarks.joiner_world import (
    FEATURES_BYTES,
    PAGES_A_MS,
    PARTITIONS,
    RULES,
    joiner,
    metrics,
    new_topics,
    pages,
    plain,
)  # fmt: skip
from benchmarks.page_template import PageTemplate
from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install
from stream.joiner.faust_service import tune_gc
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_events import read_record
from stream.joiner.record_processor import warm_up
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END, partition_of
from stream.runtime.settings import Settings

HOUR_MS: Final = 3_600_000
DAY: Final = LabelRules("eager", window_ms=24 * HOUR_MS, known_ms=HOUR_MS)
BACK_MS: Final = 26 * HOUR_MS  # event time of what is fed: a tick at the end of a day's window isn't in the future
PACK: Final = 64
LARGE_PACK: Final = 704  # full pages: a record of 0.98 MB
LIMIT_MB: Final = 1_024


def open_pages(count: int) -> tuple[float, float, float]:
    """Open full pages in one join: bytes a page beyond its wire size; the longest turn of 16 pages, ms wall and CPU."""
    rules = replace(RULES, window_ms=10**9)
    encoded = (msgspec.msgpack.encode([event]) for _, event in pages(count, True, count // 5, 10**12))
    join, wire, longest_s, cpu_s = Joiner(rules), 0, 0.0, 0.0
    warm_up()
    tune_gc()
    before = memory_bytes("VmRSS")
    record: list[bytes] = []
    for offset, raw in enumerate(encoded):
        record.append(raw[1:])
        wire += len(raw) - 1
        if len(record) == 16:
            begun, cpu_begun = time.perf_counter(), time.thread_time()
            events, _ = read_record(b"\xdc\x00\x10" + b"".join(record))
            join.join_record(events, offset, 2 * 10**12)
            longest_s = max(longest_s, time.perf_counter() - begun)
            cpu_s = max(cpu_s, time.thread_time() - cpu_begun)
            record = []
    beyond = (memory_bytes("VmRSS") - before - wire) / join.open_pages
    return beyond, longest_s * 1000, cpu_s * 1000


def memory_bytes(name: str, pid: int | str = "self") -> int:
    """A process's resident memory, mapped files that are resident included: VmRSS now, VmHWM at its most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])


def disk_bytes(folder: Path) -> int:
    """Disk space of the files under a folder; holes take none."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def known(house: Settings, count: int) -> dict[str, float]:
    """Thin pages of ten items known in a day's window, an install after one in twenty, fed to the join without Kafka.

    Bytes a page in memory and on disk, of as many joins as there are partitions. Where a joiner keeps local state,
    it is saved, and a joiner starts on it (`restart_s`).
    """
    settings = new_topics(house)
    given = json.dumps({"settings": plain(settings), "count": count})
    found = subprocess.run([sys.executable, "-m", "benchmarks.join_memory", given], stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(found.stdout)
    figures["restart_s_10m"] = restart_s(settings)
    return figures


def feed(settings: Settings, count: int) -> dict[str, float]:
    """The figures of `known`, in this process; leaves the saved state, and a commit that belongs to it."""
    begin_ms = int(time.time() * 1000) - count // PAGES_A_MS  # so that no window is over: the log has no bodies
    template = PageTemplate()
    warm_up()
    for offset, raw in enumerate(template.records(64 * PACK, PACK, 400, begin_ms, PAGES_A_MS)):
        Joiner(DAY).join_record(read_record(raw)[0], offset, 2 * 10**12)
    joins = [Joiner(DAY) for _ in range(PARTITIONS)]
    tune_gc()
    before, fed = memory_bytes("VmRSS"), 0
    for n, raw in enumerate(template.records(count, PACK, max(1, count // 10), begin_ms, PAGES_A_MS)):
        events, _ = read_record(raw)
        joins[n % PARTITIONS].join_record(events, n // PARTITIONS, 2 * 10**12)
        fed += PACK
    gc.collect()
    beyond = memory_bytes("VmRSS") - before
    prepare_state(settings, DAY, joins, fed // PACK)
    return {
        "bytes_per_known_page": beyond / fed,
        "disk_bytes_per_known_page": disk_bytes(settings.local) / fed,
    }


def restart_s(settings: Settings) -> float:
    """A joiner's start on the saved state: seconds to its first output, which is of a page behind the commit."""
    log = KafkaLog(settings)
    reader = log.reader(EXAMPLES.name, {0: END})
    now_ms = int(time.time() * 1000)
    for k in range(4 * PARTITIONS):
        page = Impression(f"first-{k}", now_ms, f"new-{k}", ["a"])
        record = encode_record([page, Install(page.user, "a", now_ms, f"new-{k}")])
        log.send(EVENTS.name, partition_of(page.user, PARTITIONS), record)
    log.flush()
    begun = time.perf_counter()
    with joiner(settings, DAY):
        while not reader.poll(0.01, 1):
            assert time.perf_counter() - begun < 300, "no output"
        took_s = time.perf_counter() - begun
    reader.close()
    log.close()
    assert commit_of(settings), "it started without a commit"
    return took_s


def over_limit(house: Settings, megabytes: int) -> float:
    """Maximum resident memory of a joiner's process beyond its limit for pages; its backlog are records of about 1 MB.

    Full pages in a day's window, more MB of them than the limit. Until all are read.
    """
    settings = new_topics(house).model_copy(update={"joiner_memory_mb": LIMIT_MB})
    template = PageTemplate(FEATURES_BYTES)
    begin_ms = int(time.time() * 1000) - BACK_MS
    count = megabytes * 1_000_000 // len(template.page) // LARGE_PACK * LARGE_PACK
    log = KafkaLog(settings)
    written = 0
    for p in range(PARTITIONS):
        users = np.array([user for user in range(count // 10) if partition_of(f"u{user:010d}", PARTITIONS) == p])
        for raw in template.records(count // PARTITIONS, LARGE_PACK, users, begin_ms, PAGES_A_MS, seed=p):
            log.send(EVENTS.name, p, raw)
            written += LARGE_PACK
    log.flush(60)
    log.close()
    with joiner(settings, DAY) as process:
        end = time.monotonic() + 300
        while metrics(settings).get('thalweg_joiner_events_total{kind="page"}', 0) < written:
            assert time.monotonic() < end, "the backlog isn't read"
            assert process.poll() is None, "the joiner has ended"
            time.sleep(0.2)
        time.sleep(1.0)
        return memory_bytes("VmHWM", process.pid) / (LIMIT_MB * 1_000_000)


def main(given: dict[str, Any]) -> None:
    """Print the figures of `feed` as JSON."""
    print(json.dumps(feed(Settings(**given["settings"]), given["count"])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
