"""What is emitted of a page, and when: the policies, as kernels. A label emitted is emitted again only when it changes.

Rows of `out` go out in their order; rows of one page with one batch number are one batch of labels.
"""

from typing import Any

import numpy as np

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import at, base_offset, get64, lives, words_of
from stream.joiner.kernels.memory import i64_at, u32_at
from stream.tables.jit import kernel


@kernel
def page_size(words: Any, index: Any) -> Any:
    """Number of items of a page."""
    return np.int64(words[index + s.P_PACK]) >> 21


@kernel
def page_item(words: Any, index: Any, size: Any, position: Any) -> Any:
    """Hash of the item at a position; 0: an earlier page of the request has it."""
    upper = np.int64(words[index + s.P_ITEMS + size + (position >> 1)]) >> (16 * (position & 1)) & 0xFFFF
    return upper << 32 | np.int64(words[index + s.P_ITEMS + position])


@kernel
def position_of(words: Any, index: Any, item: Any) -> Any:
    """Where an item stands on a page, -1: it doesn't."""
    size, low = page_size(words, index), np.uint32(item & 0xFFFF_FFFF)
    for position in range(size):
        if words[index + s.P_ITEMS + position] == low and page_item(words, index, size, position) == item:
            return position
    return np.int64(-1)


@kernel
def is_known(j: Any, time_ms: Any) -> Any:
    """Whether what has this event time is remembered."""
    return time_ms + j[s.LIFE] > j[s.WATERMARK] and time_ms > j[s.FLOOR]


@kernel
def is_closed(j: Any, time_ms: Any) -> Any:
    """Whether the window of a page of this event time is over."""
    return time_ms + j[s.WINDOW] <= j[s.WATERMARK] or time_ms <= j[s.FLOOR]


@kernel
def has_say(j: Any, low: Any) -> Any:
    """Whether labels of this page may still be emitted: it's remembered, and a restart didn't find it finished."""
    if not lives(j, s.PAGES, low):
        return False
    index = at(j, s.PAGES, low)
    return words_of(j, s.PAGES)[index + s.P_MORE] & s.SILENT == 0 and is_known(
        j, get64(words_of(j, s.PAGES), index + s.P_TIME)
    )


@kernel
def find_label(j: Any, page: Any, position: Any) -> Any:
    """Where the label of a page's position begins in the labels, 0: it has none of its own."""
    labels = i64_at(j[s.LABELS])
    found = np.int64(u32_at(j[s.LABEL_HEADS])[s.label_bucket(j, page)]) * s.LABEL_NUMBERS
    while found != 0 and (labels[found + s.L_PAGE] != page or labels[found + s.L_POSITION] != position):
        found = labels[found + s.L_LINK] * s.LABEL_NUMBERS
    return found


@kernel
def make_label(j: Any, page: Any, position: Any) -> Any:
    """The label at a page's position, made if there's none."""
    found = find_label(j, page, position)
    if found != 0:
        return found
    labels, heads, place = i64_at(j[s.LABELS]), u32_at(j[s.LABEL_HEADS]), s.label_bucket(j, page)
    found = j[s.LABEL_COUNT] * s.LABEL_NUMBERS
    labels[found + s.L_PAGE], labels[found + s.L_POSITION], labels[found + s.L_EMITTED] = page, position, s.UNKNOWN
    labels[found + s.L_FIRST] = labels[found + s.L_LAST] = labels[found + s.L_HOLD] = 0
    labels[found + s.L_LINK] = heads[place]
    heads[place] = np.uint32(j[s.LABEL_COUNT])
    j[s.LABEL_COUNT] += 1
    words_of(j, s.PAGES)[at(j, s.PAGES, page) + s.P_MORE] |= np.uint32(s.TOUCHED)
    return found


@kernel
def _next_row(j: Any) -> Any:
    begin = j[s.OUT_COUNT] * s.OUT_COLUMNS
    return i64_at(j[s.OUT])[begin : begin + s.OUT_COLUMNS]


@kernel
def emit_label(
    j: Any, batch: Any, index: Any, position: Any, label: Any, reason: Any, install: Any, ingest_ms: Any
) -> None:
    """A row of labels of the page at `index`; `install`: index of its cause, -1: none."""
    row, words = _next_row(j), words_of(j, s.PAGES)
    _put_page(j, row, index)
    size, place = page_size(words, index), position
    if words[index + s.P_MORE] & s.EXTENDS:
        place = np.int64(0)
        for k in range(position):
            place += page_item(words, index, size, k) != 0
    row[0], row[1], row[7] = s.LABEL, batch, ingest_ms
    row[8], row[9], row[10], row[11] = position, row[6] + place, label, reason
    row[12] = -1 if install < 0 else install + s.I_RAW
    j[s.OUT_COUNT] += 1


