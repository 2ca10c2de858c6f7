"""Pages: they are appended, extend an earlier page of their request, and claim installs that came before. Kernels.

`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any

import numpy as np

from stream.events.types import ITEMS_MAX
from stream.joiner.kernels import chains, emission, timers
from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import (
    append,
    base_offset,
    full_address,
    get64,
    index_of,
    is_live,
    next_address,
    put64,
    words_of,
)
from stream.joiner.kernels.array_views import i64_at
from stream.joiner.kernels.hashes import pair_hash
from stream.tables.jit import kernel


@kernel
def _page_words(size: Any) -> Any:
    """Number of words of a page of `size` items."""
    return s.P_ITEMS + size + (size + 1 >> 1)


@kernel
def page_bytes(size: Any) -> Any:
    """Size of a page of `size` items with its share of the tables, bytes."""
    return s.PAGE_BYTES + 4 * (size + (size + 1 >> 1))


@kernel
def page_after(j: Any, page: Any) -> Any:
    """The address of the next page; NEXT after the last one."""
    size = emission.item_count(words_of(j, s.PAGES), index_of(j, s.PAGES, page))
    return next_address(j, s.PAGES, page, _page_words(size))


@kernel
def find_by_request(j: Any, request: Any) -> Any:
    """A link to the first page retained under a request id; 0 if none is."""
    words, found = words_of(j, s.PAGES), np.int64(0)
    link = chains.first_link(j, s.REQUESTS, request)
    while is_live(j, s.PAGES, link):
        index = index_of(j, s.PAGES, link)
        if get64(words, index + s.P_REQUEST) == request and emission.is_retained(j, emission.page_ms(j, index)):
            found = link
        link = np.int64(words[index + s.P_NEXT_REQUEST])
    return found


@kernel
def matching_position(j: Any, index: Any, time_ms: Any, request: Any, item: Any) -> Any:
    """The position on the page at `index` of an install of this time, request id (0: none) and item; −1: no match."""
    words, page_ms = words_of(j, s.PAGES), emission.page_ms(j, index)
    early_ms = j[s.SKEW] if request != 0 else np.int64(0)
    if not page_ms - early_ms <= time_ms < page_ms + j[s.WINDOW]:
        return np.int64(-1)
    if request != 0 and request != get64(words, index + s.P_REQUEST):
        return np.int64(-1)
    return emission.position_of(words, index, item)


@kernel
def rank_of(j: Any, index: Any, link: Any) -> Any:
    """Of two pages of one event time, the greater rank is newer. A page that extends another has that one's rank."""
    words = words_of(j, s.PAGES)
    if words[index + s.P_MORE] & s.EXTENDS:
        link = find_by_request(j, get64(words, index + s.P_REQUEST))
    return full_address(j, s.PAGES, link)


@kernel
def is_claimable(j: Any, install_index: Any, page_index: Any, rank: Any, position: Any) -> Any:
    """Whether a new page claims an earlier install for `position`; `rank`: the page's."""
    words = words_of(j, s.INSTALLS)
    flags = words[install_index + s.I_FLAGS]
    time_ms = get64(words, install_index + s.I_TIME)
    if flags & (s.RETRACTED | s.EXPIRED) or not flags & s.LISTED or time_ms + j[s.EARLY_WAIT] <= j[s.WATERMARK]:
        return False
    other = np.int64(words[install_index + s.I_PAGE])
    if other != 0:
        other_ms, page_ms = get64(words, install_index + s.I_PAGE_TIME), emission.page_ms(j, page_index)
        if other_ms > page_ms:
            return False
        if other_ms == page_ms and is_live(j, s.PAGES, other) and rank_of(j, index_of(j, s.PAGES, other), other) > rank:
            return False
    pages = words_of(j, s.PAGES)
    item = emission.page_item(pages, page_index, emission.item_count(pages, page_index), position)
    return matching_position(j, page_index, time_ms, get64(words, install_index + s.I_REQUEST), item) == position


