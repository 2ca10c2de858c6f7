"""Records through the join: kernels that take their events in order and let event time pass.

A call stops where what is emitted has to be handed on first, and goes on from there with the next call.
"""

from typing import Any, Final

import numpy as np

from stream.joiner import record_scan as scan
from stream.joiner.arena import FRONT, NEXT, after, at, get64, lives, pass_chunks, words_of
from stream.joiner.chains import insert
from stream.joiner.emission import close_page, holds_back, is_closed, is_known, page_size
from stream.joiner.installs import counts_on, forget_install, install_words, note_late, take_install
from stream.joiner.memory import i64_at, u32_at
from stream.joiner.pages import claimable, is_late, needs_catching_up, page_bytes, page_words, refuse_late, take_page
from stream.joiner.raw_impression import RecordEvents
from stream.joiner.state import (
    BYTES_MAX,
    CLOSING,
    EVENT,
    FLOOR,
    GONE,
    HELD_BYTES,
    I_AGAIN,
    I_BEFORE,
    I_BEHIND,
    I_FLAGS,
    I_KEY,
    I_LENGTH,
    I_NEXT_KEY,
    I_NEXT_PAIR,
    I_PAGE,
    I_PAIR,
    I_TIME,
    I_TIMER,
    INSTALLS,
    INSTALLS_NOW,
    KEYS,
    KNOWN,
    L_FIRST,
    L_LAST,
    L_LINK,
    L_PAGE,
    LABEL_COUNT,
    LABEL_HEADS,
    LABEL_NUMBERS,
    LABEL_ROOM,
    LABELS,
    LATENESS,
    LIFE,
    M_INSTALLS,
    M_OFFSET,
    M_PAGES,
    M_WATERMARK,
    MARK,
    MARKS,
    MARKS_BEGIN,
    MARKS_END,
    N_SHED,
    OPEN,
    ORGANIC,
    OUT,
    OUT_COLUMNS,
    OUT_COUNT,
    OUT_ROOM,
    P_MORE,
    P_NEXT_REQUEST,
    P_NEXT_USER,
    P_REQUEST,
    P_TIME,
    P_TIMER,
    P_USER,
    PAGES,
    PAGES_NOW,
    PAIRS,
    PENDING,
    RECORD,
    RECORD_END,
    REQUESTS,
    SHEDDING,
    SLICE_MAX,
    SLICED,
    STARTED,
    TOUCHED,
    UNSURE,
    USERS,
    WATERMARK,
    WINDOW,
    JoinState,
    label_bucket,
)  # fmt: skip
from stream.joiner.timers import END, NEVER, ROOM, add, first_entry, first_ms, pop, put
from stream.table import kernel

# What a call ended with: all is taken; what was emitted is to be handed on; a run, `out` or the labels are full.
DONE, HAND_ON, GROW_RUNS, GROW_OUT, GROW_LABELS = range(5)
ROWS_MAX: Final = 512  # of `out`, about: a megabyte of pages of ten items
ROWS_MIN: Final = 8  # of `out`, for whatever one install leads to


@kernel
def take_records(j: Any, records: Any, columns: Any, hashes: Any, raw: Any) -> Any:
    """Take the events of records, or go on with them; DONE, HAND_ON, GROW_RUNS, GROW_OUT or GROW_LABELS.

    What a record led to ends with a row of its own.
    """
    j[OUT_COUNT] = 0
    before = np.int64(0)
    while j[RECORD] < records.shape[0]:
        number = j[RECORD]
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
        j[RECORD] += 1
        if j[OUT_COUNT] > before:
            row = i64_at(j[OUT])[OUT_COLUMNS * j[OUT_COUNT] : OUT_COLUMNS * (j[OUT_COUNT] + 1)]
            row[0], row[1] = RECORD_END, number
            j[OUT_COUNT] += 1
            before = j[OUT_COUNT]
            if before >= min(ROWS_MAX, j[OUT_ROOM]) and j[RECORD] < records.shape[0]:
                return HAND_ON
    return DONE


