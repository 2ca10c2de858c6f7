"""Erases a user from the state: pages and installs stay as numbers of nobody, until they are evicted. Kernels.

`j`: the join's numbers, and `s.`: their indices, see state.py; addresses, links and indices: see arena.py.
"""

from typing import Any

import numpy as np

from stream.joiner.kernels import chains, emission
from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels import state as s
from stream.joiner.kernels.arena import FRONT, NEXT, get64, index_of, is_live, put64, words_of
from stream.joiner.kernels.installs import install_after
from stream.tables.jit import kernel

NOBODY = np.int64(0)  # no text has this hash


@kernel
def erase_user(j: Any, number: Any, event: Any) -> None:
    """Erase the user of a record's `number`-th event: no label, organic install or history of theirs is emitted.

    Entries stay in their chains, so keys remain, which are hashes of user and item or install id.
    """
    user = event[scan.USER]
    _erase_pages(j, user)
    _erase_installs(j, user)
    row = emission.next_row(j)
    row[0], row[2] = s.ERASURE, number
    j[s.OUT_COUNT] += 1


@kernel
def _erase_pages(j: Any, user: Any) -> None:
    words = words_of(j, s.PAGES)
    link = chains.first_link(j, s.USERS, user)
    while is_live(j, s.PAGES, link):
        index = index_of(j, s.PAGES, link)
        if get64(words, index + s.P_USER) == user:
            put64(words, index + s.P_USER, NOBODY)
            words[index + s.P_MORE] |= np.uint32(s.SILENT)
            size = emission.item_count(words, index)
            words[index + s.P_ITEMS : index + s.P_ITEMS + size + (size + 1 >> 1)] = np.uint32(0)
        link = np.int64(words[index + s.P_NEXT_USER])


@kernel
def _erase_installs(j: Any, user: Any) -> None:
    """They are found one by one: no chain is by user."""
    words = words_of(j, s.INSTALLS)
    install = j[s.INSTALLS + FRONT]
    while install < j[s.INSTALLS + NEXT]:
        index = index_of(j, s.INSTALLS, install)
        following = install_after(j, install)
        if get64(words, index + s.I_USER) == user:
            for field in (s.I_USER, s.I_ITEM, s.I_REQUEST):
                put64(words, index + field, NOBODY)
            put64(words, index + s.I_NEWEST, np.int64(-1))
            words[index + s.I_FLAGS] = (words[index + s.I_FLAGS] | np.uint32(s.RETRACTED)) & ~np.uint32(s.LISTED)
            length = np.int64(words[index + s.I_LENGTH])
            words[index + s.I_RAW : index + s.I_RAW + (length + 3 >> 2)] = np.uint32(0)
        install = following
