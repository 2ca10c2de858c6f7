"""Records through the join: kernels that take their events in order and let event time pass.

A call stops where what is emitted has to be handed on first, and goes on from there with the next call.
"""

from typing import Any, Final

import numpy as np

from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import at, words_of
from stream.joiner.kernels.emission import close_page, page_size
from stream.joiner.kernels.fronts import mark_record, pass_fronts
from stream.joiner.kernels.installs import forget_install, note_late, take_install
from stream.joiner.kernels.memory import i64_at
from stream.joiner.kernels.pages import (
    claimable,
    is_late,
    needs_catching_up,
    page_bytes,
    refuse_late,
    take_page,
)
from stream.joiner.kernels.timers import END, NEVER, ROOM, add, first_entry, first_ms, pop
from stream.tables.jit import kernel

# What a call ended with: all is taken; what was emitted is to be handed on; a run, `out` or the labels are full.
DONE, HAND_ON, GROW_RUNS, GROW_OUT, GROW_LABELS = range(5)
ROWS_MAX: Final = 512  # of `out`, about: a megabyte of pages of ten items
ROWS_MIN: Final = 8  # of `out`, for whatever one install leads to


@kernel
def take_records(j: Any, records: Any, columns: Any, hashes: Any, raw: Any) -> Any:
    """Take the events of records, or go on with them; DONE, HAND_ON, GROW_RUNS, GROW_OUT or GROW_LABELS.

    What a record led to ends with a row of its own.
    """
    j[s.OUT_COUNT] = 0
    before = np.int64(0)
    while j[s.RECORD] < records.shape[0]:
        number = j[s.RECORD]
        event = records[number - 1, scan.EVENTS_END] if number else np.int64(0)
        begin = records[number - 1, scan.BYTES_END] if number else np.int64(0)
        said = _take_record(
            j,
            columns[event : records[number, scan.EVENTS_END]],
            hashes,
            raw[begin : records[number, scan.BYTES_END]],
            records[number, scan.OFFSET],
            records[number, scan.APPENDED],
        )
        if said != DONE:
            return said
        j[s.RECORD] += 1
        if j[s.OUT_COUNT] > before:
            row = i64_at(j[s.OUT])[s.OUT_COLUMNS * j[s.OUT_COUNT] : s.OUT_COLUMNS * (j[s.OUT_COUNT] + 1)]
            row[0], row[1] = s.RECORD_END, number
            j[s.OUT_COUNT] += 1
            before = j[s.OUT_COUNT]
            if before >= min(ROWS_MAX, j[s.OUT_ROOM]) and j[s.RECORD] < records.shape[0]:
                return HAND_ON
    return DONE


@kernel
def _take_record(j: Any, columns: Any, hashes: Any, raw: Any, offset: Any, ingest_ms: Any) -> Any:
    j[s.SLICED] = 0
    if j[s.STARTED] == 0:
        j[s.STARTED], j[s.EVENT] = 1, 0
        mark_record(j, offset)
    latest_ms = max(ingest_ms - j[s.LATENESS], j[s.WATERMARK])
    while j[s.EVENT] < columns.shape[0]:
        said = _shed(j, ingest_ms)
        if said == DONE:
            said = _take_event(j, j[s.EVENT], columns, hashes, raw, offset, ingest_ms, latest_ms)
        if said != DONE:
            return said
        j[s.EVENT] += 1
    said = _catch_up(j, ingest_ms)
    if said == DONE:
        said = _shed(j, ingest_ms)
    if said != DONE:
        return said
    pass_fronts(j)
    j[s.STARTED] = 0
    return DONE


@kernel
def _take_event(
    j: Any, number: Any, columns: Any, hashes: Any, raw: Any, offset: Any, ingest_ms: Any, latest_ms: Any
) -> Any:
    event = columns[number]
    reached_ms = event[scan.TIME] - j[s.LATENESS]
    if reached_ms > j[s.WATERMARK]:
        j[s.WATERMARK] = min(reached_ms, latest_ms)
    if event[scan.TAG] == scan.TICK:
        return DONE
    if j[s.CLOSING + END] == j[s.CLOSING + ROOM] or j[s.PENDING + END] == j[s.PENDING + ROOM]:
        return GROW_RUNS
    if j[s.LABEL_COUNT] + event[scan.SIZE] + 2 > j[s.LABEL_ROOM]:
        return GROW_LABELS
    if event[scan.TAG] == scan.PAGE:
        late = is_late(j, event[scan.TIME])
        rows = event[scan.SIZE] + ROWS_MIN
        if not late and needs_catching_up(j, event, hashes):
            said = _catch_up(j, ingest_ms)
            if said != DONE:
                return said
            rows += event[scan.SIZE] + 2 * claimable(j, event[scan.USER], hashes, event[scan.ITEMS], event[scan.SIZE])
        if j[s.KNOWN + END] == j[s.KNOWN + ROOM]:
            return GROW_RUNS
        if j[s.OUT_COUNT] + rows > j[s.OUT_ROOM]:
            return GROW_OUT if j[s.OUT_COUNT] == 0 else HAND_ON
        if late:
            refuse_late(j, number, event[scan.TIME])
        else:
            take_page(j, number, event, hashes, offset, ingest_ms)
        return DONE
    said = _catch_up(j, ingest_ms)
    if said != DONE:
        return said
    if j[s.OUT_COUNT] + ROWS_MIN > j[s.OUT_ROOM]:
        return HAND_ON
    if is_late(j, event[scan.TIME]):
        note_late(j, number, event)
        refuse_late(j, number, event[scan.TIME])
    else:
        take_install(j, event, raw, offset, ingest_ms)
    return DONE


