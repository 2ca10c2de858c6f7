"""Kernels of a page's columns: located, checked, assembled, selected."""

from typing import Any, Final

import numpy as np

from stream.events.types import ITEMS_MAX
from stream.tables.jit import kernel

FLOAT_MAX: Final = float(np.finfo(np.float32).max)
LIST_MAX: Final = 1_000  # ids of one list; longer ones are cut


@kernel
def locate(words: Any, w32: Any, start: Any, sizes: Any) -> Any:
    """Where a page's sections begin, for kernels; `start` in words.

    Returns n, user offsets (in 32-bit units), item offsets (32), user ids (64), item ids (64), numbers of the
    user (32), base rate (32), numbers of items (32), statistics (32), end (64).
    """
    n = np.int64(words[start + 1])
    user_offsets = 2 * (start + 2)
    item_offsets = user_offsets + sizes[0] + 1
    user_ids = start + 2 + (sizes[0] + n * sizes[1] + 3) // 2
    item_ids = user_ids + np.int64(w32[user_offsets + sizes[0]])
    floats = 2 * (item_ids + np.int64(w32[item_offsets + n * sizes[1]]))
    base = floats + sizes[2]
    item_numbers = base + 1
    statistics = item_numbers + n * sizes[3]
    end = (statistics + n * sizes[4] + 1) // 2
    return n, user_offsets, item_offsets, user_ids, item_ids, floats, base, item_numbers, statistics, end


@kernel
def floats_start(words: Any, w32: Any, sizes: Any) -> Any:
    """Where the floats of a page begin."""
    return locate(words, w32, 0, sizes)[5]


@kernel
def sound(words: Any, w32: Any, sizes: Any) -> Any:
    """Do offsets rise within bounds, are lists within LIST_MAX, is the length just right, is no id 0?"""
    n = np.int64(words[1])
    heads = sizes[0] + n * sizes[1] + 2
    if 4 + heads > w32.shape[0]:
        return False
    for section in range(2):
        first = 4 if section == 0 else 5 + sizes[0]
        last = first + (sizes[0] if section == 0 else n * sizes[1])
        if w32[first] != 0:
            return False
        for i in range(first, last):
            if w32[i + 1] < w32[i] or w32[i + 1] - w32[i] > LIST_MAX:
                return False
    _, _, _, first_id, _, floats, _, _, _, end = locate(words, w32, 0, sizes)
    if end != words.shape[0]:
        return False
    for i in range(first_id, floats // 2):  # noqa: SIM110  # numba has no generators
        if words[i] == 0:  # a table's mark of an empty slot
            return False
    return True


@kernel
def all_sound(words: Any, w32: Any, f32: Any, ends: Any, items: Any, layout: Any, sizes: Any) -> Any:
    """Is every page what `words_of` takes?"""
    for p in range(items.shape[0]):
        first, last = ends[p], ends[p + 1]
        if words[first] != layout or not 1 <= items[p] <= ITEMS_MAX or words[first + 1] != np.uint64(items[p]):
            return False
        page = words[first:last]
        if not sound(page, w32[2 * first : 2 * last], sizes):
            return False
        for i in range(2 * first + locate(page, w32[2 * first : 2 * last], 0, sizes)[5], 2 * last):
            if np.isinf(f32[i]):
                return False
    return True


@kernel
def count_ids(offsets: Any, rows: Any, width: Any) -> Any:
    """How many ids these rows have."""
    total = 0
    for r in rows:
        total += offsets[(r + 1) * width] - offsets[r * width]
    return total


@kernel
def assemble(words: Any, w32: Any, f32: Any, user_offsets: Any, user_ids: Any, user_numbers: Any,
              offsets: Any, ids: Any, numbers: Any, rows: Any, width: Any, item_numbers: Any, statistics:
              Any) -> None:  # fmt: skip
    """Put a page together: the user's columns, then those of the items in `rows`."""
    n, users = rows.shape[0], user_offsets.shape[0] - 1
    at = 4
    for i in range(users + 1):
        w32[at + i] = user_offsets[i]
    at += users + 1
    w32[at] = 0
    id_at = 2 + (users + n * width + 3) // 2
    for i in range(user_ids.shape[0]):
        words[id_at + i] = user_ids[i]
    id_at += user_ids.shape[0]
    held = 0
    for r in range(n):
        first = offsets[rows[r] * width]
        for f in range(width):
            w32[at + r * width + f + 1] = held + offsets[rows[r] * width + f + 1] - first
        for i in range(first, offsets[(rows[r] + 1) * width]):
            words[id_at + held] = ids[i]
            held += 1
    at = 2 * (id_at + held)
    for i in range(user_numbers.shape[0]):
        f32[at + i] = user_numbers[i]
    at += user_numbers.shape[0]
    f32[at] = np.nan
    at += 1
    for r in range(n):
        for i in range(item_numbers):
            f32[at + r * item_numbers + i] = numbers[rows[r], i]
    at += n * item_numbers
    for i in range(n * statistics):
        f32[at + i] = np.nan


@kernel
def copy_items(words: Any, w32: Any, f32: Any, chosen: Any, sizes: Any) -> Any:
    """A page with the chosen items only; returns its words."""
    _, uo, io, uid, iid, floats, _, numbers, statistics, _ = locate(words, w32, 0, sizes)
    users, width = sizes[0], sizes[1]
    k = chosen.shape[0]
    total = np.int64(0)
    for p in chosen:
        total += np.int64(w32[io + (p + 1) * width]) - np.int64(w32[io + p * width])
    user_ids = np.int64(w32[uo + users])
    size = 2 + (users + k * width + 3) // 2 + user_ids + total + (sizes[2] + 1 + k * (sizes[3] + sizes[4]) + 1) // 2
    out = np.zeros(size, np.uint64)
    o32, of32 = out.view(np.uint32), out.view(np.float32)
    out[0], out[1] = words[0], k
    for i in range(users + 1):
        o32[4 + i] = w32[uo + i]
    at, id_at = 5 + users, 2 + (users + k * width + 3) // 2
    for i in range(user_ids):
        out[id_at + i] = words[uid + i]
    id_at += user_ids
    held = 0
    for r in range(k):
        first = np.int64(w32[io + chosen[r] * width])
        for f in range(width):
            o32[at + r * width + f + 1] = held + np.int64(w32[io + chosen[r] * width + f + 1]) - first
        for i in range(first, np.int64(w32[io + (chosen[r] + 1) * width])):
            out[id_at + held] = words[iid + i]
            held += 1
    at = 2 * (id_at + held)
    for i in range(sizes[2] + 1):
        of32[at + i] = f32[floats + i]
    at += sizes[2] + 1
    for r in range(k):
        for i in range(sizes[3]):
            of32[at + r * sizes[3] + i] = f32[numbers + chosen[r] * sizes[3] + i]
    at += k * sizes[3]
    for r in range(k):
        for i in range(sizes[4]):
            of32[at + r * sizes[4] + i] = f32[statistics + chosen[r] * sizes[4] + i]
    return out