@kernel
def _take_record(j: Any, columns: Any, hashes: Any, raw: Any, offset: Any, ingest_ms: Any) -> Any:
    j[SLICED] = 0
    if j[STARTED] == 0:
        j[STARTED], j[EVENT] = 1, 0
        _mark(j, offset)
    latest_ms = max(ingest_ms - j[LATENESS], j[WATERMARK])
    while j[EVENT] < columns.shape[0]:
        said = _shed(j, ingest_ms)
        if said == DONE:
            said = _take_event(j, j[EVENT], columns, hashes, raw, offset, ingest_ms, latest_ms)
        if said != DONE:
            return said
        j[EVENT] += 1
    said = _catch_up(j, ingest_ms)
    if said == DONE:
        said = _shed(j, ingest_ms)
    if said != DONE:
        return said
    _pass_fronts(j)
    j[STARTED] = 0
    return DONE


@kernel
def _mark(j: Any, offset: Any) -> None:
    """Note where a record begins."""
    marks, mark = i64_at(j[MARKS]), MARK * j[MARKS_END]
    marks[mark + M_OFFSET], marks[mark + M_WATERMARK] = offset, j[WATERMARK]
    marks[mark + M_PAGES], marks[mark + M_INSTALLS] = j[PAGES + NEXT], j[INSTALLS + NEXT]
    j[MARKS_END] += 1


@kernel
def _take_event(
    j: Any, number: Any, columns: Any, hashes: Any, raw: Any, offset: Any, ingest_ms: Any, latest_ms: Any
) -> Any:
    event = columns[number]
    reached_ms = event[scan.TIME] - j[LATENESS]
    if reached_ms > j[WATERMARK]:
        j[WATERMARK] = min(reached_ms, latest_ms)
    if event[scan.TAG] == scan.TICK:
        return DONE
    if j[CLOSING + END] == j[CLOSING + ROOM] or j[PENDING + END] == j[PENDING + ROOM]:
        return GROW_RUNS
    if j[LABEL_COUNT] + event[scan.SIZE] + 2 > j[LABEL_ROOM]:
        return GROW_LABELS
    if event[scan.TAG] == scan.PAGE:
        late = is_late(j, event[scan.TIME])
        rows = event[scan.SIZE] + ROWS_MIN
        if not late and needs_catching_up(j, event, hashes):
            said = _catch_up(j, ingest_ms)
            if said != DONE:
                return said
            rows += event[scan.SIZE] + 2 * claimable(j, event[scan.USER], hashes, event[scan.ITEMS], event[scan.SIZE])
        if j[KNOWN + END] == j[KNOWN + ROOM]:
            return GROW_RUNS
        if j[OUT_COUNT] + rows > j[OUT_ROOM]:
            return GROW_OUT if j[OUT_COUNT] == 0 else HAND_ON
        if late:
            refuse_late(j, number, event[scan.TIME])
        else:
            take_page(j, number, event, hashes, offset, ingest_ms)
        return DONE
    said = _catch_up(j, ingest_ms)
    if said != DONE:
        return said
    if j[OUT_COUNT] + ROWS_MIN > j[OUT_ROOM]:
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
    watermark_ms = j[WATERMARK]
    return _finish(j, watermark_ms - j[WINDOW], watermark_ms - j[LIFE], ingest_ms)


@kernel
def _finish(j: Any, closed_ms: Any, forgotten_ms: Any, ingest_ms: Any) -> Any:
    """Close pages up to one event time, then forget everything up to another, in order of event time."""
    while True:
        time_ms = first_ms(j, CLOSING, PAGES, closed_ms, P_TIMER, P_TIME)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > closed_ms:
            break
        address = first_entry(j, CLOSING)
        if j[KNOWN + END] == j[KNOWN + ROOM]:
            return GROW_RUNS
        if j[SLICED] >= j[SLICE_MAX]:
            return HAND_ON
        if j[OUT_COUNT] + page_size(words_of(j, PAGES), at(j, PAGES, address)) > j[OUT_ROOM]:
            return GROW_OUT if j[OUT_COUNT] == 0 else HAND_ON
        pop(j, CLOSING)
        j[OPEN] -= 1
        j[SLICED] += 1
        close_page(j, address, ingest_ms)
        add(j, KNOWN, PAGES, address, time_ms, P_TIMER)
    while True:
        time_ms = first_ms(j, KNOWN, PAGES, forgotten_ms, P_TIMER, P_TIME)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > forgotten_ms:
            break
        index = at(j, PAGES, pop(j, KNOWN))
        j[HELD_BYTES] -= page_bytes(page_size(words_of(j, PAGES), index))
        j[N_SHED] += time_ms + j[LIFE] > j[WATERMARK]
    while True:
        time_ms = first_ms(j, PENDING, INSTALLS, forgotten_ms, I_TIMER, I_TIME)
        if time_ms < 0:
            return GROW_RUNS
        if time_ms > forgotten_ms:
            return DONE
        if j[SLICED] >= j[SLICE_MAX] or j[OUT_COUNT] == j[OUT_ROOM]:
            return HAND_ON
        j[SLICED] += 1
        forget_install(j, pop(j, PENDING))


