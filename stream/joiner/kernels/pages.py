"""A page comes: it is remembered, or extends one of its request; installs that came before it are its own: kernels."""

from typing import Any

import numpy as np

from stream.events.types import ITEMS_MAX
from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import append, at, base_offset, get64, lives, put64, whole, words_of
from stream.joiner.kernels.chains import first_of, grow, insert
from stream.joiner.kernels.emission import (
    attach,
    close_page,
    detach,
    emit_first,
    emit_late,
    emit_negatives,
    holds_back,
    is_closed,
    is_known,
    make_label,
    page_item,
    page_size,
    position_of,
    relabel,
)  # fmt: skip
from stream.joiner.kernels.hashes import pair_hash
from stream.joiner.kernels.memory import i64_at
from stream.joiner.kernels.timers import add
from stream.tables.jit import kernel


@kernel
def page_words(size: Any) -> Any:
    """How many words a page of so many items takes."""
    return s.P_ITEMS + size + (size + 1 >> 1)


@kernel
def page_bytes(size: Any) -> Any:
    """What a page costs, in bytes."""
    return s.PAGE_BYTES + 4 * (size + (size + 1 >> 1))


@kernel
def find_request(j: Any, request: Any) -> Any:
    """The first page remembered under a request id: low bits of its address, 0: none."""
    words, found = words_of(j, s.PAGES), np.int64(0)
    link = first_of(j, s.REQUESTS, request)
    while lives(j, s.PAGES, link):
        index = at(j, s.PAGES, link)
        if get64(words, index + s.P_REQUEST) == request and is_known(j, get64(words, index + s.P_TIME)):
            found = link
        link = np.int64(words[index + s.P_NEXT_REQUEST])
    return found


@kernel
def fits(j: Any, index: Any, time_ms: Any, request: Any, item: Any) -> Any:
    """Where on the page at `index` an install of this time, request id (0: none) and item belongs, -1: nowhere."""
    words = words_of(j, s.PAGES)
    page_ms = get64(words, index + s.P_TIME)
    early_ms = j[s.SKEW] if request != 0 else np.int64(0)
    if not page_ms - early_ms <= time_ms < page_ms + j[s.WINDOW]:
        return np.int64(-1)
    if request != 0 and request != get64(words, index + s.P_REQUEST):
        return np.int64(-1)
    return position_of(words, index, item)


@kernel
def rank_of(j: Any, index: Any, link: Any) -> Any:
    """Of two pages of one event time the one with the greater rank is the newer: what extends a page ranks as that."""
    words = words_of(j, s.PAGES)
    if words[index + s.P_MORE] & s.EXTENDS:
        link = find_request(j, get64(words, index + s.P_REQUEST))
    return whole(j, s.PAGES, link)


@kernel
def is_claimable(j: Any, install: Any, page: Any, rank: Any, position: Any) -> Any:
    """Whether an install that came before a page counts for it, at `position`: indices of both, and its rank."""
    words = words_of(j, s.INSTALLS)
    flags = words[install + s.I_FLAGS]
    time_ms = get64(words, install + s.I_TIME)
    if flags & (s.RETRACTED | s.GONE) or not flags & s.LISTED or time_ms + j[s.WAITS] <= j[s.WATERMARK]:
        return False
    there = np.int64(words[install + s.I_PAGE])
    if there != 0:
        there_ms, page_ms = get64(words, install + s.I_PAGE_TIME), get64(words_of(j, s.PAGES), page + s.P_TIME)
        if there_ms > page_ms:
            return False
        if there_ms == page_ms and lives(j, s.PAGES, there) and rank_of(j, at(j, s.PAGES, there), there) > rank:
            return False
    item = page_item(words_of(j, s.PAGES), page, page_size(words_of(j, s.PAGES), page), position)
    return fits(j, page, time_ms, get64(words, install + s.I_REQUEST), item) == position


@kernel
def claimable(j: Any, user: Any, hashes: Any, begin: Any, size: Any) -> Any:
    """How many installs of the user's are remembered of these items."""
    count = np.int64(0)
    for k in range(begin, begin + size):
        pair = pair_hash(user, hashes[k])
        link = first_of(j, s.PAIRS, pair)
        while lives(j, s.INSTALLS, link):
            index = at(j, s.INSTALLS, link)
            count += get64(words_of(j, s.INSTALLS), index + s.I_PAIR) == pair
            link = np.int64(words_of(j, s.INSTALLS)[index + s.I_NEXT_PAIR])
    return count


