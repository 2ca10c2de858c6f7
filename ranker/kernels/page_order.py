"""The order of a page under caps, pins and diversity, position by position: always the best that may be shown there.

A cap counts the values of the items shown and of those pinned further down. When nothing may be shown at a position,
the next pin moves up to it.
"""

from math import log1p
from typing import Any, Final, NamedTuple

import numpy as np

from stream.tables.dtypes import F64, I64, U8, U64, Bools
from stream.tables.jit import kernel

NOBODY: Final = -1


class Caps(NamedTuple):
    """Candidates' values that caps count, numbered over all caps."""

    begins: I64  # (n·caps + 1,) where a candidate's values under a cap begin
    values: I64  # (m,)
    caps: I64  # (values,) whose value it is
    counts: I64  # (caps,) how many items may have one value,
    within: I64  # (caps,) in how many consecutive positions; 0: on the page
    used: U8  # (values, k) 1: shown or pinned there
    recent: I64  # (values,) sums of `used`, less positions that no window with the next one has


class Likeness(NamedTuple):
    """What diversity compares."""

    strength: F64  # (1,) 0: there's no such rule
    begins: I64  # (n + 1,) where a candidate's ids begin
    ids: U64  # (m,) each candidate's rise
    nearest: F64  # (n,) similarity to the most similar item shown so far
    penalties: F64  # (n,) what it takes from the log-odds


class PageState(NamedTuple):
    """A page while it is filled."""

    keys: F64  # (n,) log-odds; -inf: never shown
    free: Bools  # (n,) neither shown nor pinned
    pins: I64  # (k,) who is pinned there, or NOBODY
    filled: I64  # (1,) how many positions are
    lowered: F64  # (n,) keys for the next position, caps aside
    barred: I64  # (n,) which cap bars it from the next position, or NOBODY
    cut: I64  # (n,) which cap kept it from a position that it would have had, or NOBODY
    shown: I64  # (k,) who is at each position that is filled


@kernel
def is_full(caps: Caps, value: Any, position: Any) -> bool:
    """Whether one more item with this value at this position would be over its cap."""
    cap = caps.caps[value]
    count, within = caps.counts[cap], caps.within[cap]
    if within == 0:
        return bool(caps.recent[value] >= count)
    used = caps.used[value]
    first = max(0, position - within + 1)
    seen = 0
    for at in range(first, min(first + within, len(used))):
        seen += used[at]
    for begin in range(first, position + 1):  # each window that has the position
        if seen >= count:
            return True
        seen -= used[begin]
        if begin + within < len(used):
            seen += used[begin + within]
    return False


@kernel
def cap_of(caps: Caps, candidate: Any, full: Any) -> Any:
    """The first cap of which the candidate has a value that is full [values]; NOBODY: none."""
    n_caps = len(caps.counts)
    for at in range(caps.begins[candidate * n_caps], caps.begins[(candidate + 1) * n_caps]):
        if full[caps.values[at]]:
            return caps.caps[caps.values[at]]
    return NOBODY


@kernel
def full_values(caps: Caps, position: Any) -> Any:
    """`is_full` of each value."""
    of, counts, recent = caps.caps, caps.counts, caps.recent
    full = np.zeros(len(of), np.bool_)
    for value in range(len(full)):
        if recent[value] >= counts[of[value]]:
            full[value] = is_full(caps, value, position)
    return full


@kernel
def mark(caps: Caps, candidate: Any, position: Any, shown: Any) -> None:
    """Count (1) or no longer (0) a candidate at a position."""
    n_caps = len(caps.counts)
    for at in range(caps.begins[candidate * n_caps], caps.begins[(candidate + 1) * n_caps]):
        value = caps.values[at]
        caps.recent[value] += shown - caps.used[value, position]
        caps.used[value, position] = shown


@kernel
def place_pins(state: PageState, caps: Caps) -> None:
    """Begin a page: pins that a cap leaves no room for, those above them counted, are candidates as any other."""
    for position in range(len(state.pins)):
        pinned = state.pins[position]
        if pinned == NOBODY:
            continue
        if cap_of(caps, pinned, full_values(caps, position)) == NOBODY:
            state.free[pinned] = False
            mark(caps, pinned, position, 1)
        else:
            state.pins[position] = NOBODY


