"""A log of `examples` over some days, and what an export wrote of it."""

from itertools import count
from pathlib import Path

from stream.events.codec import encode_record
from stream.events.topics import DAY_MS, ERASED, EXAMPLES
from stream.events.types import Erase
from stream.joiner.output_records import ledger_record
from stream.log.log_scan import read_range
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record
from tests.support.learner_world import records as pages_of
from tests.support.learner_world import small_spec
from thalweg.exports.example_rows import records_of
from thalweg.exports.export_files import ExportFiles

T = 1_700_000_000_000 // DAY_MS * DAY_MS  # 2023-11-14, 00:00
STEP_MS = DAY_MS // 20
PAGES = pages_of(small_spec(), 240)


def day_log(first: int = 0, end: int = 50) -> MemoryLog:
    """Records of three pages each, twenty a day."""
    clock = count(T, STEP_MS)
    log = MemoryLog({EXAMPLES.name: 1, ERASED.name: 1}, lambda: next(clock))
    fill(log, first, end)
    return log


def other_log() -> MemoryLog:
    """One that got 60 of the records at other times."""
    clock = count(T + 7, STEP_MS)
    log = MemoryLog({EXAMPLES.name: 1, ERASED.name: 1}, lambda: next(clock))
    fill(log, 0, 60)
    return log


def fill(log: MemoryLog, first: int, end: int) -> None:
    """More of the records."""
    for record in PAGES[first:end]:
        log.send(EXAMPLES.name, 0, encode_record(record), b"0")


def erase_in(log: MemoryLog, user: str, time_ms: int) -> None:
    """As a joiner writes it: behind the labels, and into the ledger."""
    log.send(EXAMPLES.name, 0, encode_record([Erase(user, time_ms)]), b"0")
    ledger = ledger_record(Erase(user, time_ms))
    log.send(ledger.topic, ledger.partition, ledger.value, ledger.key)


def whole(log: MemoryLog, first: int = 0) -> list[Record]:
    """The log's own records from this offset on."""
    return list(read_range(log, EXAMPLES.name, {0: first}, log.ends(EXAMPLES.name)))


def exported(folder: Path) -> list[Record]:
    """What the files have."""
    files = ExportFiles(folder)
    return [record for file in files.all() for record in records_of(files.read(file))]


def names(folder: Path) -> list[str]:
    """Of the files, with their days."""
    return [f"{one.path.parent.name}/{one.path.name}" for one in ExportFiles(folder).all()]