@kernel
def _catch_up(j: Any, ingest_ms: Any) -> Any:
    """Close and forget what the watermark has passed, a slice of it at once."""
    watermark_ms = j[s.WATERMARK]
    return _finish(j, watermark_ms - j[s.WINDOW], watermark_ms - j[s.LIFE], ingest_ms)


@kernel
def _finish(j: Any, closed_ms: Any, forgotten_ms: Any, ingest_ms: Any) -> Any:
    """Close pages up to one event time, then forget everything up to another, in order of event time."""
    while True:
        time_ms = first_ms(j, s.CLOSING, s.PAGES, closed_ms, s.P_TIMER, s.P_TIME)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > closed_ms:
            break
        address = first_entry(j, s.CLOSING)
        if j[s.KNOWN + END] == j[s.KNOWN + ROOM]:
            return GROW_RUNS
        if j[s.SLICED] >= j[s.SLICE_MAX]:
            return HAND_ON
        if j[s.OUT_COUNT] + page_size(words_of(j, s.PAGES), at(j, s.PAGES, address)) > j[s.OUT_ROOM]:
            return GROW_OUT if j[s.OUT_COUNT] == 0 else HAND_ON
        pop(j, s.CLOSING)
        j[s.OPEN] -= 1
        j[s.SLICED] += 1
        close_page(j, address, ingest_ms)
        add(j, s.KNOWN, s.PAGES, address, time_ms, s.P_TIMER)
    while True:
        time_ms = first_ms(j, s.KNOWN, s.PAGES, forgotten_ms, s.P_TIMER, s.P_TIME)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > forgotten_ms:
            break
        index = at(j, s.PAGES, pop(j, s.KNOWN))
        j[s.HELD_BYTES] -= page_bytes(page_size(words_of(j, s.PAGES), index))
        j[s.N_SHED] += time_ms + j[s.LIFE] > j[s.WATERMARK]
    while True:
        time_ms = first_ms(j, s.PENDING, s.INSTALLS, forgotten_ms, s.I_TIMER, s.I_TIME)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > forgotten_ms:
            return DONE
        if j[s.SLICED] >= j[s.SLICE_MAX] or j[s.OUT_COUNT] == j[s.OUT_ROOM]:
            return HAND_ON
        j[s.SLICED] += 1
        forget_install(j, pop(j, s.PENDING))


@kernel
def _shed(j: Any, ingest_ms: Any) -> Any:
    """Raise the floor until memory suffices: what is oldest closes and is forgotten before its time."""
    if j[s.HELD_BYTES] <= j[s.BYTES_MAX] and j[s.SHEDDING] == 0:
        return DONE
    j[s.SHEDDING] = 1
    said = _catch_up(j, ingest_ms)
    while said == DONE:
        # Whatever isn't above the floor goes, also what a slice has left of an event time.
        said = _finish(j, j[s.FLOOR], j[s.FLOOR], ingest_ms)
        if said == DONE and j[s.HELD_BYTES] <= j[s.BYTES_MAX]:
            j[s.SHEDDING] = 0
            return DONE
        if said != DONE:
            return said
        oldest_ms = first_ms(j, s.CLOSING, s.PAGES, np.int64(NEVER - 1), s.P_TIMER, s.P_TIME)
        known_ms = first_ms(j, s.KNOWN, s.PAGES, np.int64(NEVER - 1), s.P_TIMER, s.P_TIME)
        held_ms = first_ms(j, s.PENDING, s.INSTALLS, np.int64(NEVER - 1), s.I_TIMER, s.I_TIME)
        if min(oldest_ms, known_ms, held_ms) < 0:
            return GROW_RUNS
        j[s.FLOOR] = max(j[s.FLOOR], min(oldest_ms, known_ms, held_ms))
        j[s.UNSURE] = max(j[s.UNSURE], j[s.FLOOR])
    return said
