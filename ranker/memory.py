"""Likenesses of a page's items to what its user remembers, read from a version's tables: see `stream.likeness`."""

from typing import Any

import numpy as np

from ranker.crossing import BUFFER, read_rows
from ranker.pairs import keep, look_up, place_of
from stream.encoder import list_at
from stream.likeness import HEAD, SHIFT, pair_key
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
def fill_likenesses(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, memories: Any,
                    rows: Any, square: Any, heads: Any, first: Any, last: Any, scratch: Any) -> None:  # fmt: skip
    """Write the likenesses of items first:last into the page."""
    offsets, sides, places, salts, _ = crosses
    kinds, priors, _, _ = measures
    items, residuals, ends, near = memories
    keys, hashes, lacking, ratios = scratch.keys, scratch.hashes, scratch.ends, scratch.near
    n, s, t = scratch.n, scratch.s, scratch.t
    limit, one, which = rows.limit, np.empty(1, np.uint64), -1
    for k in range(salts.shape[0]):
        if kinds[k] != LIKENESS:
            continue
        which += 1
        cells = square.cells[which]
        side, column, begun, known = sides[offsets[k] + 1], places[offsets[k] + 1], ends[k], ends[k + 1] - ends[k]
        together = max(1, BUFFER // max(1, known))  # items: many keys on their way, and few times to begin
        homes = np.empty(together, np.int64)
        for low in range(first, last, together):
            high, lacks = min(low + together, last), 0
            for position in range(low, high):
                item, until = list_at(w32, place, side, column, position, sizes)
                if until > item:
                    at, home = (position - low) * known, place_of(heads, words[item])
                    homes[position - low] = home
                    for m in range(known):
                        keys[at + m] = pair_key(salts[k], items[begun + m], words[item])
                        hashes[at + m] = hash32(keys[at + m])
                    lacks = look_up(cells, square.latest, limit, home, near, begun, hashes, at, at + known, one, ratios,
                                    lacking, lacks)  # fmt: skip
            for i in range(lacks):  # none of them is before its place among those that lack
                keys[i] = keys[lacking[i]]
            read_rows(keys, hashes, lacks, rows, 0.0, 0.0, n, s, t)
            for i in range(lacks):
                at = lacking[i]
                ratio = s[i] / (n[i] + priors[k])
                ratios[at] = keep(cells, limit, homes[at // known], near[begun + at % known], ratio, one)
            for position in range(low, high):
                item, until = list_at(w32, place, side, column, position, sizes)
                total, others, at = 0.0, 0, (position - low) * known
                for m in range(known if until > item else 0):
                    if items[begun + m] != words[item]:
                        total += residuals[begun + m] * ratios[at + m]
                        others += 1
                f32[place[8] + position * sizes[4] + k] = total / np.sqrt(np.float64(others)) if others else np.nan
