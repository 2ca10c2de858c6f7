"""Calls the join kernels: reserves memory for input, decodes output rows into labels.

Apart from `join.py` because it's loaded with the kernels.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from stream.events.types import Erase, Install, Organic
from stream.joiner.kernels.join_record import DONE, GROW_LABELS, GROW_OUT, GROW_RUNS, process_records
from stream.joiner.kernels.state import (
    ERASURE,
    FIRED_MAX,
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
    JoinState,
)  # fmt: skip
from stream.joiner.labels import HistoryChange, JoinOutput, LabelBatch
from stream.joiner.record_events import RecordEvents

_install = msgspec.msgpack.Decoder(Install)
_erase = msgspec.msgpack.Decoder(Erase)


def join_records(state: JoinState, events: RecordEvents, fired_max: int) -> Iterator[JoinOutput]:
    """Join the events of records; yields what is emitted, at most about `fired_max` closed pages at a time.

    Raises MemoryError.
    """
    pages, installs, length = events.tally
    if not state.keeps_chunks:
        state.pages.release()
    state.installs.release()
    state.reserve(pages, len(events.hashes), installs, length, len(events.records))
    state.numbers[FIRED_MAX], state.numbers[RECORD] = fired_max, 0
    raw = np.frombuffer(events.raw, np.uint8)
    while True:
        status = process_records(state.numbers, events.records, events.columns, events.hashes, raw)
        output = _decode_output(state, events)
        if status == GROW_RUNS:
            state.grow_runs()
        elif status == GROW_OUT:
            state.grow_out()
        elif status == GROW_LABELS:
            state.grow_labels()
        if output is not None:
            yield output
        if status == DONE:
            return


def merge_outputs(outputs: list[JoinOutput]) -> JoinOutput:
    """The outputs of one record as one."""
    labels, organic = LabelBatch([], {}), list[Organic]()
    for output in outputs:
        labels.rows |= {len(labels) + number: rows for number, rows in output.labels.rows.items()}
        labels.pages += output.labels.pages
        organic += output.organic.get(0, ())
    changes = [change for output in outputs for change in output.history_changes]
    late = [event for output in outputs for event in output.late]
    erased = [one for output in outputs for one in output.erased.get(0, ())]
    return JoinOutput(labels, [(0, len(labels))], {0: organic}, changes, late, {0: erased})


def _decode_output(state: JoinState, events: RecordEvents) -> JoinOutput | None:
    """What was emitted since the last call; None: nothing."""
    count = int(state.numbers[OUT_COUNT])
    if not count:
        return None
    state.numbers[OUT_COUNT] = 0
    record = int(state.numbers[RECORD])  # joined in part, unless its end follows
    rows = state.out[:count].tolist()
    if rows[-1][0] != RECORD_END:
        rows.append([RECORD_END, record])
    output = JoinOutput(LabelBatch([], {}), [], {}, [], [])
    pages, batch, non_labels = output.labels.pages, -1, list[list[int]]()
    for row in rows:
        kind = row[0]
        if kind == NEGATIVES:
            pages.append(row[2:8])
        elif kind == LABEL:
            if row[1] != batch:
                batch = row[1]
                output.labels.rows[len(pages)] = []
                pages.append(row[2:8])
            install_id = "" if row[12] < 0 else _install_at(state, row[12]).install_id
            output.labels.rows[len(pages) - 1].append((row[8], row[10], row[11], install_id, row[7], row[9]))
        elif kind == RECORD_END:
            output.ends.append((row[1], len(pages)))
            if non_labels:
                _decode_non_labels(state, events, output, row[1], non_labels)
                non_labels = []
        else:
            non_labels.append(row)
    return output


def _decode_non_labels(
    state: JoinState, events: RecordEvents, output: JoinOutput, record: int, rows: list[list[int]]
) -> None:
    """Decode a record's organic installs, history changes, late events and erasures into `output`."""
    for row in rows:
        if row[0] == ORGANIC_INSTALL:
            one, ingest_ms = _install_at(state, row[2]), _ingest_ms(state, row[2])
            organic = Organic(one.user, one.item, one.time_ms, one.install_id, one.request_id, ingest_ms)
            output.organic.setdefault(record, []).append(organic)
        elif row[0] == HISTORY:
            one = _install.decode(events.bytes_of(-1 - row[2], record)) if row[2] < 0 else _install_at(state, row[2])
            output.history_changes.append(
                HistoryChange(one.user, one.item, None if row[3] < 0 else row[3], bool(row[4]))
            )
        elif row[0] == ERASURE:
            state.erasures += 1
            output.erased.setdefault(record, []).append(_erase.decode(events.bytes_of(row[2], record)))
        else:
            assert row[0] == LATE, row
            output.late.append((record, events.bytes_of(row[2], record), row[3], row[4]))


def _install_at(state: JoinState, index: int) -> Install:
    """The install whose bytes begin at this word index."""
    words = state.installs.words
    length = int(words[index - I_RAW + I_LENGTH])
    return _install.decode(words[index : index + (length + 3 >> 2)].tobytes()[:length])


def _ingest_ms(state: JoinState, index: int) -> int:
    words, at = state.installs.words, index - I_RAW + I_INGEST
    return int(words[at]) | int(words[at + 1]) << 32
