"""A Kafka of a benchmark's own, pages preloaded into it, and a joiner that is pinned to one core."""

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from stream.events.codec import decode_examples, encode_record
from stream.events.topics import EVENTS, EXAMPLES, TOPICS
from stream.events.types import Impression, Install, SourceEvent, Tick
from stream.joiner.label_rules import LabelRules
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import Reader, partition_of
from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from thalweg.stack.stack import down, up

ITEMS = 10
PARTITIONS = 4
FEATURES_BYTES = 1_230  # 12 statistics an item, a history of 50, attributes, in the layout of `page_features.py`
INSTALLS = 0.05  # installs a page
PAGES_A_MS = 5  # of event time: 5,000 pages a second
RULES = LabelRules("eager", window_ms=2_000, known_ms=1_000)
ANSWER_S = 300.0


def cores() -> tuple[set[int], set[int]]:
    """(the joiner's core, all other cores)."""
    every = set(range(os.cpu_count() or 1))
    one = {min(every)}
    return one, every - one or one


@contextmanager
def kafka() -> Iterator[Settings]:
    """A stack that ends with the block and doesn't run on the joiner's core."""
    os.sched_setaffinity(0, cores()[1])
    with TemporaryDirectory(prefix="thalweg-bench-") as folder:
        root = Path(folder)
        stack = up(root)
        try:
            yield Settings(kafka=stack.kafka, redis=stack.redis, local=root, partitions=PARTITIONS)
        finally:
            down(root)


def new_topics(house: Settings) -> Settings:
    """The same stack with unused topics, and a folder of their own for the joiner's runs."""
    prefix = f"b{uuid4().hex[:8]}."
    settings = house.model_copy(update={"topic_prefix": prefix, "local": house.local / prefix})
    settings.local.mkdir()
    apply_topics(settings, plan_topics(settings, TOPICS))
    return settings


partition_of_user = lru_cache(None)(partition_of)


def pages(count: int, full: bool, users: int, begin_ms: int, seed: int = 7) -> Iterator[tuple[int, SourceEvent]]:
    """(partition, event): pages in order of event time, and an install soon after one in twenty."""
    rng = random.Random(seed)
    features = [rng.randbytes(FEATURES_BYTES) if full else b"" for _ in range(64)]
    names = [f"item-{k}" for k in range(50_000)]
    for k in range(count):
        user = rng.randrange(users)
        partition = partition_of_user(f"user-{user}", PARTITIONS)
        time_ms = begin_ms + k // PAGES_A_MS
        at = rng.randrange(len(names) - ITEMS)
        shown = names[at : at + ITEMS]
        if full:
            yield (
                partition,
                Impression(
                    f"request-{seed}-{k:010d}", time_ms, f"user-{user}", shown, "control", 7, [], [], features[k % 64]
                ),
            )
        else:
            yield partition, Impression(f"r{seed}-{k}", time_ms, f"user-{user}", shown)
        if rng.random() < INSTALLS:
            yield partition, Install(f"user-{user}", shown[k % ITEMS], time_ms + 1, f"i{seed}-{k}")


def preload(
    settings: Settings, events: Iterator[tuple[int, SourceEvent]], pack: int, end_ms: int | None, poison_every: int = 0
) -> int:
    """Write events, `pack` a record, and the tick that closes all windows (`end_ms` None: none); returns their bytes.

    `poison_every`: an undecodable record follows every Nth one; 0: none.
    """
    log = KafkaLog(settings, linger_ms=5)
    waiting: dict[int, list[SourceEvent]] = {p: [] for p in range(PARTITIONS)}
    size = sent = 0

    def send(partition: int, part: Sequence[SourceEvent]) -> int:
        nonlocal sent
        raw = encode_record(part)
        log.send(EVENTS.name, partition, raw)
        sent += 1
        if poison_every and sent % poison_every == 0:
            log.send(EVENTS.name, partition, b"\xc1" + raw)
        return len(raw)

    for partition, event in events:
        waiting[partition].append(event)
        if len(waiting[partition]) == pack:
            size += send(partition, waiting[partition])
            waiting[partition] = []
    for partition, part in waiting.items():
        if last := [*part, *(() if end_ms is None else (Tick(end_ms + RULES.life_ms),))]:
            size += send(partition, last)
    log.flush(60)
    log.close()
    return size


