"""The joiner on one core, from real Kafka to real Kafka; peer: the join as Faust's documentation shows it.

*Full page*: 10 items, about 1.4 KB; *thin page*: ids only. An install after one page in twenty, policy `eager`,
5,000 pages a second of event time, a window of 2 s. Input is preloaded; rates are item examples per second, from the
moment at which the joiner's Kafka client returns the first record to the append of the last record of `examples`.
They include filling the windows before the first output, at every size of a record, but not loading kernels.

Long windows: `join_day.py`; memory: `join_memory.py`; kills, rebalances, outages: `join_faults.py`.
"""

import random
import statistics
import time
from itertools import pairwise

from rich.table import Table

from benchmarks.join_day import day
from benchmarks.join_faults import Faults, emitted_again, outage
from benchmarks.join_memory import known, open_pages, over_limit
from benchmarks.join_peer import faust_rate
from benchmarks.joiner_world import (
    ANSWER_S,
    ITEMS,
    PAGES_A_MS,
    PARTITIONS,
    append_ms,
    echo,
    emitted_so_far,
    joiner,
    kafka,
    metrics,
    new_topics,
    next_example,
    pages,
    preload,
    took_s,
    wait_for,
)  # fmt: skip
from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install, Tick
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END, partition_of
from stream.runtime.settings import Settings

USERS = 20_000
TICK_S = 0.01  # resolution of a process's CPU time
BACK_MS = 3_600_000  # event time of the preloaded pages: before now
QUICK_FAULTS = Faults(pages=10_000, rounds=1, kills=3, remembered=50_000)
WANTED = {
    "full_ex_s_pack1": ">= 250,000",
    "full_ex_s_pack16": ">= 300,000",
    "full_ex_s_pack64": ">= 500,000",
    "thin_ex_s_pack64": ">= 1,000,000",
    "decay_10x": "<= 1.1",
    "poison_costs": "< 0.05",
    "eager_p50_ms": "<= 5",
    "eager_p99_ms": "<= 20",
    "echo_p50_ms": "",
    "echo_p99_ms": "",
    "restart_s": "<= 3",
    "catchup_ex_s": ">= 0.8 x full_ex_s_pack16",
    "ours_over_faust_table": ">= 2",
    "held_bytes_over_wire": "<= 400",
    "pause_ms_max": "<= 50",
    "day_ex_s_pack16": ">= 150,000",
    "day_close_ex_s": "",
    "cold_install_p50_ms": "",
    "cold_install_p99_ms": "<= 50",
    "bytes_per_known_page": "<= 150",
    "disk_bytes_per_known_page": "",
    "restart_s_10m": "<= 5",
    "relearned": "0",
    "emitted_again": "",
    "lost_in_outage": "0",
    "late_in_outage": "",
    "rss_over_limit": "<= 1.2",
}


