"""Cross-products of a page, read from a version's tables: the wide part's weights, and the statistics.

The user's columns come first in most crosses: they're mixed once a request, and each item goes on from there. Keys
are gathered for many items, so that their rows are on the way from memory before they're read.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from ranker.ahead import AHEAD, ask
from stream.encoder import I64, KEYS_MAX, expand_product, list_at
from stream.features import F32
from stream.overlay import NONE, seen
from stream.statistics import F64, LIKENESS, faded, measure
from stream.table import U64, find, kernel

BUFFER: Final = KEYS_MAX  # keys that are gathered before they're looked up: at least one cross of one item


class Prefixes(NamedTuple):
    """What a request's user makes of crosses: cross c goes on from keys[ends[c]:ends[c + 1]]."""

    keys: U64
    ends: I64


class Scratch(NamedTuple):
    """A thread's own memory for one batch after the other; [BUFFER] each, and floats as the tower needs them."""

    keys: U64
    owners: I64
    n: F64
    s: F64
    t: F64
    near: F64
    totals: F64
    floats: F32


def scratch(floats: int) -> Scratch:
    """Memory for one thread."""
    n, s, t, near, totals = np.empty((5, BUFFER), np.float64)
    keys, owners, room = np.empty(BUFFER, np.uint64), np.empty(BUFFER, np.int64), np.empty(max(1, floats), np.float32)
    return Scratch(keys, owners, n, s, t, near, totals, room)


@kernel
def prefixes_of(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any) -> Any:
    """Keys of the user's columns of each cross; none of a cross that has too many. Returns keys, ends."""
    offsets, sides, places, salts, fixed = crosses
    ends = np.zeros(salts.shape[0] + 1, np.int64)
    for c in range(salts.shape[0]):
        count = 1
        for r in range(offsets[c], offsets[c] + fixed[c]):
            low, high = list_at(w32, place, sides[r], places[r], 0, sizes)
            count *= high - low
        ends[c + 1] = ends[c] + (count if count <= KEYS_MAX else 0)
    keys = np.empty(ends[-1], np.uint64)
    for c in range(salts.shape[0]):
        if ends[c + 1] > ends[c]:
            keys[ends[c]] = salts[c]
            expand_product(words, w32, place, 0, sizes, offsets[c], offsets[c] + fixed[c], sides, places, keys, ends[c],
                           1)  # fmt: skip
    return keys, ends


@kernel
def _expand(words: Any, w32: Any, place: Any, item: Any, sizes: Any, sides: Any, places: Any, first: Any, last: Any,
            prefixes: Any, begun: Any, ended: Any, out: Any, at: Any) -> Any:  # fmt: skip
    """Go on from prefixes[begun:ended] with an item's columns first:last, to out[at:]; returns how many keys.

    −1, and nothing is written, when there's no room.
    """
    total = ended - begun
    for r in range(first, last):
        low, high = list_at(w32, place, sides[r], places[r], item, sizes)
        total *= high - low
    if total == 0 or total > KEYS_MAX:
        return 0
    if at + total > out.shape[0]:
        return -1
    for i in range(begun, ended):
        out[at + i - begun] = prefixes[i]
    return expand_product(words, w32, place, item, sizes, first, last, sides, places, out, at, ended - begun)


@kernel
def _add_weights(keys: Any, owners: Any, held: Any, rows: Any, totals: Any) -> None:
    """Add the weights of `held` keys to their owners' totals."""
    base, heads, entries, count = rows
    weights, laid = base.view(np.float32), entries.view(np.float32)
    for k in range(min(AHEAD, held)):
        ask(heads, keys[k])
        ask(base, keys[k])
    for k in range(held):
        if k + AHEAD < held:
            ask(heads, keys[k + AHEAD])
            ask(base, keys[k + AHEAD])
        entry = seen(heads, entries, count, keys[k])
        if entry >= 0:
            totals[owners[k]] += np.float64(laid[entry, 2])
        elif entry == NONE:
            row = find(base, keys[k])
            if row >= 0:
                totals[owners[k]] += np.float64(weights[row, 2])