@kernel
def count_candidates(j: Any, event: Any, hashes: Any) -> Any:
    """How many installs that a page may claim are retained: its user's, of its items."""
    count = np.int64(0)
    for k in range(event[scan.ITEMS], event[scan.ITEMS] + event[scan.SIZE]):
        pair = pair_hash(event[scan.USER], hashes[k])
        link = chains.first_link(j, s.PAIRS, pair)
        while is_live(j, s.INSTALLS, link):
            index = index_of(j, s.INSTALLS, link)
            count += get64(words_of(j, s.INSTALLS), index + s.I_PAIR) == pair
            link = np.int64(words_of(j, s.INSTALLS)[index + s.I_NEXT_PAIR])
    return count


@kernel
def claim_installs(j: Any, page: Any, count: Any, ingest_ms: Any) -> None:
    """Let a new page claim the installs that came before it, `count` at most, and emit its first labels."""
    index = index_of(j, s.PAGES, page)
    words, user = words_of(j, s.PAGES), get64(words_of(j, s.PAGES), index + s.P_USER)
    size = emission.item_count(words, index)
    found, positions = np.empty(count, np.int64), np.empty(count, np.int64)
    rank = rank_of(j, index, page)
    n = np.int64(0)
    for position in range(size):
        pair = pair_hash(user, emission.page_item(words, index, size, position))
        link = chains.first_link(j, s.PAIRS, pair)
        while is_live(j, s.INSTALLS, link):
            install_index = index_of(j, s.INSTALLS, link)
            is_of_pair = get64(words_of(j, s.INSTALLS), install_index + s.I_PAIR) == pair
            if is_of_pair and is_claimable(j, install_index, index, rank, position):
                found[n], positions[n] = full_address(j, s.INSTALLS, link), position
                n += 1
            link = np.int64(words_of(j, s.INSTALLS)[install_index + s.I_NEXT_PAIR])
    for k in range(n):
        if words_of(j, s.INSTALLS)[index_of(j, s.INSTALLS, found[k]) + s.I_PAGE] == 0:
            j[s.N_EARLY] += 1
    order = np.argsort(found[:n])  # in the order of the log
    for k in order:
        emission.detach(j, index_of(j, s.INSTALLS, found[k]), ingest_ms)
    batch = j[s.OUT_COUNT]
    if j[s.POLICY] == s.FAKE_NEGATIVE:
        batch = emission.emit_pending(j, page, ingest_ms)
    for k in order:
        install_index = index_of(j, s.INSTALLS, found[k])
        put64(words_of(j, s.INSTALLS), install_index + s.I_PAGE_TIME, get64(words, index + s.P_TIME))
        label = emission.attach(j, page, positions[k], found[k])
        emission.relabel(j, label, install_index, False, batch, ingest_ms)


@kernel
def append_page(j: Any, event: Any, hashes: Any, time_ms: Any, base: Any, offset: Any) -> Any:
    """Append a page at `time_ms`, its own event time or that of the page that it extends; returns its address."""
    size = event[scan.SIZE]
    page = append(j, s.PAGES, _page_words(size), offset)
    index, words = index_of(j, s.PAGES, page), words_of(j, s.PAGES)
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
    chains.insert(j, s.USERS, page)
    chains.insert(j, s.REQUESTS, page)
    j[s.PAGE_COUNT] += 1
    chains.grow(j, s.USERS, j[s.PAGE_COUNT])
    chains.grow(j, s.REQUESTS, j[s.PAGE_COUNT])
    j[s.RETAINED_BYTES] += page_bytes(size)
    return page


@kernel
def needs_catching_up(j: Any, event: Any, hashes: Any) -> Any:
    """Whether timers up to the watermark must fire before this page is processed; else they can wait."""
    if j[s.POLICY] == s.FAKE_NEGATIVE or emission.is_closed(j, event[scan.TIME], event[scan.REQUEST]):
        return True
    return find_by_request(j, event[scan.REQUEST]) != 0 or count_candidates(j, event, hashes) > 0


@kernel
def process_page(j: Any, event: Any, hashes: Any, offset: Any, ingest_ms: Any) -> None:
    """Process a page that isn't late; if it `needs_catching_up`, timers up to the watermark have fired."""
    first = find_by_request(j, event[scan.REQUEST])
    if first != 0:
        _process_repeated(j, first, event, hashes, offset, ingest_ms)
        return
    page = append_page(j, event, hashes, event[scan.TIME], np.int64(0), offset)
    _open_page(j, page, event, hashes, ingest_ms)