@kernel
def next_keys(state: PageState, caps: Caps, likeness: Likeness) -> Any:
    """Keys for the next position, float64 [n]; -inf: may not be shown there."""
    n, position = len(state.keys), state.filled[0]
    keys = np.full(n, -np.inf)
    if position >= len(state.pins):
        return keys
    pinned = state.pins[position]
    if pinned != NOBODY:
        state.barred[:] = NOBODY
        keys[pinned] = state.keys[pinned]
        return keys
    free, lowered, barred = state.free, state.lowered, state.barred  # calls and tuples cost more than the loops
    given, penalties = state.keys, likeness.penalties
    begins, values, of, n_caps = caps.begins, caps.values, caps.caps, len(caps.counts)
    full, is_empty = full_values(caps, position), True
    for i in range(n):
        barred[i] = NOBODY
        if not free[i]:
            continue
        lowered[i] = given[i] + penalties[i]
        for at in range(begins[i * n_caps], begins[(i + 1) * n_caps]):
            if full[values[at]]:
                barred[i] = of[values[at]]
                break
        if barred[i] == NOBODY:
            keys[i] = lowered[i]
            is_empty = is_empty and keys[i] == -np.inf
    if is_empty:
        moved = move_up(state, caps, position)
        if moved != NOBODY:
            keys[moved] = state.keys[moved]
    return keys


@kernel
def move_up(state: PageState, caps: Caps, position: Any) -> Any:
    """The first pinned candidate further down that caps allow here; it's pinned here from now on. NOBODY: none."""
    for at in range(position + 1, len(state.pins)):
        pinned = state.pins[at]
        if pinned == NOBODY:
            continue
        mark(caps, pinned, at, 0)
        if cap_of(caps, pinned, full_values(caps, position)) == NOBODY:
            mark(caps, pinned, position, 1)
            state.pins[at], state.pins[position] = NOBODY, pinned
            return pinned
        mark(caps, pinned, at, 1)
    return NOBODY


@kernel
def take(state: PageState, caps: Caps, likeness: Likeness, chosen: Any) -> None:
    """The next position shows this candidate."""
    n, position = len(state.keys), state.filled[0]
    free, barred, lowered, cut = state.free, state.barred, state.lowered, state.cut
    if state.pins[position] != chosen:
        for i in range(n):
            if free[i] and barred[i] != NOBODY and lowered[i] > lowered[chosen] and cut[i] == NOBODY:
                cut[i] = barred[i]
        free[chosen] = False
        mark(caps, chosen, position, 1)
    state.shown[position] = chosen
    state.filled[0] = position + 1
    forget(state, caps, position + 1)
    if likeness.strength[0] > 0:
        compare(likeness, chosen)


@kernel
def forget(state: PageState, caps: Caps, position: Any) -> None:
    """Take from `recent` the item that windows with this position no longer have, under each cap."""
    n_caps = len(caps.counts)
    for cap in range(n_caps):
        left = position - caps.within[cap]
        if caps.within[cap] > 0 and left >= 0:
            first = state.shown[left] * n_caps + cap
            for at in range(caps.begins[first], caps.begins[first + 1]):
                caps.recent[caps.values[at]] -= 1


@kernel
def compare(likeness: Likeness, chosen: Any) -> None:
    """All candidates with the one shown now. Similarity: ids that both have over all that they have."""
    begins, ids, nearest, penalties = likeness.begins, likeness.ids, likeness.nearest, likeness.penalties
    strength = likeness.strength[0]
    for other in range(len(nearest)):
        shared, i, j = 0, begins[other], begins[chosen]
        while i < begins[other + 1] and j < begins[chosen + 1]:
            shared += ids[i] == ids[j]
            i, j = i + (ids[i] <= ids[j]), j + (ids[j] <= ids[i])
        all_ids = begins[other + 1] - begins[other] + begins[chosen + 1] - begins[chosen] - shared
        if shared > nearest[other] * all_ids:
            nearest[other] = shared / all_ids
            penalties[other] = log1p(-strength * nearest[other])


@kernel
def fill(state: PageState, caps: Caps, likeness: Likeness) -> Any:
    """Fill the page with the best of each position: candidates in shown order, int64."""
    order = np.empty(len(state.pins), np.int64)
    while state.filled[0] < len(order):
        keys = next_keys(state, caps, likeness)
        best = np.argmax(keys) if len(keys) else 0
        if not len(keys) or keys[best] == -np.inf:
            break
        order[state.filled[0]] = best
        take(state, caps, likeness, best)
    return order[: state.filled[0]]


@kernel
def kept_off(state: PageState, caps: Caps) -> Any:
    """How many candidates each cap kept off the page that is now complete, int64 [caps]."""
    counts, is_short = np.zeros(len(caps.counts), np.int64), state.filled[0] < len(state.pins)
    for i in range(len(state.keys)):
        cap = state.cut[i]
        if cap == NOBODY and is_short:
            cap = state.barred[i]
        if state.free[i] and cap != NOBODY:
            counts[cap] += 1
    for at in range(state.filled[0], len(state.pins)):
        pinned = state.pins[at]
        if pinned != NOBODY:
            mark(caps, pinned, at, 0)
            counts[cap_of(caps, pinned, full_values(caps, state.filled[0]))] += 1
            mark(caps, pinned, at, 1)
    return counts
