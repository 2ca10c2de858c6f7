"""Likenesses of a page's items to what its user remembers, read from a version's tables: see `stream.likeness`."""

from typing import Any

import numpy as np

from ranker.crossing import BUFFER, read_rows
from ranker.pairs import NOWHERE, holds, place_of
from stream.encoder import list_at
from stream.likeness import HEAD, SHIFT, pair_key
from stream.overlay import latest_of
from stream.statistics import LIKENESS
from stream.table import hash32, kernel, mix


@kernel
def memories_of(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, rows: Any,
                scratch: Any) -> Any:  # fmt: skip
    """What the user remembers, statistic by statistic: items, residuals, and where each one's begin. Ends: [S + 1]."""
    offsets, sides, places, salts, _ = crosses
    kinds, _, _, neighbours = measures
    keys, hashes, n, s, t = scratch.keys, scratch.hashes, scratch.n, scratch.s, scratch.t
    bits = s.view(np.uint64)
    ends = np.zeros(salts.shape[0] + 1, np.int64)
    most = 0
    for k in range(salts.shape[0]):
        most += neighbours[k] if kinds[k] == LIKENESS else 0
    items, residuals = np.empty(most, np.uint64), np.empty(most, np.float64)
    count = 0
    for k in range(salts.shape[0]):
        if kinds[k] == LIKENESS:
            user, until = list_at(w32, place, sides[offsets[k]], places[offsets[k]], 0, sizes)
            if until > user:
                head = mix(salts[k] ^ HEAD, words[user])
                keys[0] = head
                read_rows(keys, hashes, 1, rows, 0.0, 0.0, n, s, t)
                labels = min(np.int64(n[0]), neighbours[k])
                for begun in range(0, labels, BUFFER):
                    held = min(BUFFER, labels - begun)
                    for i in range(held):
                        keys[i] = mix(head, np.uint64(begun + i + 1))
                    read_rows(keys, hashes, held, rows, 0.0, 0.0, n, s, t)
                    for i in range(held):
                        if t[i] >= 0.0:
                            items[count], residuals[count] = bits[i], n[i] - SHIFT
                            count += 1
        ends[k + 1] = count
    return items[:count], residuals[:count], ends


@kernel
def near_of(items: Any, places: Any) -> Any:
    """Places of the items that a user remembers in the square of pairs. int64 [len(items)]."""
    near = np.empty(items.shape[0], np.int64)
    for i in range(items.shape[0]):
        near[i] = place_of(places, items[i])
    return near


@kernel
def strangers_of(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, items: Any,
                 places: Any) -> Any:  # fmt: skip
    """Items of a page, and those that its user remembers, that have no place in the square. uint64."""
    offsets, sides, columns, salts, _ = crosses
    kinds = measures.kinds
    found, count = np.empty(items.shape[0] + salts.shape[0] * place[0], np.uint64), 0
    for i in range(items.shape[0]):
        if place_of(places, items[i]) == NOWHERE:
            found[count] = items[i]
            count += 1
    for k in range(salts.shape[0]):
        if kinds[k] == LIKENESS:
            for position in range(place[0]):
                item, until = list_at(w32, place, sides[offsets[k] + 1], columns[offsets[k] + 1], position, sizes)
                if until > item and place_of(places, words[item]) == NOWHERE:
                    found[count] = words[item]
                    count += 1
    return found[:count]


@kernel
def fill_likenesses(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, memories: Any,
                    rows: Any, square: Any, first: Any, last: Any, scratch: Any) -> None:  # fmt: skip
    """Write the likenesses of items first:last into the page."""
    offsets, sides, columns, salts, _ = crosses
    kinds, priors, _, _ = measures
    items, residuals, ends, near = memories
    places, cells, latest = square
    keys, hashes, lacking = scratch.keys, scratch.hashes, scratch.ends
    n, s, t, ratios = scratch.n, scratch.s, scratch.t, scratch.near
    limit, one = rows.limit, np.empty(1, np.uint64)
    ratio, which = one.view(np.float32), -1
    for k in range(salts.shape[0]):
        if kinds[k] != LIKENESS:
            continue
        which += 1
        side, column, begun, known = sides[offsets[k] + 1], columns[offsets[k] + 1], ends[k], ends[k + 1] - ends[k]
        together = max(1, BUFFER // max(1, known))  # items: many keys on their way, and few times to begin
        homes = np.empty(together, np.int64)
        for low in range(first, last, together):
            high, lacks = min(low + together, last), 0
            for position in range(low, high):
                item, until = list_at(w32, place, side, column, position, sizes)
                if until == item:
                    continue
                home, at = place_of(places, words[item]), (position - low) * known
                homes[position - low] = home
                for m in range(known):
                    keys[at + m] = pair_key(salts[k], items[begun + m], words[item])
                for m in range(known):
                    hashes[at + m] = hash32(keys[at + m])
                for m in range(known):
                    if home >= 0 and near[begun + m] >= 0:
                        one[0] = cells[which, home, near[begun + m]]
                        if holds(one[0], latest_of(latest, hashes[at + m]), limit):
                            ratios[at + m] = ratio[0]
                            continue
                    lacking[lacks] = at + m
                    lacks += 1
            if lacks:
                for i in range(lacks):  # to the front: a key is never before those that are lacking until it
                    keys[i] = keys[lacking[i]]
                read_rows(keys, hashes, lacks, rows, 0.0, 0.0, n, s, t)
                for i in range(lacks):
                    at, m = lacking[i], begun + lacking[i] % known
                    one[0] = np.uint64(limit) << np.uint64(32)
                    ratio[0] = s[i] / (n[i] + priors[k])
                    ratios[at] = ratio[0]
                    if homes[at // known] >= 0 and near[m] >= 0:
                        cells[which, homes[at // known], near[m]] = one[0]
            for position in range(low, high):
                item, until = list_at(w32, place, side, column, position, sizes)
                total, others, at = 0.0, 0, (position - low) * known
                for m in range(known if until > item else 0):
                    if items[begun + m] != words[item]:
                        total += residuals[begun + m] * ratios[at + m]
                        others += 1
                f32[place[8] + position * sizes[4] + k] = total / np.sqrt(np.float64(others)) if others else np.nan
