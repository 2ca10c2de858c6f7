"""What a call of the join's kernels is given, and the rows of numbers that it has emitted, made into labels.

In a file of its own because it's loaded with the kernels.
"""

from typing import Any, Final

import msgspec
import numpy as np

from stream.events.types import Install, Organic
from stream.joiner.kernels.memory import Ints
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
from stream.joiner.labels import Installed, Labels, Part, Row
from stream.joiner.raw_impression import RecordEvents

PAGE: Final = slice(2, 8)  # of a row: OFFSET to INGEST_MS of `labels.py`

NO_PAGES: Final = np.empty((0, 6), np.int64)

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
    rows = state.out[:count]
    kinds = rows[:, 0]
    records = (kinds == RECORD_END).nonzero()[0]
    labelled = (kinds <= LABEL).nonzero()[0]
    batches = rows[labelled, 1]  # a number for each page and moment
    first = np.empty(len(batches), np.bool_)
    first[:1], first[1:] = True, batches[1:] != batches[:-1]
    begins = labelled[first]
    ends = [*zip(rows[records, 1].tolist(), begins.searchsorted(records).tolist(), strict=True)]
    if not len(records) or records[-1] < count - 1:
        ends.append((int(state.numbers[RECORD]), len(begins)))
    part = Part(Labels(rows[begins, PAGE], {}), ends, {}, [], [])
    others = (kinds != NEGATIVES).nonzero()[0]
    if len(others) > len(records):
        _add_others(state, events, part, others, begins)
    return part


def in_one(parts: list[Part]) -> Part:
    """Parts of one record as one."""
    labels, organic = Labels(np.concatenate([NO_PAGES, *(part.labels.pages for part in parts)]), {}), list[Organic]()
    before = 0
    for part in parts:
        labels.rows |= {before + number: rows for number, rows in part.labels.rows.items()}
        before += len(part.labels)
        organic += part.organic.get(0, ())
    installed, late = [one for part in parts for one in part.installed], [one for part in parts for one in part.late]
    return Part(labels, [(0, before)], {0: organic}, installed, late)


def _add_others(state: JoinState, events: RecordEvents, part: Part, others: Ints, begins: Ints) -> None:
    """Rows of single labels, installs and late events."""
    numbers = begins.searchsorted(others, "right") - 1  # of the page that they belong to
    ends = iter(part.ends)
    record, _ = next(ends)
    for row, number in zip(state.out[others].tolist(), numbers.tolist(), strict=True):
        kind = row[0]
        if kind == LABEL:
            install_id = "" if row[12] < 0 else _install_at(state, row[12]).install_id
            found: Row = (row[8], row[10], row[11], install_id, row[7], row[9])
            part.labels.rows.setdefault(number, []).append(found)
        elif kind == RECORD_END:
            record, _ = next(ends, (record, 0))
        elif kind == ORGANIC_INSTALL:
            one = _install_at(state, row[2])
            organic = Organic(
                one.user, one.item, one.time_ms, one.install_id, one.request_id, _ingest_ms(state, row[2])
            )
            part.organic.setdefault(record, []).append(organic)
        elif kind == HISTORY:
            one = _install.decode(events.bytes_of(-1 - row[2], record)) if row[2] < 0 else _install_at(state, row[2])
            part.installed.append(Installed(one.user, one.item, None if row[3] < 0 else row[3], bool(row[4])))
        else:
            assert kind == LATE, kind
            part.late.append((record, events.bytes_of(row[2], record), row[3], row[4]))


def _install_at(state: JoinState, index: int) -> Install:
    """The install whose bytes begin at this word."""
    words = state.installs.words
    length = int(words[index - I_RAW + I_LENGTH])
    return _install.decode(words[index : index + (length + 3 >> 2)].tobytes()[:length])


def _ingest_ms(state: JoinState, index: int) -> int:
    words, at = state.installs.words, index - I_RAW + I_INGEST
    return int(words[at]) | int(words[at + 1]) << 32
