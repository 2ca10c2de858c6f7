"""Installs and retractions: they are appended, attributed to a page, and expire. Kernels.

`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any

import numpy as np

from stream.joiner.kernels import chains, emission, timers
from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import append, get64, index_of, is_live, next_address, put64, words_of
from stream.joiner.kernels.pages import matching_position, rank_of
from stream.tables.jit import kernel


@kernel
def _install_words(length: Any) -> Any:
    """Number of words of an install whose event has `length` bytes."""
    return s.I_RAW + (length + 3 >> 2)


@kernel
def install_bytes(j: Any, index: Any) -> Any:
    """Size of the install at `index`, bytes."""
    return 4 * _install_words(np.int64(words_of(j, s.INSTALLS)[index + s.I_LENGTH]))


@kernel
def install_after(j: Any, install: Any) -> Any:
    """The address of the next install; NEXT after the last one."""
    words = install_bytes(j, index_of(j, s.INSTALLS, install)) >> 2
    return next_address(j, s.INSTALLS, install, words)


@kernel
def find_by_key(j: Any, key: Any) -> Any:
    """A link to the install or retraction that is listed under a key; 0 if none is."""
    words = words_of(j, s.INSTALLS)
    link = chains.first_link(j, s.KEYS, key)
    while is_live(j, s.INSTALLS, link):
        index = index_of(j, s.INSTALLS, link)
        if get64(words, index + s.I_KEY) == key and words[index + s.I_FLAGS] & s.LISTED:
            return link
        link = np.int64(words[index + s.I_NEXT_KEY])
    return np.int64(0)


@kernel
def _pair_head(j: Any, pair: Any) -> Any:
    """The index of the last entry of a user and item; −1 if there is none."""
    link = chains.first_link(j, s.PAIRS, pair)
    while is_live(j, s.INSTALLS, link):
        index = index_of(j, s.INSTALLS, link)
        if get64(words_of(j, s.INSTALLS), index + s.I_PAIR) == pair:
            return index
        link = np.int64(words_of(j, s.INSTALLS)[index + s.I_NEXT_PAIR])
    return np.int64(-1)


@kernel
def _is_current(flags: Any) -> Any:
    """Whether this entry counts as a current install of the user."""
    return flags & s.LISTED != 0 and flags & (s.RETRACTED | s.EXPIRED) == 0


@kernel
def _refresh_newest(j: Any, index: Any) -> None:
    """Find the newest time of a pair again if the entry at `index`, which doesn't count any more, had it.

    The last entry of a pair has the newest time of all that count, so an insert needs no search.
    """
    words, pair = words_of(j, s.INSTALLS), get64(words_of(j, s.INSTALLS), index + s.I_PAIR)
    head = _pair_head(j, pair)
    if get64(words, head + s.I_NEWEST) != get64(words, index + s.I_TIME):
        return
    newest_ms = np.int64(-1)
    link = chains.first_link(j, s.PAIRS, pair)
    while is_live(j, s.INSTALLS, link):
        found = index_of(j, s.INSTALLS, link)
        if get64(words, found + s.I_PAIR) == pair and _is_current(words[found + s.I_FLAGS]):
            newest_ms = max(newest_ms, get64(words, found + s.I_TIME))
        link = np.int64(words[found + s.I_NEXT_PAIR])
    put64(words, head + s.I_NEWEST, newest_ms)


@kernel
def _newest_ms(j: Any, pair: Any) -> Any:
    head = _pair_head(j, pair)
    return np.int64(-1) if head < 0 else get64(words_of(j, s.INSTALLS), head + s.I_NEWEST)


@kernel
def append_install(j: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any, flags: Any) -> Any:
    """Append an install or retraction; returns its address."""
    length = event[scan.END] - event[scan.BEGIN]
    install = append(j, s.INSTALLS, _install_words(length), offset)
    index, words = index_of(j, s.INSTALLS, install), words_of(j, s.INSTALLS)
    words[index : index + s.I_RAW] = np.uint32(0)
    put64(words, index + s.I_TIME, event[scan.TIME])
    put64(words, index + s.I_INGEST, ingest_ms)
    put64(words, index + s.I_KEY, event[scan.KEY])
    put64(words, index + s.I_USER, event[scan.USER])
    put64(words, index + s.I_ITEM, event[scan.ITEM])
    put64(words, index + s.I_REQUEST, event[scan.REQUEST])
    put64(words, index + s.I_PAIR, event[scan.PAIR])
    newest_ms = _newest_ms(j, event[scan.PAIR])
    put64(words, index + s.I_NEWEST, max(newest_ms, event[scan.TIME]) if _is_current(flags) else newest_ms)
    words[index + s.I_FLAGS], words[index + s.I_LENGTH] = np.uint32(flags), np.uint32(length)
    word = np.uint32(0)
    for k in range(length):
        word |= np.uint32(raw[event[scan.BEGIN] + k]) << np.uint32(8 * (k & 3))
        if k & 3 == 3 or k == length - 1:
            words[index + s.I_RAW + (k >> 2)] = word
            word = np.uint32(0)
    chains.insert(j, s.KEYS, install)
    chains.insert(j, s.PAIRS, install)
    j[s.INSTALL_COUNT] += 1
    chains.grow(j, s.KEYS, j[s.INSTALL_COUNT])
    chains.grow(j, s.PAIRS, 4 * j[s.INSTALL_COUNT])
    j[s.RETAINED_BYTES] += install_bytes(j, index)
    timers.add(j, s.INSTALL_EXPIRY, install, event[scan.TIME])
    return install


@kernel
def _emit_late_history(j: Any, number: Any, event: Any) -> None:
    """Emit the history of a late install: it makes no label, but may still be the newest that the user has."""
    newest_ms = _newest_ms(j, event[scan.PAIR])
    if not event[scan.RETRACTED]:
        newest_ms = max(newest_ms, event[scan.TIME])
    emission.emit_history(j, -1 - number, newest_ms, False)


@kernel
def process_install(j: Any, number: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any) -> None:
    """Process an install or a retraction, a record's `number`-th event; timers up to the watermark have fired.

    One that is older than anything retained is late: it changes the user's history and is rejected.
    """
    if not emission.is_retained(j, event[scan.TIME]):
        _emit_late_history(j, number, event)
        emission.reject_late(j, number, event[scan.TIME])
        return
    known = find_by_key(j, event[scan.KEY])
    flags = np.int64(s.LISTED | (s.RETRACTION | s.RETRACTED if event[scan.RETRACTED] else 0))
    if known != 0:
        index = index_of(j, s.INSTALLS, known)
        stored, words = words_of(j, s.INSTALLS)[index + s.I_FLAGS], words_of(j, s.INSTALLS)
        if not (stored & s.RETRACTION and get64(words, index + s.I_TIME) < event[scan.TIME]):
            _process_repeated(j, index, event, raw, offset, ingest_ms)
            return
        words[index + s.I_FLAGS] = stored & ~np.uint32(s.LISTED)
    install = append_install(j, event, raw, offset, ingest_ms, flags)
    index = index_of(j, s.INSTALLS, install)
    emission.emit_history(j, index, _newest_ms(j, event[scan.PAIR]), True)
    if not event[scan.RETRACTED]:
        _attribute(j, install, index, ingest_ms)


@kernel
def _process_repeated(j: Any, index: Any, event: Any, raw: Any, offset: Any, ingest_ms: Any) -> None:
    """Process an install or retraction whose key the entry at `index` has."""
    words, time_ms = words_of(j, s.INSTALLS), event[scan.TIME]
    flags, first_ms = words[index + s.I_FLAGS], get64(words, index + s.I_TIME)
    if event[scan.RETRACTED] and not flags & s.RETRACTED and time_ms >= first_ms:
        j[s.N_RETRACTED] += 1
        words[index + s.I_FLAGS] |= np.uint32(s.RETRACTED)
        _refresh_newest(j, index)
        emission.detach(j, index, ingest_ms)
        emission.emit_history(j, index, _newest_ms(j, get64(words, index + s.I_PAIR)), True)
    else:
        j[s.N_DUPLICATE] += 1
        if not event[scan.RETRACTED]:
            words[index + s.I_FLAGS] |= np.uint32(s.MATCHED)
    if event[scan.RETRACTED]:
        later = np.int64(words[index + s.I_SUCCESSOR])
        latest_ms = first_ms if later == 0 else get64(words, index_of(j, s.INSTALLS, later) + s.I_TIME)
        if time_ms > latest_ms:
            successor_flags = np.int64(s.RETRACTION | s.RETRACTED | s.MATCHED)
            later = append_install(j, event, raw, offset, ingest_ms, successor_flags)
            words[index + s.I_SUCCESSOR] = np.uint32(later & 0xFFFF_FFFF)
    elif time_ms > max(first_ms, get64(words, index + s.I_DUPLICATE_TIME)):
        # Remember the latest copy: after a restart it may be the first one read.
        put64(words, index + s.I_DUPLICATE_TIME, time_ms)


@kernel
def _attribute(j: Any, install: Any, index: Any, ingest_ms: Any) -> None:
    """Attribute a new install to the page that it names, or to the newest one that it matches, if there is one."""
    words, item = words_of(j, s.INSTALLS), get64(words_of(j, s.INSTALLS), index + s.I_ITEM)
    time_ms, user = get64(words, index + s.I_TIME), get64(words, index + s.I_USER)
    request = get64(words, index + s.I_REQUEST)
    best, best_ms, best_rank, best_position = np.int64(0), np.int64(-1), np.int64(-1), np.int64(-1)
    link = chains.first_link(j, s.REQUESTS, request) if request != 0 else chains.first_link(j, s.USERS, user)
    while is_live(j, s.PAGES, link):
        page_index = index_of(j, s.PAGES, link)
        page_ms, page_user = emission.page_ms(j, page_index), get64(words_of(j, s.PAGES), page_index + s.P_USER)
        if page_ms >= best_ms and page_user == user and emission.is_retained(j, page_ms):
            position = matching_position(j, page_index, time_ms, request, item)
            rank = rank_of(j, page_index, link)
            if position >= 0 and (page_ms, rank) > (best_ms, best_rank):
                best, best_ms, best_rank, best_position = link, page_ms, rank, position
        link = np.int64(words_of(j, s.PAGES)[page_index + (s.P_NEXT_REQUEST if request != 0 else s.P_NEXT_USER)])
    if best != 0:
        put64(words, index + s.I_PAGE_TIME, best_ms)
        label = emission.attach(j, best, best_position, install)
        closed = emission.is_page_closed(j, index_of(j, s.PAGES, best))
        emission.relabel(j, label, index, closed, j[s.OUT_COUNT], ingest_ms)


@kernel
def has_live_page(j: Any, index: Any) -> Any:
    """Whether an install's page is retained: a page that it names may be newer and outlive it."""
    words = words_of(j, s.INSTALLS)
    page_ms = get64(words, index + s.I_PAGE_TIME)
    return is_live(j, s.PAGES, words[index + s.I_PAGE]) and emission.is_retained(j, page_ms)


