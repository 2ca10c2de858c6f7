"""An install or a retraction comes, and is forgotten: kernels."""

from typing import Any

import numpy as np

from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import append, at, get64, lives, put64, words_of
from stream.joiner.kernels.chains import first_of, grow, insert
from stream.joiner.kernels.emission import (
    attach,
    detach,
    emit_history,
    emit_organic,
    is_closed,
    is_known,
    relabel,
    unlink,
)  # fmt: skip
from stream.joiner.kernels.pages import fits, rank_of
from stream.joiner.kernels.timers import add
from stream.tables.jit import kernel


@kernel
def install_words(length: Any) -> Any:
    """How many words an install of so many bytes takes."""
    return s.I_RAW + (length + 3 >> 2)


@kernel
def find_key(j: Any, key: Any) -> Any:
    """The install or retraction remembered under a key: low bits of its address, 0: none."""
    words = words_of(j, s.INSTALLS)
    link = first_of(j, s.KEYS, key)
    while lives(j, s.INSTALLS, link):
        index = at(j, s.INSTALLS, link)
        if get64(words, index + s.I_KEY) == key and words[index + s.I_FLAGS] & s.LISTED:
            return link
        link = np.int64(words[index + s.I_NEXT_KEY])
    return np.int64(0)


@kernel
def _pair_head(j: Any, pair: Any) -> Any:
    """The index of the last entry of a user and item, -1: none."""
    link = first_of(j, s.PAIRS, pair)
    while lives(j, s.INSTALLS, link):
        index = at(j, s.INSTALLS, link)
        if get64(words_of(j, s.INSTALLS), index + s.I_PAIR) == pair:
            return index
        link = np.int64(words_of(j, s.INSTALLS)[index + s.I_NEXT_PAIR])
    return np.int64(-1)


@kernel
def _counts(flags: Any) -> Any:
    """Whether the user has the item by this entry."""
    return flags & s.LISTED != 0 and flags & (s.RETRACTED | s.GONE) == 0


@kernel
def _refresh_newest(j: Any, index: Any) -> None:
    """The entry at `index` doesn't count any more: if its time was the newest of its pair, find the newest again.

    The last entry of a pair has the newest time of all that count, so that one more costs the same as the first.
    """
    words, pair = words_of(j, s.INSTALLS), get64(words_of(j, s.INSTALLS), index + s.I_PAIR)
    head = _pair_head(j, pair)
    if get64(words, head + s.I_NEWEST) != get64(words, index + s.I_TIME):
        return
    newest_ms = np.int64(-1)
    link = first_of(j, s.PAIRS, pair)
    while lives(j, s.INSTALLS, link):
        found = at(j, s.INSTALLS, link)
        if get64(words, found + s.I_PAIR) == pair and _counts(words[found + s.I_FLAGS]):
            newest_ms = max(newest_ms, get64(words, found + s.I_TIME))
        link = np.int64(words[found + s.I_NEXT_PAIR])
    put64(words, head + s.I_NEWEST, newest_ms)


@kernel
def _newest_ms(j: Any, pair: Any) -> Any:
    head = _pair_head(j, pair)
    return np.int64(-1) if head < 0 else get64(words_of(j, s.INSTALLS), head + s.I_NEWEST)


@kernel
def remember_install(j: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any, flags: Any) -> Any:
    """Append an install or retraction; returns its address."""
    length = event[scan.END] - event[scan.BEGIN]
    install = append(j, s.INSTALLS, install_words(length), offset)
    index, words = at(j, s.INSTALLS, install), words_of(j, s.INSTALLS)
    words[index : index + s.I_RAW] = np.uint32(0)
    put64(words, index + s.I_TIME, event[scan.TIME])
    put64(words, index + s.I_INGEST, ingest_ms)
    put64(words, index + s.I_KEY, event[scan.KEY])
    put64(words, index + s.I_USER, event[scan.USER])
    put64(words, index + s.I_ITEM, event[scan.ITEM])
    put64(words, index + s.I_REQUEST, event[scan.REQUEST])
    put64(words, index + s.I_PAIR, event[scan.PAIR])
    newest_ms = _newest_ms(j, event[scan.PAIR])
    put64(words, index + s.I_NEWEST, max(newest_ms, event[scan.TIME]) if _counts(flags) else newest_ms)
    words[index + s.I_FLAGS], words[index + s.I_LENGTH] = np.uint32(flags), np.uint32(length)
    word = np.uint32(0)
    for k in range(length):
        word |= np.uint32(raw[event[scan.BEGIN] + k]) << np.uint32(8 * (k & 3))
        if k & 3 == 3 or k == length - 1:
            words[index + s.I_RAW + (k >> 2)] = word
            word = np.uint32(0)
    insert(j, s.KEYS, s.INSTALLS, install, s.I_KEY, s.I_NEXT_KEY)
    insert(j, s.PAIRS, s.INSTALLS, install, s.I_PAIR, s.I_NEXT_PAIR)
    j[s.INSTALLS_NOW] += 1
    grow(j, s.KEYS, s.INSTALLS, j[s.INSTALLS_NOW], s.I_KEY, s.I_NEXT_KEY)
    grow(j, s.PAIRS, s.INSTALLS, 4 * j[s.INSTALLS_NOW], s.I_PAIR, s.I_NEXT_PAIR)
    j[s.HELD_BYTES] += 4 * install_words(length)
    add(j, s.PENDING, s.INSTALLS, install, event[scan.TIME], s.I_TIMER)
    return install


