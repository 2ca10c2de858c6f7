"""Label emission policies. A label is emitted again only when it changes. Kernels.

Rows of `out` are emitted in order; rows of one page with one batch number are one batch of labels.
`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any

import numpy as np

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import base_offset, get64, index_of, is_live, words_of
from stream.joiner.kernels.array_views import i64_at, u32_at
from stream.joiner.kernels.timers import TIMERS_NUMBERS
from stream.tables.jit import kernel


@kernel
def item_count(words: Any, index: Any) -> Any:
    """Number of items of a page."""
    return np.int64(words[index + s.P_PACK]) >> 21


@kernel
def page_item(words: Any, index: Any, size: Any, position: Any) -> Any:
    """Hash of the item at a position; 0 if an earlier page of the request has it."""
    upper = np.int64(words[index + s.P_ITEMS + size + (position >> 1)]) >> (16 * (position & 1)) & 0xFFFF
    return upper << 32 | np.int64(words[index + s.P_ITEMS + position])


@kernel
def position_of(words: Any, index: Any, item: Any) -> Any:
    """The position of an item on a page; −1 if it isn't there."""
    size, low = item_count(words, index), np.uint32(item & 0xFFFF_FFFF)
    for position in range(size):
        if words[index + s.P_ITEMS + position] == low and page_item(words, index, size, position) == item:
            return position
    return np.int64(-1)


@kernel
def page_ms(j: Any, index: Any) -> Any:
    """Event time of the page at `index`."""
    return get64(words_of(j, s.PAGES), index + s.P_TIME)


@kernel
def is_retained(j: Any, time_ms: Any) -> Any:
    """Whether pages and installs of this event time are retained; those that come now are late otherwise."""
    return time_ms + j[s.RETENTION] > j[s.WATERMARK] and time_ms > j[s.FLOOR]


@kernel
def delay_of(j: Any, request: Any) -> Any:
    """Which of the delays a page of this request has."""
    return (request >> 20 & 0xFFFF_FFFF) % j[s.DELAY_COUNT]


@kernel
def is_closed(j: Any, time_ms: Any, request: Any) -> Any:
    """Whether a page of this event time and request has closed: labels that weren't emitted by then are negative."""
    return time_ms + j[s.DELAYS + delay_of(j, request)] <= j[s.WATERMARK] or time_ms <= j[s.FLOOR]


@kernel
def is_page_closed(j: Any, index: Any) -> Any:
    """Whether the page at `index` has closed."""
    return is_closed(j, page_ms(j, index), get64(words_of(j, s.PAGES), index + s.P_REQUEST))


@kernel
def closing_timers(j: Any, index: Any) -> Any:
    """The timers that close the page at `index`."""
    return s.CLOSING + delay_of(j, get64(words_of(j, s.PAGES), index + s.P_REQUEST)) * TIMERS_NUMBERS


@kernel
def may_emit(j: Any, low: Any) -> Any:
    """Whether labels of a page may be emitted: it's retained, and wasn't final before a restart."""
    if not is_live(j, s.PAGES, low):
        return False
    index = index_of(j, s.PAGES, low)
    return words_of(j, s.PAGES)[index + s.P_MORE] & s.SILENT == 0 and is_retained(j, page_ms(j, index))


@kernel
def find_label(j: Any, page: Any, position: Any) -> Any:
    """The index of the label at a page's position; 0 if there is none."""
    labels = i64_at(j[s.LABELS])
    found = np.int64(u32_at(j[s.LABEL_HEADS])[s.label_bucket(j, page)]) * s.LABEL_NUMBERS
    while found != 0 and (labels[found + s.L_PAGE] != page or labels[found + s.L_POSITION] != position):
        found = labels[found + s.L_LINK] * s.LABEL_NUMBERS
    return found


@kernel
def find_or_add_label(j: Any, page: Any, position: Any) -> Any:
    """The index of the label at a page's position, which is added if there is none."""
    found = find_label(j, page, position)
    if found != 0:
        return found
    labels, heads, bucket = i64_at(j[s.LABELS]), u32_at(j[s.LABEL_HEADS]), s.label_bucket(j, page)
    found = j[s.LABEL_COUNT] * s.LABEL_NUMBERS
    labels[found + s.L_PAGE], labels[found + s.L_POSITION], labels[found + s.L_EMITTED] = page, position, s.UNKNOWN
    labels[found + s.L_FIRST] = labels[found + s.L_LAST] = labels[found + s.L_RETAINED_UNTIL] = 0
    labels[found + s.L_LINK] = heads[bucket]
    heads[bucket] = np.uint32(j[s.LABEL_COUNT])
    j[s.LABEL_COUNT] += 1
    words_of(j, s.PAGES)[index_of(j, s.PAGES, page) + s.P_MORE] |= np.uint32(s.HAS_LABELS)
    return found


