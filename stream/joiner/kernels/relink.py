"""Rebuilds chains and timers of a state that was read from a file. Kernels.

`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any

import numpy as np

from stream.joiner.kernels import chains, emission, timers
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import FRONT, NEXT, get64, index_of, is_live, words_of
from stream.joiner.kernels.array_views import i64_at
from stream.joiner.kernels.installs import install_after, install_bytes
from stream.joiner.kernels.pages import page_after, page_bytes
from stream.tables.jit import kernel


@kernel
def link_all(j: Any) -> None:
    """Rebuild the chains and timers of pages and installs from their entries."""
    words, labels = words_of(j, s.PAGES), i64_at(j[s.LABELS])
    for k in range(1, j[s.LABEL_COUNT]):
        low = labels[k * s.LABEL_NUMBERS + s.L_PAGE]
        if is_live(j, s.PAGES, low):
            words[index_of(j, s.PAGES, low) + s.P_MORE] |= np.uint32(s.HAS_LABELS)
    page = j[s.PAGES + FRONT]
    while page < j[s.PAGES + NEXT]:
        index = index_of(j, s.PAGES, page)
        time_ms = emission.page_ms(j, index)
        chains.insert(j, s.USERS, page)
        chains.insert(j, s.REQUESTS, page)
        if emission.is_retained(j, time_ms):
            closed = emission.is_page_closed(j, index)
            timers.put(j, s.PAGE_EXPIRY if closed else emission.closing_timers(j, index), page, time_ms)
            j[s.OPEN] += not closed
            j[s.RETAINED_BYTES] += page_bytes(emission.item_count(words, index))
        page = page_after(j, page)
    words = words_of(j, s.INSTALLS)
    install = j[s.INSTALLS + FRONT]
    while install < j[s.INSTALLS + NEXT]:
        index = index_of(j, s.INSTALLS, install)
        chains.insert(j, s.KEYS, install)
        chains.insert(j, s.PAIRS, install)
        if words[index + s.I_FLAGS] & s.EXPIRED == 0:
            timers.put(j, s.INSTALL_EXPIRY, install, get64(words, index + s.I_TIME))
            j[s.RETAINED_BYTES] += install_bytes(j, index)
        install = install_after(j, install)