@kernel
def _shed(j: Any, ingest_ms: Any) -> Any:
    """Raise the floor until memory suffices: what is oldest closes and is forgotten before its time."""
    if j[HELD_BYTES] <= j[BYTES_MAX] and j[SHEDDING] == 0:
        return DONE
    j[SHEDDING] = 1
    said = _catch_up(j, ingest_ms)
    while said == DONE:
        # Whatever isn't above the floor goes, also what a slice has left of an event time.
        said = _finish(j, j[FLOOR], j[FLOOR], ingest_ms)
        if said == DONE and j[HELD_BYTES] <= j[BYTES_MAX]:
            j[SHEDDING] = 0
            return DONE
        if said != DONE:
            return said
        oldest_ms = first_ms(j, CLOSING, PAGES, np.int64(NEVER - 1), P_TIMER, P_TIME)
        known_ms = first_ms(j, KNOWN, PAGES, np.int64(NEVER - 1), P_TIMER, P_TIME)
        held_ms = first_ms(j, PENDING, INSTALLS, np.int64(NEVER - 1), I_TIMER, I_TIME)
        if min(oldest_ms, known_ms, held_ms) < 0:
            return GROW_RUNS
        j[FLOOR] = max(j[FLOOR], min(oldest_ms, known_ms, held_ms))
        j[UNSURE] = max(j[UNSURE], j[FLOOR])
    return said


@kernel
def _pass_fronts(j: Any) -> None:
    """Give up what is forgotten, from the front; then the marks of records of which nothing is left."""
    marks = i64_at(j[MARKS])
    front, passed = j[PAGES + FRONT], np.int64(0)
    while front < j[PAGES + NEXT] and not _is_page_needed(j, front):
        front = after(j, PAGES, front, page_words(page_size(words_of(j, PAGES), at(j, PAGES, front))))
        passed += 1
    if passed > 0:
        pass_chunks(j, PAGES, min(front, j[PAGES + NEXT]))
        j[PAGES_NOW] -= passed
    front, passed = j[INSTALLS + FRONT], np.int64(0)
    while front < j[INSTALLS + NEXT] and not _is_install_needed(j, front):
        front = after(
            j, INSTALLS, front, install_words(np.int64(words_of(j, INSTALLS)[at(j, INSTALLS, front) + I_LENGTH]))
        )
        passed += 1
    if passed > 0:
        pass_chunks(j, INSTALLS, min(front, j[INSTALLS + NEXT]))
        j[INSTALLS_NOW] -= passed
    begin, end = j[MARKS_BEGIN], j[MARKS_END]
    nothing = j[PAGES + FRONT] == j[PAGES + NEXT] and j[INSTALLS + FRONT] == j[INSTALLS + NEXT]
    if nothing:
        begin = end
    elif (
        marks[MARK * (end - 1) + M_PAGES] == j[PAGES + NEXT]
        and marks[MARK * (end - 1) + M_INSTALLS] == j[INSTALLS + NEXT]
    ):
        end -= 1  # the last record has nothing that is remembered
    while (
        begin + 1 < end
        and marks[MARK * (begin + 1) + M_PAGES] <= j[PAGES + FRONT]
        and marks[MARK * (begin + 1) + M_INSTALLS] <= j[INSTALLS + FRONT]
    ):
        begin += 1
    j[MARKS_BEGIN], j[MARKS_END] = begin, end