@kernel
def next_row(j: Any) -> Any:
    """The next free row of what is emitted; whoever fills it counts it."""
    begin = j[s.OUT_COUNT] * s.OUT_COLUMNS
    return i64_at(j[s.OUT])[begin : begin + s.OUT_COLUMNS]


@kernel
def emit_label(
    j: Any, batch: Any, index: Any, position: Any, label: Any, reason: Any, install_index: Any, ingest_ms: Any
) -> None:
    """Emit a label of the page at `index`; `install_index`: its cause, −1 if none."""
    row, words = next_row(j), words_of(j, s.PAGES)
    _put_page(j, row, index)
    size, id_position = item_count(words, index), position
    if words[index + s.P_MORE] & s.EXTENDS:
        id_position = np.int64(0)
        for k in range(position):
            id_position += page_item(words, index, size, k) != 0
    row[0], row[1], row[7] = s.LABEL, batch, ingest_ms
    row[8], row[9], row[10], row[11] = position, row[6] + id_position, label, reason
    row[12] = -1 if install_index < 0 else install_index + s.I_RAW
    j[s.OUT_COUNT] += 1


@kernel
def emit_negatives(j: Any, index: Any, ingest_ms: Any) -> None:
    """Emit a negative label of every item of the page at `index`."""
    row = next_row(j)
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
    """Emit the install at `index` as organic."""
    row = next_row(j)
    row[0], row[2] = s.ORGANIC_INSTALL, index + s.I_RAW
    j[s.OUT_COUNT] += 1


@kernel
def emit_history(j: Any, install_index: Any, newest_ms: Any, sure: Any) -> None:
    """Emit a user's newest time of an item, −1 if none; a negative `install_index`: −1 − the number of an event."""
    row = next_row(j)
    row[0], row[3], row[4] = s.HISTORY, newest_ms, sure
    row[2] = install_index if install_index < 0 else install_index + s.I_RAW
    j[s.OUT_COUNT] += 1


@kernel
def reject_late(j: Any, event: Any, time_ms: Any) -> None:
    """Count and emit an event that is late."""
    row = next_row(j)
    row[0], row[2], row[3] = s.LATE, event, time_ms
    row[4] = max(j[s.WATERMARK] - j[s.RETENTION], j[s.FLOOR]) - time_ms
    j[s.OUT_COUNT] += 1
    j[s.N_LATE] += 1


@kernel
def close_page(j: Any, address: Any, ingest_ms: Any) -> None:
    """Close a page: emit its labels that weren't emitted yet."""
    if j[s.POLICY] == s.FAKE_NEGATIVE:
        return
    index = index_of(j, s.PAGES, address)
    more = words_of(j, s.PAGES)[index + s.P_MORE]
    if more & (s.HAS_LABELS | s.EXTENDS):
        emit_pending(j, address, ingest_ms)
    elif more & s.SILENT == 0:
        emit_negatives(j, index, ingest_ms)


@kernel
def emit_pending(j: Any, address: Any, ingest_ms: Any) -> Any:
    """Emit every label of a page that wasn't emitted yet, in order of position; returns the batch."""
    words, low = words_of(j, s.PAGES), address & 0xFFFF_FFFF
    index, batch = index_of(j, s.PAGES, address), j[s.OUT_COUNT]
    labels, size, silent = i64_at(j[s.LABELS]), item_count(words, index), words[index + s.P_MORE] & s.SILENT != 0
    for position in range(size):
        if page_item(words, index, size, position) == 0:
            continue
        found = find_label(j, low, position)
        if found != 0 and labels[found + s.L_EMITTED] != s.UNKNOWN:
            continue
        if found != 0 and labels[found + s.L_FIRST] != 0:
            labels[found + s.L_EMITTED] = s.POSITIVE
            first = index_of(j, s.INSTALLS, labels[found + s.L_FIRST])
            if not silent:
                came_ms = get64(words_of(j, s.INSTALLS), first + s.I_INGEST)
                emit_label(j, batch, index, position, 1, INSTALLED, first, came_ms)
        else:
            if found != 0:
                labels[found + s.L_EMITTED] = s.NEGATIVE
            if not silent:
                emit_label(j, batch, index, position, 0, WINDOW_CLOSED, np.int64(-1), ingest_ms)
    return batch


