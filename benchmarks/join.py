"""The joiner on one core, from real Kafka to real Kafka; peer: the join as Faust's documentation shows it.

*Full page*: 10 items, about 1.4 KB; *thin page*: ids only. An install after one page in twenty, policy `eager`,
5,000 pages a second of event time, a window of 2 s. Input is preloaded; rates are item examples per second by the
broker's append times, from the first record of `examples` to the last.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import msgspec
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from rich.table import Table

from benchmarks.joiner_world import (
    ITEMS,
    PAGES_A_MS,
    PARTITIONS,
    RULES,
    append_ms,
    cores,
    joiner,
    kafka,
    metrics,
    new_topics,
    pages,
    preload,
    told_so_far,
    took_s,
    wait_for,
)  # fmt: skip
from stream.events import Impression, Install, decode_examples, encode_record
from stream.joiner.faust_service import tame_collector
from stream.joiner.join import Joiner
from stream.joiner.raw_impression import read_record
from stream.joiner.record_processor import warm_up
from stream.kafka_log import KafkaLog
from stream.log import END, Reader
from stream.settings import Settings
from stream.topics import EVENTS, EXAMPLES

USERS = 20_000
TICK_S = 0.01  # a process's CPU time is told in steps of this
BACK_MS = 3_600_000  # event time of the preloaded pages: before now


def filled(house: Settings, full: bool, pack: int, count: int, poison_every: int = 0) -> Settings:
    """Topics with so many pages in them, and a poisoned record behind every so many."""
    settings = new_topics(house)
    begin_ms = int(time.time() * 1000) - BACK_MS
    preload(settings, pages(count, full, USERS, begin_ms), pack, begin_ms + count // PAGES_A_MS, poison_every)
    return settings


def rate(house: Settings, full: bool, pack: int, count: int, poison_every: int = 0) -> tuple[float, float]:
    """Examples per second of wall time, and per second of the joiner's CPU time."""
    return rate_in(filled(house, full, pack, count, poison_every), count)


def rate_in(settings: Settings, count: int) -> tuple[float, float]:
    """The same of topics that were filled with so many pages."""
    with joiner(settings):
        while told_so_far(settings) < ITEMS * count // 50:
            time.sleep(0.02)
        before, cpu_before = told_so_far(settings), metrics(settings)["process_cpu_seconds_total"]
        wait_for(settings, ITEMS * count)
        cpu_s = metrics(settings)["process_cpu_seconds_total"] - cpu_before
    return ITEMS * count / took_s(settings), (ITEMS * count - before) / max(cpu_s, TICK_S)


def decay(settings: Settings) -> float:
    """How much slower the last three tenths of a run were than the second to the fourth: medians of their times.

    Once windows close, a record of many pages makes one of output, so a tenth of the topic's offsets is a tenth of the
    work. Left out are the first, in which windows fill and whose input is fetched before the clock runs, and the ticks
    at the end.
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
            log.send(EVENTS.name, k % PARTITIONS, encode_record([Impression(f"r{k}", now_ms, f"u{k}", ["a", "b"])]))
            log.flush()
            time.sleep(random.uniform(0.02, 0.08) if k > -10 else 5.0)
            begun = time.perf_counter()
            log.send(EVENTS.name, k % PARTITIONS, encode_record([Install(f"u{k}", "a", now_ms + 1, f"i{k}")]))
            next_example(reader, f"r{k}")
            found.append((time.perf_counter() - begun) * 1000)
    reader.close()
    log.close()
    return sorted(found[10:])


def restart(house: Settings, count: int) -> tuple[float, float]:
    """Killed in mid-stream: seconds from the next start to its first record; examples per second from there on."""
    settings = filled(house, True, 16, count)
    with joiner(settings):
        while told_so_far(settings) < ITEMS * count // 10:
            time.sleep(0.01)
    log = KafkaLog(settings)
    reader = log.reader(EXAMPLES.name, {0: END})
    begun = time.perf_counter()
    with joiner(settings):
        while not (first := reader.poll(0.01, 1)):
            pass
        restart_s = time.perf_counter() - begun
        before, again = told_so_far(settings), time.perf_counter()
        while told_so_far(settings) != before or time.perf_counter() - again < 3:
            if (now := told_so_far(settings)) != before:
                before, again = now, time.perf_counter()
            time.sleep(0.05)
        told = told_so_far(settings)
    (end,) = log.ends(EXAMPLES.name).values()
    last = log.reader(EXAMPLES.name, {0: end - 1})
    while not (found := last.poll(1.0, 1)):
        pass
    for one in (reader, last):
        one.close()
    log.close()
    return restart_s, told / ((found[0].time_ms - first[0].time_ms) / 1000)


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    part = 10 if quick else 1
    figures: dict[str, float] = {}
    table = Table(title="the joiner on one core, real Kafka to real Kafka")
    for column in ("figure", "measured", "wanted"):
        table.add_column(column, justify="left" if column == "figure" else "right")

    def note(name: str, value: float, wanted: str = "") -> None:
        figures[name] = round(value, 2)
        table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:,.2f}", wanted)

    with kafka() as house:
        rate(house, False, 16, 2_000)  # kernels compiled, files read
        for name, full, pack, count, wanted in (
            ("full_ex_s_pack1", True, 1, 100_000, 80_000),
            ("full_ex_s_pack16", True, 16, 300_000, 300_000),
            ("full_ex_s_pack64", True, 64, 500_000, 500_000),
            ("thin_ex_s_pack64", False, 64, 1_000_000, 1_000_000),
        ):
            settings = filled(house, full, pack, count // part)
            wall, cpu = rate_in(settings, count // part)
            note(name, wall, f">= {wanted:,}")
            note(name.replace("_ex_s_", "_ex_cpu_s_"), cpu)
        note("decay_10x", decay(settings), "<= 1.1")  # of the longest run, the last one
        # Not the same: a short run's input is fetched and its windows filled before its first output starts the clock.
        short, _ = rate(house, False, 64, 100_000 // part)
        note("short_over_long", short / figures["thin_ex_s_pack64"])
        poisoned, poisoned_cpu = rate(house, True, 1, 100_000 // part, poison_every=1_000)
        note("poison_costs", 1 - poisoned / figures["full_ex_s_pack1"], "< 0.05")
        note("poison_costs_cpu", 1 - poisoned_cpu / figures["full_ex_cpu_s_pack1"])
        found = latencies(house, 400 // (4 if quick else 1))
        note("eager_p50_ms", statistics.median(found), "<= 5")
        note("eager_p99_ms", found[int(0.99 * (len(found) - 1))], "<= 20")
        restart_s, catchup = restart(house, 300_000 // (2 if quick else 1))
        note("restart_s", restart_s, "<= 3")
        note("catchup_ex_s", catchup, ">= 0.8 x full_ex_s_pack16")
        peer = faust_rate(house, 30_000 // part)
        note("faust_table_ex_s", peer)
        note("ours_over_faust_table", figures["full_ex_s_pack1"] / peer, ">= 2")
    beyond, pause_ms, pause_cpu_ms = held(1_000_000 // part)
    note("held_bytes_over_wire", beyond, "<= 400")
    note("pause_ms_max", pause_ms, "<= 50")
    note("pause_cpu_ms_max", pause_cpu_ms)
    return table, figures