def filled(house: Settings, full: bool, pack: int, count: int, poison_every: int = 0) -> Settings:
    """Topics with this number of pages, and a poisoned record after every Nth."""
    settings = new_topics(house)
    begin_ms = int(time.time() * 1000) - BACK_MS
    preload(settings, pages(count, full, USERS, begin_ms), pack, begin_ms + count // PAGES_A_MS, poison_every)
    return settings


def rate(house: Settings, full: bool, pack: int, count: int, poison_every: int = 0) -> tuple[float, float]:
    """Examples per second of wall time, and per second of the joiner's CPU time."""
    return rate_in(filled(house, full, pack, count, poison_every), count)


def rate_in(settings: Settings, count: int) -> tuple[float, float]:
    """The same for topics filled with this number of pages."""
    with joiner(settings, warm=True):
        while emitted_so_far(settings) < ITEMS * count // 50:
            time.sleep(0.02)
        before, cpu_before = emitted_so_far(settings), metrics(settings)["process_cpu_seconds_total"]
        wait_for(settings, ITEMS * count)
        cpu_s = metrics(settings)["process_cpu_seconds_total"] - cpu_before
    return ITEMS * count / took_s(settings), (ITEMS * count - before) / max(cpu_s, TICK_S)


def decay(settings: Settings) -> float:
    """How much slower the last three tenths of a run were than the second to the fourth: medians of their times.

    Once windows close, a record of many pages makes one of output, so a tenth of the topic's offsets is a tenth of the
    work. Left out are the first tenth, in which windows fill and whose input is fetched before the clock runs, and the
    ticks at the end.
    """
    log = KafkaLog(settings)
    try:
        (end,) = log.ends(EXAMPLES.name).values()
        times = [append_ms(log, (end - 1 - PARTITIONS) * tenth // 10) for tenth in range(11)]
    finally:
        log.close()
    took = [after - before for before, after in pairwise(times)]
    return statistics.median(took[7:]) / statistics.median(took[1:4])


def latencies(house: Settings, count: int) -> list[float]:
    """Install produced → its example readable, ms, at a few pages a second."""
    settings = new_topics(house)
    log, found = KafkaLog(settings), []
    reader = log.reader(EXAMPLES.name, {0: END})
    with joiner(settings):
        for k in range(-10, count):
            now_ms = int(time.time() * 1000)
            partition = partition_of(f"u{k}", PARTITIONS)
            log.send(EVENTS.name, partition, encode_record([Impression(f"r{k}", now_ms, f"u{k}", ["a", "b"])]))
            log.flush()
            time.sleep(random.uniform(0.02, 0.08) if k > -10 else 5.0)
            begun = time.perf_counter()
            log.send(EVENTS.name, partition, encode_record([Install(f"u{k}", "a", now_ms + 1, f"i{k}")]))
            next_example(reader, f"r{k}")
            found.append((time.perf_counter() - begun) * 1000)
    reader.close()
    log.close()
    return sorted(found[10:])


def echo_latencies(house: Settings, count: int) -> list[float]:
    """The same path without a join: record produced → its copy readable, ms. The floor of `latencies`."""
    settings = new_topics(house)
    log, found = KafkaLog(settings), []
    reader = log.reader(EXAMPLES.name, {0: END})
    with echo(settings):
        for k in range(-10, count):
            time.sleep(random.uniform(0.02, 0.08) if k > -10 else 5.0)
            begun = time.perf_counter()
            log.send(EVENTS.name, k % PARTITIONS, encode_record([Tick(k + 100)]))
            while not reader.poll(5.0):
                assert time.perf_counter() - begun < ANSWER_S, "no echo"
            found.append((time.perf_counter() - begun) * 1000)
    reader.close()
    log.close()
    return sorted(found[10:])


def restart(house: Settings, count: int) -> tuple[float, float]:
    """Killed mid-stream: seconds from the next start to its first record; examples per second from then on."""
    settings = filled(house, True, 16, count)
    with joiner(settings):
        while emitted_so_far(settings) < ITEMS * count // 10:
            time.sleep(0.01)
    log = KafkaLog(settings)
    reader = log.reader(EXAMPLES.name, {0: END})
    begun = time.perf_counter()
    with joiner(settings):
        while not (first := reader.poll(0.01, 1)):
            pass
        restart_s = time.perf_counter() - begun
        before, again = emitted_so_far(settings), time.perf_counter()
        while emitted_so_far(settings) != before or time.perf_counter() - again < 3:
            if (now := emitted_so_far(settings)) != before:
                before, again = now, time.perf_counter()
            time.sleep(0.05)
        emitted = emitted_so_far(settings)
    (end,) = log.ends(EXAMPLES.name).values()
    last = log.reader(EXAMPLES.name, {0: end - 1})
    while not (found := last.poll(1.0, 1)):
        pass
    for one in (reader, last):
        one.close()
    log.close()
    return restart_s, emitted / ((found[0].time_ms - first[0].time_ms) / 1000)


class Figures:
    """The figures, and the table with their targets."""

    def __init__(self) -> None:
        self.flat: dict[str, float] = {}
        self.table = Table(title="the joiner on one core, real Kafka to real Kafka")
        for column in ("figure", "measured", "wanted"):
            self.table.add_column(column, justify="left" if column == "figure" else "right")

    def note(self, name: str, value: float | None) -> None:
        """Add one figure; None: this joiner has nothing to measure, and the key is left out."""
        if value is not None:
            self.flat[name] = round(value, 2)
        shown = "not there yet" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
        self.table.add_row(name, shown, WANTED.get(name, ""))


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    figures, part = Figures(), 10 if quick else 1
    with kafka() as house:
        _short_windows(house, part, figures)
    beyond, pause_ms, pause_cpu_ms = open_pages(1_000_000 // part)
    figures.note("held_bytes_over_wire", beyond)
    figures.note("pause_ms_max", pause_ms)
    figures.note("pause_cpu_ms_max", pause_cpu_ms)
    with kafka() as house:
        # The outage comes first: a broker that was killed reads what its log has before it answers.
        found: dict[str, float | None] = {"restart_s_10m": None}
        found |= outage(house, 100, 3 if quick else 10)
        found |= emitted_again(house, QUICK_FAULTS if quick else Faults())
        found |= day(house, 400_000 // part, 400 // (4 if quick else 1))
        found |= known(house, 10_000_000 // part)
        found["rss_over_limit"] = over_limit(house, 1_600 // (2 if quick else 1))
        for name in sorted(found, key=list(WANTED).index):
            figures.note(name, found[name])
    return figures.table, figures.flat


def _short_windows(house: Settings, part: int, figures: Figures) -> None:
    """Rates, latency and restart at a window of seconds, and the peer."""
    rate(house, False, 16, 2_000)  # kernels compiled, files read
    for name, full, pack, count in (
        ("full_ex_s_pack1", True, 1, 100_000),
        ("full_ex_s_pack16", True, 16, 300_000),
        ("full_ex_s_pack64", True, 64, 500_000),
        ("thin_ex_s_pack64", False, 64, 1_000_000),
    ):
        settings = filled(house, full, pack, count // part)
        wall, cpu = rate_in(settings, count // part)
        figures.note(name, wall)
        figures.note(name.replace("_ex_s_", "_ex_cpu_s_"), cpu)
    figures.note("decay_10x", decay(settings))  # of the longest run, the last one
    # Not the same: in a short run the first fetch and the windows that fill before any output weigh ten times as much.
    short, _ = rate(house, False, 64, 100_000 // part)
    figures.note("short_over_long", short / figures.flat["thin_ex_s_pack64"])
    poisoned, poisoned_cpu = rate(house, True, 1, 100_000 // part, poison_every=1_000)
    figures.note("poison_costs", 1 - poisoned / figures.flat["full_ex_s_pack1"])
    figures.note("poison_costs_cpu", 1 - poisoned_cpu / figures.flat["full_ex_cpu_s_pack1"])
    found = latencies(house, 400 // min(part, 4))
    figures.note("eager_p50_ms", statistics.median(found))
    figures.note("eager_p99_ms", found[int(0.99 * (len(found) - 1))])
    found = echo_latencies(house, 400 // min(part, 4))
    figures.note("echo_p50_ms", statistics.median(found))
    figures.note("echo_p99_ms", found[int(0.99 * (len(found) - 1))])
    restart_s, catchup = restart(house, 300_000 // min(part, 2))
    figures.note("restart_s", restart_s)
    figures.note("catchup_ex_s", catchup)
    peer = faust_rate(house, 30_000 // part, USERS)
    figures.note("faust_table_ex_s", peer)
    figures.note("ours_over_faust_table", figures.flat["full_ex_s_pack1"] / peer)