@kernel
def emit_negatives(j: Any, index: Any, ingest_ms: Any) -> None:
    """Every item of the page at `index` is negative."""
    row = _next_row(j)
    _put_page(j, row, index)
    row[0], row[1], row[7] = s.NEGATIVES, j[s.OUT_COUNT], ingest_ms
    j[s.OUT_COUNT] += 1


@kernel
def _put_page(j: Any, row: Any, index: Any) -> None:
    words = words_of(j, s.PAGES)
    pack, more = np.int64(words[index + s.P_PACK]), np.int64(words[index + s.P_MORE])
    row[2] = base_offset(j, s.PAGES, index) + np.int64(words[index + s.P_OFFSET])
    row[3], row[4], row[5], row[6] = pack & 0x1F_FFFF, (more & 0xFFFF) + 1, pack >> 21, more >> 16 & 0x3FF


@kernel
def emit_organic(j: Any, index: Any) -> None:
    """The install at `index` is organic."""
    row = _next_row(j)
    row[0], row[2] = s.ORGANIC_INSTALL, index + s.I_RAW
    j[s.OUT_COUNT] += 1


@kernel
def emit_history(j: Any, install: Any, newest_ms: Any, sure: Any) -> None:
    """A user's newest time of an item, -1: none; `install`: its index, or −1 − the number of an event."""
    row = _next_row(j)
    row[0], row[2], row[3], row[4] = s.HISTORY, install if install < 0 else install + s.I_RAW, newest_ms, sure
    j[s.OUT_COUNT] += 1


@kernel
def emit_late(j: Any, event: Any, time_ms: Any, late_ms: Any) -> None:
    """An event that came too late."""
    row = _next_row(j)
    row[0], row[2], row[3], row[4] = s.LATE, event, time_ms, late_ms
    j[s.OUT_COUNT] += 1


@kernel
def emit_first(j: Any, address: Any, ingest_ms: Any) -> Any:
    """Under `fake_negative` what is emitted of a page that comes with installs before it; returns the batch."""
    index = at(j, s.PAGES, address)
    return _emit_rest(j, address, index, j[s.OUT_COUNT], ingest_ms)


@kernel
def close_page(j: Any, address: Any, ingest_ms: Any) -> None:
    """The window of a page is over: emit what is still unknown."""
    if j[s.POLICY] == s.FAKE_NEGATIVE:
        return
    index = at(j, s.PAGES, address)
    more = words_of(j, s.PAGES)[index + s.P_MORE]
    if more & (s.TOUCHED | s.EXTENDS):
        _emit_rest(j, address, index, j[s.OUT_COUNT], ingest_ms)
    elif more & s.SILENT == 0:
        emit_negatives(j, index, ingest_ms)


@kernel
def _emit_rest(j: Any, address: Any, index: Any, batch: Any, ingest_ms: Any) -> Any:
    """Emit every label that wasn't emitted yet, in order of position; returns the batch."""
    words, low = words_of(j, s.PAGES), address & 0xFFFF_FFFF
    size, silent = page_size(words, index), words[index + s.P_MORE] & s.SILENT != 0
    for position in range(size):
        if page_item(words, index, size, position) == 0:
            continue
        found = find_label(j, low, position)
        if found != 0 and i64_at(j[s.LABELS])[found + s.L_EMITTED] != s.UNKNOWN:
            continue
        if found != 0 and i64_at(j[s.LABELS])[found + s.L_FIRST] != 0:
            i64_at(j[s.LABELS])[found + s.L_EMITTED] = s.POSITIVE
            first = at(j, s.INSTALLS, i64_at(j[s.LABELS])[found + s.L_FIRST])
            if not silent:
                came_ms = get64(words_of(j, s.INSTALLS), first + s.I_INGEST)
                emit_label(j, batch, index, position, 1, INSTALLED, first, came_ms)
        else:
            if found != 0:
                i64_at(j[s.LABELS])[found + s.L_EMITTED] = s.NEGATIVE
            if not silent:
                emit_label(j, batch, index, position, 0, WINDOW_CLOSED, np.int64(-1), ingest_ms)
    return batch


