"""`thalweg replay`: plays a source into Kafka until its end or Ctrl-C."""

import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict

from producers.clock import Clock
from producers.json_lines import file_lines
from producers.movielens import NAME as MOVIELENS
from producers.movielens import fetch_movielens, read_movielens
from producers.openbandit import NAME as OPENBANDIT
from producers.openbandit import fetch_openbandit, part_of, read_openbandit
from producers.replay import ReplayOptions, replay
from producers.source import SourceElement
from stream.log.kafka_log import KafkaLog
from stream.runtime.clock import now_ms
from stream.runtime.settings import Settings
from stream.spec.spec import Spec

LINGER_MS = 25  # how long a paced event may wait for others of its record: freshness counts from the append


def play(source: str, settings: Settings, spec: Spec, *, rate: float | None, limit: int | None) -> dict[str, float]:
    """Play a data set by its name, or a file of JSON lines (`-`: stdin); returns the counts.

    Raises LogError, DataError.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    events = open_source(source, settings)
    log = KafkaLog(settings)
    try:
        result = replay(
            log,
            events,
            spec=spec,
            options=ReplayOptions(rate, LINGER_MS, limit),
            clock=Clock(),
            notify=_say,
            stop=stop.is_set,
        )
    finally:
        log.close()
    return asdict(result.played) | {"seconds": round(result.seconds, 3)}


def open_source(source: str, settings: Settings) -> Iterator[SourceElement]:
    """The events of a source: a data set by its name, else a file. Raises DataError."""
    if source == MOVIELENS:
        return read_movielens(fetch_movielens(settings.data, _say))
    if part := part_of(source):
        return read_openbandit(fetch_openbandit(settings.data, _say), part)
    return file_lines(source, now_ms)


def data_set(source: str) -> str:
    """The data set that a source names; empty for a file. Raises DataError for an unknown part of one."""
    if part_of(source):
        return OPENBANDIT
    return MOVIELENS if source == MOVIELENS else ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