@kernel
def claim(j: Any, page: Any, count: Any, ingest_ms: Any) -> None:
    """Give a new page the installs that came before it, `count` at most: what it says first, and they."""
    index = at(j, s.PAGES, page)
    words, user = words_of(j, s.PAGES), get64(words_of(j, s.PAGES), index + s.P_USER)
    size = page_size(words, index)
    found, positions = np.empty(count, np.int64), np.empty(count, np.int64)
    rank = rank_of(j, index, page)
    n = np.int64(0)
    for position in range(size):
        pair = pair_hash(user, page_item(words, index, size, position))
        link = first_of(j, s.PAIRS, pair)
        while lives(j, s.INSTALLS, link):
            install = at(j, s.INSTALLS, link)
            if get64(words_of(j, s.INSTALLS), install + s.I_PAIR) == pair and is_claimable(
                j, install, index, rank, position
            ):
                found[n], positions[n] = whole(j, s.INSTALLS, link), position
                n += 1
            link = np.int64(words_of(j, s.INSTALLS)[install + s.I_NEXT_PAIR])
    for k in range(n):
        if words_of(j, s.INSTALLS)[at(j, s.INSTALLS, found[k]) + s.I_PAGE] == 0:
            j[s.N_EARLY] += 1
    order = np.argsort(found[:n])  # as they came
    for k in order:
        detach(j, at(j, s.INSTALLS, found[k]), ingest_ms)
    batch = j[s.OUT_COUNT]
    if j[s.POLICY] == s.FAKE_NEGATIVE:
        batch = emit_first(j, page, ingest_ms)
    for k in order:
        install = at(j, s.INSTALLS, found[k])
        put64(words_of(j, s.INSTALLS), install + s.I_PAGE_TIME, get64(words, index + s.P_TIME))
        label = attach(j, page, positions[k], found[k])
        relabel(j, label, install, False, batch, ingest_ms)


@kernel
def remember_page(j: Any, event: Any, hashes: Any, time_ms: Any, base: Any, offset: Any) -> Any:
    """Append a page, at its event time or that of the page that it extends; returns its address."""
    size = event[scan.SIZE]
    page = append(j, s.PAGES, page_words(size), offset)
    index, words = at(j, s.PAGES, page), words_of(j, s.PAGES)
    put64(words, index + s.P_TIME, time_ms)
    put64(words, index + s.P_REQUEST, event[scan.REQUEST])
    put64(words, index + s.P_USER, event[scan.USER])
    words[index + s.P_OFFSET] = np.uint32(offset - base_offset(j, s.PAGES, index))
    words[index + s.P_PACK] = np.uint32(event[scan.BEGIN] | size << 21)
    flags = np.int64(s.SILENT) if time_ms <= j[s.FINISHED] else np.int64(0)
    words[index + s.P_MORE] = np.uint32((event[scan.END] - event[scan.BEGIN] - 1) | base << 16 | flags)
    upper = index + s.P_ITEMS + size
    for k in range(size):
        item = hashes[event[scan.ITEMS] + k]
        words[index + s.P_ITEMS + k] = np.uint32(item & 0xFFFF_FFFF)
        if k & 1:
            words[upper + (k >> 1)] |= np.uint32(item >> 32 << 16)
        else:
            words[upper + (k >> 1)] = np.uint32(item >> 32)
    insert(j, s.USERS, s.PAGES, page, s.P_USER, s.P_NEXT_USER)
    insert(j, s.REQUESTS, s.PAGES, page, s.P_REQUEST, s.P_NEXT_REQUEST)
    j[s.PAGES_NOW] += 1
    grow(j, s.USERS, s.PAGES, j[s.PAGES_NOW], s.P_USER, s.P_NEXT_USER)
    grow(j, s.REQUESTS, s.PAGES, j[s.PAGES_NOW], s.P_REQUEST, s.P_NEXT_REQUEST)
    j[s.HELD_BYTES] += page_bytes(size)
    return page


@kernel
def needs_catching_up(j: Any, event: Any, hashes: Any) -> Any:
    """Whether it matters to this page what the watermark has passed: else that can wait."""
    if j[s.POLICY] == s.FAKE_NEGATIVE or is_closed(j, event[scan.TIME]):
        return True
    if find_request(j, event[scan.REQUEST]) != 0:
        return True
    return claimable(j, event[scan.USER], hashes, event[scan.ITEMS], event[scan.SIZE]) > 0