@kernel
def expire_install(j: Any, install: Any) -> None:
    """Expire an install or retraction: nothing can change it any more."""
    index, words = index_of(j, s.INSTALLS, install), words_of(j, s.INSTALLS)
    flags, time_ms = words[index + s.I_FLAGS], get64(words, index + s.I_TIME)
    sure = time_ms > j[s.FINISHED]
    if words[index + s.I_PAGE] != 0:
        if not has_live_page(j, index):
            emission.unlink(j, index)
    elif flags & s.RETRACTION:
        # An install that came after it is found by the key instead.
        j[s.N_STRAY] += flags & s.LISTED != 0 and flags & s.MATCHED == 0 and sure
    elif flags & s.RETRACTED == 0 and sure and time_ms - j[s.WINDOW] >= j[s.UNSURE]:
        j[s.N_ORGANIC] += 1
        if j[s.ORGANIC]:
            emission.emit_organic(j, index)
    # List the later retraction: a restart may read only that one.
    if flags & s.LISTED and words[index + s.I_SUCCESSOR] != 0:
        later = index_of(j, s.INSTALLS, words[index + s.I_SUCCESSOR])
        if words[later + s.I_FLAGS] & s.EXPIRED == 0:
            words[later + s.I_FLAGS] |= np.uint32(s.LISTED)
    words[index + s.I_FLAGS] = (words[index + s.I_FLAGS] | np.uint32(s.EXPIRED)) & ~np.uint32(s.LISTED)
    _refresh_newest(j, index)
    j[s.RETAINED_BYTES] -= install_bytes(j, index)
