"""Cross-products of a page, read from a version's tables: the wide part's weights, and the statistics.

The user's columns come first in most crosses: they're mixed once a request, and each item goes on from there. Keys
are gathered for many items, so that their rows are on the way from memory before they're read.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.pair_cache import NOWHERE, keep, recall, shown_of
from ranker.kernels.prefetch import AHEAD, ask
from stream.features.encoder import I64, KEYS_MAX, expand_product, list_at
from stream.features.page_features import F32
from stream.features.statistic_reads import GONE_MS, faded, measure
from stream.features.statistics import F64
from stream.spec.statistic_kinds import READ_MEMORY
from stream.tables.delta_table import NONE, marked, seen_hashed
from stream.tables.hash_kernels import find_hashed, hash32, mix
from stream.tables.hash_table import U64
from stream.tables.jit import kernel

BUFFER: Final = KEYS_MAX  # keys that are gathered before they're looked up: at least one cross of one item


class Prefixes(NamedTuple):
    """What a request's user makes of crosses: cross c goes on from keys[ends[c]:ends[c + 1]]."""

    keys: U64
    ends: I64


class Scratch(NamedTuple):
    """A thread's own memory for one batch after the other; [BUFFER] each, and floats as the tower needs them."""

    keys: U64
    hashes: U64
    ends: I64
    n: F64
    s: F64
    t: F64
    near: F64
    totals: F64
    floats: F32


def scratch(floats: int) -> Scratch:
    """Memory for one thread."""
    n, s, t, near, totals = np.empty((5, BUFFER), np.float64)
    keys, ends, room = np.empty(BUFFER, np.uint64), np.empty(BUFFER, np.int64), np.empty(max(1, floats), np.float32)
    return Scratch(keys, np.empty(BUFFER, np.uint64), ends, n, s, t, near, totals, room)


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
    total, low = ended - begun, np.int64(0)
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
def _mix_single(words: Any, w32: Any, place: Any, sizes: Any, sides: Any, places: Any, first: Any, last: Any,
                prefix: Any, item: Any, count: Any, out: Any) -> Any:  # fmt: skip
    """Keys of `count` items from `item` on, where each list of columns first:last has one id; else False."""
    for i in range(count):
        out[i] = prefix
    for r in range(first, last):
        at, ids, width = place[1] + places[r], place[3], np.int64(0)
        if sides[r] != 0:
            at, ids, width = place[2] + item * sizes[1] + places[r], place[4], sizes[1]
        for i in range(count):
            low = np.int64(w32[at + i * width])
            if np.int64(w32[at + i * width + 1]) != low + 1:
                return False
            out[i] = mix(out[i], words[ids + low])
    return True


@kernel
def _gather(words: Any, w32: Any, place: Any, sizes: Any, sides: Any, places: Any, first: Any, last: Any,
            prefixes: Any, begun: Any, ended: Any, item: Any, items: Any, out: Any, ends: Any) -> Any:  # fmt: skip
    """`_expand` for items from `item` to `items`, as far as there's room; returns how many items, and how many keys.

    `ends[i]`: where the keys of item + i end.
    """
    held, start, known = 0, item, ended - begun
    if last - first != 1:
        count = min(items - item, ends.shape[0])
        if known == 1 and _mix_single(words, w32, place, sizes, sides, places, first, last, prefixes[begun], item,
                                      count, out):  # fmt: skip
            for i in range(count):
                ends[i] = i + 1
            return count, count
        while item < items and item - start < ends.shape[0]:
            count = _expand(words, w32, place, item, sizes, sides, places, first, last, prefixes, begun, ended, out,
                            held)  # fmt: skip
            if count < 0:
                break
            held += count
            ends[item - start] = held
            item += 1
        return item - start, held
    at, ids, width = place[2] + places[first], place[4], sizes[1]  # one column of the item's: by far the most
    while item < items and item - start < ends.shape[0]:
        low = ids + np.int64(w32[at + item * width])
        many = ids + np.int64(w32[at + item * width + 1]) - low
        count = known * many if known * many <= KEYS_MAX else 0
        if held + count > out.shape[0]:
            break
        if count == known:
            for i in range(known):
                out[held + i] = mix(prefixes[begun + i], words[low])
        elif count:
            for i in range(known):
                for j in range(many):
                    out[held + i * many + j] = mix(prefixes[begun + i], words[low + j])
        held += count
        ends[item - start] = held
        item += 1
    return item - start, held