@kernel
def _open_page(j: Any, page: Any, event: Any, hashes: Any, ingest_ms: Any) -> None:
    """Emit the first labels of a new page, and set its timer."""
    index = index_of(j, s.PAGES, page)
    time_ms = emission.page_ms(j, index)
    count = count_candidates(j, event, hashes)
    more = words_of(j, s.PAGES)[index + s.P_MORE]
    if count > 0 or (more & s.EXTENDS and j[s.POLICY] == s.FAKE_NEGATIVE):
        claim_installs(j, page, count, ingest_ms)
    elif j[s.POLICY] == s.FAKE_NEGATIVE and more & s.SILENT == 0:
        emission.emit_negatives(j, index, ingest_ms)
    if emission.is_page_closed(j, index):
        emission.close_page(j, page, ingest_ms)
        timers.add(j, s.PAGE_EXPIRY, page, time_ms)
    else:
        j[s.OPEN] += 1
        timers.add(j, emission.closing_timers(j, index), page, time_ms)


@kernel
def _process_repeated(j: Any, first: Any, event: Any, hashes: Any, offset: Any, ingest_ms: Any) -> None:
    """Process a page whose request id is retained: a duplicate, or more items of the same page.

    Read without the first page it would count as a page of its own, at its own time. So the first page's record is
    retained as long as that page would be; with organic installs as long as one that matches either may be pending.
    """
    words, index = words_of(j, s.PAGES), index_of(j, s.PAGES, first)
    first_ms, time_ms = get64(words, index + s.P_TIME), event[scan.TIME]
    new, base = np.int64(0), np.int64(0)
    if get64(words, index + s.P_USER) == event[scan.USER]:
        new, base = _zero_shown_items(j, event, hashes)
    if time_ms > first_ms or (new > 0 and time_ms < first_ms and j[s.ORGANIC]):
        latest_ms = max(first_ms, time_ms)
        until_ms = latest_ms + j[s.WINDOW] if j[s.ORGANIC] else latest_ms
        label = emission.find_or_add_label(j, first, np.int64(s.NO_POSITION))
        until_ms = max(until_ms, emission.retained_until_ms(j, index, first))
        i64_at(j[s.LABELS])[label + s.L_RETAINED_UNTIL] = until_ms
    if new == 0:
        j[s.N_DUPLICATE] += 1
        return
    j[s.N_EXTENDED] += 1
    page = append_page(j, event, hashes, first_ms, base, offset)
    words_of(j, s.PAGES)[index_of(j, s.PAGES, page) + s.P_MORE] |= np.uint32(s.EXTENDS)
    _open_page(j, page, event, hashes, ingest_ms)


@kernel
def _zero_shown_items(j: Any, event: Any, hashes: Any) -> Any:
    """Zero the hashes of items that its request has shown or that exceed ITEMS_MAX; (new items, items shown before)."""
    words, begin, size = words_of(j, s.PAGES), event[scan.ITEMS], event[scan.SIZE]
    shown = np.int64(0)
    link = chains.first_link(j, s.REQUESTS, event[scan.REQUEST])
    while is_live(j, s.PAGES, link):
        index = index_of(j, s.PAGES, link)
        is_of_request = get64(words, index + s.P_REQUEST) == event[scan.REQUEST]
        if is_of_request and emission.is_retained(j, emission.page_ms(j, index)):
            shown_size = emission.item_count(words, index)
            for k in range(shown_size):
                shown += emission.page_item(words, index, shown_size, k) != 0
            for k in range(begin, begin + size):
                if hashes[k] != 0 and emission.position_of(words, index, hashes[k]) >= 0:
                    hashes[k] = 0
        link = np.int64(words[index + s.P_NEXT_REQUEST])
    new = np.int64(0)
    for k in range(begin, begin + size):
        if hashes[k] != 0 and shown + new >= ITEMS_MAX:
            hashes[k] = 0
        new += hashes[k] != 0
    return new, shown
