"""An install or a retraction comes, and is forgotten: kernels."""

from typing import Any

import numpy as np

from stream.joiner import record_scan as scan
from stream.joiner.arena import append, at, get64, lives, put64, words_of
from stream.joiner.chains import first_of, grow, insert
from stream.joiner.emission import (
    attach,
    detach,
    emit_history,
    emit_organic,
    is_closed,
    is_known,
    relabel,
    unlink,
)  # fmt: skip
from stream.joiner.pages import fits, rank_of
from stream.joiner.state import (
    FINISHED,
    GONE,
    HELD_BYTES,
    I_AFTER,
    I_AGAIN,
    I_FLAGS,
    I_INGEST,
    I_ITEM,
    I_KEY,
    I_LENGTH,
    I_NEWEST,
    I_NEXT_KEY,
    I_NEXT_PAIR,
    I_PAGE,
    I_PAGE_TIME,
    I_PAIR,
    I_RAW,
    I_REQUEST,
    I_TIME,
    I_TIMER,
    I_USER,
    INSTALLS,
    INSTALLS_NOW,
    KEYS,
    LISTED,
    MET,
    N_DUPLICATE,
    N_ORGANIC,
    N_RETRACTED,
    N_STRAY,
    ORGANIC,
    OUT_COUNT,
    P_NEXT_REQUEST,
    P_NEXT_USER,
    P_TIME,
    P_USER,
    PAGES,
    PAIRS,
    PENDING,
    REQUESTS,
    RETRACTED,
    RETRACTION,
    UNSURE,
    USERS,
    WINDOW,
)  # fmt: skip
from stream.joiner.timers import add
from stream.table import kernel


@kernel
def install_words(length: Any) -> Any:
    """How many words an install of so many bytes takes."""
    return I_RAW + (length + 3 >> 2)


@kernel
def find_key(j: Any, key: Any) -> Any:
    """The install or retraction remembered under a key: low bits of its address, 0: none."""
    words = words_of(j, INSTALLS)
    link = first_of(j, KEYS, key)
    while lives(j, INSTALLS, link):
        index = at(j, INSTALLS, link)
        if get64(words, index + I_KEY) == key and words[index + I_FLAGS] & LISTED:
            return link
        link = np.int64(words[index + I_NEXT_KEY])
    return np.int64(0)


@kernel
def _pair_head(j: Any, pair: Any) -> Any:
    """The index of the last entry of a user and item, -1: none."""
    link = first_of(j, PAIRS, pair)
    while lives(j, INSTALLS, link):
        index = at(j, INSTALLS, link)
        if get64(words_of(j, INSTALLS), index + I_PAIR) == pair:
            return index
        link = np.int64(words_of(j, INSTALLS)[index + I_NEXT_PAIR])
    return np.int64(-1)


@kernel
def _counts(flags: Any) -> Any:
    """Whether the user has the item by this entry."""
    return flags & LISTED != 0 and flags & (RETRACTED | GONE) == 0


@kernel
def _refresh_newest(j: Any, index: Any) -> None:
    """The entry at `index` doesn't count any more: if its time was the newest of its pair, find the newest again.

    The last entry of a pair has the newest time of all that count, so that one more costs the same as the first.
    """
    words, pair = words_of(j, INSTALLS), get64(words_of(j, INSTALLS), index + I_PAIR)
    head = _pair_head(j, pair)
    if get64(words, head + I_NEWEST) != get64(words, index + I_TIME):
        return
    newest_ms = np.int64(-1)
    link = first_of(j, PAIRS, pair)
    while lives(j, INSTALLS, link):
        found = at(j, INSTALLS, link)
        if get64(words, found + I_PAIR) == pair and _counts(words[found + I_FLAGS]):
            newest_ms = max(newest_ms, get64(words, found + I_TIME))
        link = np.int64(words[found + I_NEXT_PAIR])
    put64(words, head + I_NEWEST, newest_ms)


@kernel
def _newest_ms(j: Any, pair: Any) -> Any:
    head = _pair_head(j, pair)
    return np.int64(-1) if head < 0 else get64(words_of(j, INSTALLS), head + I_NEWEST)