@kernel
def add_wide(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any, prefixes: Any, rows: Any, first: Any,
             last: Any, users: Any, scratch: Any, totals: Any) -> None:  # fmt: skip
    """Add to totals[i] what the wide part says of item first + i: by the user's crosses, or by all others."""
    offsets, sides, places, salts, fixed = crosses
    known, ends = prefixes
    keys, owners = scratch.keys, scratch.owners
    held = 0
    for item in range(first, last):
        for c in range(salts.shape[0]):
            at, until = offsets[c] + fixed[c], offsets[c + 1]
            if (at == until) != users:
                continue
            count = _expand(words, w32, place, item, sizes, sides, places, at, until, known, ends[c], ends[c + 1],
                            keys, held)  # fmt: skip
            if count < 0:
                _add_weights(keys, owners, held, rows, totals)
                held = 0
                count = _expand(words, w32, place, item, sizes, sides, places, at, until, known, ends[c], ends[c + 1],
                                keys, held)  # fmt: skip
            for i in range(held, held + count):
                keys[i] = (keys[i] & ~np.uint64(255)) | np.uint64(c + 1)
                owners[i] = item - first
            held += count
    _add_weights(keys, owners, held, rows, totals)


@kernel
def read_rows(keys: Any, held: Any, rows: Any, now: Any, half_life: Any, n: Any, s: Any, t: Any) -> None:
    """n, s, t of `held` statistics' keys, decayed to now; zeros and t = −1 of one that isn't there."""
    base, heads, entries, count = rows
    values, laid = base.view(np.float64), entries.view(np.float64)
    for k in range(min(AHEAD, held)):
        ask(heads, keys[k])
        ask(base, keys[k])
    for k in range(held):
        if k + AHEAD < held:
            ask(heads, keys[k + AHEAD])
            ask(base, keys[k + AHEAD])
        entry = seen(heads, entries, count, keys[k])
        n[k], s[k], t[k] = 0.0, 0.0, -1.0
        if entry >= 0:
            n[k], s[k], t[k] = faded(laid[entry, 1], laid[entry, 2], laid[entry, 3], now, half_life)
        elif entry == NONE:
            row = find(base, keys[k])
            if row >= 0:
                n[k], s[k], t[k] = faded(values[row, 1], values[row, 2], values[row, 3], now, half_life)


@kernel
def fill_statistics(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, prefixes: Any,
                    rows: Any, now: Any, base: Any, first: Any, last: Any, users: Any,
                    scratch: Any) -> None:  # fmt: skip
    """Write statistics of items first:last into the page: those of the user alone, or all others."""
    offsets, sides, places, salts, fixed = crosses
    kinds, priors, half_lives, neighbours = measures
    known, ends = prefixes
    keys, owners, n, s, t, near = scratch.keys, scratch.owners, scratch.n, scratch.s, scratch.t, scratch.near
    for k in range(salts.shape[0]):
        until, ended = offsets[k] + fixed[k], offsets[k + 1]
        if (until == ended) != users or kinds[k] == LIKENESS:
            continue
        begun = first
        while begun < last:
            held, item = 0, begun
            while item < last and item - begun < BUFFER:
                count = _expand(words, w32, place, item, sizes, sides, places, until, ended, known, ends[k],
                                ends[k + 1], keys, held)  # fmt: skip
                if count < 0:
                    break
                held += count
                owners[item - begun] = held
                item += 1
            read_rows(keys, held, rows, now, half_lives[k], n, s, t)
            at = 0
            for i in range(begun, item):
                f32[place[8] + i * sizes[4] + k] = measure(
                    kinds[k], n, s, t, at, owners[i - begun], now, base, priors[k], neighbours[k], near
                )
                at = owners[i - begun]
            begun = item