@kernel
def attach(j: Any, page: Any, position: Any, install: Any) -> Any:
    """Attribute an install to a page's position; returns the label."""
    words, low = words_of(j, s.INSTALLS), np.uint32(install & 0xFFFF_FFFF)
    found = find_or_add_label(j, page & 0xFFFF_FFFF, position)
    index = index_of(j, s.INSTALLS, install)
    words[index + s.I_PAGE], words[index + s.I_POSITION] = np.uint32(page & 0xFFFF_FFFF), np.uint32(position)
    labels = i64_at(j[s.LABELS])
    last = labels[found + s.L_LAST]
    words[index + s.I_PREVIOUS], words[index + s.I_FOLLOWING] = np.uint32(last), np.uint32(0)
    if last != 0:
        words[index_of(j, s.INSTALLS, last) + s.I_FOLLOWING] = low
    else:
        labels[found + s.L_FIRST] = low
    labels[found + s.L_LAST] = low
    return found


@kernel
def unlink(j: Any, index: Any) -> Any:
    """Unlink the install at `index` from its label; returns the label, 0 if the page was evicted."""
    words = words_of(j, s.INSTALLS)
    page, position = np.int64(words[index + s.I_PAGE]), np.int64(words[index + s.I_POSITION])
    found = find_label(j, page, position) if is_live(j, s.PAGES, page) else np.int64(0)
    if found == 0:
        return found
    previous, following = words[index + s.I_PREVIOUS], words[index + s.I_FOLLOWING]
    if is_live(j, s.INSTALLS, previous):
        words[index_of(j, s.INSTALLS, previous) + s.I_FOLLOWING] = following
    else:
        i64_at(j[s.LABELS])[found + s.L_FIRST] = following
    if is_live(j, s.INSTALLS, following):
        words[index_of(j, s.INSTALLS, following) + s.I_PREVIOUS] = previous
    else:
        i64_at(j[s.LABELS])[found + s.L_LAST] = previous
    return found


@kernel
def detach(j: Any, index: Any, ingest_ms: Any) -> None:
    """Detach the install at `index`, which was retracted or has a better page, from the page that it has, if any."""
    page = np.int64(words_of(j, s.INSTALLS)[index + s.I_PAGE])
    if page == 0:
        return
    found = unlink(j, index)
    words_of(j, s.INSTALLS)[index + s.I_PAGE] = np.uint32(0)
    if found != 0:
        closed = is_page_closed(j, index_of(j, s.PAGES, page))
        relabel(j, found, index, closed, j[s.OUT_COUNT], ingest_ms)


@kernel
def relabel(j: Any, found: Any, cause: Any, closed: Any, batch: Any, ingest_ms: Any) -> None:
    """Emit a label if it differs from the one emitted and the policy wants it now; `cause`: index of an install."""
    labels, policy = i64_at(j[s.LABELS]), j[s.POLICY]
    label, emitted = np.int64(labels[found + s.L_FIRST] != 0), labels[found + s.L_EMITTED]
    if emitted == s.UNKNOWN and (closed or policy == s.FAKE_NEGATIVE):
        emitted = np.int64(s.NEGATIVE)
    if emitted == s.NEGATIVE + label or (emitted == s.UNKNOWN and (label == 0 or policy == s.WAIT)):
        return
    # Consumers count an example by its first label; a late positive or a retraction corrects it.
    reason = RETRACTION if label == 0 else INSTALLED if emitted == s.UNKNOWN else LATE_POSITIVE
    labels[found + s.L_EMITTED] = s.NEGATIVE + label
    page = labels[found + s.L_PAGE]
    if may_emit(j, page):
        index, position = index_of(j, s.PAGES, page), labels[found + s.L_POSITION]
        emit_label(j, batch, index, position, label, reason, cause, ingest_ms)


@kernel
def retained_until_ms(j: Any, index: Any, address: Any) -> Any:
    """Event time until which the page's record must stay readable because of later copies; −1: none."""
    if words_of(j, s.PAGES)[index + s.P_MORE] & s.HAS_LABELS:
        found = find_label(j, address & 0xFFFF_FFFF, np.int64(s.NO_POSITION))
        if found != 0:
            return i64_at(j[s.LABELS])[found + s.L_RETAINED_UNTIL]
    return np.int64(-1)