@kernel
def remember_install(j: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any, flags: Any) -> Any:
    """Append an install or retraction; returns its address."""
    length = event[scan.END] - event[scan.BEGIN]
    install = append(j, INSTALLS, install_words(length), offset)
    index, words = at(j, INSTALLS, install), words_of(j, INSTALLS)
    words[index : index + I_RAW] = np.uint32(0)
    put64(words, index + I_TIME, event[scan.TIME])
    put64(words, index + I_INGEST, ingest_ms)
    put64(words, index + I_KEY, event[scan.KEY])
    put64(words, index + I_USER, event[scan.USER])
    put64(words, index + I_ITEM, event[scan.ITEM])
    put64(words, index + I_REQUEST, event[scan.REQUEST])
    put64(words, index + I_PAIR, event[scan.PAIR])
    newest_ms = _newest_ms(j, event[scan.PAIR])
    put64(words, index + I_NEWEST, max(newest_ms, event[scan.TIME]) if _counts(flags) else newest_ms)
    words[index + I_FLAGS], words[index + I_LENGTH] = np.uint32(flags), np.uint32(length)
    word = np.uint32(0)
    for k in range(length):
        word |= np.uint32(raw[event[scan.BEGIN] + k]) << np.uint32(8 * (k & 3))
        if k & 3 == 3 or k == length - 1:
            words[index + I_RAW + (k >> 2)] = word
            word = np.uint32(0)
    insert(j, KEYS, INSTALLS, install, I_KEY, I_NEXT_KEY)
    insert(j, PAIRS, INSTALLS, install, I_PAIR, I_NEXT_PAIR)
    j[INSTALLS_NOW] += 1
    grow(j, KEYS, INSTALLS, j[INSTALLS_NOW], I_KEY, I_NEXT_KEY)
    grow(j, PAIRS, INSTALLS, 4 * j[INSTALLS_NOW], I_PAIR, I_NEXT_PAIR)
    j[HELD_BYTES] += 4 * install_words(length)
    add(j, PENDING, INSTALLS, install, event[scan.TIME], I_TIMER)
    return install


@kernel
def take_install(j: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any) -> None:
    """Take an install or a retraction that isn't late; the watermark was caught up with."""
    known = find_key(j, event[scan.KEY])
    flags = np.int64(LISTED | (RETRACTION | RETRACTED if event[scan.RETRACTED] else 0))
    if known != 0:
        index = at(j, INSTALLS, known)
        stored, words = words_of(j, INSTALLS)[index + I_FLAGS], words_of(j, INSTALLS)
        if not (stored & RETRACTION and get64(words, index + I_TIME) < event[scan.TIME]):
            _take_again(j, index, event, raw, offset, ingest_ms)
            return
        words[index + I_FLAGS] = stored & ~np.uint32(LISTED)
    install = remember_install(j, event, raw, offset, ingest_ms, flags)
    index = at(j, INSTALLS, install)
    emit_history(j, index, _newest_ms(j, event[scan.PAIR]), True)
    if not event[scan.RETRACTED]:
        _find_page(j, install, index, ingest_ms)


@kernel
def _take_again(j: Any, index: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any) -> None:
    """Take an install or retraction whose key the entry at `index` has."""
    words, time_ms, known_ms = words_of(j, INSTALLS), event[scan.TIME], get64(words_of(j, INSTALLS), index + I_TIME)
    flags = words[index + I_FLAGS]
    if event[scan.RETRACTED] and not flags & RETRACTED and time_ms >= known_ms:
        j[N_RETRACTED] += 1
        words[index + I_FLAGS] |= np.uint32(RETRACTED)
        _refresh_newest(j, index)
        detach(j, index, ingest_ms)
        emit_history(j, index, _newest_ms(j, get64(words, index + I_PAIR)), True)
    else:
        j[N_DUPLICATE] += 1
        if not event[scan.RETRACTED]:
            words[index + I_FLAGS] |= np.uint32(MET)
    if event[scan.RETRACTED]:
        later = np.int64(words[index + I_AFTER])
        latest_ms = known_ms if later == 0 else get64(words, at(j, INSTALLS, later) + I_TIME)
        if time_ms > latest_ms:
            made = remember_install(j, event, raw, offset, ingest_ms, np.int64(RETRACTION | RETRACTED | MET))
            words_of(j, INSTALLS)[index + I_AFTER] = np.uint32(made & 0xFFFF_FFFF)
    elif time_ms > max(known_ms, get64(words, index + I_AGAIN)):  # a copy is one as long as the first is read
        put64(words, index + I_AGAIN, time_ms)


