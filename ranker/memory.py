"""Likenesses of a page's items to what its user remembers, read from a version's tables: see `stream.likeness`."""

from typing import Any

import numpy as np

from ranker.crossing import BUFFER, read_rows
from stream.encoder import list_at
from stream.likeness import HEAD, SHIFT, pair_key
from stream.statistics import LIKENESS
from stream.table import kernel, mix


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
    return items, residuals, ends


@kernel
def fill_likenesses(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, memories: Any,
                    rows: Any, first: Any, last: Any, scratch: Any) -> None:  # fmt: skip
    """Write the likenesses of items first:last into the page."""
    offsets, sides, places, salts, _ = crosses
    kinds, priors, _, _ = measures
    items, residuals, ends = memories
    keys, hashes = scratch.keys, scratch.hashes
    n, s, t = scratch.n, scratch.s, scratch.t
    for k in range(salts.shape[0]):
        if kinds[k] != LIKENESS:
            continue
        side, column, begun, ended = sides[offsets[k] + 1], places[offsets[k] + 1], ends[k], ends[k + 1]
        together = max(1, BUFFER // max(1, ended - begun))  # items: many keys on their way, and few times to begin
        for low in range(first, last, together):
            high, held = min(low + together, last), 0
            for position in range(low, high):
                item, until = list_at(w32, place, side, column, position, sizes)
                for m in range(begun, ended if until > item else begun):
                    if items[m] != words[item]:
                        keys[held] = pair_key(salts[k], items[m], words[item])
                        held += 1
            read_rows(keys, hashes, held, rows, 0.0, 0.0, n, s, t)
            at = 0
            for position in range(low, high):
                item, until = list_at(w32, place, side, column, position, sizes)
                total, others = 0.0, 0
                for m in range(begun, ended if until > item else begun):
                    if items[m] != words[item]:
                        total += residuals[m] * s[at] / (n[at] + priors[k])
                        at, others = at + 1, others + 1
                f32[place[8] + position * sizes[4] + k] = total / np.sqrt(np.float64(others)) if others else np.nan