@kernel
def attach(j: Any, page: Any, position: Any, install: Any) -> Any:
    """An install counts for a page's position from now on; returns the label."""
    words, low = words_of(j, s.INSTALLS), np.uint32(install & 0xFFFF_FFFF)
    found = make_label(j, page & 0xFFFF_FFFF, position)
    index = at(j, s.INSTALLS, install)
    words[index + s.I_PAGE], words[index + s.I_POSITION] = np.uint32(page & 0xFFFF_FFFF), np.uint32(position)
    last = i64_at(j[s.LABELS])[found + s.L_LAST]
    words[index + s.I_BEFORE], words[index + s.I_BEHIND] = np.uint32(last), np.uint32(0)
    if last != 0:
        words[at(j, s.INSTALLS, last) + s.I_BEHIND] = low
    else:
        i64_at(j[s.LABELS])[found + s.L_FIRST] = low
    i64_at(j[s.LABELS])[found + s.L_LAST] = low
    return found


@kernel
def unlink(j: Any, index: Any) -> Any:
    """The install at `index` counts for its page no longer; returns the label, 0 where the page is gone."""
    words = words_of(j, s.INSTALLS)
    page, position = np.int64(words[index + s.I_PAGE]), np.int64(words[index + s.I_POSITION])
    found = find_label(j, page, position) if lives(j, s.PAGES, page) else np.int64(0)
    if found == 0:
        return found
    before, behind = words[index + s.I_BEFORE], words[index + s.I_BEHIND]
    if lives(j, s.INSTALLS, before):
        words[at(j, s.INSTALLS, before) + s.I_BEHIND] = behind
    else:
        i64_at(j[s.LABELS])[found + s.L_FIRST] = behind
    if lives(j, s.INSTALLS, behind):
        words[at(j, s.INSTALLS, behind) + s.I_BEFORE] = before
    else:
        i64_at(j[s.LABELS])[found + s.L_LAST] = before
    return found


@kernel
def detach(j: Any, index: Any, ingest_ms: Any) -> None:
    """The install at `index` was taken back, or found a better page: it leaves the page that it has, if any."""
    page = np.int64(words_of(j, s.INSTALLS)[index + s.I_PAGE])
    if page == 0:
        return
    found = unlink(j, index)
    words_of(j, s.INSTALLS)[index + s.I_PAGE] = np.uint32(0)
    if found != 0:
        closed = is_closed(j, get64(words_of(j, s.PAGES), at(j, s.PAGES, page) + s.P_TIME))
        relabel(j, found, index, closed, j[s.OUT_COUNT], ingest_ms)


@kernel
def relabel(j: Any, found: Any, cause: Any, closed: Any, batch: Any, ingest_ms: Any) -> None:
    """Emit a label if it differs from the one emitted and the policy wants it now; `cause`: index of an install."""
    label, policy = np.int64(i64_at(j[s.LABELS])[found + s.L_FIRST] != 0), j[s.POLICY]
    emitted = i64_at(j[s.LABELS])[found + s.L_EMITTED]
    if emitted == s.UNKNOWN and (closed or policy == s.FAKE_NEGATIVE):
        emitted = np.int64(s.NEGATIVE)
    if emitted == s.NEGATIVE + label or (emitted == s.UNKNOWN and (label == 0 or policy == s.WAIT)):
        return
    # Whoever sums up counts an example with its first label and corrects it with a late positive or a retraction.
    reason = RETRACTION if label == 0 else INSTALLED if emitted == s.UNKNOWN else LATE_POSITIVE
    i64_at(j[s.LABELS])[found + s.L_EMITTED] = s.NEGATIVE + label
    page = i64_at(j[s.LABELS])[found + s.L_PAGE]
    if has_say(j, page):
        emit_label(
            j, batch, at(j, s.PAGES, page), i64_at(j[s.LABELS])[found + s.L_POSITION], label, reason, cause, ingest_ms
        )


@kernel
def holds_back(j: Any, index: Any, address: Any) -> Any:
    """The greatest event time for which a page's record is still needed besides its own, -1: none."""
    low, until_ms = address & 0xFFFF_FFFF, np.int64(-1)
    if words_of(j, s.PAGES)[index + s.P_MORE] & s.TOUCHED:
        found = find_label(j, low, np.int64(s.HELD))
        if found != 0:
            until_ms = i64_at(j[s.LABELS])[found + s.L_HOLD]
    return until_ms