@kernel
def _add_weights(keys: Any, hashes: Any, ends: Any, items: Any, held: Any, rows: Any, weights: Any, totals: Any,
                 first: Any) -> None:  # fmt: skip
    """Add the weights of `held` keys to totals[first:], item by item."""
    _read_weights(keys, hashes, held, rows, weights)
    k = 0
    for i in range(items):
        total = totals[first + i]
        while k < ends[i]:
            total += weights[k]
            k += 1
        totals[first + i] = total


@kernel
def _read_weights(keys: Any, hashes: Any, held: Any, rows: Any, found: Any) -> None:
    """The weights of `held` keys, to `found`; 0 of one that isn't there."""
    base, heads, entries, limit, marks = rows
    weights, laid = base.view(np.float32), entries.view(np.float32)
    _hash(keys, held, base, heads, marks, hashes)
    for k in range(
        held
    ):  # as in `read_rows`: a kernel for both would count references at each key, a tenth of the time
        if k + AHEAD < held:
            _ask(base, heads, marks, hashes[k + AHEAD])
        entry = NONE
        if marked(marks, hashes[k]):
            entry = seen_hashed(heads, entries, limit, keys[k], hashes[k])
        found[k] = 0.0
        if entry >= 0:
            found[k] = np.float64(laid[entry, 2])
        elif entry == NONE:
            row = find_hashed(base, keys[k], hashes[k])
            if row >= 0:
                found[k] = np.float64(weights[row, 2])


@kernel
def _hash(keys: Any, held: Any, base: Any, heads: Any, marks: Any, hashes: Any) -> None:
    """Hash keys, and ask for the rows of the first ones."""
    for k in range(held):
        hashes[k] = hash32(keys[k])
    for k in range(min(AHEAD, held)):
        _ask(base, heads, marks, hashes[k])


@kernel
def _ask(base: Any, heads: Any, marks: Any, hashed: Any) -> None:
    """Ask for a key's rows: those of the base, and what lies over it if anything may."""
    ask(base, hashed)
    if marked(marks, hashed):
        ask(heads, hashed)


@kernel
def add_wide(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any, prefixes: Any, rows: Any, squares: Any,
             square: Any, heads: Any, near: Any, first: Any, last: Any, users: Any, scratch: Any,
             totals: Any) -> None:  # fmt: skip
    """Add to totals[i] what the wide part says of item first + i: by the user's crosses, or by all others.

    `squares`: which of `square` is a cross's, or NOWHERE; `near`: places of the items that the user has.
    """
    offsets, sides, places, salts, fixed = crosses
    known, known_ends = prefixes
    keys, hashes, ends = scratch.keys, scratch.hashes, scratch.ends
    for c in range(salts.shape[0]):
        at, until = offsets[c] + fixed[c], offsets[c + 1]
        if (at == until) != users:
            continue
        if squares[c] != NOWHERE:
            _add_pairs(words, w32, place, sizes, sides[at], places[at], known[known_ends[c] : known_ends[c + 1]],
                       np.uint64(c + 1), rows, square, squares[c], heads, near, first, last, scratch,
                       totals)  # fmt: skip
            continue
        item = first
        while item < last:
            items, held = _gather(words, w32, place, sizes, sides, places, at, until, known, known_ends[c],
                                  known_ends[c + 1], item, last, keys, ends)  # fmt: skip
            for k in range(held):
                keys[k] = (keys[k] & ~np.uint64(255)) | np.uint64(c + 1)
            _add_weights(keys, hashes, ends, items, held, rows, scratch.n, totals, item - first)
            item += items


