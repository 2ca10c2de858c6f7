"""Joins records: processes their events in order, and fires timers as the watermark advances. Kernels.

A call stops where its output must be flushed or an array must grow; the next call continues from there.
`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any, Final

import numpy as np

from stream.joiner.kernels import emission, erasing, installs, pages, timers
from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import index_of, words_of
from stream.joiner.kernels.array_views import i64_at
from stream.joiner.kernels.eviction import evict, mark_record
from stream.joiner.kernels.timers import CAPACITY, END, NEVER, TIMERS_NUMBERS, first_ms
from stream.tables.jit import kernel

# Status of a call: all records are processed; the output must be flushed; a timers' run, `out` or the labels are full.
DONE, FLUSH, GROW_RUNS, GROW_OUT, GROW_LABELS = range(5)
ROWS_MAX: Final = 512  # of `out`, after which a call is flushed: about a megabyte of pages of ten items
ROWS_MIN: Final = 8  # of `out`, that one install may need


@kernel
def process_records(j: Any, records: Any, columns: Any, hashes: Any, raw: Any) -> Any:
    """Process the events of records from `j[RECORD]` on; returns DONE, FLUSH, GROW_RUNS, GROW_OUT or GROW_LABELS.

    `records` int64 [records, RECORD_COLUMNS], `columns` int64 [events, COLUMNS], `hashes` int64 of items, `raw` uint8.
    The output of a record ends with a row of its own.
    """
    j[s.OUT_COUNT] = 0
    before = np.int64(0)
    while j[s.RECORD] < records.shape[0]:
        number = j[s.RECORD]
        event = records[number - 1, scan.EVENTS_END] if number else np.int64(0)
        begin = records[number - 1, scan.BYTES_END] if number else np.int64(0)
        status = _process_record(
            j,
            columns[event : records[number, scan.EVENTS_END]],
            hashes,
            raw[begin : records[number, scan.BYTES_END]],
            records[number, scan.OFFSET],
            records[number, scan.APPENDED],
        )
        if status != DONE:
            return status
        j[s.RECORD] += 1
        if j[s.OUT_COUNT] > before:
            row = i64_at(j[s.OUT])[s.OUT_COLUMNS * j[s.OUT_COUNT] : s.OUT_COLUMNS * (j[s.OUT_COUNT] + 1)]
            row[0], row[1] = s.RECORD_END, number
            j[s.OUT_COUNT] += 1
            before = j[s.OUT_COUNT]
            if before >= min(ROWS_MAX, j[s.OUT_CAPACITY]) and j[s.RECORD] < records.shape[0]:
                return FLUSH
    return DONE


@kernel
def _process_record(j: Any, columns: Any, hashes: Any, raw: Any, offset: Any, ingest_ms: Any) -> Any:
    j[s.FIRED] = 0
    if j[s.STARTED] == 0:
        j[s.STARTED], j[s.EVENT] = 1, 0
        mark_record(j, offset)
    latest_ms = max(ingest_ms - j[s.LATENESS], j[s.WATERMARK])
    while j[s.EVENT] < columns.shape[0]:
        status = _shed(j, ingest_ms)
        if status == DONE:
            status = _process_event(j, j[s.EVENT], columns, hashes, raw, offset, ingest_ms, latest_ms)
        if status != DONE:
            return status
        j[s.EVENT] += 1
    status = _catch_up(j, ingest_ms)
    if status == DONE:
        status = _shed(j, ingest_ms)
    if status != DONE:
        return status
    evict(j)
    j[s.STARTED] = 0
    return DONE


@kernel
def _process_event(
    j: Any, number: Any, columns: Any, hashes: Any, raw: Any, offset: Any, ingest_ms: Any, latest_ms: Any
) -> Any:
    event = columns[number]
    if event[scan.TAG] == scan.ERASE:  # whenever it is sent: it doesn't advance the watermark
        status = _catch_up(j, ingest_ms)
        if status == DONE and j[s.OUT_COUNT] > 0:
            return FLUSH  # what was emitted is read from what is erased
        if status == DONE:
            erasing.erase_user(j, number, event)
        return status
    reached_ms = event[scan.TIME] - j[s.LATENESS]
    if reached_ms > j[s.WATERMARK]:
        j[s.WATERMARK] = min(reached_ms, latest_ms)
    if event[scan.TAG] == scan.TICK:
        return DONE
    if _is_closing_full(j) or j[s.INSTALL_EXPIRY + END] == j[s.INSTALL_EXPIRY + CAPACITY]:
        return GROW_RUNS
    if j[s.LABEL_COUNT] + event[scan.SIZE] + 2 > j[s.LABEL_CAPACITY]:
        return GROW_LABELS
    if event[scan.TAG] == scan.PAGE:
        late = not emission.is_retained(j, event[scan.TIME])
        rows = event[scan.SIZE] + ROWS_MIN
        if not late and pages.needs_catching_up(j, event, hashes):
            status = _catch_up(j, ingest_ms)
            if status != DONE:
                return status
            rows += event[scan.SIZE] + 2 * pages.count_candidates(j, event, hashes)
        if j[s.PAGE_EXPIRY + END] == j[s.PAGE_EXPIRY + CAPACITY]:
            return GROW_RUNS
        if j[s.OUT_COUNT] + rows > j[s.OUT_CAPACITY]:
            return GROW_OUT if j[s.OUT_COUNT] == 0 else FLUSH
        if late:
            emission.reject_late(j, number, event[scan.TIME])
        else:
            pages.process_page(j, event, hashes, offset, ingest_ms)
        return DONE
    status = _catch_up(j, ingest_ms)
    if status != DONE:
        return status
    if j[s.OUT_COUNT] + ROWS_MIN > j[s.OUT_CAPACITY]:
        return FLUSH
    installs.process_install(j, number, event, raw, offset, ingest_ms)
    return DONE


@kernel
def _catch_up(j: Any, ingest_ms: Any) -> Any:
    """Fire the timers up to the watermark, FIRED_MAX at most."""
    return _fire_timers(j, np.int64(-1), j[s.WATERMARK] - j[s.RETENTION], ingest_ms)


@kernel
def _is_closing_full(j: Any) -> Any:
    """Whether a run of the timers that close pages has no room."""
    for k in range(j[s.DELAY_COUNT]):
        closing = s.CLOSING + k * TIMERS_NUMBERS
        if j[closing + END] == j[closing + CAPACITY]:
            return True
    return False


@kernel
def _next_closing(j: Any, floor_ms: Any) -> Any:
    """The timers that close the next page and its event time, if it is due or not above the floor; else NEVER as time.

    Pages close in order of the time at which they are due, then of address, however far timers have been fired at a
    time. A time of −1: a run is too short.
    """
    best, best_ms, best_due_ms = np.int64(s.CLOSING), np.int64(NEVER), np.int64(NEVER)
    for k in range(j[s.DELAY_COUNT]):
        closing, delay_ms = s.CLOSING + k * TIMERS_NUMBERS, j[s.DELAYS + k]
        limit_ms = max(j[s.WATERMARK] - delay_ms, floor_ms)
        time_ms = first_ms(j, closing, limit_ms)
        if time_ms < 0:
            return best, time_ms
        if time_ms > limit_ms or time_ms + delay_ms > best_due_ms:
            continue
        if time_ms + delay_ms == best_due_ms and timers.first_entry(j, closing) > timers.first_entry(j, best):
            continue
        best, best_ms, best_due_ms = np.int64(closing), time_ms, time_ms + delay_ms
    return best, best_ms


@kernel
def _fire_timers(j: Any, floor_ms: Any, expired_ms: Any, ingest_ms: Any) -> Any:
    """Close pages that are due or not above a floor, then expire pages and installs up to an event time, in order."""
    while True:
        closing, time_ms = _next_closing(j, floor_ms)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms == NEVER:
            break
        page = timers.first_entry(j, closing)
        if j[s.PAGE_EXPIRY + END] == j[s.PAGE_EXPIRY + CAPACITY]:
            return GROW_RUNS
        if j[s.FIRED] >= j[s.FIRED_MAX]:
            return FLUSH
        if j[s.OUT_COUNT] + emission.item_count(words_of(j, s.PAGES), index_of(j, s.PAGES, page)) > j[s.OUT_CAPACITY]:
            return GROW_OUT if j[s.OUT_COUNT] == 0 else FLUSH
        timers.pop(j, closing)
        j[s.OPEN] -= 1
        j[s.FIRED] += 1
        emission.close_page(j, page, ingest_ms)
        timers.add(j, s.PAGE_EXPIRY, page, time_ms)
    while True:
        time_ms = first_ms(j, s.PAGE_EXPIRY, expired_ms)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > expired_ms:
            break
        index = index_of(j, s.PAGES, timers.pop(j, s.PAGE_EXPIRY))
        j[s.RETAINED_BYTES] -= pages.page_bytes(emission.item_count(words_of(j, s.PAGES), index))
        j[s.N_SHED] += time_ms + j[s.RETENTION] > j[s.WATERMARK]
    while True:
        time_ms = first_ms(j, s.INSTALL_EXPIRY, expired_ms)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > expired_ms:
            return DONE
        if j[s.FIRED] >= j[s.FIRED_MAX] or j[s.OUT_COUNT] == j[s.OUT_CAPACITY]:
            return FLUSH
        j[s.FIRED] += 1
        installs.expire_install(j, timers.pop(j, s.INSTALL_EXPIRY))


@kernel
def _shed(j: Any, ingest_ms: Any) -> Any:
    """Shed load until memory suffices: raise the floor, up to which the oldest pages and installs close and expire."""
    if j[s.RETAINED_BYTES] <= j[s.BYTES_MAX] and j[s.SHEDDING] == 0:
        return DONE
    j[s.SHEDDING] = 1
    status = _catch_up(j, ingest_ms)
    while status == DONE:
        # All that isn't above the floor goes, also what a flush has left of an event time.
        status = _fire_timers(j, j[s.FLOOR], j[s.FLOOR], ingest_ms)
        if status == DONE and j[s.RETAINED_BYTES] <= j[s.BYTES_MAX]:
            j[s.SHEDDING] = 0
            return DONE
        if status != DONE:
            return status
        oldest_ms = np.int64(NEVER)
        for k in range(j[s.DELAY_COUNT]):
            oldest_ms = min(oldest_ms, first_ms(j, s.CLOSING + k * TIMERS_NUMBERS, np.int64(NEVER - 1)))
        for timer in (s.PAGE_EXPIRY, s.INSTALL_EXPIRY):
            oldest_ms = min(oldest_ms, first_ms(j, timer, np.int64(NEVER - 1)))
        if oldest_ms < 0:
            return GROW_RUNS
        j[s.FLOOR] = max(j[s.FLOOR], oldest_ms)
        j[s.UNSURE] = max(j[s.UNSURE], j[s.FLOOR])
    return status
