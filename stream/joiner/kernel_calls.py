"""What a call of the join's kernels is given, and the rows of numbers that it has emitted, made into labels.

In a file of its own because it's loaded with the kernels.
"""

from typing import Any

import msgspec
import numpy as np

from stream.events.types import Install, Organic
from stream.joiner.kernels.state import (
    HISTORY,
    I_INGEST,
    I_LENGTH,
    I_RAW,
    LABEL,
    LATE,
    NEGATIVES,
    ORGANIC_INSTALL,
    OUT_COUNT,
    RECORD,
    RECORD_END,
    SLICE_MAX,
    JoinState,
)  # fmt: skip
from stream.joiner.labels import Installed, Labels, Part
from stream.joiner.raw_impression import RecordEvents

_install = msgspec.msgpack.Decoder(Install)


def prepare(state: JoinState, events: RecordEvents, slice_max: int) -> Any:
    """Room for the events of records, to be taken from the first on; their bytes as an array. Raises MemoryError."""
    pages, installs, length = events.tally
    if not state.keeps_chunks:
        state.pages.release()
    state.installs.release()
    state.reserve(pages, len(events.hashes), installs, length, len(events.records))
    state.numbers[SLICE_MAX], state.numbers[RECORD] = slice_max, 0
    return np.frombuffer(events.raw, np.uint8)


def take_part(state: JoinState, events: RecordEvents) -> Part | None:
    """What was emitted since the last call; None: nothing."""
    count = int(state.numbers[OUT_COUNT])
    if not count:
        return None
    state.numbers[OUT_COUNT] = 0
    record = int(state.numbers[RECORD])  # that is taken in part, unless its end comes
    rows = state.out[:count].tolist()
    if rows[-1][0] != RECORD_END:
        rows.append([RECORD_END, record])
    part = Part(Labels([], {}), [], {}, [], [])
    pages, batch, late_or_installed = part.labels.pages, -1, list[list[int]]()
    for row in rows:
        kind = row[0]
        if kind == NEGATIVES:
            pages.append(row[2:8])
        elif kind == LABEL:
            if row[1] != batch:
                batch = row[1]
                part.labels.rows[len(pages)] = []
                pages.append(row[2:8])
            install_id = "" if row[12] < 0 else _install_at(state, row[12]).install_id
            part.labels.rows[len(pages) - 1].append((row[8], row[10], row[11], install_id, row[7], row[9]))
        elif kind == RECORD_END:
            part.ends.append((row[1], len(pages)))
            if late_or_installed:
                _add_others(state, events, part, row[1], late_or_installed)
                late_or_installed = []
        else:
            late_or_installed.append(row)
    return part


def in_one(parts: list[Part]) -> Part:
    """Parts of one record as one."""
    labels, organic = Labels([], {}), list[Organic]()
    for part in parts:
        labels.rows |= {len(labels) + number: rows for number, rows in part.labels.rows.items()}
        labels.pages += part.labels.pages
        organic += part.organic.get(0, ())
    installed, late = [one for part in parts for one in part.installed], [one for part in parts for one in part.late]
    return Part(labels, [(0, len(labels))], {0: organic}, installed, late)


def _add_others(state: JoinState, events: RecordEvents, part: Part, record: int, rows: list[list[int]]) -> None:
    """Rows of a record's installs and late events."""
    for row in rows:
        if row[0] == ORGANIC_INSTALL:
            one, came_ms = _install_at(state, row[2]), _ingest_ms(state, row[2])
            organic = Organic(one.user, one.item, one.time_ms, one.install_id, one.request_id, came_ms)
            part.organic.setdefault(record, []).append(organic)
        elif row[0] == HISTORY:
            one = _install.decode(events.bytes_of(-1 - row[2], record)) if row[2] < 0 else _install_at(state, row[2])
            part.installed.append(Installed(one.user, one.item, None if row[3] < 0 else row[3], bool(row[4])))
        else:
            assert row[0] == LATE, row
            part.late.append((record, events.bytes_of(row[2], record), row[3], row[4]))


def _install_at(state: JoinState, index: int) -> Install:
    """The install whose bytes begin at this word."""
    words = state.installs.words
    length = int(words[index - I_RAW + I_LENGTH])
    return _install.decode(words[index : index + (length + 3 >> 2)].tobytes()[:length])


def _ingest_ms(state: JoinState, index: int) -> int:
    words, at = state.installs.words, index - I_RAW + I_INGEST
    return int(words[at]) | int(words[at + 1]) << 32
