"""Chains and timers of a state that was read from a file."""

from typing import Any

import numpy as np

from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import FRONT, NEXT, after, at, get64, lives, words_of
from stream.joiner.kernels.chains import insert
from stream.joiner.kernels.emission import is_closed, is_known, page_size
from stream.joiner.kernels.installs import install_words
from stream.joiner.kernels.memory import i64_at
from stream.joiner.kernels.pages import page_bytes, page_words
from stream.joiner.kernels.timers import put
from stream.tables.jit import kernel


@kernel
def link_all(j: Any) -> None:
    """Make chains and timers of pages and installs anew from their entries, which were read from a file."""
    words, labels = words_of(j, s.PAGES), i64_at(j[s.LABELS])
    for k in range(1, j[s.LABEL_COUNT]):
        low = labels[k * s.LABEL_NUMBERS + s.L_PAGE]
        if lives(j, s.PAGES, low):
            words[at(j, s.PAGES, low) + s.P_MORE] |= np.uint32(s.TOUCHED)
    page = j[s.PAGES + FRONT]
    while page < j[s.PAGES + NEXT]:
        index = at(j, s.PAGES, page)
        time_ms, size = get64(words, index + s.P_TIME), page_size(words, index)
        insert(j, s.USERS, s.PAGES, page, s.P_USER, s.P_NEXT_USER)
        insert(j, s.REQUESTS, s.PAGES, page, s.P_REQUEST, s.P_NEXT_REQUEST)
        if is_known(j, time_ms):
            closed = is_closed(j, time_ms)
            put(j, s.KNOWN if closed else s.CLOSING, s.PAGES, page, time_ms, s.P_TIMER)
            j[s.OPEN] += not closed
            j[s.HELD_BYTES] += page_bytes(size)
        page = after(j, s.PAGES, page, page_words(size))
    words = words_of(j, s.INSTALLS)
    install = j[s.INSTALLS + FRONT]
    while install < j[s.INSTALLS + NEXT]:
        index = at(j, s.INSTALLS, install)
        length = np.int64(words[index + s.I_LENGTH])
        insert(j, s.KEYS, s.INSTALLS, install, s.I_KEY, s.I_NEXT_KEY)
        insert(j, s.PAIRS, s.INSTALLS, install, s.I_PAIR, s.I_NEXT_PAIR)
        if words[index + s.I_FLAGS] & s.GONE == 0:
            put(j, s.PENDING, s.INSTALLS, install, get64(words, index + s.I_TIME), s.I_TIMER)
            j[s.HELD_BYTES] += 4 * install_words(length)
        install = after(j, s.INSTALLS, install, install_words(length))
