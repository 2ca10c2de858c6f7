"""Likeness of an item to the user's last labels: item-item neighbours that know what the user passed by, too.

A user's *memory* is a ring of the last labelled items with r = label − base rate. For each pair of items that met in
a memory, Σ r·r' over users says whether their labels go together. An item's likeness for a user is

    Σ r_i · s(i, item) / (n(i, item) + prior) / √m      over the m items i ≠ item in the memory; missing without one

The quotient is rounded to single precision, so that a ranker can keep it.

State lies in the table of the statistics, rows of (n, s, t): the memory's head (n: labels so far), its places
(n: r + 2, s: the item's id as bits), pairs (n: weight, s: Σ r·r'). Unlike an affinity, which reads the history that
installs make, it needs no list in the page.
"""

from typing import Any, Final

import numpy as np

from stream.events.types import LATE_POSITIVE, RETRACTION
from stream.features.encoder import list_at
from stream.features.page_kernels import locate
from stream.tables.hash_kernels import CHANGED, find, find_moved, mix, place_moved, touch
from stream.tables.jit import kernel

SHIFT: Final = 2.0  # r lies in (−1, 1), give or take a correction: a row's n is never negative
HEAD: Final = np.uint64(0x48454144)
PAIR: Final = np.uint64(0x50414952)


@kernel
def pair_key(salt: Any, one: Any, other: Any) -> Any:
    """The key of two items, in either order."""
    return mix(mix(salt ^ PAIR, min(one, other)), max(one, other))


@kernel
def _read(slots: Any, overlay: Any, key: Any) -> Any:
    """(n, bits of s) of a key; n = −1 when it isn't there."""
    held = overlay
    row = find(overlay, key)
    if row < 0:
        held = slots
        row = find(slots, key)
        if row < 0:
            return -1.0, np.uint64(0)
    return abs(held.view(np.float64)[row, 1]), held[row, 2]  # n's sign is the table's mark


@kernel
def recall(slots: Any, overlay: Any, salt: Any, user: Any, last: Any, items: Any, residuals: Any) -> Any:
    """The user's memory into `items` uint64 and `residuals` float64, each [last]; returns how many there are."""
    head = mix(salt ^ HEAD, user)
    labels, _ = _read(slots, overlay, head)
    count = 0
    for k in range(min(np.int64(max(labels, 0.0)), last)):
        n, item = _read(slots, overlay, mix(head, np.uint64(k + 1)))
        if n >= 0.0:
            items[count], residuals[count] = item, n - SHIFT
            count += 1
    return count


@kernel
def likeness_of(slots: Any, overlay: Any, salt: Any, item: Any, items: Any, residuals: Any, count: Any,
                prior: Any) -> Any:  # fmt: skip
    """An item's likeness to a memory; NaN when that holds no other item."""
    sums = np.empty(1, np.uint64)
    total, others = 0.0, 0
    for i in range(count):
        if items[i] == item:
            continue
        others += 1
        n, sums[0] = _read(slots, overlay, pair_key(salt, items[i], item))
        if n >= 0.0:
            total += residuals[i] * np.float32(sums.view(np.float64)[0] / (n + prior))
    return total / np.sqrt(np.float64(others)) if others else np.nan


@kernel
def fill_likeness(words: Any, w32: Any, f32: Any, sizes: Any, k: Any, product: Any, salt: Any, last: Any, prior: Any,
                  slots: Any, overlay: Any) -> None:  # fmt: skip
    """Write statistic k of a page. `product`: int64 [4], side and index of the user's column, then of the item's."""
    at = locate(words, w32, 0, sizes)
    items, residuals = np.empty(last, np.uint64), np.empty(last, np.float64)
    user, known = list_at(w32, at, product[0], product[1], 0, sizes)
    count = recall(slots, overlay, salt, words[user], last, items, residuals) if known > user else 0
    for position in range(at[0]):
        item, known = list_at(w32, at, product[2], product[3], position, sizes)
        value = np.nan
        if known > item:
            value = likeness_of(slots, overlay, salt, words[item], items, residuals, count, prior)
        f32[at[8] + position * sizes[4] + k] = value


@kernel
def _row(slots: Any, old: Any, key: Any, time_ms: Any, fresh: Any, counts: Any) -> Any:
    """The key's row, added when new, marked as changed, of this time or a later one."""
    row = place_moved(slots, old, key, counts)
    touch(slots, row, fresh, counts)
    values = slots.view(np.float64)
    values[row, 3] = max(values[row, 3], time_ms)
    return row


@kernel
def _set_n(slots: Any, row: Any, n: Any) -> None:
    mark = slots[row, 1] & CHANGED
    slots.view(np.float64)[row, 1] = n
    slots[row, 1] |= mark


@kernel
def _meet(slots: Any, old: Any, salt: Any, item: Any, weight: Any, r: Any, items: Any, residuals: Any, count: Any,
          time_ms: Any, fresh: Any, counts: Any) -> None:  # fmt: skip
    """The item's r meets all others of a memory."""
    values = slots.view(np.float64)
    for i in range(count):
        if items[i] != item:
            row = _row(slots, old, pair_key(salt, items[i], item), time_ms, fresh, counts)
            _set_n(slots, row, abs(values[row, 1]) + weight)
            values[row, 2] += r * residuals[i]


@kernel
def learn_likeness(words: Any, w32: Any, f32: Any, starts: Any, page: Any, position: Any, labels: Any, weights: Any,
                   reasons: Any, times: Any, sizes: Any, product: Any, salt: Any, last: Any, slots: Any, old: Any,
                   fresh: Any, counts: Any) -> None:  # fmt: skip
    """Move memories and pairs by these examples, in order; the table has room for last + 2 keys an example.

    A late positive or a retraction moves the r that is remembered, and its pairs with what is remembered now; it
    changes nothing when the item was forgotten.
    """
    items, residuals = np.empty(last, np.uint64), np.empty(last, np.float64)
    for b in range(page.shape[0]):
        at = locate(words, w32, starts[page[b]], sizes)
        user, user_end = list_at(w32, at, product[0], product[1], position[b], sizes)
        item, item_end = list_at(w32, at, product[2], product[3], position[b], sizes)
        if user == user_end or item == item_end:
            continue
        head, thing, t = mix(salt ^ HEAD, words[user]), words[item], times[b]
        count = recall(old, slots, salt, words[user], last, items, residuals)
        if reasons[b] == LATE_POSITIVE or reasons[b] == RETRACTION:
            for k in range(last):
                row = find_moved(slots, old, mix(head, np.uint64(k + 1)), counts)
                if row >= 0 and slots[row, 2] == thing:
                    touch(slots, row, fresh, counts)
                    moved = 2.0 * labels[b] - 1.0
                    _set_n(slots, row, max(0.0, abs(slots.view(np.float64)[row, 1]) + moved))
                    _meet(slots, old, salt, thing, 0.0, moved, items, residuals, count, t, fresh, counts)
                    break
            continue
        base = np.float64(f32[at[6]])
        r = labels[b] - (base if base == base else 0.5)
        _meet(slots, old, salt, thing, weights[b], weights[b] * r, items, residuals, count, t, fresh, counts)
        row = _row(slots, old, head, t, fresh, counts)
        learned = abs(slots.view(np.float64)[row, 1])
        _set_n(slots, row, learned + 1.0)
        row = _row(slots, old, mix(head, np.uint64(np.int64(learned) % last + 1)), t, fresh, counts)
        _set_n(slots, row, SHIFT + r)
        slots[row, 2] = thing