@kernel
def note_late(j: Any, number: Any, event: Any) -> None:
    """A late install says no label, but the user's history may still have it."""
    newest_ms = _newest_ms(j, event[scan.PAIR])
    if not event[scan.RETRACTED]:
        newest_ms = max(newest_ms, event[scan.TIME])
    emit_history(j, -1 - number, newest_ms, False)


@kernel
def _find_page(j: Any, install: Any, index: Any, ingest_ms: Any) -> None:
    """Give a new install to the page that it names, or to the newest one that it belongs to, if there is one."""
    words, item = words_of(j, INSTALLS), get64(words_of(j, INSTALLS), index + I_ITEM)
    time_ms, user = get64(words, index + I_TIME), get64(words, index + I_USER)
    request = get64(words, index + I_REQUEST)
    best, best_ms, best_rank, best_position = np.int64(0), np.int64(-1), np.int64(-1), np.int64(-1)
    link = first_of(j, REQUESTS, request) if request != 0 else first_of(j, USERS, user)
    while lives(j, PAGES, link):
        page = at(j, PAGES, link)
        page_ms = get64(words_of(j, PAGES), page + P_TIME)
        if page_ms >= best_ms and get64(words_of(j, PAGES), page + P_USER) == user and is_known(j, page_ms):
            position, rank = fits(j, page, time_ms, request, item), rank_of(j, page, link)
            if position >= 0 and (page_ms, rank) > (best_ms, best_rank):
                best, best_ms, best_rank, best_position = link, page_ms, rank, position
        link = np.int64(words_of(j, PAGES)[page + (P_NEXT_REQUEST if request != 0 else P_NEXT_USER)])
    if best != 0:
        put64(words, index + I_PAGE_TIME, best_ms)
        label = attach(j, best, best_position, install)
        relabel(j, label, index, is_closed(j, best_ms), j[OUT_COUNT], ingest_ms)


@kernel
def counts_on(j: Any, index: Any) -> Any:
    """Whether an install's page is remembered: it may be newer than an install that names it, and outlive that."""
    words = words_of(j, INSTALLS)
    return lives(j, PAGES, words[index + I_PAGE]) and is_known(j, get64(words, index + I_PAGE_TIME))


@kernel
def forget_install(j: Any, install: Any) -> None:
    """Event time has passed an install: nothing can count for it any more."""
    index, words = at(j, INSTALLS, install), words_of(j, INSTALLS)
    flags, time_ms = words[index + I_FLAGS], get64(words, index + I_TIME)
    sure = time_ms > j[FINISHED]
    if words[index + I_PAGE] != 0:
        if not counts_on(j, index):
            unlink(j, index)
    elif flags & RETRACTION:
        # Where the install came after it, that one has its place now.
        j[N_STRAY] += flags & LISTED != 0 and flags & MET == 0 and sure
    elif flags & RETRACTED == 0 and sure and time_ms - j[WINDOW] >= j[UNSURE]:
        j[N_ORGANIC] += 1
        if j[ORGANIC]:
            emit_organic(j, index)
    if flags & LISTED and words[index + I_AFTER] != 0:  # as if it had been read alone, which a restart may do
        later = at(j, INSTALLS, words[index + I_AFTER])
        if words[later + I_FLAGS] & GONE == 0:
            words[later + I_FLAGS] |= np.uint32(LISTED)
    words[index + I_FLAGS] = (words[index + I_FLAGS] | np.uint32(GONE)) & ~np.uint32(LISTED)
    _refresh_newest(j, index)
    j[HELD_BYTES] -= 4 * install_words(np.int64(words[index + I_LENGTH]))
