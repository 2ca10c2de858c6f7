"""Kernels that count pages and sessions as their labels come; `ranking_progress.py` says which."""

from typing import Any, Final, NamedTuple

import numpy as np

from learner.training.ranking_figures import SESSION_GAP_MS, rank_group
from stream.tables.dtypes import F32, F64, I64, U8, U64, Bools
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel
from stream.tables.xxh3 import LENGTH_MAX, xxh3_64

PAGES: Final = 4_096  # that wait for labels
PAGE_ITEMS: Final = 64  # larger pages aren't counted
SESSIONS: Final = 1_024  # that go on
SESSION_ITEMS: Final = 256  # a longer session is counted in pieces
RECENT: Final = 1_000  # groups of the window
PAGE_HAND, SESSION_HAND = 8, 2  # slots that are looked through for each page
KINDS: Final = ("page", "session")
UNCOUNTED: Final = ("large", "no slot", "incomplete", "session without slot")  # why a page isn't counted

KEY, USER, SIZE = range(3)  # columns of a page's identity
KNOWN, TIME = 3, 4  # further columns of a group's head: items with a label, event time
CLOCK, PAGE_AT, SESSION_AT, FIRST_UNCOUNTED = 0, 1, 2, 3
LARGE, NO_SLOT, INCOMPLETE, NO_SESSION = range(FIRST_UNCOUNTED, FIRST_UNCOUNTED + len(UNCOUNTED))
P, Y = 0, 1  # a group's predictions and labels; a label of −1: none yet


class RankedExamples(NamedTuple):
    """B examples; those of one page are adjacent."""

    predictions: F32  # f32[B]
    labels: F32  # f32[B]
    members: Bools  # bool[B, S]: which example is in which slice
    corrected: Bools  # bool[B]: whose other label came before
    page: I64  # i64[B], index of its identity
    position: I64  # i64[B]
    time_ms: F64  # f64[B], event time of the page


class RankingState(NamedTuple):
    """R: all and slices; W: words of 64 slices. The last page slot is for pages whose labels come all at once."""

    page_heads: I64  # i64[PAGES + 1, 5]: key (0: free), user, items, items with a label, event time
    page_items: F32  # f32[PAGES + 1, 2, PAGE_ITEMS]: predictions and labels
    page_members: U64  # u64[PAGES + 1, PAGE_ITEMS, W]: slices of each item, as bits
    session_heads: I64  # i64[SESSIONS, 5]: the same; the time of the newest page
    session_items: F32  # f32[SESSIONS, 2, SESSION_ITEMS]
    session_members: U64  # u64[SESSIONS, SESSION_ITEMS, W]
    ranking_sums: F64  # f64[2, R, 6]: of pages and of sessions, what `sums_of` adds up
    ranking_recent: F64  # f64[2, R, RECENT, 4]: rings of groups' figures
    ranking_counts: I64  # i64[2, R]: groups
    ranking_clock: I64  # i64[3 + UNCOUNTED]: greatest event time, next slots to look through, pages not counted


@kernel
def text_hash(text: U8) -> np.uint64:
    """Hash of a text that isn't empty, by its first LENGTH_MAX octets; not 0."""
    return max(xxh3_64(text, min(text.shape[0], LENGTH_MAX)), np.uint64(1))


@kernel
def fill_identity(identity: I64, request: Any, user: Any, time_ms: Any, first_item: Any, items: Any) -> None:
    """A page's identity: its key, from hashes of its request id and first item (further pages may share the id), its
    user, and its number of items."""
    key = max(mix(mix(request, np.uint64(time_ms)), first_item), np.uint64(1))
    identity[KEY], identity[USER], identity[SIZE] = np.uint64(key).view(np.int64), np.uint64(user).view(np.int64), items


@kernel
def record_pages(
    state: RankingState, examples: RankedExamples, identities: I64, stop: int, life_ms: int, settles: bool
) -> Any:
    """Count the pages whose examples end by `stop`; returns where the next one begins."""
    page = examples.page
    clock, i = state.ranking_clock, 0
    while i < stop:
        p, end = page[i], i + 1
        while end < page.shape[0] and page[end] == p:
            end += 1
        if end > stop:
            break
        identity, time = identities[p], np.int64(examples.time_ms[i])
        clock[CLOCK] = max(clock[CLOCK], time)
        _sweep(state, life_ms, settles)
        at_once = end - i == identity[SIZE] and not settles
        slot = _slot_of(state, identity, time, examples.corrected[i], at_once, life_ms, settles)
        if slot >= 0:
            _fill(state, slot, examples, i, end)
            if state.page_heads[slot, KNOWN] == identity[SIZE] and not settles:
                _complete(state, slot, life_ms)
        i = end
    return i


@kernel
def _sweep(state: RankingState, life_ms: int, settles: bool) -> None:
    """Look through some slots for pages and sessions that are over."""
    clock = state.ranking_clock
    for _ in range(PAGE_HAND):
        slot = clock[PAGE_AT]
        clock[PAGE_AT] = (slot + 1) % PAGES
        if state.page_heads[slot, KEY] != 0 and clock[CLOCK] - state.page_heads[slot, TIME] > life_ms:
            _leave(state, slot, life_ms, settles)
    for _ in range(SESSION_HAND):
        slot = clock[SESSION_AT]
        clock[SESSION_AT] = (slot + 1) % SESSIONS
        head = state.session_heads[slot]
        if head[KEY] != 0 and clock[CLOCK] - head[TIME] > life_ms + SESSION_GAP_MS:
            _end_session(state, slot)