@contextmanager
def joiner(settings: Settings, rules: LabelRules = RULES, **shell: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """A joiner at work on its core; killed when the block ends."""
    process = start_joiner(settings, rules, **shell)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def echo(settings: Settings) -> Iterator[None]:
    """A loop that copies each record of `events` into `examples`, on the joiner's core; killed when the block ends."""
    mine, others = cores()
    os.sched_setaffinity(0, mine)
    try:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.joiner_echo", json.dumps(plain(settings))])
    finally:
        os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def start_joiner(
    settings: Settings, rules: LabelRules = RULES, *, pinned: bool = True, warm: bool = False, **shell: Any
) -> "subprocess.Popen[bytes]":
    """A joiner for the caller to end, on its core, or (not `pinned`) on any.

    `warm`: its kernels are loaded before it joins its group, so that no record waits for them.
    """
    given = {"settings": plain(settings), "rules": asdict(rules), "shell": shell, "warm": warm}
    first_read_file(settings).unlink(missing_ok=True)
    run_file(settings, "joiner").unlink(missing_ok=True)  # of one that was killed: its port may be another's by now
    mine, others = cores()
    os.sched_setaffinity(0, mine if pinned else mine | others)
    try:
        with (settings.local / f"joiner-{settings.worker}.log").open("ab") as out:
            command = [sys.executable, "-m", "benchmarks.joiner_process", json.dumps(given)]
            return subprocess.Popen(command, stderr=out)
    finally:
        os.sched_setaffinity(0, others)


def plain(settings: Settings) -> dict[str, Any]:
    """These settings as JSON for a process. Without Redis: histories go to their topic only."""
    return settings.model_dump(mode="json", exclude_defaults=True, exclude={"redis"})


def with_bodies(settings: Settings, bodies_mb: int) -> Settings:
    """The same with this memory for the bodies of pages, where a joiner has that setting."""
    known = "joiner_bodies_mb" in Settings.model_fields
    return settings.model_copy(update={"joiner_bodies_mb": bodies_mb}) if known else settings


def metrics(settings: Settings) -> dict[str, float]:
    """The joiner's metrics by name with labels; empty until it answers."""
    try:
        port = json.loads(run_file(settings, "joiner").read_bytes())["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except (OSError, ValueError):
        return {}
    return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}


def emitted_so_far(settings: Settings) -> int:
    """How many examples the joiner has emitted."""
    return int(sum(v for name, v in metrics(settings).items() if name.startswith("thalweg_joiner_examples_total")))


def wait_for(settings: Settings, examples: int) -> None:
    """Wait until the joiner has emitted this number of examples, and all of them are in Kafka."""
    end = time.monotonic() + ANSWER_S
    while emitted_so_far(settings) < examples:
        assert time.monotonic() < end, f"{emitted_so_far(settings)} of {examples} examples"
        time.sleep(0.2)
    time.sleep(0.5)


def first_read_file(settings: Settings) -> Path:
    """The file to which a joiner's process writes when its Kafka client returned its first record (s since 1970)."""
    return settings.local / f"first-read-{settings.worker}"


def took_s(settings: Settings) -> float:
    """From the moment at which the joiner read its first record to the last record of `examples`.

    The first is reported by its process, the second by the broker, on one machine. Fetching and buffering before the
    first output count, the process's start and its wait for partitions don't.
    """
    log = KafkaLog(settings)
    try:
        (end,) = log.ends(EXAMPLES.name).values()
        return append_ms(log, end - 1) / 1000 - float(first_read_file(settings).read_text())
    finally:
        log.close()


def append_ms(log: KafkaLog, offset: int) -> int:
    """When the broker appended a record of `examples`."""
    reader = log.reader(EXAMPLES.name, {0: offset})
    try:
        while not (found := reader.poll(1.0, 1)):
            pass
        return found[0].time_ms
    finally:
        reader.close()


def next_example(reader: Reader, request_id: str) -> None:
    """Wait for an example of this page."""
    end = time.monotonic() + ANSWER_S
    while True:
        for record in reader.poll(5.0):
            if any(e.page.request_id == request_id for e in decode_examples(record.value or b"")[0]):
                return
        assert time.monotonic() < end, f"no example of {request_id}"
