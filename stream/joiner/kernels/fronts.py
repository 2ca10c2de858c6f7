"""What is forgotten is given up from the front, and with it the marks of records that a restart needn't read again."""

from typing import Any

import numpy as np

from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import FRONT, NEXT, after, at, get64, lives, pass_chunks, words_of
from stream.joiner.kernels.emission import holds_back, is_known, page_size
from stream.joiner.kernels.installs import counts_on, install_words
from stream.joiner.kernels.memory import i64_at, u32_at
from stream.joiner.kernels.pages import page_words
from stream.tables.jit import kernel


@kernel
def mark_record(j: Any, offset: Any) -> None:
    """Note where a record begins."""
    marks, mark = i64_at(j[s.MARKS]), s.MARK * j[s.MARKS_END]
    marks[mark + s.M_OFFSET], marks[mark + s.M_WATERMARK] = offset, j[s.WATERMARK]
    marks[mark + s.M_PAGES], marks[mark + s.M_INSTALLS] = j[s.PAGES + NEXT], j[s.INSTALLS + NEXT]
    j[s.MARKS_END] += 1


@kernel
def pass_fronts(j: Any) -> None:
    """Give up what is forgotten, from the front; then the marks of records of which nothing is left."""
    marks = i64_at(j[s.MARKS])
    front, passed = j[s.PAGES + FRONT], np.int64(0)
    while front < j[s.PAGES + NEXT] and not _is_page_needed(j, front):
        front = after(j, s.PAGES, front, page_words(page_size(words_of(j, s.PAGES), at(j, s.PAGES, front))))
        passed += 1
    if passed > 0:
        pass_chunks(j, s.PAGES, min(front, j[s.PAGES + NEXT]))
        j[s.PAGES_NOW] -= passed
    front, passed = j[s.INSTALLS + FRONT], np.int64(0)
    while front < j[s.INSTALLS + NEXT] and not _is_install_needed(j, front):
        front = after(
            j,
            s.INSTALLS,
            front,
            install_words(np.int64(words_of(j, s.INSTALLS)[at(j, s.INSTALLS, front) + s.I_LENGTH])),
        )
        passed += 1
    if passed > 0:
        pass_chunks(j, s.INSTALLS, min(front, j[s.INSTALLS + NEXT]))
        j[s.INSTALLS_NOW] -= passed
    begin, end = j[s.MARKS_BEGIN], j[s.MARKS_END]
    nothing = j[s.PAGES + FRONT] == j[s.PAGES + NEXT] and j[s.INSTALLS + FRONT] == j[s.INSTALLS + NEXT]
    if nothing:
        begin = end
    elif (
        marks[s.MARK * (end - 1) + s.M_PAGES] == j[s.PAGES + NEXT]
        and marks[s.MARK * (end - 1) + s.M_INSTALLS] == j[s.INSTALLS + NEXT]
    ):
        end -= 1  # the last record has nothing that is remembered
    while (
        begin + 1 < end
        and marks[s.MARK * (begin + 1) + s.M_PAGES] <= j[s.PAGES + FRONT]
        and marks[s.MARK * (begin + 1) + s.M_INSTALLS] <= j[s.INSTALLS + FRONT]
    ):
        begin += 1
    j[s.MARKS_BEGIN], j[s.MARKS_END] = begin, end


@kernel
def _is_page_needed(j: Any, page: Any) -> Any:
    """Whether a restart must read a page again: it's remembered, or a later copy or an install of it is."""
    index = at(j, s.PAGES, page)
    if is_known(j, get64(words_of(j, s.PAGES), index + s.P_TIME)):
        return True
    if words_of(j, s.PAGES)[index + s.P_MORE] & s.TOUCHED == 0:
        return False
    if is_known(j, holds_back(j, index, page)):
        return True
    if not j[s.ORGANIC]:
        return False
    labels = i64_at(j[s.LABELS])
    found = np.int64(u32_at(j[s.LABEL_HEADS])[s.label_bucket(j, page & 0xFFFF_FFFF)]) * s.LABEL_NUMBERS
    while found != 0:
        if labels[found + s.L_PAGE] == page & 0xFFFF_FFFF and _has_pending(
            j, labels[found + s.L_FIRST], labels[found + s.L_LAST]
        ):
            return True
        found = labels[found + s.L_LINK] * s.LABEL_NUMBERS
    return False


@kernel
def _is_install_needed(j: Any, install: Any) -> Any:
    """Whether a restart must read an install again: it's remembered, or a later copy of it is."""
    index = at(j, s.INSTALLS, install)
    words = words_of(j, s.INSTALLS)
    if words[index + s.I_FLAGS] & s.GONE == 0 or is_known(j, get64(words, index + s.I_AGAIN)):
        return True
    return words[index + s.I_PAGE] != 0 and counts_on(j, index)


@kernel
def _has_pending(j: Any, first: Any, last: Any) -> Any:
    """Whether one of a label's installs isn't forgotten; from both ends, since some may be passed."""
    words = words_of(j, s.INSTALLS)
    while lives(j, s.INSTALLS, first):
        index = at(j, s.INSTALLS, first)
        if words[index + s.I_FLAGS] & s.GONE == 0:
            return True
        first = np.int64(words[index + s.I_BEHIND])
    while lives(j, s.INSTALLS, last):
        index = at(j, s.INSTALLS, last)
        if words[index + s.I_FLAGS] & s.GONE == 0:
            return True
        last = np.int64(words[index + s.I_BEFORE])
    return False