@kernel
def _slot_of(
    state: RankingState, identity: I64, time: Any, corrects: Any, at_once: bool, life_ms: int, settles: bool
) -> Any:
    """The page's slot, new or not; −1: it isn't counted."""
    heads, clock = state.page_heads, state.ranking_clock
    slot = np.int64(np.uint64(identity[KEY]) % np.uint64(PAGES))
    if heads[slot, KEY] == identity[KEY]:
        return slot
    if corrects:  # of a page that is counted, or never was
        return np.int64(-1)
    if identity[SIZE] > PAGE_ITEMS:
        clock[LARGE] += 1
        return np.int64(-1)
    if at_once:
        slot = np.int64(PAGES)
    elif heads[slot, KEY] != 0:
        if clock[CLOCK] - heads[slot, TIME] <= life_ms:
            clock[NO_SLOT] += 1
            return np.int64(-1)
        _leave(state, slot, life_ms, settles)
    for column in range(3):
        heads[slot, column] = identity[column]
    heads[slot, KNOWN], heads[slot, TIME] = 0, time
    for item in range(identity[SIZE]):
        state.page_items[slot, Y, item] = -1.0
    return slot


@kernel
def _fill(state: RankingState, slot: Any, examples: RankedExamples, begin: int, end: int) -> None:
    """Set items' labels; their predictions and slices if it's the first."""
    items, members = state.page_items[slot], examples.members
    for i in range(begin, end):
        item, p = examples.position[i], examples.predictions[i]
        if items[Y, item] >= 0.0:
            if examples.corrected[i]:
                items[Y, item] = examples.labels[i]
        elif not examples.corrected[i]:
            items[Y, item] = examples.labels[i]
            items[P, item] = p if p == p else np.float32(-1.0)  # NaN is the last
            state.page_heads[slot, KNOWN] += 1
            words = state.page_members[slot, item]
            words[:] = np.uint64(0)
            for s in range(members.shape[1]):
                if members[i, s]:
                    words[s // 64] |= np.uint64(1) << np.uint64(s % 64)


@kernel
def _leave(state: RankingState, slot: Any, life_ms: int, settles: bool) -> None:
    """No label comes any more."""
    head = state.page_heads[slot]
    if settles and head[KNOWN] == head[SIZE]:
        _complete(state, slot, life_ms)
    else:
        state.ranking_clock[INCOMPLETE] += 1
        head[KEY] = 0


@kernel
def _complete(state: RankingState, slot: Any, life_ms: int) -> None:
    """Count a page, and add it to its session."""
    page, clock = state.page_heads[slot], state.ranking_clock
    size, items = page[SIZE], state.page_items[slot]
    _count(state, 0, items, state.page_members[slot], size)
    page[KEY] = 0
    at = np.int64(np.uint64(page[USER]) % np.uint64(SESSIONS))
    head = state.session_heads[at]
    goes_on = head[KEY] == page[USER] and abs(page[TIME] - head[TIME]) <= SESSION_GAP_MS
    if head[KEY] != 0 and not (goes_on and head[SIZE] + size <= SESSION_ITEMS):
        if head[KEY] != page[USER] and clock[CLOCK] - head[TIME] <= life_ms + SESSION_GAP_MS:
            clock[NO_SESSION] += 1
            return
        _end_session(state, at)
    if head[KEY] == 0:
        head[KEY], head[USER], head[SIZE], head[TIME] = page[USER], page[USER], 0, page[TIME]
    head[TIME] = max(head[TIME], page[TIME])
    for item in range(size):
        for side in range(2):
            state.session_items[at, side, head[SIZE] + item] = items[side, item]
        for word in range(state.page_members.shape[2]):
            state.session_members[at, head[SIZE] + item, word] = state.page_members[slot, item, word]
    head[SIZE] += size


@kernel
def _end_session(state: RankingState, slot: Any) -> None:
    head = state.session_heads[slot]
    _count(state, 1, state.session_items[slot], state.session_members[slot], head[SIZE])
    head[KEY] = 0


@kernel
def _count(state: RankingState, kind: int, items: F32, members: U64, size: int) -> None:
    """Add a group's figures, over all and over each slice, where it has both labels."""
    positives = 0
    for item in range(size):
        positives += items[Y, item] > 0.5
    if positives == 0 or positives == size:
        return
    order = np.argsort(-items[P, :size], kind="mergesort")
    sorted_items = np.empty((2, size), np.float32)
    for s in range(state.ranking_counts.shape[1]):
        count = 0
        for item in order:
            if s == 0 or members[item, (s - 1) // 64] >> np.uint64((s - 1) % 64) & np.uint64(1):
                sorted_items[P, count], sorted_items[Y, count] = items[P, item], items[Y, item]
                count += 1
        auc, ndcg, hit = rank_group(sorted_items[P], sorted_items[Y], 0, count)
        if auc != auc:
            continue
        slot = state.ranking_counts[kind, s] % RECENT
        row, sums = state.ranking_recent[kind, s, slot], state.ranking_sums[kind, s]
        row[0], row[1], row[2], row[3] = count, auc, ndcg, hit
        sums[0] += count
        sums[1] += count * auc
        sums[2] += 1.0
        sums[3] += ndcg
        if hit == hit:
            sums[4] += 1.0
            sums[5] += hit
        state.ranking_counts[kind, s] += 1