@kernel
def take_page(j: Any, number: Any, event: Any, hashes: Any, offset: Any, ingest_ms: Any) -> None:
    """Take a page that isn't late; the watermark was caught up with where it matters."""
    first = find_request(j, event[scan.REQUEST])
    if first != 0:
        _take_again(j, first, event, hashes, offset, ingest_ms)
        return
    page = remember_page(j, event, hashes, event[scan.TIME], np.int64(0), offset)
    _begin(j, page, event, hashes, ingest_ms)


@kernel
def _begin(j: Any, page: Any, event: Any, hashes: Any, ingest_ms: Any) -> None:
    """What is emitted of a page when it comes, and when it closes."""
    index = at(j, s.PAGES, page)
    time_ms = get64(words_of(j, s.PAGES), index + s.P_TIME)
    count = claimable(j, event[scan.USER], hashes, event[scan.ITEMS], event[scan.SIZE])
    more = words_of(j, s.PAGES)[index + s.P_MORE]
    if count > 0 or (more & s.EXTENDS and j[s.POLICY] == s.FAKE_NEGATIVE):
        claim(j, page, count, ingest_ms)
    elif j[s.POLICY] == s.FAKE_NEGATIVE and more & s.SILENT == 0:
        emit_negatives(j, index, ingest_ms)
    if is_closed(j, time_ms):
        close_page(j, page, ingest_ms)
        add(j, s.KNOWN, s.PAGES, page, time_ms, s.P_TIMER)
    else:
        j[s.OPEN] += 1
        add(j, s.CLOSING, s.PAGES, page, time_ms, s.P_TIMER)


@kernel
def _take_again(j: Any, first: Any, event: Any, hashes: Any, offset: Any, ingest_ms: Any) -> None:
    """Take a page whose request id is remembered: a duplicate, or more of the same page.

    Read alone it would be a page of its own, so the first one's record is held as long as it would be remembered.
    """
    words, index = words_of(j, s.PAGES), at(j, s.PAGES, first)
    first_ms, time_ms = get64(words, index + s.P_TIME), event[scan.TIME]
    if time_ms > first_ms:
        until_ms = time_ms + j[s.WINDOW] if j[s.ORGANIC] else time_ms
        label = make_label(j, first, np.int64(s.HELD))
        i64_at(j[s.LABELS])[label + s.L_HOLD] = max(holds_back(j, index, first), until_ms)
    new, base = np.int64(0), np.int64(0)
    if get64(words, index + s.P_USER) == event[scan.USER]:
        new, base = _forget_shown(j, event, hashes)
    if new == 0:
        j[s.N_DUPLICATE] += 1
        return
    j[s.N_EXTENDED] += 1
    page = remember_page(j, event, hashes, first_ms, base, offset)
    words_of(j, s.PAGES)[at(j, s.PAGES, page) + s.P_MORE] |= np.uint32(s.EXTENDS)
    _begin(j, page, event, hashes, ingest_ms)


@kernel
def _forget_shown(j: Any, event: Any, hashes: Any) -> Any:
    """Zero the hashes of items that pages of this request have, and what is over ITEMS_MAX; (new ones, those shown)."""
    words, begin, size = words_of(j, s.PAGES), event[scan.ITEMS], event[scan.SIZE]
    shown = np.int64(0)
    link = first_of(j, s.REQUESTS, event[scan.REQUEST])
    while lives(j, s.PAGES, link):
        index = at(j, s.PAGES, link)
        if get64(words, index + s.P_REQUEST) == event[scan.REQUEST] and is_known(j, get64(words, index + s.P_TIME)):
            there = page_size(words, index)
            for k in range(there):
                shown += page_item(words, index, there, k) != 0
            for k in range(begin, begin + size):
                if hashes[k] != 0 and position_of(words, index, hashes[k]) >= 0:
                    hashes[k] = 0
        link = np.int64(words[index + s.P_NEXT_REQUEST])
    new = np.int64(0)
    for k in range(begin, begin + size):
        if hashes[k] != 0 and shown + new >= ITEMS_MAX:
            hashes[k] = 0
        new += hashes[k] != 0
    return new, shown


@kernel
def is_late(j: Any, time_ms: Any) -> Any:
    """Whether what has this event time comes too late to be remembered."""
    return not is_known(j, time_ms)


@kernel
def refuse_late(j: Any, number: Any, time_ms: Any) -> None:
    """Count and hand on an event that is late."""
    j[s.N_LATE] += 1
    emit_late(j, number, time_ms, max(j[s.WATERMARK] - j[s.LIFE], j[s.FLOOR]) - time_ms)
