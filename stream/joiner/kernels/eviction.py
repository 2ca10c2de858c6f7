"""Evicts expired pages and installs from the arenas' fronts, and marks of records that a restart skips. Kernels.

`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any

import numpy as np

from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import FRONT, NEXT, advance_front, get64, index_of, is_live, words_of
from stream.joiner.kernels.array_views import i64_at, u32_at
from stream.joiner.kernels.emission import is_retained, page_ms, retained_until_ms
from stream.joiner.kernels.installs import has_live_page, install_after
from stream.joiner.kernels.pages import page_after
from stream.tables.jit import kernel


@kernel
def mark_record(j: Any, offset: Any) -> None:
    """Add a mark where a record begins."""
    marks, mark = i64_at(j[s.MARKS]), s.MARK * j[s.MARKS_END]
    marks[mark + s.M_OFFSET], marks[mark + s.M_WATERMARK] = offset, j[s.WATERMARK]
    marks[mark + s.M_PAGES], marks[mark + s.M_INSTALLS] = j[s.PAGES + NEXT], j[s.INSTALLS + NEXT]
    j[s.MARKS_END] += 1


@kernel
def evict(j: Any) -> None:
    """Evict unneeded entries from the fronts, then marks whose record has no entry left."""
    front, passed = j[s.PAGES + FRONT], np.int64(0)
    while front < j[s.PAGES + NEXT] and not _is_page_needed(j, front):
        front = page_after(j, front)
        passed += 1
    if passed > 0:
        advance_front(j, s.PAGES, min(front, j[s.PAGES + NEXT]))
        j[s.PAGE_COUNT] -= passed
    front, passed = j[s.INSTALLS + FRONT], np.int64(0)
    while front < j[s.INSTALLS + NEXT] and not _is_install_needed(j, front):
        front = install_after(j, front)
        passed += 1
    if passed > 0:
        advance_front(j, s.INSTALLS, min(front, j[s.INSTALLS + NEXT]))
        j[s.INSTALL_COUNT] -= passed
    marks, begin, end = i64_at(j[s.MARKS]), j[s.MARKS_BEGIN], j[s.MARKS_END]
    last = s.MARK * (end - 1)
    if j[s.PAGES + FRONT] == j[s.PAGES + NEXT] and j[s.INSTALLS + FRONT] == j[s.INSTALLS + NEXT]:
        begin = end
    elif marks[last + s.M_PAGES] == j[s.PAGES + NEXT] and marks[last + s.M_INSTALLS] == j[s.INSTALLS + NEXT]:
        end -= 1  # nothing of the last record is retained
    while (
        begin + 1 < end
        and marks[s.MARK * (begin + 1) + s.M_PAGES] <= j[s.PAGES + FRONT]
        and marks[s.MARK * (begin + 1) + s.M_INSTALLS] <= j[s.INSTALLS + FRONT]
    ):
        begin += 1
    j[s.MARKS_BEGIN], j[s.MARKS_END] = begin, end


@kernel
def _is_page_needed(j: Any, page: Any) -> Any:
    """Whether a restart must read a page again: it's retained, or a later copy or an install of it is."""
    index = index_of(j, s.PAGES, page)
    if is_retained(j, page_ms(j, index)):
        return True
    if words_of(j, s.PAGES)[index + s.P_MORE] & s.HAS_LABELS == 0:
        return False
    if is_retained(j, retained_until_ms(j, index, page)):
        return True
    if not j[s.ORGANIC]:
        return False
    labels = i64_at(j[s.LABELS])
    found = np.int64(u32_at(j[s.LABEL_HEADS])[s.label_bucket(j, page & 0xFFFF_FFFF)]) * s.LABEL_NUMBERS
    while found != 0:
        first, last = labels[found + s.L_FIRST], labels[found + s.L_LAST]
        if labels[found + s.L_PAGE] == page & 0xFFFF_FFFF and _has_pending(j, first, last):
            return True
        found = labels[found + s.L_LINK] * s.LABEL_NUMBERS
    return False


@kernel
def _is_install_needed(j: Any, install: Any) -> Any:
    """Whether a restart must read an install again: it's retained, or a later copy or its page is."""
    index, words = index_of(j, s.INSTALLS, install), words_of(j, s.INSTALLS)
    if words[index + s.I_FLAGS] & s.EXPIRED == 0 or is_retained(j, get64(words, index + s.I_DUPLICATE_TIME)):
        return True
    return words[index + s.I_PAGE] != 0 and has_live_page(j, index)


@kernel
def _has_pending(j: Any, first: Any, last: Any) -> Any:
    """Whether one of a label's installs hasn't expired; from both ends, since some between may be evicted."""
    words = words_of(j, s.INSTALLS)
    while is_live(j, s.INSTALLS, first):
        index = index_of(j, s.INSTALLS, first)
        if words[index + s.I_FLAGS] & s.EXPIRED == 0:
            return True
        first = np.int64(words[index + s.I_FOLLOWING])
    while is_live(j, s.INSTALLS, last):
        index = index_of(j, s.INSTALLS, last)
        if words[index + s.I_FLAGS] & s.EXPIRED == 0:
            return True
        last = np.int64(words[index + s.I_PREVIOUS])
    return False