@kernel
def _add_pairs(words: Any, w32: Any, place: Any, sizes: Any, side: Any, column: Any, prefixes: Any, mark: Any,
               rows: Any, square: Any, which: Any, heads: Any, near: Any, first: Any, last: Any, scratch: Any,
               totals: Any) -> None:  # fmt: skip
    """Add the weights of a cross of pairs: of the items that `prefixes` and `near` stand for, and the one shown."""
    keys, hashes, lacking, weights, read = scratch.keys, scratch.hashes, scratch.ends, scratch.near, scratch.n
    cells, known = square.cells[which], prefixes.shape[0]
    mine = near[:known]  # none of a history that makes too many keys
    together = max(1, min(last - first, BUFFER // max(1, known)))
    shown, homes = np.empty(together, np.uint64), np.empty(together, np.int64)
    for low in range(first, last, together):
        count = min(together, last - low)
        shown_of(words, w32, place, sizes, side, column, low, low + count, heads, shown, homes)
        for i in range(count):
            for m in range(known):
                keys[i * known + m] = (mix(prefixes[m], shown[i]) & ~np.uint64(255)) | mark
        lacks = recall(cells, square, rows.limit, homes[:count], mine, keys, hashes, weights, lacking)
        _read_weights(keys, hashes, lacks, rows, read)
        keep(cells, square.epoch, rows.limit, homes, mine, lacking, lacks, read, weights)
        for i in range(count):
            total = totals[low + i - first]
            for m in range(known if shown[i] != np.uint64(0) else 0):
                total += weights[i * known + m]
            totals[low + i - first] = total


@kernel
def read_rows(keys: Any, hashes: Any, held: Any, rows: Any, now: Any, half_life: Any, n: Any, s: Any,
              t: Any) -> None:  # fmt: skip
    """n, s, t of `held` statistics' keys, decayed to now; zeros and GONE_MS of one that isn't there."""
    base, heads, entries, limit, marks = rows
    values, laid = base.view(np.float64), entries.view(np.float64)
    _hash(keys, held, base, heads, marks, hashes)
    for k in range(held):
        if k + AHEAD < held:
            _ask(base, heads, marks, hashes[k + AHEAD])
        entry = NONE
        if marked(marks, hashes[k]):
            entry = seen_hashed(heads, entries, limit, keys[k], hashes[k])
        n[k], s[k], t[k] = 0.0, 0.0, GONE_MS
        if entry >= 0:
            n[k], s[k], t[k] = faded(laid[entry, 1], laid[entry, 2], laid[entry, 3], now, half_life)
        elif entry == NONE:
            row = find_hashed(base, keys[k], hashes[k])
            if row >= 0:
                n[k], s[k], t[k] = faded(values[row, 1], values[row, 2], values[row, 3], now, half_life)


@kernel
def fill_statistics(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, prefixes: Any,
                    rows: Any, now: Any, base: Any, first: Any, last: Any, users: Any,
                    scratch: Any) -> None:  # fmt: skip
    """Write statistics of items first:last into the page: those of the user alone, or all others."""
    offsets, sides, places, salts, fixed = crosses
    reads, priors, half_lives, neighbours = measures
    known, known_ends = prefixes
    keys, hashes, ends = scratch.keys, scratch.hashes, scratch.ends
    n, s, t, near = scratch.n, scratch.s, scratch.t, scratch.near
    for k in range(salts.shape[0]):
        begun, until = offsets[k] + fixed[k], offsets[k + 1]
        if (begun == until) != users or reads[k] == READ_MEMORY:
            continue
        item = first
        while item < last:
            items, held = _gather(words, w32, place, sizes, sides, places, begun, until, known, known_ends[k],
                                  known_ends[k + 1], item, last, keys, ends)  # fmt: skip
            read_rows(keys, hashes, held, rows, now, half_lives[k], n, s, t)
            at = np.int64(0)
            for i in range(items):
                value = measure(reads[k], n, s, t, at, ends[i], now, base, priors[k], neighbours[k], near)
                f32[place[8] + (item + i) * sizes[4] + k] = value
                at = ends[i]
            item += items