@kernel
def take_install(j: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any) -> None:
    """Take an install or a retraction that isn't late; the watermark was caught up with."""
    known = find_key(j, event[scan.KEY])
    flags = np.int64(s.LISTED | (s.RETRACTION | s.RETRACTED if event[scan.RETRACTED] else 0))
    if known != 0:
        index = at(j, s.INSTALLS, known)
        stored, words = words_of(j, s.INSTALLS)[index + s.I_FLAGS], words_of(j, s.INSTALLS)
        if not (stored & s.RETRACTION and get64(words, index + s.I_TIME) < event[scan.TIME]):
            _take_again(j, index, event, raw, offset, ingest_ms)
            return
        words[index + s.I_FLAGS] = stored & ~np.uint32(s.LISTED)
    install = remember_install(j, event, raw, offset, ingest_ms, flags)
    index = at(j, s.INSTALLS, install)
    emit_history(j, index, _newest_ms(j, event[scan.PAIR]), True)
    if not event[scan.RETRACTED]:
        _find_page(j, install, index, ingest_ms)


@kernel
def _take_again(j: Any, index: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any) -> None:
    """Take an install or retraction whose key the entry at `index` has."""
    words, time_ms, known_ms = (
        words_of(j, s.INSTALLS),
        event[scan.TIME],
        get64(words_of(j, s.INSTALLS), index + s.I_TIME),
    )
    flags = words[index + s.I_FLAGS]
    if event[scan.RETRACTED] and not flags & s.RETRACTED and time_ms >= known_ms:
        j[s.N_RETRACTED] += 1
        words[index + s.I_FLAGS] |= np.uint32(s.RETRACTED)
        _refresh_newest(j, index)
        detach(j, index, ingest_ms)
        emit_history(j, index, _newest_ms(j, get64(words, index + s.I_PAIR)), True)
    else:
        j[s.N_DUPLICATE] += 1
        if not event[scan.RETRACTED]:
            words[index + s.I_FLAGS] |= np.uint32(s.MET)
    if event[scan.RETRACTED]:
        later = np.int64(words[index + s.I_AFTER])
        latest_ms = known_ms if later == 0 else get64(words, at(j, s.INSTALLS, later) + s.I_TIME)
        if time_ms > latest_ms:
            made = remember_install(j, event, raw, offset, ingest_ms, np.int64(s.RETRACTION | s.RETRACTED | s.MET))
            words_of(j, s.INSTALLS)[index + s.I_AFTER] = np.uint32(made & 0xFFFF_FFFF)
    elif time_ms > max(known_ms, get64(words, index + s.I_AGAIN)):  # a copy is one as long as the first is read
        put64(words, index + s.I_AGAIN, time_ms)


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
    words, item = words_of(j, s.INSTALLS), get64(words_of(j, s.INSTALLS), index + s.I_ITEM)
    time_ms, user = get64(words, index + s.I_TIME), get64(words, index + s.I_USER)
    request = get64(words, index + s.I_REQUEST)
    best, best_ms, best_rank, best_position = np.int64(0), np.int64(-1), np.int64(-1), np.int64(-1)
    link = first_of(j, s.REQUESTS, request) if request != 0 else first_of(j, s.USERS, user)
    while lives(j, s.PAGES, link):
        page = at(j, s.PAGES, link)
        page_ms = get64(words_of(j, s.PAGES), page + s.P_TIME)
        if page_ms >= best_ms and get64(words_of(j, s.PAGES), page + s.P_USER) == user and is_known(j, page_ms):
            position, rank = fits(j, page, time_ms, request, item), rank_of(j, page, link)
            if position >= 0 and (page_ms, rank) > (best_ms, best_rank):
                best, best_ms, best_rank, best_position = link, page_ms, rank, position
        link = np.int64(words_of(j, s.PAGES)[page + (s.P_NEXT_REQUEST if request != 0 else s.P_NEXT_USER)])
    if best != 0:
        put64(words, index + s.I_PAGE_TIME, best_ms)
        label = attach(j, best, best_position, install)
        relabel(j, label, index, is_closed(j, best_ms), j[s.OUT_COUNT], ingest_ms)


@kernel
def counts_on(j: Any, index: Any) -> Any:
    """Whether an install's page is remembered: it may be newer than an install that names it, and outlive that."""
    words = words_of(j, s.INSTALLS)
    return lives(j, s.PAGES, words[index + s.I_PAGE]) and is_known(j, get64(words, index + s.I_PAGE_TIME))


@kernel
def forget_install(j: Any, install: Any) -> None:
    """Event time has passed an install: nothing can count for it any more."""
    index, words = at(j, s.INSTALLS, install), words_of(j, s.INSTALLS)
    flags, time_ms = words[index + s.I_FLAGS], get64(words, index + s.I_TIME)
    sure = time_ms > j[s.FINISHED]
    if words[index + s.I_PAGE] != 0:
        if not counts_on(j, index):
            unlink(j, index)
    elif flags & s.RETRACTION:
        # Where the install came after it, that one has its place now.
        j[s.N_STRAY] += flags & s.LISTED != 0 and flags & s.MET == 0 and sure
    elif flags & s.RETRACTED == 0 and sure and time_ms - j[s.WINDOW] >= j[s.UNSURE]:
        j[s.N_ORGANIC] += 1
        if j[s.ORGANIC]:
            emit_organic(j, index)
    if flags & s.LISTED and words[index + s.I_AFTER] != 0:  # as if it had been read alone, which a restart may do
        later = at(j, s.INSTALLS, words[index + s.I_AFTER])
        if words[later + s.I_FLAGS] & s.GONE == 0:
            words[later + s.I_FLAGS] |= np.uint32(s.LISTED)
    words[index + s.I_FLAGS] = (words[index + s.I_FLAGS] | np.uint32(s.GONE)) & ~np.uint32(s.LISTED)
    _refresh_newest(j, index)
    j[s.HELD_BYTES] -= 4 * install_words(np.int64(words[index + s.I_LENGTH]))