@kernel
def _is_page_needed(j: Any, page: Any) -> Any:
    """Whether a restart must read a page again: it's remembered, or a later copy or an install of it is."""
    index = at(j, PAGES, page)
    if is_known(j, get64(words_of(j, PAGES), index + P_TIME)):
        return True
    if words_of(j, PAGES)[index + P_MORE] & TOUCHED == 0:
        return False
    if is_known(j, holds_back(j, index, page)):
        return True
    if not j[ORGANIC]:
        return False
    labels = i64_at(j[LABELS])
    found = np.int64(u32_at(j[LABEL_HEADS])[label_bucket(j, page & 0xFFFF_FFFF)]) * LABEL_NUMBERS
    while found != 0:
        if labels[found + L_PAGE] == page & 0xFFFF_FFFF and _has_pending(
            j, labels[found + L_FIRST], labels[found + L_LAST]
        ):
            return True
        found = labels[found + L_LINK] * LABEL_NUMBERS
    return False


@kernel
def _is_install_needed(j: Any, install: Any) -> Any:
    """Whether a restart must read an install again: it's remembered, or a later copy of it is."""
    index = at(j, INSTALLS, install)
    words = words_of(j, INSTALLS)
    if words[index + I_FLAGS] & GONE == 0 or is_known(j, get64(words, index + I_AGAIN)):
        return True
    return words[index + I_PAGE] != 0 and counts_on(j, index)


@kernel
def _has_pending(j: Any, first: Any, last: Any) -> Any:
    """Whether one of a label's installs isn't forgotten; from both ends, since some may be passed."""
    words = words_of(j, INSTALLS)
    while lives(j, INSTALLS, first):
        index = at(j, INSTALLS, first)
        if words[index + I_FLAGS] & GONE == 0:
            return True
        first = np.int64(words[index + I_BEHIND])
    while lives(j, INSTALLS, last):
        index = at(j, INSTALLS, last)
        if words[index + I_FLAGS] & GONE == 0:
            return True
        last = np.int64(words[index + I_BEFORE])
    return False


@kernel
def link_all(j: Any) -> None:
    """Make chains and timers of pages and installs anew from their entries, which were read from a file."""
    words, labels = words_of(j, PAGES), i64_at(j[LABELS])
    for k in range(1, j[LABEL_COUNT]):
        low = labels[k * LABEL_NUMBERS + L_PAGE]
        if lives(j, PAGES, low):
            words[at(j, PAGES, low) + P_MORE] |= np.uint32(TOUCHED)
    page = j[PAGES + FRONT]
    while page < j[PAGES + NEXT]:
        index = at(j, PAGES, page)
        time_ms, size = get64(words, index + P_TIME), page_size(words, index)
        insert(j, USERS, PAGES, page, P_USER, P_NEXT_USER)
        insert(j, REQUESTS, PAGES, page, P_REQUEST, P_NEXT_REQUEST)
        if is_known(j, time_ms):
            closed = is_closed(j, time_ms)
            put(j, KNOWN if closed else CLOSING, PAGES, page, time_ms, P_TIMER)
            j[OPEN] += not closed
            j[HELD_BYTES] += page_bytes(size)
        page = after(j, PAGES, page, page_words(size))
    words = words_of(j, INSTALLS)
    install = j[INSTALLS + FRONT]
    while install < j[INSTALLS + NEXT]:
        index = at(j, INSTALLS, install)
        length = np.int64(words[index + I_LENGTH])
        insert(j, KEYS, INSTALLS, install, I_KEY, I_NEXT_KEY)
        insert(j, PAIRS, INSTALLS, install, I_PAIR, I_NEXT_PAIR)
        if words[index + I_FLAGS] & GONE == 0:
            put(j, PENDING, INSTALLS, install, get64(words, index + I_TIME), I_TIMER)
            j[HELD_BYTES] += 4 * install_words(length)
        install = after(j, INSTALLS, install, install_words(length))


def prepare(state: JoinState, events: RecordEvents, slice_max: int) -> Any:
    """Room for the events of records, to be taken from the first on; their bytes as an array. Raises MemoryError."""
    pages, installs, length = events.tally
    if not state.keeps_chunks:
        state.pages.release()
    state.installs.release()
    state.reserve(pages, len(events.hashes), installs, length, len(events.records))
    state.numbers[SLICE_MAX], state.numbers[RECORD] = slice_max, 0
    return np.frombuffer(events.raw, np.uint8)
